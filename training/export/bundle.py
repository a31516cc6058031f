"""A bundle of a trained run, or of a foreign classifier: graphs, reliability, parity, folder.

A bundle is written twice. The first time it goes to a scratch folder, where the service's own
engine runs it, its graphs are proven in float64, and the parity of every gradient method is
measured. If the proof and the parity hold, the bundle goes to its place, with both in its manifest.
"""

import json
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.runtime.engine import Engine
from training.data.read import Dataset
from training.export import parity, reference
from training.export.core import graphs, layers_of
from training.export.foreign_bundle import FOREIGN_VERSIONS, commit, self_test_of
from training.export.halves import with_halves
from training.export.ours import export_core
from training.export.proof import points, prove
from training.export.report import card, report
from training.figures.guessing import guessing
from training.fit.runs import Run
from training.reliability.fitting import fit_reliability, reference_images
from training.reliability.pictures import pictures

VERSIONS = (*FOREIGN_VERSIONS, "torch", "captum")


def make_bundle(
    run: Run,
    dataset: Dataset,
    folder: Path,
    name: str,
    *,
    halves: bool = False,
    with_pictures: bool = False,
) -> Bundle:
    """The bundle of `run` in `folder`.

    Reliability is fitted on the validation images, the report is of the test images, and parity
    is measured on the first validation images. With `halves` the bundle has graphs in half
    precision, too; `with_pictures`, small views of the reference images.

    Raises:
        DifferentiationError: the network has an operator without a rule.
        ParityError: the proof fails, a method differs from Captum's, or half precision from
            float32.
    """
    core = export_core(run.network, run.input.size)
    made = graphs(core, run.input)
    manifest = Manifest(
        name,
        run.subject.classes,
        run.input,
        features=core.width,
        provenance=_provenance(run),
        layers=layers_of(made),
    )
    manifest, files = fit_reliability(manifest, made, dataset.validation, dataset.training)
    if with_pictures and contract.REFERENCE in files:
        files[contract.PICTURES] = pictures(reference_images(manifest, dataset.training))
    count = reference.images(run.input.size, len(dataset.validation))
    batch = dataset.validation.rows(np.arange(count))
    with tempfile.TemporaryDirectory() as scratch:
        engine = Engine(contract.write(Path(scratch) / "draft", manifest, files), "cpu")
        figures = report(engine, dataset.test, run.recipe.seed)
        proof = prove(files, points(engine.normalise(batch)))
        measured = parity.check(
            proof.measured
            | reference.measure_float64(proof, run.network)
            | parity.measure_earlier(engine, proof)
            | reference.measure(engine, run.network, batch)
        )
        manifest = replace(manifest, self_test=self_test_of(engine), parity=measured)
        if halves:
            manifest, files = with_halves(engine, core, manifest, files, batch)
    remark = guessing(figures["test"])
    if remark is not None:
        provenance = {**manifest.provenance, "no_better_than_guessing": remark}
        manifest = replace(manifest, provenance=provenance)
    files[contract.REPORT] = (json.dumps(figures, indent=2) + "\n").encode()
    files[contract.CARD] = card(run, manifest, figures).encode()
    return contract.write(folder, manifest, files)


def _provenance(run: Run) -> Mapping[str, Any]:
    weights = {"weights": dict(run.recipe.weights)} if run.recipe.weights else {}
    return weights | {
        "data": {"name": run.subject.name, "fingerprint": run.subject.fingerprint},
        "recipe": run.recipe.document(),
        "minutes": round(float(run.report["minutes"]), 1),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in VERSIONS},
        "commit": commit(),
    }
