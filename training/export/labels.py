"""The labels of a foreign classifier, from a file or from the metadata of its ONNX file.

A file is one of

    text                a label a line, in the order of the outputs
    a table             INDEX,LABEL a line, with commas, semicolons or tabs, a header allowed
    JSON                ["cat", "dog"], {"0": "cat"}, {"0": ["n02123045", "cat"]} (Keras), or
                        {"cat": 0}; under id2label in a config.json of Hugging Face
"""

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, helper

from training.export.ends import ForeignError

KEYS = ("names", "classes", "labels", "class_names", "id2label")  # of metadata; Ultralytics: names
CELLS = re.compile(r"(\d+)[,;\t](.+)")

Labels = tuple[str, ...]


def read(path: Path) -> Labels:
    """The labels in the file `path`.

    Raises:
        ForeignError: it cannot be read, or has another structure.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        if text.startswith(("[", "{")):
            return _of_value(json.loads(text))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ForeignError(
            f"{path} cannot be read as text or JSON ({error}): give one label a line"
        ) from None
    except ValueError as error:
        raise ForeignError(
            f"{path} has no label for every class ({error}): "
            'give ["cat", "dog"] or {"0": "cat", "1": "dog"}'
        ) from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _of_table(lines) or tuple(lines)


def of_file(path: Path) -> Labels | None:
    """The labels that the ONNX file itself has, in its metadata or its last operator, if any."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # noqa: BLE001 - `read_core` says it better
        return None
    properties = {entry.key: entry.value for entry in model.metadata_props}
    texts = (properties[key] for key in KEYS if key in properties)
    return next((found for text in texts if (found := _of_text(text))), None) or _of_zipmap(model)


def numbered(classes: int) -> Labels:
    """A number for each class."""
    return tuple(str(index) for index in range(classes))


def _of_text(text: str) -> Labels | None:
    """The labels in a value of metadata: JSON, Python, or names with commas; None if none."""
    for reader in (json.loads, ast.literal_eval):
        try:
            return _of_value(reader(text))
        except (ValueError, SyntaxError, TypeError, RecursionError):
            continue
    parts = [part.strip() for part in re.split(r"[\n,;]", text)]
    return tuple(parts) if len(parts) > 1 and all(parts) and text[0] not in "[{" else None


def _of_value(value: Any) -> Labels:
    """The labels in a list or a mapping.

    Raises:
        ValueError: it is another value, or an index is missing.
    """
    if isinstance(value, Mapping):
        mapping = value.get("id2label", value)
        if mapping and all(type(each) is int for each in mapping.values()):
            mapping = {index: label for label, index in mapping.items()}
        return _by_index({int(index): label for index, label in mapping.items()})
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{str(value)[:40]!r} is no list of labels")
    return tuple(map(_label, value))


def _by_index(labels: Mapping[int, Any]) -> Labels:
    missing = next((index for index in range(len(labels)) if index not in labels), None)
    if missing is not None or not labels:
        raise ValueError(f"index {missing or 0} is missing")
    return tuple(_label(labels[index]) for index in range(len(labels)))


def _label(value: Any) -> str:
    # Keras puts the identifier in WordNet before the name.
    name = value[-1] if isinstance(value, list | tuple) and value else value
    if not isinstance(name, str | int) or not str(name).strip():
        raise ValueError(f"{str(value)[:40]!r} is no label")
    return str(name).strip()


def _of_table(lines: list[str]) -> Labels | None:
    """The second column of a table by index, or None if `lines` are none."""
    for rows in (lines, lines[1:]):
        cells = [match.groups() for line in rows if (match := CELLS.fullmatch(line))]
        by_index = {int(index): label.strip().strip('"') for index, label in cells}
        if len(rows) > 1 and len(by_index) == len(rows):
            return _by_index(by_index) if set(by_index) == set(range(len(rows))) else None
    return None


def _of_zipmap(model: ModelProto) -> Labels | None:
    for node in model.graph.node:
        if node.op_type == "ZipMap":
            values = [helper.get_attribute_value(attribute) for attribute in node.attribute]
            return next((tuple(map(_text, labels)) for labels in values if labels), None)
    return None


def _text(value: bytes | int) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
