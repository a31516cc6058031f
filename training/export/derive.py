"""Derived files of a bundle, written where they are missing: gradient.onnx, cam.onnx, lrp.onnx.

They hold the weights of `predict.onnx` once more, so git holds `predict.onnx` alone. The manifest
has the digest of every file; a derived file is written only if it has that digest.
"""

import os
from importlib.metadata import version
from pathlib import Path

from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.bundle.manifest import MANIFEST, Digest, Manifest


class DerivationError(Exception):
    """A file of a bundle cannot be derived; the message names what to do instead."""


def complete(folder: Path) -> list[str]:
    """Writes those derived files that the manifest names and `folder` lacks, or has otherwise.

    Returns their names.

    Raises:
        BundleError: the manifest or predict.onnx is damaged.
        DerivationError: there is no bundle, or a graph does not get the digest in the manifest.
    """
    try:
        manifest = Manifest.parse((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise DerivationError(
            f"{folder} is no bundle ({error.strerror}: {MANIFEST}): name a folder with a manifest"
        ) from None
    bundle = Bundle(folder, manifest)
    names = [name for name in contract.DERIVED if bundle.has(name) and not _is_valid(bundle, name)]
    for name, content in _derived(bundle, names).items():
        _check(bundle, name, content)
        _replace(folder / name, content)
    return names


def _is_valid(bundle: Bundle, name: str) -> bool:
    path = bundle.folder / name
    return path.exists() and Digest.of(path.read_bytes()) == bundle.manifest.files[name]


def _derived(bundle: Bundle, names: list[str]) -> dict[str, bytes]:
    if not names:
        return {}
    # onnx takes longer to import than all that a complete bundle needs.
    from training.autodiff import DifferentiationError  # noqa: PLC0415
    from training.export.core import derived  # noqa: PLC0415

    predict = bundle.read(contract.PREDICT)
    try:
        return derived(predict, names)
    except DifferentiationError as error:
        raise DerivationError(f"{bundle.folder / contract.PREDICT}: {error}") from None


def _check(bundle: Bundle, name: str, content: bytes) -> None:
    expected, result = bundle.manifest.files[name].sha256, Digest.of(content).sha256
    if result != expected:
        made_with = bundle.manifest.provenance.get("versions", {}).get("onnx", "an unknown version")
        raise DerivationError(
            f"{name}, derived from {bundle.folder / contract.PREDICT} with onnx {version('onnx')}, "
            f"has sha256 {result[:12]}…; the manifest has {expected[:12]}…: install the onnx that "
            f"made the bundle ({made_with}), or copy {name} from where the bundle was made"
        )


def _replace(path: Path, content: bytes) -> None:
    """Writes `path` at once or not at all: other processes may derive the same file."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
