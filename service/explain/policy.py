"""A policy: which predictions an explanation comes along with.

    always        every one
    unsure        the prediction set does not hold exactly one class
    unfamiliar    the image is unlike those of the training
    sampled:0.01  one in a hundred, drawn for each image by itself

Several with commas between them stand for each of them.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from service.bundle.manifest import Manifest
from service.errors import InvalidParameter, SettingsError
from service.explain.question import cheapest_method
from service.predictions import Prediction
from service.settings import CONDITION

Reason = Literal["asked", "always", "unsure", "unfamiliar", "sampled"]
NONE, ALWAYS, UNSURE, UNFAMILIAR, SAMPLED = "none", "always", "unsure", "unfamiliar", "sampled"
# Images that are explained for these reasons are chosen without a look at the answer.
FAIR = frozenset[Reason](("asked", "always", "sampled"))
KINDS = (ALWAYS, UNSURE, UNFAMILIAR, f"{SAMPLED}:SHARE")


@dataclass(frozen=True)
class Policy:
    """The reasons that an explanation comes along for; `share` of the images are drawn, 0…1.

    With `asked` it is because the caller asked for it without a condition.
    """

    asked: bool = False
    always: bool = False
    unsure: bool = False
    unfamiliar: bool = False
    share: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Policy | None":
        """The policy that `text` names; None for none.

        Raises:
            ValueError: it names none.
        """
        if not CONDITION.fullmatch(text):
            raise ValueError(text)
        if text == NONE:
            return None
        kinds = dict(name.strip().partition(":")[::2] for name in text.split(","))
        share = float(kinds.get(SAMPLED, 0))
        return cls(False, ALWAYS in kinds, UNSURE in kinds, UNFAMILIAR in kinds, share)

    def check(self, manifest: Manifest) -> None:
        """Checks that the bundle measures what the policy looks at.

        Raises:
            InvalidParameter: it does not.
        """
        for asked, measured, what in (
            (self.unsure, manifest.prediction_sets, "prediction sets"),
            (self.unfamiliar, manifest.familiarity, "measure of familiarity"),
        ):
            if asked and measured is None:
                raise InvalidParameter(
                    f"this model has no {what} to choose by: explain always, or a sample"
                )

    @property
    def certain(self) -> bool:
        """True if there is a reason to explain every prediction."""
        return self.asked or self.always

    def reason(
        self, prediction: Prediction, draw: Callable[[], float] = random.random
    ) -> Reason | None:
        """The first reason to explain `prediction`; None if there is none. `draw` gives 0…1."""
        found, familiarity = prediction.prediction_set, prediction.familiarity
        if self.certain:
            return "asked" if self.asked else "always"
        # Drawn first: a sample of what no other condition holds for would be none of all images.
        if self.share and draw() < self.share:
            return "sampled"
        if self.unsure and found is not None and len(found.indices) != 1:
            return "unsure"
        if self.unfamiliar and familiarity is not None and not familiarity.familiar:
            return "unfamiliar"
        return None


ON_REQUEST = Policy(asked=True)


def of_setting(text: str, manifest: Manifest) -> Policy | None:
    """The policy of CANDOR_EXPLAIN, which is `text`, for a bundle.

    Raises:
        SettingsError: the bundle has no method for it, or nothing that it could choose by.
    """
    policy = Policy.parse(text)
    if policy is None:
        return None
    begin = f"CANDOR_EXPLAIN is {text}, and "
    if cheapest_method(manifest) is None:
        raise SettingsError(f"{begin}this model cannot be explained at once: unset it")
    try:
        policy.check(manifest)
    except InvalidParameter as error:
        raise SettingsError(f"{begin}{error}") from None
    return policy
