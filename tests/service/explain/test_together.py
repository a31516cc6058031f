"""The maps of a batch are the answers of `explain`, image by image."""

from dataclasses import replace

import numpy as np
import pytest

from service.bundle import folder
from service.bundle.manifest import Manifest, Unrelated
from service.explain import ask, explain, explain_together, fits
from service.image.resize import sides
from service.runtime.engine import Engine
from service.settings import EMBEDDED
from support.images import draw

TARGETS = (None, "0", None, "1", None)  # of an image each
SAME = ("question", "target", "degraded_from", "areas_unit", "origin", "cell", "warnings")
CLOSE = ("largest", "weight", "limit", "spread")


@pytest.fixture(scope="module", params=["cifar10", "imagenet"])
def opened(request):
    engine = Engine(folder.load(EMBEDDED[request.param]), "cpu", 2)
    engine.manifest = replace(engine.manifest, unrelated={"grad_cam": Unrelated(100, 0.5, 0.9)})
    return engine


@pytest.fixture(scope="module")
def batch(opened):
    """Images, their activations and logits, and questions; the network sees nothing in the last."""
    side = sides(opened.manifest.input.size)[0]
    images = np.stack([draw("red", side, seed) for seed in range(len(TARGETS))])
    seen = opened.predict_quick(images, activation=True)
    activations, logits = seen.activation.copy(), seen.logits.copy()
    activations[-1], logits[-1] = 0, opened.bias
    asked = [ask(opened.manifest, "grad_cam", target, {}) for target in TARGETS]
    return images, activations, logits, asked


@pytest.mark.parametrize("masses", [True, False])
def test_each_answer_is_that_of_one_image(masses, opened, batch):
    images, activations, logits, asked = batch
    answers = explain_together(opened, activations, logits, asked, masses=masses)
    assert all(("mass" in vars(answer)) == masses for answer in answers)
    for row, (ours, image) in enumerate(zip(answers, images, strict=True)):
        alone = opened.seeing(logits[row], activations[row])
        theirs = explain(alone, image, asked[row], logits[row])
        assert all(getattr(ours, name) == getattr(theirs, name) for name in SAME)
        assert np.array_equal(ours.map, theirs.map)
        assert np.array_equal(ours.cells, theirs.cells)
        assert ours.quality == pytest.approx(theirs.quality, rel=1e-6, abs=1e-9)
        for name in CLOSE:
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-6)
        assert ours.aspects == pytest.approx(theirs.aspects) or ours.aspects is theirs.aspects
    assert [answer.nothing for answer in answers] == [False] * (len(TARGETS) - 1) + [True]


def test_an_image_has_the_same_map_in_any_batch(opened, batch):
    _, activations, logits, asked = batch
    together = explain_together(opened, activations, logits, asked)
    for row, ours in enumerate(together):
        (alone,) = explain_together(
            opened, activations[row : row + 1], logits[row : row + 1], asked[row : row + 1]
        )
        assert (alone.quality, alone.limit) == (ours.quality, ours.limit)
        assert np.array_equal(alone.map, ours.map)


def test_other_questions_do_not_fit(engine):
    def asked(method="grad_cam", target=None, quality="basic"):
        return ask(engine.manifest, method, target, {}, quality)

    usual = asked()
    assert fits(engine, usual)
    for other in (
        asked(target="0,1"),
        asked(quality="full"),
        asked("grad_cam_plus_plus"),
        asked("saliency"),
        replace(usual, parameters={"layer": "middle"}),
    ):
        assert not fits(engine, other)
    several = engine.on_one_core()
    several.manifest = Manifest("s", engine.manifest.labels, engine.manifest.input, head="sigmoid")
    assert not fits(several, usual)
