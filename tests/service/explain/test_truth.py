"""Maps against the truth: toys with known attributions, a planted patch, random weights, Captum."""

import numpy as np
import onnx
import pytest
import torch
from captum.attr import FeatureAblation, Occlusion
from onnx import numpy_helper

from service.bundle import folder as contract
from service.bundle.manifest import Manifest
from service.explain import METHODS, ask, explain
from service.explain.maps.baselines import baseline_pixels
from service.explain.maps.segments import areas, grid
from service.runtime.engine import Engine
from support import toys
from support.images import draw
from support.methods import OF_CNNS

ADDITIVE = ("input_x_gradient", "integrated_gradients", "gradient_shap", "kernel_shap")


def answer(engine, pixels, method, target="0", quality="basic", **given):
    logits = engine.predict(pixels[None]).logits[0]
    return explain(engine, pixels, ask(engine.manifest, method, target, given, quality), logits)


def contributions(engine, pixels, weights, baseline=None):
    """w · (x − baseline), summed over the colours."""
    x = engine.normalise(pixels[None])[0]
    start = 0 if baseline is None else engine.normalise(baseline[None])[0]
    return (weights.reshape(3, toys.SIZE, toys.SIZE) * (x - start)).sum(0)


def near(result, expected, tolerance=1e-5):
    difference = np.abs(result - expected)
    scale = np.abs(expected).max()
    assert difference.max() <= tolerance * scale, (
        f"largest {difference.max():.3g}, mean {difference.mean():.3g}, of up to {scale:.3g}"
    )


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients"])
def test_of_a_linear_network_each_pixel_gets_its_term(method, tmp_path):
    result = answer(toys.linear(tmp_path), toys.image(), method)
    near(result.map, contributions(toys.linear(tmp_path), toys.image(), toys.weights_of()[0]))


@pytest.mark.parametrize("method", ["saliency", "smooth_grad"])
def test_of_a_linear_network_the_slope_is_its_weights(method, tmp_path):
    expected = np.abs(toys.weights_of()[0]).reshape(3, toys.SIZE, toys.SIZE).max(0)
    near(answer(toys.linear(tmp_path), toys.image(), method).map, expected)


@pytest.mark.parametrize("baseline", ["mean", "black", "white", "blur"])
def test_of_a_linear_network_removing_a_segment_removes_its_terms(baseline, tmp_path):
    engine, pixels, cut = toys.linear(tmp_path), toys.image(), grid(toys.SIZE, 4)
    terms = contributions(
        engine, pixels, toys.weights_of()[0], baseline_pixels(engine, pixels, baseline)
    )
    expected = np.bincount(cut.ravel(), terms.ravel())
    near(
        answer(engine, pixels, "feature_ablation", segments=4, baseline=baseline).map,
        expected[cut],
        1e-4,
    )
    near(
        answer(engine, pixels, "kernel_shap", segments=4, samples=256, baseline=baseline).map,
        (expected / areas(cut))[cut],
        1e-4,
    )


def test_of_a_linear_network_the_surrogate_is_the_network(tmp_path):
    assert (
        answer(toys.linear(tmp_path), toys.image(), "lime", segments=4, samples=2048).quality[
            "surrogate_r2"
        ]
        > 0.99
    )


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_past_a_threshold_only_the_rest_of_the_path_counts(bias, tmp_path):
    engine = toys.thresholded(tmp_path, bias)
    pixels = np.where(
        toys.weights_of()[0].reshape(3, 16, 16).transpose(1, 2, 0) > 0, 160, 90
    ).astype(np.uint8)
    terms = contributions(engine, pixels, toys.weights_of()[0])
    total = terms.sum()
    assert total > bias, "the image does not pass the threshold"
    result = answer(engine, pixels, "integrated_gradients", steps=256, tolerance=0)
    near(result.map, terms * (1 - bias / total), 0.02)


def test_of_a_product_each_factor_gets_half(tmp_path):
    engine, pixels = toys.product(tmp_path), toys.image()
    a, b = (contributions(engine, pixels, weights) for weights in toys.weights_of())
    near(
        answer(engine, pixels, "integrated_gradients", steps=4).map,
        (a * b.sum() + b * a.sum()) / 2,
        1e-4,
    )


@pytest.mark.parametrize("method", OF_CNNS)
def test_a_planted_patch_lights_up(method, tmp_path):
    engine = toys.planted(tmp_path)
    pixels = np.full((toys.SIZE, toys.SIZE, 3), 90, np.uint8)
    pixels[toys.PATCH] = 220
    given = {"segments": 4} if "segments" in {p.name for p in METHODS[method].parameters} else {}
    result = answer(engine, pixels, method, **given).map
    inside = np.zeros(result.shape, bool)
    inside[toys.PATCH] = True
    assert result[inside].mean() > 0
    assert result[inside].mean() > 4 * np.abs(result[~inside]).mean(), (
        result[inside].mean(),
        np.abs(result[~inside]).mean(),
    )


@pytest.mark.parametrize("method", [name for name in OF_CNNS if not METHODS[name].is_rectified])
def test_a_contrast_changes_its_sign_when_its_classes_change_places(method, engine):
    given = {p.name: 32 for p in METHODS[method].parameters if p.name.endswith("samples")}
    first, second = (
        answer(engine, draw(), method, target, **given) for target in ("cat,dog", "dog,cat")
    )
    near(first.map, -second.map, 1e-3)
    assert (first.target.index, first.target.against) == (3, 5)


@pytest.mark.parametrize(
    "method", ["input_x_gradient", "grad_cam", "occlusion", "feature_ablation"]
)
def test_a_contrast_is_the_difference_of_two_maps(method, engine):
    maps = [answer(engine, draw(), method, target).map for target in ("cat,dog", "cat", "dog")]
    near(maps[0], maps[1] - maps[2], 1e-4)


# Of the random weights. Several, since a map of 4 × 4 cells may resemble another by chance.
SEEDS = (3, 4, 5)


@pytest.fixture(scope="module")
def randomised(embedded, tmp_path_factory):
    """The embedded bundle with random weights in its last layer, or in all, three times each."""

    def engine_with(selected, name, seed):
        files = {}
        for graph in (contract.PREDICT, contract.GRADIENT, contract.CAM):
            model = onnx.load_model_from_string(embedded.read(graph))
            rng = np.random.default_rng(seed)
            for tensor in sorted(
                model.graph.initializer, key=lambda t: t.name.removeprefix("forward/")
            ):
                value = numpy_helper.to_array(tensor)
                if value.dtype == np.float32 and value.size > 200 and selected(value):
                    drawn = rng.normal(value.mean(), value.std(), value.shape).astype(np.float32)
                    tensor.CopyFrom(numpy_helper.from_array(drawn, tensor.name))
            files[graph] = model.SerializeToString()
        manifest = Manifest("random", embedded.manifest.labels, embedded.manifest.input)
        return Engine(
            contract.write(tmp_path_factory.mktemp("random") / name, manifest, files), "cpu"
        )

    depths = {"last": lambda value: value.ndim == 2, "all": lambda _: True}
    return {
        depth: [engine_with(selected, f"{depth}{seed}", seed) for seed in SEEDS]
        for depth, selected in depths.items()
    }


def rank_correlation(first, second):
    a, b = (np.argsort(np.argsort(values.ravel())).astype(float) for values in (first, second))
    return float(np.corrcoef(a, b)[0, 1])


@pytest.mark.parametrize("depth", ["last", "all"])
@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("integrated_gradients", {"steps": 16, "tolerance": 0}),
        ("input_x_gradient", {}),
        ("grad_cam", {}),
        ("occlusion", {"stride": 0.25}),
    ],
)
def test_random_weights_destroy_the_map(method, given, depth, engine, randomised):
    similar = []
    for seed, colour in enumerate(("red", "green", "blue")):
        pixels = draw(colour, seed=seed)
        whole = answer(engine, pixels, method, "3", **given).map
        similar += [
            abs(rank_correlation(whole, answer(broken, pixels, method, "3", **given).map))
            for broken in randomised[depth]
        ]
    assert np.median(similar) < 0.5, similar


@pytest.fixture(scope="module")
def small(run, dataset, tmp_path_factory):
    from training.export.core import graphs
    from training.export.ours import export_core

    manifest = Manifest("discs", run.subject.classes, run.input)
    files = graphs(export_core(run.network, 32), run.input)
    return Engine(contract.write(tmp_path_factory.mktemp("small") / "b", manifest, files), "cpu", 1)


def rounding(engine, pixels):
    """1e-6 of the logits that were subtracted."""
    return 1e-6 * max(1.0, float(np.abs(engine.predict(pixels[None]).logits).max()))


def oracle(engine, pixels, baseline):
    x, start = (
        torch.from_numpy(engine.normalise(p[None]))
        for p in (pixels, baseline_pixels(engine, pixels, baseline))
    )
    return x, start


@pytest.mark.parametrize("baseline", ["mean", "black", "blur"])
def test_feature_ablation_equals_captums(baseline, small, run, dataset):
    from training.export.reference import copy_of

    pixels, cut = dataset.test.pixels[0], grid(32, 8)
    x, start = oracle(small, pixels, baseline)
    expected = FeatureAblation(copy_of(run.network)).attribute(
        x, start, target=1, feature_mask=torch.from_numpy(cut)[None, None]
    )
    result = answer(small, pixels, "feature_ablation", "1", baseline=baseline).map
    assert np.abs(result - expected[0, 0].numpy()).max() <= rounding(small, pixels)


@pytest.mark.parametrize(("window", "stride"), [(0.25, 0.125), (0.3, 0.2), (1.0, 1.0)])
def test_occlusion_equals_captums(window, stride, small, run, dataset):
    from training.export.reference import copy_of

    pixels, side, step = dataset.test.pixels[1], round(window * 32), round(stride * 32)
    x, start = oracle(small, pixels, "mean")
    expected = Occlusion(copy_of(run.network)).attribute(
        x, sliding_window_shapes=(3, side, side), strides=(3, step, step), baselines=start, target=2
    )
    result = answer(small, pixels, "occlusion", "2", window=window, stride=stride).map
    assert np.abs(result - expected[0, 0].detach().numpy()).max() <= rounding(small, pixels)


def test_integrated_gradients_sum_to_what_they_explain(engine):
    result = answer(engine, draw("green", seed=4), "integrated_gradients", "6")
    assert result.quality["completeness_gap"] <= 0.05


def test_shapley_values_sum_to_what_they_explain_and_claim_no_merit_for_it(engine):
    pixels = draw("green", seed=4)
    result = answer(engine, pixels, "kernel_shap", "6", samples=64)
    baseline = np.zeros((1, *np.moveaxis(pixels, -1, 0).shape), np.float32)
    ends = np.concatenate([engine.normalise(pixels[None]), baseline])
    whole, empty = engine.gradient(ends, np.array([6, 6])).logits[:, 6]
    # The baseline of coalitions is the mean colour in whole grey levels.
    assert result.map.sum(dtype=np.float64) == pytest.approx(whole - empty, rel=0.02)
    assert "completeness_gap" not in result.quality


def test_samples_are_added_until_their_halves_agree(engine):
    few, more = (
        answer(engine, draw("blue"), "rise", "3", samples=32, max_samples=most).quality
        for most in (32, 256)
    )
    assert few["samples"] == 32
    assert few["agreement"] < 0.9
    assert more["samples"] > 32
    assert more["agreement"] >= 0.9 or more["samples"] == 256


def test_what_noise_does_to_the_logit_is_no_gap(engine):
    gaps = [
        answer(engine, draw("red"), "gradient_shap", samples=96, noise=noise).quality[
            "completeness_gap"
        ]
        for noise in (0.0, 0.05)
    ]
    assert max(gaps) < 0.3


def test_integrated_gradients_take_more_steps_while_the_gap_is_wide(engine):
    def measured(**given):
        return answer(engine, draw("blue"), "integrated_gradients", "3", **given).quality

    loose, usual, few = measured(tolerance=1), measured(), measured(tolerance=1e-4, steps=6)
    assert 4 <= loose["steps"] < usual["steps"]
    assert usual["completeness_gap"] <= 0.05
    assert few["steps"] == 6
    assert measured(tolerance=0, steps=7)["steps"] == 7


@pytest.mark.parametrize("method", ["grad_cam", "occlusion", "integrated_gradients"])
def test_full_quality_measures_everything(method, engine):
    result = answer(engine, draw(), method, None, "full").quality
    assert {
        "class_cosine",
        "deletion",
        "deletion_random",
        "insertion",
        "insertion_random",
        "sensitivity",
    } <= set(result)
    assert all(
        0 <= result[name] <= 1
        for name in ("deletion", "deletion_random", "insertion", "insertion_random")
    )
    assert -1 <= result["class_cosine"] <= 1
    assert result["sensitivity"] >= 0


@pytest.mark.parametrize("method", OF_CNNS)
def test_every_answer_has_the_cosine_with_the_map_of_another_class(method, engine):
    given = {p.name: 16 for p in METHODS[method].parameters if p.name == "samples"}
    assert (
        -1
        <= answer(engine, draw("red", seed=1), method, None, **given).quality["class_cosine"]
        <= 1
    )


def test_a_map_that_does_not_depend_on_the_class_has_cosine_one(tmp_path):
    weights = np.repeat(toys.weights_of(1), 2, axis=0) * np.array([[1], [0.5]], np.float32)
    result = answer(toys.linear(tmp_path, weights), toys.image(), "integrated_gradients", "a")
    assert result.quality["class_cosine"] == pytest.approx(1, abs=1e-6)


def test_a_map_of_the_patch_deletes_better_than_chance(tmp_path):
    engine = toys.planted(tmp_path)
    pixels = np.full((toys.SIZE, toys.SIZE, 3), 90, np.uint8)
    pixels[toys.PATCH] = 220
    result = answer(engine, pixels, "integrated_gradients", quality="full").quality
    assert result["deletion"] < result["deletion_random"]
    assert result["insertion"] > result["insertion_random"]
