"""The contract between training and service: a bundle, a folder that holds a classifier and everything needed to explain it.

Concept: `manifest.json` says what the classifier is and names every other file with its sha256; nothing is used before its
digest is checked. There is no pickle and no external tensor data, so the digests cover all that can change an answer.

    predict.onnx    image uint8 (N, H, W, 3) RGB → logits float32 (N, K) [, features float32 (N, D)]
                    [, similarity float32 (N, k), neighbour int64 (N, k): the nearest rows of reference.npz, nearest first]
    gradient.onnx   x float32 (N, 3, H, W) normalised, target int64 (N), −1 = the predicted class → logits, gradient (N, 3, H, W)
    cam.onnx        x, target → logits, cam float32 (N, 1, h, w), activation and activation_gradient float32 (N, C, h, w)
    predict.half.onnx, gradient.half.onnx, cam.half.onnx   optional: the same in float16 inside, for GPUs; inputs and outputs as above
    predict.int8.onnx    optional: predict.onnx in 8-bit integers inside, for predictions on CPUs; inputs and outputs as above
    reference.npz   optional: features int8 (R, D), labels int64 (R,) and names (R,) of training images, for familiarity
    report.json, CARD.md                                   optional

Laws: `load(folder)` of what `write(folder, manifest, files)` wrote equals what `write` returned; the version changes when, and only
when, the manifest (hence any file) changes.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.bundle.manifest import MANIFEST, Digest, Manifest
from service.errors import (
    DigestError,
    ExternalDataError,
    ManifestError,
    MissingFileError,
    PrecisionError,
)

PREDICT, GRADIENT, CAM = "predict.onnx", "gradient.onnx", "cam.onnx"
HALVES = {PREDICT: "predict.half.onnx", GRADIENT: "gradient.half.onnx", CAM: "cam.half.onnx"}
INT8 = "predict.int8.onnx"
DERIVED = (GRADIENT, CAM)  # made of predict.onnx by `python -m training derive FOLDER`
REFERENCE, REPORT, CARD = "reference.npz", "report.json", "CARD.md"


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files were verified once, and are verified again as they are read."""

    folder: Path
    manifest: Manifest

    def has(self, name: str) -> bool:
        """Whether the bundle holds the file `name`."""
        return name in self.manifest.files

    def read(self, name: str) -> bytes:
        """The verified bytes of the file `name`: what was checked is what is used.

        Raises:
            MissingFileError: there is no such file.
            DigestError: the file is not the one that the manifest was written for.
            ExternalDataError: a graph keeps tensors in other files.
        """
        if not self.has(name):
            raise MissingFileError(
                f"the bundle {self.folder} has no {name}; it has {', '.join(sorted(self.manifest.files))}"
            )
        try:
            content = (self.folder / name).read_bytes()
        except FileNotFoundError:
            derive = (
                f"run `python -m training derive {self.folder}`, or " if name in DERIVED else ""
            )
            raise MissingFileError(
                f"{self.folder / name} is missing, and the manifest names it: "
                f"{derive}copy the bundle again"
            ) from None
        expected, found = self.manifest.files[name], Digest.of(content)
        if found != expected:
            raise DigestError(
                f"{self.folder / name} has sha256 {found.sha256[:12]}… ({found.length} bytes); "
                f"the manifest says {expected.sha256[:12]}… ({expected.length} bytes): "
                "it was changed or damaged, copy the bundle again"
            )
        _refuse_external_data(name, content)
        return content


def load(folder: Path) -> Bundle:
    """The bundle in `folder`, every file verified.

    Raises:
        BundleError: the leaf says what is wrong.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise ManifestError(
            f"{folder} is no bundle ({error.strerror}: {MANIFEST}): give the folder that `python -m training bundle` wrote"
        ) from None
    bundle = Bundle(folder, Manifest.parse(text))
    if not bundle.has(PREDICT):
        raise ManifestError(f"{folder / MANIFEST} names no {PREDICT}: export the bundle again")
    for name in bundle.manifest.files:
        bundle.read(name)
    _check_report(bundle)
    return bundle


def _check_report(bundle: Bundle) -> None:
    """Refuses figures of another bundle: those of the report, which are on the card and in the plots, too."""
    if not bundle.has(REPORT):
        return
    try:
        measured = json.loads(bundle.read(REPORT)).get("files", {}).get(PREDICT)
    except (ValueError, AttributeError) as error:
        raise ManifestError(
            f"{bundle.folder / REPORT} is no report ({error}): audit the bundle again"
        ) from None
    present = bundle.manifest.files[PREDICT].sha256
    if measured not in (None, present):
        raise DigestError(
            f"{bundle.folder / REPORT} is of a {PREDICT} with sha256 {str(measured)[:12]}…, the bundle's has {present[:12]}…: "
            "audit this bundle itself, or leave report, card and plots out"
        )


def check_int8(bundle: Bundle, device: str) -> None:
    """Nothing, if `bundle` can predict in int8 on `device`.

    Raises:
        PrecisionError: it holds no such graph, or `device` is a GPU.
    """
    if bundle.manifest.int8 is None or not bundle.has(INT8):
        raise PrecisionError(
            f"CANDOR_PRECISION is 'int8', and the bundle {bundle.folder} has no {INT8}: "
            "make one with `python -m training quantise`, or unset CANDOR_PRECISION"
        )
    if device in ("cuda", "tensorrt"):
        raise PrecisionError(
            f"CANDOR_PRECISION is 'int8', for CPUs alone, and the device is {device}: set CANDOR_DEVICE to cpu"
        )


def write(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Writes `files` and a manifest with their digests; the bundle that was in `folder` is replaced whole.

    Raises:
        ExternalDataError: a graph keeps tensors in other files.
        FileExistsError: `folder` holds something that is no bundle.
    """
    for name, content in files.items():
        _refuse_external_data(name, content)
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise FileExistsError(
            f"{folder} holds files and is no bundle: name an empty or a new folder"
        )
    complete = replace(
        manifest, files={name: Digest.of(content) for name, content in sorted(files.items())}
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        _write_files(new, {MANIFEST: _pretty(complete), **files})
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        new.rename(folder)
    return load(folder)


def _pretty(manifest: Manifest) -> bytes:
    return (json.dumps(manifest.document(), indent=2, ensure_ascii=False) + "\n").encode()


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _refuse_external_data(name: str, content: bytes) -> None:
    if (
        not name.endswith(".onnx") or b"location" not in content
    ):  # the key that every external tensor carries
        return
    import onnx  # noqa: PLC0415 - 60 MB that only a suspect graph is worth

    outside = [
        tensor.name
        for tensor in _tensors(onnx.load_model_from_string(content))
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    if outside:
        raise ExternalDataError(
            f"{name} keeps {len(outside)} tensors outside the file ({outside[0]} first), where no digest covers "
            "them: save the graph with its weights inside"
        )


def _tensors(model: Any) -> Iterable[Any]:
    from onnx import external_data_helper  # noqa: PLC0415

    return external_data_helper._get_all_tensors(model)  # noqa: SLF001
