"""The contract between training and service: a bundle, the folder that holds a classifier.

`manifest.json` describes the classifier and names every other file with its sha256; nothing is used
before its digest is checked. There is no pickle and no external tensor data, so the digests cover
all that can change an answer.

    predict.onnx         image uint8 (N, H, W, 3) RGB → logits float32 (N, K)
                         [, features float32 (N, D)]
                         [, similarity float32 (N, k), neighbour int64 (N, k): the nearest rows of
                         reference.npz, nearest first]
    gradient.onnx        x float32 (N, 3, H, W) normalised, target int64 (N), −1 = the predicted
                         class → logits, gradient (N, 3, H, W)
                         [, activation/NAME and activation_gradient/NAME (N, C, h, w) of each
                         earlier layer for class activation maps]
    cam.onnx             x, target → logits, cam float32 (N, 1, h, w),
                         activation and activation_gradient float32 (N, C, h, w)
    lrp.onnx             x, target → logits, relevance (N, 3, H, W); of transformers alone

Optional, with inputs and outputs as above:

    predict.half.onnx, gradient.half.onnx, cam.half.onnx    float16 inside, for GPUs
    predict.int8.onnx    8-bit integers inside, for predictions on CPUs
    reference.npz        features int8 (R, D), labels int64 (R,) and names (R,) of training images
    report.json, CARD.md
    *.jpg, *.webp        samples for the page (service.bundle.presentation)

gradient.onnx, cam.onnx and lrp.onnx are derived from predict.onnx, to the digests in the manifest,
and need not be stored with it.

Laws: `load(folder)` equals what `write(folder, manifest, files)` returned. The version changes if,
and only if, the manifest does, and with it any file.
"""

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service import settings
from service.bundle.manifest import MANIFEST, Digest, Manifest
from service.errors import (
    DigestError,
    ExternalDataError,
    ManifestError,
    MissingFileError,
    PrecisionError,
)

PREDICT, GRADIENT, CAM, LRP = "predict.onnx", "gradient.onnx", "cam.onnx", "lrp.onnx"
DERIVED = (GRADIENT, CAM, LRP)  # `python -m training derive` makes them from PREDICT
HALVES = {PREDICT: "predict.half.onnx", GRADIENT: "gradient.half.onnx", CAM: "cam.half.onnx"}
INT8 = settings.INT8
MAX_MANIFEST_BYTES = 2**26
REFERENCE, REPORT, CARD = "reference.npz", "report.json", "CARD.md"
PICTURES = "reference.zip"  # small views of the reference images, where the bundle may show them


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk; its files are verified when it is loaded, and again when they are read."""

    folder: Path
    manifest: Manifest

    def has(self, name: str) -> bool:
        """True if the manifest names the file `name`."""
        return name in self.manifest.files

    def read(self, name: str) -> bytes:
        """The verified bytes of the file `name`.

        Raises:
            MissingFileError: the manifest does not name the file, or the folder does not hold it.
            DigestError: the file is not the one that the manifest was written for.
            ExternalDataError: a graph keeps tensors in other files.
        """
        if not self.has(name):
            raise MissingFileError(
                f"the bundle {self.folder} has no {name}; "
                f"it has {', '.join(sorted(self.manifest.files))}"
            )
        # The bytes that were checked are the bytes that are used: the file is read once.
        try:
            content = _read(self.folder / name, self.manifest.files[name].length + 1)
        except FileNotFoundError:
            remedy = "copy the bundle again"
            if name in DERIVED:
                remedy = f"run scripts/setup, or python -m training derive {self.folder}"
            raise MissingFileError(
                f"{self.folder / name} is missing, and the manifest names it: {remedy}"
            ) from None
        expected, actual = self.manifest.files[name], Digest.of(content)
        if actual != expected:
            raise DigestError(
                f"{self.folder / name} has sha256 {actual.sha256[:12]}… ({actual.length} bytes); "
                f"the manifest says {expected.sha256[:12]}… ({expected.length} bytes): "
                "it was changed or damaged, copy the bundle again"
            )
        _check_external_data(name, content)
        return content


def load(folder: Path, digest: str | None = None) -> Bundle:
    """Reads the bundle in `folder` and verifies every file; `digest` is that of the manifest.

    Raises:
        BundleError: a subclass names the fault.
    """
    try:
        text = _read(folder / MANIFEST, MAX_MANIFEST_BYTES)
    except OSError as error:
        raise ManifestError(
            f"{folder} is no bundle ({error.strerror}: {MANIFEST}): "
            "give the folder that `python -m training bundle` wrote"
        ) from None
    bundle = Bundle(folder, Manifest.parse(text))
    if digest not in (None, bundle.manifest.digest):
        raise DigestError(
            f"{folder} has the digest {bundle.manifest.digest}; CANDOR_BUNDLE_DIGEST is {digest}: "
            "serve the bundle that was pinned, or pin this one"
        )
    if not bundle.has(PREDICT):
        raise ManifestError(f"{folder / MANIFEST} names no {PREDICT}: export the bundle again")
    for name in bundle.manifest.files:
        bundle.read(name)
    _check_report(bundle)
    return bundle


def _read(path: Path, most_bytes: int) -> bytes:
    """The first `most_bytes` of a file.

    Raises:
        FileNotFoundError: it is missing.
        MissingFileError: it is a folder, a device or a pipe, which may have no end, or unreadable.
    """
    try:
        # A pipe that nothing writes to would hold a blocking open for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise MissingFileError(f"{path} is no file: copy the bundle again")
            return file.read(most_bytes)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise MissingFileError(f"{path} cannot be read ({error.strerror})") from None


def _check_report(bundle: Bundle) -> None:
    """Checks that the report, and so card and plots, are of this bundle; raises DigestError."""
    if not bundle.has(REPORT):
        return
    try:
        measured = json.loads(bundle.read(REPORT)).get("files", {}).get(PREDICT)
    except (ValueError, AttributeError, RecursionError) as error:
        raise ManifestError(
            f"{bundle.folder / REPORT} is no report ({error}): audit the bundle again"
        ) from None
    present = bundle.manifest.files[PREDICT].sha256
    if measured not in (None, present):
        raise DigestError(
            f"{bundle.folder / REPORT} is of a {PREDICT} with sha256 {str(measured)[:12]}…, "
            f"the bundle's has {present[:12]}…: "
            "audit this bundle itself, or leave report, card and plots out"
        )


def check_int8(bundle: Bundle, device: str) -> None:
    """Checks that `bundle` can predict in int8 on `device`.

    Raises:
        PrecisionError: the bundle holds no such graph, or `device` is a GPU.
    """
    if bundle.manifest.int8 is None or not bundle.has(INT8):
        raise PrecisionError(
            f"CANDOR_PRECISION is 'int8', and the bundle {bundle.folder} has no {INT8}: "
            "make one with `python -m training quantise`, or unset CANDOR_PRECISION"
        )
    if device in ("cuda", "tensorrt"):
        raise PrecisionError(
            f"CANDOR_PRECISION is 'int8', for CPUs alone, and the device is {device}: "
            "set CANDOR_DEVICE to cpu"
        )


def write(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Writes `files` and a manifest with their digests; replaces a bundle in `folder` whole.

    The manifest keeps the samples whose files are among `files`.

    Raises:
        ExternalDataError: a graph keeps tensors in other files.
        FileExistsError: `folder` holds files and is no bundle.
    """
    for name, content in files.items():
        _check_external_data(name, content)
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise FileExistsError(
            f"{folder} holds files and is no bundle: name an empty or a new folder"
        )
    complete = replace(
        manifest,
        files={name: Digest.of(content) for name, content in sorted(files.items())},
        samples=tuple(sample for sample in manifest.samples if sample.file in files),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside `folder`, since a rename works within one file system alone: no reader ever sees a
    # bundle that is half old and half new.
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
            # On the disk before the folder is renamed: a crash leaves the old bundle or the new.
            file.flush()
            os.fsync(file.fileno())


def _check_external_data(name: str, content: bytes) -> None:
    """Checks that the graph `content` holds all of its tensors; raises ExternalDataError."""
    # Every external tensor carries the key "location", so that a graph without it needs no parsing.
    if not name.endswith(".onnx") or b"location" not in content:
        return
    import onnx  # noqa: PLC0415 - 60 MB, which a suspect graph alone is worth

    outside = [
        tensor.name
        for tensor in _tensors(onnx.load_model_from_string(content))
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    if outside:
        raise ExternalDataError(
            f"{name} keeps {len(outside)} tensors outside the file ({outside[0]} first), "
            "where no digest covers them: save the graph with its weights inside"
        )


def _tensors(message: Any) -> Iterator[Any]:
    """The tensors anywhere in a message: initializers, attributes, subgraphs, functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            # A field holds one message or a list of them.
            for part in value if isinstance(value, Sequence) else (value,):
                yield from _tensors(part)
