"""Fitting everything that a bundle promises about its answers, on images held out of training.

Calibration, prediction sets, familiarity and the distributions for drift are fitted on the answers
of predict.onnx itself.
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
from training.data.images import Images
from training.figures.outputs import outputs_of
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
    """The `manifest` with everything that is fitted on `held_out`, and the files of the bundle.

    Where the network has features and `training` is given, predict.onnx gains the search for the
    nearest reference images, and the files gain reference.npz.
    """
    result = dict(files)
    if manifest.features is not None and training is not None:
        # the graph without the search answers with the features of the reference images
        reference = _reference(manifest, files, training)
        result[contract.PREDICT] = with_search(files[contract.PREDICT], reference)
        result[contract.REFERENCE] = reference.content()
    outputs = _predict(manifest, result, held_out)
    calibration = fit_calibration(outputs.logits, held_out.labels)
    probabilities = calibration.probabilities(outputs.logits)
    fitted = replace(
        manifest,
        temperature=calibration.temperature,
        entropy_power=calibration.entropy_power,
        prediction_sets=fit_sets(probabilities, held_out.labels),
        familiarity=_familiarity(outputs, result),
        distribution=fit_distribution(
            probabilities.max(1),
            familiarity.scores(outputs),
            probabilities.argmax(1),
            len(manifest.labels),
        ),
    )
    return fitted, result


def with_search(predict: bytes, reference: Reference) -> bytes:
    """A predict.onnx that also searches `reference`."""
    model = familiarity.attach(onnx.load_model_from_string(predict), reference)
    return bytes(model.SerializeToString(deterministic=True))


def _reference(manifest: Manifest, files: Files, training: Images) -> Reference:
    assert manifest.features is not None
    chosen = training.take(familiarity.sample(training, manifest.features, SEED))
    features = _predict(manifest, files, chosen).features
    assert features is not None
    return Reference.of(features, chosen.labels, chosen.names)


def _familiarity(outputs: Outputs, files: Files) -> Familiarity:
    if outputs.similarity is None:
        return familiarity.fit_energy(outputs.logits)
    return familiarity.fit_familiarity(
        outputs.similarity, len(Reference.read(files[contract.REFERENCE]).labels)
    )


def _predict(manifest: Manifest, files: Files, images: Images) -> Outputs:
    """The outputs of the service's own engine, so that what is fitted fits what is served."""
    with tempfile.TemporaryDirectory() as scratch:
        draft = contract.write(
            Path(scratch) / "draft", manifest, {contract.PREDICT: files[contract.PREDICT]}
        )
        return outputs_of(Engine(draft, "cpu"), images)
