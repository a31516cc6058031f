"""What a bundle says of its own answers: how probable, which classes else, whether the image is like those of the training, and how
all of that is distributed.

All of it is fitted on images that the network was not trained on, through predict.onnx itself.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from service.bundle import folder as contract
from service.bundle.manifest import Familiarity, Manifest
from service.runtime.engine import Engine
from service.runtime.graphs import Outputs
from training.data.read import Images
from training.reliability import familiarity
from training.reliability.calibration import fit_calibration
from training.reliability.conformal import fit_sets
from training.reliability.distribution import fit_distribution
from training.reliability.familiarity import Reference

SEED = 0  # of the sample that becomes the reference

Files = Mapping[str, bytes]


def fit_reliability(
    manifest: Manifest, files: Files, held_out: Images, training: Images | None
) -> tuple[Manifest, dict[str, bytes]]:
    """`manifest` with all that is fitted on `held_out`; `files` with the reference, where features and `training` are known."""
    made = dict(files)
    if manifest.features is not None and training is not None:
        reference = _reference(manifest, files, training)
        made[contract.PREDICT] = searching(files[contract.PREDICT], reference)
        made[contract.REFERENCE] = reference.content()
    found = _predicted(manifest, made, held_out)
    fitted = fit_calibration(found.logits, held_out.labels)
    shares = fitted.probabilities(found.logits)
    told = replace(
        manifest,
        temperature=fitted.temperature,
        entropy_power=fitted.entropy_power,
        prediction_sets=fit_sets(shares, held_out.labels),
        familiarity=_familiarity(found, made),
        distribution=fit_distribution(
            shares.max(1), familiarity.scores(found), shares.argmax(1), len(manifest.labels)
        ),
    )
    return told, made


def searching(predict: bytes, reference: Reference) -> bytes:
    """A predict.onnx that searches `reference`, too."""
    model = familiarity.attach(onnx.load_model_from_string(predict), reference)
    return bytes(model.SerializeToString(deterministic=True))


def _reference(manifest: Manifest, files: Files, training: Images) -> Reference:
    assert manifest.features is not None
    chosen = training.take(familiarity.sample(training, manifest.features, SEED))
    features = _predicted(manifest, files, chosen).features
    assert features is not None
    return Reference.of(features, chosen.labels, chosen.names)


def _familiarity(found: Outputs, files: Files) -> Familiarity:
    if found.similarity is None:
        return familiarity.fit_energy(found.logits)
    return familiarity.fit_familiarity(
        found.similarity, len(Reference.read(files[contract.REFERENCE]).labels)
    )


def _predicted(manifest: Manifest, files: Files, images: Images) -> Outputs:
    with tempfile.TemporaryDirectory() as scratch:
        draft = contract.write(
            Path(scratch) / "draft", manifest, {contract.PREDICT: files[contract.PREDICT]}
        )
        return Engine(draft, "cpu").predict(images.pixels)
