"""Segments of grids and masks are numbered without gaps and explained exactly."""

import numpy as np
import pytest

from service.errors import InvalidParameter
from service.explain import METHODS, ask, explain, masked
from service.explain.maps.baselines import baseline_pixels
from service.explain.maps.segments import areas, count, grid, of_labels
from service.explain.maps.superpixels import superpixels
from support import toys
from support.images import draw

CUTTING = [name for name in METHODS if METHODS[name].takes_mask]


@pytest.mark.parametrize(("size", "cells"), [(32, 8), (10, 3), (4, 8), (1, 2)])
def test_a_grid_uses_every_number(size, cells):
    cut = grid(size, cells)
    assert sorted(np.unique(cut)) == list(range(count(cut)))
    assert areas(cut).max() <= (-(-size // min(cells, size))) ** 2


def test_a_mask_has_at_most_as_many_segments_as_the_finest_grid():
    every = np.arange(33 * 33).reshape(33, 33)
    with pytest.raises(
        InvalidParameter,
        match=r"has 1,089 segments in the 33×33 px .* the limits are 2 and 1,024: join some",
    ):
        of_labels(every)
    assert areas(of_labels(every[:32, :32])).tolist() == [1] * 1024


def test_the_numbers_of_segments_leave_no_gap():
    assert np.array_equal(of_labels(np.array([[70, 3], [3, -1]])), [[2, 1], [1, 0]])


def answer(engine, pixels, method, cut, target="0", **parameters):
    question = masked(ask(engine.manifest, method, target, parameters), cut)
    return explain(engine, pixels, question, engine.predict(pixels[None]).logits[0])


def terms_of(engine, pixels, weights, baseline):
    x, start = (
        engine.normalise(p[None])[0] for p in (pixels, baseline_pixels(engine, pixels, baseline))
    )
    return (weights.reshape(3, toys.SIZE, toys.SIZE) * (x - start)).sum(0)


@pytest.mark.parametrize("baseline", ["mean", "blur"])
@pytest.mark.parametrize("seed", [0, 1])
def test_of_a_linear_network_each_segment_gets_the_sum_of_its_pixels(seed, baseline, tmp_path):
    engine, pixels = toys.linear(tmp_path), toys.image()
    cut = of_labels(np.random.default_rng(seed).integers(0, 12, (toys.SIZE, toys.SIZE)) * 1000)
    sums = np.bincount(
        cut.ravel(), terms_of(engine, pixels, toys.weights_of()[0], baseline).ravel()
    )
    ablation = answer(engine, pixels, "feature_ablation", cut, baseline=baseline).map
    shapley = answer(engine, pixels, "kernel_shap", cut, baseline=baseline).map
    assert np.abs(ablation - sums[cut]).max() < 1e-4 * np.abs(sums).max()
    assert (
        np.abs(np.bincount(cut.ravel(), shapley.ravel()) - sums).max() < 1e-4 * np.abs(sums).max()
    )
    assert np.ptp([np.ptp(shapley[cut == number]) for number in range(12)]) == 0


@pytest.mark.parametrize("method", ["feature_ablation", "kernel_shap"])
def test_of_a_linear_network_each_superpixel_gets_the_sum_of_its_pixels(method, tmp_path):
    engine, pixels = toys.linear(tmp_path), toys.image()
    cut = superpixels(pixels, 3)
    sums = np.bincount(cut.ravel(), terms_of(engine, pixels, toys.weights_of()[0], "mean").ravel())
    question = ask(engine.manifest, method, "0", {"segments": 3, "segmentation": "superpixels"})
    found = explain(engine, pixels, question, engine.predict(pixels[None]).logits[0]).map
    expected = sums[cut] if method == "feature_ablation" else (sums / areas(cut))[cut]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_mask_of_two_halves_is_enough(tmp_path):
    engine, pixels = toys.linear(tmp_path), toys.image()
    cut = of_labels(np.indices((toys.SIZE, toys.SIZE))[0] // 8)
    for method in CUTTING:
        assert len(np.unique(answer(engine, pixels, method, cut).map)) == 2


@pytest.mark.parametrize("method", CUTTING)
def test_a_mask_drawn_like_the_grid_gives_the_maps_of_the_grid(method, engine):
    row, column = np.indices((32, 32)) // 8
    pixels = draw()
    question = ask(engine.manifest, method, "3", {"segments": 4})
    expected = explain(engine, pixels, question, engine.predict(pixels[None]).logits[0]).map
    assert (
        answer(engine, pixels, method, of_labels(row * 9 + column), "3").map.tobytes()
        == expected.tobytes()
    )
