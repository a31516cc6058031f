"""Fitting everything that a bundle promises about its answers, on images held out of training.

Calibration, prediction sets, familiarity and the distributions for drift are fitted on the answers
of predict.onnx itself, and on the maps that come with them. The thresholds of prediction sets
promise coverage for probabilities that know nothing of the images which they are fitted on: where
there are enough images, one half of each class fits the calibration and the other the sets.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from service.bundle import folder as contract
from service.bundle.manifest import Familiarity, Manifest, MapDistribution
from service.runtime.engine import Engine
from service.runtime.graphs import Outputs
from training.data import ClassIndices
from training.data.images import Images
from training.data.split import Positions, hold_out
from training.reliability import familiarity
from training.reliability.calibration import fit_calibration
from training.reliability.conformal import count_sets, fit_sets
from training.reliability.distribution import fit_distribution
from training.reliability.familiarity import Reference
from training.reliability.maps import fit_maps, outputs_and_maps

SEED = 0  # of the sample that becomes the reference, and of the halves
LEAST_IMAGES, LEAST_EACH = 200, 20  # that are split into halves: in all, and of a class on average

Files = Mapping[str, bytes]


def fit_reliability(
    manifest: Manifest, files: Files, held_out: Images, training: Images | None
) -> tuple[Manifest, dict[str, bytes]]:
    """The `manifest` with everything that is fitted on `held_out`, and the files of the bundle.

    Where the network has features and `training` is given, predict.onnx gains the search for the
    nearest reference images, and the files gain reference.npz. The provenance says how many images
    fitted what, and if they are the same ones.
    """
    result = dict(files)
    if manifest.features is not None and training is not None:
        # the graph without the search answers with the features of the reference images
        reference = _reference(manifest, files, training)
        result[contract.PREDICT] = with_search(files[contract.PREDICT], reference)
        result[contract.REFERENCE] = reference.content()
    outputs, maps = answers_for(manifest, result, held_out)
    labels, (first, second) = held_out.labels, halves(held_out.labels, len(manifest.labels))
    calibration = fit_calibration(outputs.logits[first], labels[first])
    probabilities = calibration.probabilities(outputs.logits)
    sets = fit_sets(probabilities[second], labels[second])
    counts = {
        "temperature": len(first),
        "prediction_sets": len(second),
        "same_images": len(first) + len(second) > len(labels),
    }
    fitted = replace(
        manifest,
        temperature=calibration.temperature,
        entropy_power=calibration.entropy_power,
        class_temperatures=calibration.class_temperatures,
        # both halves: for so many images a few fitted numbers change no share
        prediction_sets=count_sets(sets, probabilities, labels),
        familiarity=_familiarity(outputs, result),
        distribution=fit_distribution(
            probabilities.max(1),
            familiarity.scores(outputs),
            probabilities.argmax(1),
            len(manifest.labels),
        ),
        map_distribution=maps,
        provenance={**manifest.provenance, "held_out": counts},
    )
    return fitted, result


def halves(labels: ClassIndices, classes: int) -> tuple[Positions, Positions]:
    """The images for the calibration and those for prediction sets; all, twice, if they are few."""
    present = np.bincount(labels)[np.unique(labels)]
    if len(labels) < max(LEAST_IMAGES, LEAST_EACH * classes) or present.min() == 1:
        return np.arange(len(labels)), np.arange(len(labels))
    return hold_out(labels, 0.5, SEED)


def held_out_sentence(manifest: Manifest) -> str:
    """The held-out images behind calibration and prediction sets; empty for older bundles."""
    counts = manifest.provenance.get("held_out")
    if counts is None:
        return ""
    if counts["same_images"]:
        return (
            f"The same {counts['temperature']:,} held-out images fit the temperature and the "
            "prediction sets, which may therefore cover a little less than they promise."
        )
    return (
        f"{counts['temperature']:,} held-out images fit the temperature, and "
        f"{counts['prediction_sets']:,} others the prediction sets."
    )


def with_search(predict: bytes, reference: Reference) -> bytes:
    """A predict.onnx that also searches `reference`."""
    model = familiarity.attach(onnx.load_model_from_string(predict), reference)
    return bytes(model.SerializeToString(deterministic=True))


def answers_for(
    manifest: Manifest, files: Files, images: Images
) -> tuple[Outputs, MapDistribution | None]:
    """The outputs of the service's own engine, so that what is fitted fits what is served; and the
    distribution of the maps that come in the same pass, if any do.
    """
    graphs = {name: files[name] for name in (contract.PREDICT, contract.CAM) if name in files}
    with tempfile.TemporaryDirectory() as scratch:
        engine = Engine(contract.write(Path(scratch) / "draft", manifest, graphs), "cpu")
    outputs, aspects = outputs_and_maps(engine, images)
    return outputs, fit_maps(aspects)


def reference_images(manifest: Manifest, training: Images) -> Images:
    """The training images that are the reference, in the order of its rows."""
    assert manifest.features is not None
    return training.take(familiarity.sample(training, manifest.features, SEED))


def _reference(manifest: Manifest, files: Files, training: Images) -> Reference:
    chosen = reference_images(manifest, training)
    outputs, _ = answers_for(manifest, {contract.PREDICT: files[contract.PREDICT]}, chosen)
    features = outputs.features
    assert features is not None
    return Reference.of(features, chosen.labels, chosen.names)


def _familiarity(outputs: Outputs, files: Files) -> Familiarity:
    if outputs.similarity is None:
        return familiarity.fit_energy(outputs.logits)
    return familiarity.fit_familiarity(
        outputs.similarity, len(Reference.read(files[contract.REFERENCE]).labels)
    )
