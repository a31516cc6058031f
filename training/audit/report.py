"""report.json: every figure of the audit, with what it was measured on. A second audit with the same seed gives the same report."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from service.bundle import GRADIENT, PREDICT, Bundle
from service.engine import Engine
from training.audit.accuracy import accuracy
from training.audit.attacks import robustness
from training.audit.calibration import calibration
from training.audit.colour import conflicts
from training.audit.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from training.audit.edits import edits
from training.audit.explanations import explanations
from training.audit.familiarity import familiarity
from training.audit.findings import findings
from training.audit.importance import importance
from training.audit.labels import label_issues
from training.audit.sets import sets
from training.audit.slices import slices
from training.audit.strangers import strangers
from training.data import Dataset, Pictures

SCHEMA_VERSION = 4
STRANGERS, ATTACKED, CORRUPTED, EXPLAINED, EDITED = 1000, 200, 500, 60, 2000  # pictures

Section = Callable[[], Any]
Watched = Callable[[Mapping[str, Section]], Mapping[str, Any]]


def audit(bundle: Bundle, dataset: Dataset, seed: int, run: Watched) -> dict[str, Any]:
    """The report on `bundle`, by the test pictures of `dataset`; `run` calls the sections, and may show how far it is."""
    engine, test = Engine(bundle, "cpu"), dataset.test
    found = engine.predict(test.pixels)
    predicted, manifest = found.logits.argmax(1), engine.manifest
    shares = manifest.calibration.probabilities(found.logits)
    attacked, spoilt, edited, explained = (_drawn(test, count, seed) for count in (ATTACKED, CORRUPTED, EDITED, EXPLAINED))
    sections: dict[str, Section] = {
        "test": lambda: accuracy(predicted, test.labels, manifest, seed),
        "calibration": lambda: calibration(found.logits, test.labels, manifest.calibration),
        "prediction_sets": lambda: sets(shares, test.labels, manifest),
        "familiarity": lambda: familiarity(engine, found, strangers(test.pixels, manifest.input, STRANGERS, seed)),
        "bias": lambda: {
            **slices(test.pixels, predicted, test.labels, manifest, seed),
            "edits": edits(engine, edited.pixels, edited.labels),
            "colour": conflicts(engine, edited.pixels, seed),
        },
        "corruptions": lambda: _corruptions(engine, spoilt, seed),
        "importance": lambda: importance(engine, edited.pixels, edited.labels),
        "label_issues": lambda: label_issues(shares, test.labels, test.names, manifest),
    }
    if engine.has(GRADIENT):
        sections["attacks"] = lambda: robustness(engine, attacked.pixels, attacked.labels, seed)
        sections["explanations"] = lambda: explanations(bundle, engine, explained.pixels, seed)
    about = {"schema_version": SCHEMA_VERSION, "data": {"name": dataset.name, "fingerprint": dataset.fingerprint}, "seed": seed}
    report = about | {"files": {PREDICT: manifest.files[PREDICT].sha256}} | dict(run(sections))
    return report | {"findings": findings(report)}


def _drawn(pictures: Pictures, count: int, seed: int) -> Pictures:
    return pictures.take(np.random.default_rng(seed).permutation(len(pictures))[:count])


def _corruptions(engine: Engine, pictures: Pictures, seed: int) -> Mapping[str, Any]:
    """By kind: the accuracy at each severity."""
    clean = float((engine.predict(pictures.pixels).logits.argmax(1) == pictures.labels).mean())
    left = {
        name: [
            float((engine.predict(corrupted(name, severity, pictures.pixels, seed)).logits.argmax(1) == pictures.labels).mean())
            for severity in SEVERITIES
        ]
        for name in CORRUPTIONS
    }
    return {"pictures": len(pictures), "clean": clean, "accuracy": left, "mean": float(np.mean(list(left.values())))}
