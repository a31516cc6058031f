"""report.json: every figure of the audit, and the graph, data and seed that it was measured with.

A second audit with the same seed gives the same report.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from service.bundle.folder import GRADIENT, PREDICT, Bundle
from service.image.resize import Size, pixels_of
from service.runtime.engine import Engine
from training.audit.findings import findings
from training.audit.measures.attacks import robustness
from training.audit.measures.calibration import calibration
from training.audit.measures.colour import conflicts
from training.audit.measures.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from training.audit.measures.edits import edits
from training.audit.measures.explanations import explanations
from training.audit.measures.familiarity import familiarity
from training.audit.measures.importance import importance
from training.audit.measures.out_of_distribution import out_of_distribution
from training.audit.measures.sets import sets
from training.audit.measures.slices import slices
from training.data import Pixels
from training.data.images import Images
from training.data.read import Dataset
from training.figures.accuracy import accuracy
from training.figures.labels import label_issues
from training.figures.outputs import outputs_of

SCHEMA_VERSION = 4
SMALL = 64  # pixels a side
# images of each measurement, few where one image takes many passes; of larger images fewer
OUT_OF_DISTRIBUTION, ATTACKED, CORRUPTED, EXPLAINED, EDITED = 1000, 200, 500, 60, 2000

Section = Callable[[], Any]
Runner = Callable[[Mapping[str, Section]], Mapping[str, Any]]


def audit(bundle: Bundle, dataset: Dataset, seed: int, run: Runner) -> dict[str, Any]:
    """The report on `bundle`, from the test images of `dataset`.

    `run` calls the sections, which are given by name, and returns their results; it may show
    progress.
    """
    # on the CPU, which every machine has: reports compare
    engine, test = Engine(bundle, "cpu"), dataset.test
    outputs = outputs_of(engine, test)
    predicted, manifest = outputs.logits.argmax(1), engine.manifest
    probabilities = manifest.calibration.probabilities(outputs.logits)
    attacked, corruptible, edited, explained = (
        _drawn(test, share_of(count, manifest.input.size), seed)
        for count in (ATTACKED, CORRUPTED, EDITED, EXPLAINED)
    )
    strange = share_of(OUT_OF_DISTRIBUTION, manifest.input.size)
    first = test.rows(np.arange(min(strange, len(test))))
    sections: dict[str, Section] = {
        "test": lambda: accuracy(predicted, test.labels, manifest.labels, seed),
        "calibration": lambda: calibration(outputs.logits, test.labels, manifest.calibration),
        "prediction_sets": lambda: sets(outputs, test.labels, manifest),
        "familiarity": lambda: familiarity(
            engine,
            outputs,
            out_of_distribution(first, manifest.input, strange, seed),
        ),
        "bias": lambda: {
            **slices(test, predicted, manifest, seed),
            "edits": edits(engine, edited.pixels, edited.labels),
            "colour": conflicts(engine, edited.pixels, seed),
        },
        "corruptions": lambda: _corruptions(engine, corruptible, seed),
        "importance": lambda: importance(engine, edited.pixels, edited.labels),
        "label_issues": lambda: label_issues(
            probabilities, test.labels, test.names, manifest.labels
        ),
    }
    if engine.has(GRADIENT):
        sections["attacks"] = lambda: robustness(engine, attacked.pixels, attacked.labels, seed)
        sections["explanations"] = lambda: explanations(bundle, engine, explained.pixels, seed)
    about = {
        "schema_version": SCHEMA_VERSION,
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "seed": seed,
    }
    report = about | {"files": {PREDICT: manifest.files[PREDICT].sha256}} | dict(run(sections))
    return report | {"findings": findings(report)}


def share_of(count: int, size: Size) -> int:
    """The number of images of `size` that are measured, `count` up to SMALL.

    An audit of larger images takes as many times fewer, so that it takes an hour and not a day.
    """
    return max(1, round(count * min(1, SMALL / math.sqrt(pixels_of(size)))))


def _drawn(images: Images, count: int, seed: int) -> Images:
    # one seed draws the same images for every bundle, so that two reports compare
    return images.take(np.random.default_rng(seed).permutation(len(images))[:count])


def _corruptions(engine: Engine, images: Images, seed: int) -> Mapping[str, Any]:
    """The accuracy at each severity, by kind of corruption."""

    def accuracy_on(pixels: Pixels) -> float:
        return float((engine.predict(pixels).logits.argmax(1) == images.labels).mean())

    by_kind = {
        name: [
            accuracy_on(corrupted(name, severity, images.pixels, seed)) for severity in SEVERITIES
        ]
        for name in CORRUPTIONS
    }
    return {
        "pictures": len(images),
        "clean": accuracy_on(images.pixels),
        "accuracy": by_kind,
        "mean": float(np.mean(list(by_kind.values()))),
    }
