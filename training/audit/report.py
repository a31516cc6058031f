"""report.json: every figure of the audit, and the graph, data and seed that it was measured with.

A second audit with the same seed gives the same report.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from service.bundle.folder import GRADIENT, PREDICT, Bundle
from service.bundle.manifest import Unrelated
from service.runtime.engine import Engine
from training.audit.budget import counts
from training.audit.findings import findings
from training.audit.measures.attacks import robustness
from training.audit.measures.calibration import calibration
from training.audit.measures.colour import conflicts
from training.audit.measures.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from training.audit.measures.edits import edits
from training.audit.measures.explanations import explanations
from training.audit.measures.familiarity import familiarity, left_out
from training.audit.measures.importance import importance
from training.audit.measures.out_of_distribution import out_of_distribution
from training.audit.measures.sets import sets
from training.audit.measures.slices import slices
from training.data.images import Images, in_threads
from training.data.read import Dataset
from training.figures.accuracy import accuracy, class_intervals
from training.figures.intervals import bootstrap
from training.figures.labels import label_issues
from training.figures.outputs import outputs_of

SCHEMA_VERSION = 6

Section = Callable[[], Any]
Runner = Callable[[Mapping[str, Section]], Mapping[str, Any]]


def audit(
    bundle: Bundle,
    dataset: Dataset,
    seed: int,
    run: Runner,
    minutes: float,
    strangers: Mapping[str, Images] = MappingProxyType({}),
) -> dict[str, Any]:
    """The report on `bundle`, from the test images of `dataset`.

    `strangers` are further images of other kinds, by name, to judge familiarity with. `minutes`
    bound the images of each measure (training/audit/budget.py); one pass over all images comes on
    top. `run` calls the sections, which are given by name, and returns their results; it may show
    progress.
    """
    # on the CPU, which every machine has: reports compare
    engine, test = Engine(bundle, "cpu"), dataset.test
    outputs = outputs_of(engine, test)
    predicted, manifest = outputs.logits.argmax(1), engine.manifest
    probabilities = manifest.calibration.probabilities(outputs.logits)
    images = _counts(bundle, len(test), minutes)
    attacked, corruptible, edited, explained = (
        _drawn(test, images[name], seed)
        for name in ("attacks", "corruptions", "edits", "explanations")
    )
    strange = images["familiarity"]
    given = {name: _drawn(found, strange, seed).pixels for name, found in strangers.items()}
    first = test.rows(np.arange(min(strange, len(test))))
    sections: dict[str, Section] = {
        "test": lambda: {
            **accuracy(predicted, test.labels, manifest.labels, seed),
            "class_intervals": class_intervals(predicted, test.labels, manifest.labels, seed),
        },
        "calibration": lambda: calibration(
            outputs.logits, test.labels, manifest.calibration, manifest.labels, seed
        ),
        "prediction_sets": lambda: sets(outputs, test.labels, manifest, seed),
        "familiarity": lambda: {
            **familiarity(
                engine,
                outputs,
                {**given, **out_of_distribution(first, manifest.input, strange, seed)},
                given,
            ),
            **left_out(bundle, outputs, test.labels),
        },
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
        sections["explanations"] = lambda: explanations(
            bundle, engine, explained.pixels, images["cascade"], seed
        )
    about = {
        "schema_version": SCHEMA_VERSION,
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "seed": seed,
        "minutes": minutes,
        "images": images,
    }
    report = about | {"files": {PREDICT: manifest.files[PREDICT].sha256}} | dict(run(sections))
    return report | {"findings": findings(report)}


def unrelated(report: Mapping[str, Any]) -> dict[str, Unrelated]:
    """What a manifest keeps of `report`: how alike maps of unrelated images are, by method."""
    section = report.get("explanations", {}).get("unrelated", {})
    return {name: Unrelated(**figures) for name, figures in section.items()}


def _counts(bundle: Bundle, test_images: int, minutes: float) -> dict[str, int]:
    """The images of each measure; those out of distribution are made, in any number."""
    model = onnx.load_model_from_string(bundle.read(PREDICT))
    within = counts(model, bundle.manifest.input.size, minutes)
    return {
        name: count if name == "familiarity" else min(count, test_images)
        for name, count in within.items()
    }


def _drawn(images: Images, count: int, seed: int) -> Images:
    # one seed draws the same images for every bundle, so that two reports compare
    return images.take(np.random.default_rng(seed).permutation(len(images))[:count])


def _corruptions(engine: Engine, images: Images, seed: int) -> Mapping[str, Any]:
    """The accuracy at each severity, by kind of corruption."""
    pixels, alone = images.pixels, engine.on_one_core()
    kinds = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]

    def correct(kind: tuple[str, int]) -> np.ndarray:
        changed = corrupted(*kind, pixels, seed)
        return np.asarray(alone.predict(changed).logits.argmax(1) == images.labels)

    # a corruption a core: corrupting an image leaves the other cores idle otherwise
    rows = np.stack(list(in_threads(correct, kinds)))
    accuracy = [float(row.mean()) for row in rows]
    levels = len(SEVERITIES)
    places = {
        name: slice(levels * place, levels * (place + 1)) for place, name in enumerate(CORRUPTIONS)
    }
    by_kind = {name: accuracy[place] for name, place in places.items()}

    def interval(place: slice) -> list[float]:
        # the same image in all severities: it is drawn with all of them
        right = rows[place].mean(0)
        return bootstrap(lambda drawn: float(right[drawn].mean()), len(images), seed)

    return {
        "pictures": len(images),
        "clean": float((engine.predict(pixels).logits.argmax(1) == images.labels).mean()),
        "accuracy": by_kind,
        "mean": float(np.mean(list(by_kind.values()))),
        "mean_interval": interval(slice(None)),
        "kind_intervals": {name: interval(place) for name, place in places.items()},
    }
