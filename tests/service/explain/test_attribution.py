"""A map whose own measures say noise says so first, and one that is nothing has no measures."""

from dataclasses import replace

import numpy as np
import pytest

from service import words
from service.errors import DeadlineExceeded
from service.explain import Attribution, ask, explain, render
from service.explain.maps.target import Target
from service.image.resize import Box
from service.runtime.engine import Piece
from service.telemetry.drift import MAPS
from support.images import draw

MAP = np.ones((32, 32), np.float32)
FEW = {"lime": {"samples": 16}, "kernel_shap": {"samples": 16}, "rise": {"samples": 16}}
OPPONENTS = {"random": 0.5, "random_sd": 0.05, "blob": 0.45, "edges": 0.48}
GOOD = {"deletion": 0.2, "insertion": 0.8} | {
    f"{side}_{name}": area for side in ("deletion", "insertion") for name, area in OPPONENTS.items()
}


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
        (
            "saliency",
            GOOD | {"deletion": 0.6, "insertion": 0.4},
            "as good as the map's (a centred blob by deletion and random orders by insertion)",
        ),
        # better than each opponent, and within the spread of random orders
        (
            "saliency",
            GOOD | {"deletion": 0.44, "insertion": 0.58},
            "random orders by deletion and random orders by insertion",
        ),
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
    assert found.warnings[0].startswith("32 samples are too few for 64 segments")
    assert attribution(embedded, "kernel_shap", {}, samples=64, segments=8).warnings == ()


def answered(engine, pixels, method, quality="basic", **given):
    logits = engine.predict(pixels[None]).logits[0]
    return explain(engine, pixels, ask(engine.manifest, method, None, given, quality), logits)


@pytest.mark.parametrize(
    "method",
    ["lime", "kernel_shap", "integrated_gradients", "occlusion", "feature_ablation", "rise"],
)
def test_an_image_equal_to_its_baseline_has_no_measures_and_no_ink(method, engine):
    black = np.zeros((32, 32, 3), np.uint8)
    found = answered(
        engine, black, method, "full", baseline="black", **_at_most(FEW.get(method, {}))
    )
    assert set(found.quality) <= {"steps", "samples"}
    assert "there is nothing to explain" in found.warnings[0]
    assert found.limit == 0
    scale = found.question.method.scale
    drawn = render.overlay(black, found.shown, Box(0, 0, 32, 32), scale, found.limit)
    assert np.array_equal(drawn, black)


def _at_most(given):
    return given | {f"max_{name}": value for name, value in given.items()}


@pytest.mark.parametrize("method", ["integrated_gradients", "input_x_gradient"])
def test_a_map_that_hardly_moves_the_logits_is_drawn_faint(method, engine):
    mean = np.rint(255 * np.array(engine.manifest.input.mean)).astype(np.uint8)
    flat = np.broadcast_to(mean, (32, 32, 3)).copy()
    weak, strong = (answered(engine, pixels, method) for pixels in (flat, draw("red", size=32)))
    strength = [np.percentile(np.abs(found.shown), 99.5) / found.limit for found in (weak, strong)]
    assert strength[0] < 0.1
    assert strength[1] == pytest.approx(1)


def test_no_class_is_compared_where_the_other_map_is_nothing(engine):
    found = answered(engine, draw("red", size=32), "grad_cam")
    assert -1 <= found.quality["class_cosine"] <= 1


def test_maps_of_predicted_classes_alone_have_aspects_to_compare(engine):
    pixels = draw("red", size=32)
    found = answered(engine, pixels, "grad_cam")
    assert len(found.aspects) == len(MAPS.aspects)
    assert found.aspects[-1] == found.quality["class_cosine"]
    logits, question = engine.predict(pixels[None]).logits[0], found.question
    for other in (
        replace(question, target=Target(int(logits.argmax()))),
        replace(question, target=Target(0, 1)),
        ask(engine.manifest, "layer_cam", None, {}),
        ask(engine.manifest, "saliency", None, {}),
    ):
        assert explain(engine, pixels, other, logits).aspects is None


@pytest.mark.parametrize(
    ("method", "pieces", "left_out"),
    [("grad_cam", 1, "deletion"), ("saliency", 3, "deletion"), ("smooth_grad", 4, "class_cosine")],
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
