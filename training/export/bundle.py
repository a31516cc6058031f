"""A bundle of a trained run, or of a foreign classifier: graphs, reliability, parity, folder.

A bundle is written twice. The first time it goes to a scratch folder, where the service's own
engine runs it, its graphs are proven in float64, and the parity of every gradient method is
measured. If the proof and the parity hold, the bundle goes to its place, with both in its manifest.
"""

import json
import platform
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from jaxtyping import UInt8
from numpy import ndarray
from onnx import ModelProto

from service.bundle import folder as contract
from service.bundle.calibration import Calibration
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.errors import BundleError
from service.image.resize import Input
from service.runtime.engine import Engine
from service.runtime.sessions import self_test_image
from training.autodiff import DifferentiationError
from training.data import Pixels
from training.data.images import Images, drawn_images
from training.data.read import Dataset
from training.export import float16, parity
from training.export.core import Core, content, graphs, predict_graph
from training.export.faults import STANDARD, worded
from training.export.foreign import ForeignCore
from training.export.original import Agreement, Original
from training.export.ours import export_core
from training.export.proof import points, prove
from training.export.report import card, foreign_card, report
from training.export.shapes import MORE, check_rows
from training.figures.guessing import guessing
from training.fit.runs import Run
from training.reliability.familiarity import Reference, attach
from training.reliability.fitting import fit_reliability

FOREIGN_VERSIONS = ("onnx", "onnxruntime-gpu", "numpy")
VERSIONS = (*FOREIGN_VERSIONS, "torch", "captum")
# Errors that are sentences already.
OWN = (DifferentiationError, parity.ParityError, BundleError, OSError)


def make_bundle(
    run: Run, dataset: Dataset, folder: Path, name: str, *, halves: bool = False
) -> Bundle:
    """The bundle of `run` in `folder`.

    Reliability is fitted on the validation images, the report is of the test images, and parity
    is measured on the first validation images. With `halves` the bundle has graphs in half
    precision, too.

    Raises:
        DifferentiationError: the network has an operator without a rule.
        ParityError: the proof fails, a method differs from Captum's, or half precision from
            float32.
    """
    core = export_core(run.network, run.input.size)
    manifest = Manifest(
        name, run.subject.classes, run.input, features=core.width, provenance=_provenance(run)
    )
    manifest, files = fit_reliability(
        manifest, graphs(core, run.input), dataset.validation, dataset.training
    )
    count = parity.images(run.input.size, len(dataset.validation))
    batch = dataset.validation.rows(np.arange(count))
    with tempfile.TemporaryDirectory() as scratch:
        engine = Engine(contract.write(Path(scratch) / "draft", manifest, files), "cpu")
        figures = report(engine, dataset.test, run.recipe.seed)
        proof = prove(files, points(engine.normalise(batch)))
        measured = parity.check(
            proof.measured
            | parity.measure_float64(proof, run.network)
            | parity.measure(engine, run.network, batch)
        )
        manifest = replace(manifest, self_test=_self_test(engine), parity=measured)
        if halves:
            manifest, files = _with_halves(engine, core, manifest, files, batch)
    remark = guessing(figures["test"])
    if remark is not None:
        provenance = {**manifest.provenance, "no_better_than_guessing": remark}
        manifest = replace(manifest, provenance=provenance)
    files[contract.REPORT] = (json.dumps(figures, indent=2) + "\n").encode()
    files[contract.CARD] = card(run, manifest, figures).encode()
    return contract.write(folder, manifest, files)


def make_foreign_bundle(
    core: Core,
    manifest: Manifest,
    folder: Path,
    held_out: Images | None = None,
    *,
    gradients: bool = True,
    halves: bool = False,
    say: Callable[[str], object] = str,
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
    versions = {package: version(package) for package in FOREIGN_VERSIONS}
    provenance = {"versions": versions, "commit": _commit(), **manifest.provenance}
    manifest = replace(manifest, features=core.width, head=core.head, provenance=provenance)
    if held_out is not None:
        say(f"calibrates on {len(held_out)} images")
        manifest, files = fit_reliability(manifest, files, held_out, None)
    say("proves the graphs")
    with (
        tempfile.TemporaryDirectory() as scratch,
        worded("the graphs that were made of the file cannot be run", STANDARD, *OWN),
    ):
        engine = Engine(contract.write(Path(scratch) / "draft", manifest, files), "cpu")
        batch = drawn_images(parity.DRAWN, manifest.input.size)
        _check_rows(engine, batch[:MORE])
        if isinstance(core, ForeignCore) and core.original is not None:
            compare(core.original, engine, batch)
        if gradients:
            proof = prove(files, points(engine.normalise(batch)))
            measured = parity.check(proof.measured | parity.measure_float32(engine, proof))
            manifest = replace(manifest, parity=measured)
        manifest = replace(manifest, self_test=_self_test(engine))
        if halves:
            manifest, files = _with_halves(engine, core, manifest, files, batch)
    if "file" in manifest.provenance:
        files[contract.CARD] = foreign_card(manifest).encode()
    say(f"writes {folder}")
    return contract.write(folder, manifest, files)


def compare(original: Original, engine: Engine, batch: Pixels) -> Agreement:
    """The agreement of the bundle's probabilities, at temperature 1, with those of the file.

    Raises:
        ForeignError: they differ by more than the limit, or ONNX Runtime cannot run the file.
    """
    logits = engine.predict(batch).logits
    served = Calibration(head=engine.manifest.head).probabilities(logits)
    return original.compare(engine.normalise(batch), served, float(np.abs(logits).max()))


def half_graphs(core: Core, spec: Input, files: Mapping[str, bytes]) -> dict[str, ModelProto]:
    """The graphs of `files` in half precision, by the name of the float32 file."""
    # Images are normalised in float32 all the same: a half has too few bits for pixel − mean.
    halves = {contract.PREDICT: predict_graph(float16.halved(core.model), spec)}
    for name in (contract.GRADIENT, contract.CAM):
        if name in files:
            halves[name] = float16.halved(onnx.load_model_from_string(files[name]))
    return halves


def _with_halves(
    engine: Engine,
    core: Core,
    manifest: Manifest,
    files: dict[str, bytes],
    batch: UInt8[ndarray, "rows H W 3"],
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with the parity of graphs in half precision, and the files with them."""
    halves = half_graphs(core, manifest.input, files)
    if contract.REFERENCE in files:
        reference = Reference.read(files[contract.REFERENCE])
        halves[contract.PREDICT] = attach(halves[contract.PREDICT], reference)
    rounded = {name: content(float16.rounded(model)) for name, model in halves.items()}
    # An engine does not start if the self-test fails; `float16.prove` names that failure better.
    draft = replace(manifest, self_test=None)
    with tempfile.TemporaryDirectory() as scratch:
        half_engine = Engine(contract.write(Path(scratch) / "draft", draft, rounded), "cpu")
        measured = float16.prove(engine, half_engine, batch, manifest.calibration)
    new = {contract.HALVES[name]: content(model) for name, model in halves.items()}
    return replace(manifest, parity={**manifest.parity, **measured}), files | new


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


def _self_test(engine: Engine) -> tuple[int, float]:
    logits = engine.predict(self_test_image(engine.manifest.input.size)).logits[0]
    return int(logits.argmax()), float(logits.max())


def _provenance(run: Run) -> Mapping[str, Any]:
    weights = {"weights": dict(run.recipe.weights)} if run.recipe.weights else {}
    return weights | {
        "data": {"name": run.subject.name, "fingerprint": run.subject.fingerprint},
        "recipe": run.recipe.document(),
        "minutes": round(float(run.report["minutes"]), 1),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in VERSIONS},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the exporting code, if it is in a repository."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None
