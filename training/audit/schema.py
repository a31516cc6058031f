"""The schema of report.json: JSON Schema, draft 2020-12, checked before a report is written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA: Mapping[str, Any] = json.loads(
    (Path(__file__).parent / "report.schema.json").read_text(encoding="utf-8")
)


def check(report: Mapping[str, Any]) -> None:
    """Checks that `report` matches the schema.

    Raises:
        jsonschema.ValidationError: it does not, which is an error of the audit itself.
    """
    Draft202012Validator(SCHEMA).validate(report)
