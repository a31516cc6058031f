"""A bundle of a foreign classifier: graphs, reliability, proof, folder.

It is written twice, as that of a run (`training.export.bundle`). Without images to calibrate on and
without half precision it needs no torch.
"""

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from service.bundle import folder as contract
from service.bundle.calibration import Calibration
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest, Parity
from service.errors import BundleError
from service.runtime.engine import Engine
from service.runtime.sessions import self_test_image
from training.autodiff import DifferentiationError
from training.data import Pixels
from training.data.images import Images, Tagged, drawn_images
from training.export import parity
from training.export.core import Core, graphs, layers_of
from training.export.faults import STANDARD, worded
from training.export.foreign import ForeignCore
from training.export.foreign_card import foreign_card
from training.export.original import Agreement, Original
from training.export.parity import Answers, answers_of
from training.export.progress import Say
from training.export.proof import prove
from training.export.shapes import MORE, check_rows

FOREIGN_VERSIONS = ("onnx", "onnxruntime-gpu", "numpy")
# Errors that are sentences already.
OWN = (DifferentiationError, parity.ParityError, BundleError, OSError)


def make_foreign_bundle(
    core: Core,
    manifest: Manifest,
    folder: Path,
    held_out: Images | Tagged | None = None,
    *,
    gradients: bool = True,
    halves: bool = False,
    say: Say = str,
) -> Bundle:
    """The bundle of a classifier that came as an ONNX file, in `folder`.

    Reliability is fitted on `held_out`; the proof and parity are of drawn images. On these its
    probabilities at temperature 1 must be those of the file. With `halves` it has graphs in half
    precision, too. Each step is announced by `say`.

    Raises:
        ForeignError: the probabilities differ, an image gets another answer alone than beside
            others, or a library fails.
        DifferentiationError: an operator has no rule; without `gradients` the bundle can be made.
        ParityError: the proof fails, the engine differs from float64, or half precision from
            float32.
    """
    say("derives the graphs of explanations" if gradients else "makes the graph of predictions")
    with worded("the graphs of a bundle cannot be made of the file", STANDARD, *OWN):
        files = graphs(core, manifest.input, gradients=gradients)
    manifest, measured_on = _described(core, manifest, files), ""
    if held_out is not None:
        say(f"calibrates on {len(held_out)} images")
        manifest, files, measured_on = _calibrated(manifest, files, held_out)
    with worded("the graphs that were made of the file cannot be run", STANDARD, *OWN):
        say("runs the graphs, beside the file")
        # Its sessions are closed before the proof: a large network in both takes gigabytes.
        tried = _try(core, manifest, files, halves=halves)
        manifest, files = tried.manifest, tried.files
        if tried.answers is not None:
            measured = _prove(files, tried.answers, say)
            manifest = replace(manifest, parity={**measured, **manifest.parity})
    if "file" in manifest.provenance:
        files[contract.CARD] = foreign_card(manifest, measured_on).encode()
    say("writes the bundle")
    return contract.write(folder, manifest, files)


def _calibrated(
    manifest: Manifest, files: dict[str, bytes], held_out: Images | Tagged
) -> tuple[Manifest, dict[str, bytes], str]:
    """Manifest and files with what is fitted on `held_out`, and the figures of each class.

    There are figures of a multi-label model alone.
    """
    # They need torch and scipy, which `why` does without.
    from training.reliability import fitting, multi_label  # noqa: PLC0415

    if isinstance(held_out, Images):
        return *fitting.fit_reliability(manifest, files, held_out, None), ""
    outputs, maps = fitting.answers_for(manifest, files, held_out.images)
    fitted = multi_label.fit(manifest, outputs.logits, held_out.has)
    manifest = replace(fitted.manifest, map_distribution=maps)
    return manifest, files, multi_label.table(fitted.figures)


class _Tried(NamedTuple):
    """What the engine of the service makes of the graphs; no answers without gradients."""

    manifest: Manifest
    files: dict[str, bytes]
    answers: Answers | None


def _described(core: Core, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """The manifest with what `core`, its graphs and this environment say."""
    versions = {package: version(package) for package in FOREIGN_VERSIONS}
    provenance = {"versions": versions, "commit": commit(), **manifest.provenance}
    layers = layers_of(files)
    return replace(
        manifest, features=core.width, head=core.head, layers=layers, provenance=provenance
    )


def _try(core: Core, manifest: Manifest, files: dict[str, bytes], *, halves: bool) -> _Tried:
    """Runs the graphs in the engine of the service, beside the file, and notes the self-test."""
    with tempfile.TemporaryDirectory() as scratch:
        # One thread: for more, every graph would be open a second time.
        engine = Engine(contract.write(Path(scratch) / "draft", manifest, files), "cpu", 1)
    batch = drawn_images(parity.DRAWN, manifest.input.size)
    _check_rows(engine, batch[:MORE])
    if isinstance(core, ForeignCore) and core.original is not None:
        compare(core.original, engine, batch)
    answers = answers_of(engine, batch) if contract.GRADIENT in files else None
    manifest = replace(manifest, self_test=self_test_of(engine))
    if halves:
        from training.export.halves import with_halves  # noqa: PLC0415 - needs torch

        manifest, files = with_halves(engine, core, manifest, files, batch)
    return _Tried(manifest, files, answers)


def _prove(files: Mapping[str, bytes], answers: Answers, say: Say) -> Mapping[str, Parity]:
    """The parity of the graphs in float64 with their slopes, and of the `answers` with them.

    Raises:
        ParityError: it is beyond its limits.
    """
    proof = prove(files, answers.x, answers.target, say)
    return parity.check(proof.measured | parity.measure_float32(answers, proof))


def compare(original: Original, engine: Engine, batch: Pixels) -> Agreement:
    """The agreement of the bundle's probabilities, at temperature 1, with those of the file.

    Raises:
        ForeignError: they differ by more than the limit, or ONNX Runtime cannot run the file.
    """
    logits = engine.predict(batch).logits
    served = Calibration(head=engine.manifest.head).probabilities(logits)
    return original.compare(engine.normalise(batch), served, float(np.abs(logits).max()))


def self_test_of(engine: Engine) -> tuple[int, float]:
    """The predicted class of the self-test image, and its logit."""
    logits = engine.predict(self_test_image(engine.manifest.input.size)).logits[0]
    return int(logits.argmax()), float(logits.max())


def commit() -> str | None:
    """The commit of the exporting code, if it is in a repository."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def _check_rows(engine: Engine, batch: UInt8[ndarray, "rows H W 3"]) -> None:
    """Compares the answers to images in one batch with those to each image alone.

    Raises:
        ForeignError: they differ.
    """
    together, x = engine.predict(batch).logits, engine.normalise(batch)
    alone = [engine.predict(image[None]).logits for image in batch]
    check_rows(np.concatenate(alone), together, 1, len(batch))
    if contract.GRADIENT in engine.manifest.files:
        target = np.zeros(1, np.int64)
        alone = [engine.gradient(row[None], target).logits for row in x]
        check_rows(np.concatenate(alone), together, 1, len(batch))
