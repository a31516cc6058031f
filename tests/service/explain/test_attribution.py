"""A map whose own measures say noise says so first, whichever the measure is."""

import numpy as np
import pytest

from service import words
from service.errors import DeadlineExceeded
from service.explain import Attribution, ask, explain
from service.explain.maps.target import Target
from service.runtime.engine import Piece
from support.images import draw

MAP = np.zeros((32, 32), np.float32)
GOOD = {"deletion": 0.2, "deletion_random": 0.5, "insertion": 0.8, "insertion_random": 0.5}


def attribution(embedded, method, quality, **given):
    return Attribution(ask(embedded.manifest, method, None, given), Target(0), MAP, quality)


@pytest.mark.parametrize(
    ("method", "quality", "said"),
    [
        (
            "integrated_gradients",
            {"completeness_gap": 0.51},
            "misses the change of the score by 51%",
        ),
        ("gradient_shap", {"completeness_gap": 3.0}, "mostly error"),
        ("kernel_shap", {"completeness_gap": 0.9}, "mostly error"),
        ("lime", {"surrogate_r2": 0.05}, "describes 5% of the network's answers"),
        ("lime", {"surrogate_r2": -1.0}, "describes 0% of the network's answers"),
        ("saliency", GOOD | {"deletion": 0.6, "insertion": 0.4}, "a random order"),
        ("saliency", {"sensitivity": 1.5}, "changes the map by 150%"),
    ],
)
def test_each_measure_of_noise_has_its_sentence(method, quality, said, embedded):
    found = attribution(embedded, method, quality)
    assert said in " ".join(found.warnings)
    assert said in words.quality(found).partition(";")[0]


@pytest.mark.parametrize(
    ("method", "quality"),
    [
        ("integrated_gradients", {"completeness_gap": 0.5}),
        ("lime", {"surrogate_r2": 0.1}),
        ("saliency", GOOD),
        ("saliency", GOOD | {"insertion": 0.4}),  # worse by one area alone
        ("saliency", {"sensitivity": 1.0}),
        ("grad_cam", {}),
    ],
)
def test_a_map_within_the_limits_has_no_warning(method, quality, embedded):
    assert attribution(embedded, method, quality).warnings == ()


def test_fewer_coalitions_than_segments_are_named(embedded):
    found = attribution(embedded, "kernel_shap", {"completeness_gap": 0.0}, samples=32, segments=8)
    assert found.warnings[0].startswith("32 samples cannot tell 64 segments apart")
    assert attribution(embedded, "kernel_shap", {}, samples=64, segments=8).warnings == ()


@pytest.mark.parametrize(
    ("method", "pieces", "left_out"),
    [("grad_cam", 1, "deletion"), ("saliency", 3, "deletion"), ("smooth_grad", 2, "class_cosine")],
)
def test_a_map_that_stands_when_time_is_up_is_answered_with_the_measures_it_has(
    method, pieces, left_out, engine
):
    given = {"samples": 4, "max_samples": 4} if method == "smooth_grad" else {}
    question, pixels = ask(engine.manifest, method, "0", given, "full"), draw()
    logits, left = engine.predict(pixels[None]).logits[0], iter(range(pieces))

    def pacer(remaining):
        if next(left, None) is None:
            raise DeadlineExceeded("time is up")
        return Piece(remaining, all_cores=True)

    answer = explain(engine.paced(pacer), pixels, question, logits)
    whole = explain(engine, pixels, question, logits)
    np.testing.assert_array_equal(answer.map, whole.map)
    assert left_out in whole.quality.keys() - answer.quality.keys()
    assert (answer.question.quality, whole.question.quality) == ("basic", "full")
