"""Arguments of the BentoML APIs `predict` and `explain`: image files, and the parameters of POST
/predict and /explain by name.

Images are bytes and stay bytes: BentoML's own types for files and images download URLs, set no
limit, and answer a bad image with a 500. The bytes are decoded in one place,
`service.image.decode`, within its limits.

The service module is imported by processes that never serve, so the imports of the schema wait
until one is asked for.
"""

import base64
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import bentoml
from pydantic import Field, field_validator, model_validator

from service.api.bento.files import file_bytes
from service.repository.catalogue import current_of
from service.settings import Settings

if TYPE_CHECKING:
    from service.bundle.manifest import Manifest

IMAGES = "images"  # what a list of images is called in JSON
EXTRAS = "kwargs"  # BentoML's name for keyword arguments without a field


class ImageArguments(bentoml.IODescriptor):  # type: ignore[misc] # bentoml is untyped
    """An image file or a list of them, the mask of one, and further parameters by name."""

    # BentoML would describe a form only for its own types of files.
    media_type: ClassVar[str] = "multipart/form-data"

    image: bytes | list[bytes]
    mask: bytes | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def gather_parameters(cls, values: Any) -> Any:
        """Moves parameters that stand beside the image, as they do in JSON, into `kwargs`."""
        if not isinstance(values, dict) or EXTRAS in values:
            return values
        fields = {"image": values[IMAGES]} if IMAGES in values else {}
        fields |= {name: values[name] for name in ("image", "mask") if name in values}
        rest = {name: value for name, value in values.items() if name not in (*fields, IMAGES)}
        return {**fields, EXTRAS: rest}

    @field_validator("image", "mask", mode="before")
    @classmethod
    def read_files(cls, value: Any) -> Any:
        """Turns what `file_bytes` takes into bytes."""
        if value is None:
            return None
        return [file_bytes(one) for one in value] if isinstance(value, list) else file_bytes(value)

    def model_dump_json(self, **_options: Any) -> str:
        """The JSON form of POST /predict, which a caller with `depends(Candor, url=…)` sends."""
        name = IMAGES if isinstance(self.image, list) else "image"
        document = {name: _encoded(self.image), **self.kwargs}
        if self.mask is not None:
            document["mask"] = _encoded(self.mask)
        return json.dumps(document)


class PredictArguments(ImageArguments):
    """Arguments of `predict`."""

    @classmethod
    def model_json_schema(cls, *_args: Any, mode: str = "validation", **_: Any) -> dict[str, Any]:
        """The schema, for this bundle's methods and labels."""
        return _schema("of_predict", mode)


class ExplainArguments(ImageArguments):
    """Arguments of `explain`."""

    @classmethod
    def model_json_schema(cls, *_args: Any, mode: str = "validation", **_: Any) -> dict[str, Any]:
        """The schema, for this bundle's methods and labels."""
        return _schema("of_explain", mode)


def _encoded(files: bytes | list[bytes]) -> Any:
    if isinstance(files, list):
        return [_encoded(file) for file in files]
    return base64.b64encode(files).decode()


@lru_cache(maxsize=1)
def _manifest(bundle: Path) -> "Manifest":
    from service.bundle.manifest import MANIFEST, Manifest  # noqa: PLC0415

    return Manifest.parse((bundle / MANIFEST).read_bytes())


def _schema(parameters: str, mode: str) -> dict[str, Any]:
    """The JSON schema: BentoML's client sends properties of the type "file" as parts of a form;
    OpenAPI has no such type.
    """
    from service.api.openapi import parameters as described  # noqa: PLC0415

    manifest = _manifest(current_of(Settings.from_environment().bundle))
    file = (
        {"type": "file", "format": "image"}
        if mode == "validation"
        else {"type": "string", "format": "binary"}
    )
    schemas = cast("dict[str, Any]", getattr(described, parameters)(manifest))
    return {
        "type": "object",
        "title": "Input",
        "properties": {"image": file, "mask": file, **schemas},
        "required": ["image"],
    }
