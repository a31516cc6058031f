"""The samples of a text of metrics, summed."""

import math
import re

from prometheus_client.parser import text_string_to_metric_families


class Samples:
    """The samples of a text of metrics."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        self._samples = [sample for family in families for sample in family.samples]

    def total(self, name: str, **patterns: str) -> float:
        """The sum of the samples called `name`, of those whose labels match the patterns."""
        return math.fsum(
            sample.value
            for sample in self._samples
            if sample.name == name
            and all(re.fullmatch(p, sample.labels.get(key, "")) for key, p in patterns.items())
        )
