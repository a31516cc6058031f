"""Parity is measured by medians over images, and a bundle beyond its limits is an error."""

import numpy as np
import pytest
import torch

from service.bundle.manifest import Parity
from service.runtime.engine import Engine
from training.export import parity


def test_another_network_is_an_error(bundle, run, dataset):
    other = parity.copy_of(run.network)
    with torch.no_grad():
        other.head.weight.mul_(1.001)
        other.body[0].weight.add_(0.01)
    measured = parity.measure(Engine(bundle, "cpu"), other, dataset.validation.pixels)
    with pytest.raises(parity.ParityError, match="differs from captum: median relative difference"):
        parity.check(measured)


def test_a_wrong_direction_is_an_error():
    with pytest.raises(parity.ParityError, match=r"cosine 0.5"):
        parity.check({"saliency": Parity("captum", 64, 1e-7, 0.5)})


def test_a_method_may_differ_in_the_measure_of_torch_in_float32():
    measured = {"saliency": Parity("captum", 64, 2e-3, 0.999999)}
    assert parity.check(measured, {"saliency": 2e-4}) == measured
    for rounding in ({"saliency": 5e-5}, {"grad_cam": 1e-3}, None):
        with pytest.raises(parity.ParityError, match=r"relative difference 2\.00e-03"):
            parity.check(measured, rounding)
    with pytest.raises(parity.ParityError, match=r"cosine 0\.999900 \(limit 0\.99999\)"):
        parity.check({"saliency": Parity("captum", 64, 2e-3, 0.9999)}, {"saliency": 2e-4})


def test_rounding_is_measured_where_a_limit_is_exceeded(bundle, run, dataset):
    batch, engine = dataset.validation.pixels[:4], Engine(bundle, "cpu")
    measured = {
        "saliency": Parity("captum", 4, 1e-3, 0.9999),
        "grad_cam": Parity("captum", 4, 1e-7, 1.0),
    }
    rounding = parity.rounding(engine, run.network, batch, measured)
    assert set(rounding) == {"saliency"}
    assert 0 < rounding["saliency"] < 2e-6


def test_fewer_images_are_compared_where_they_are_large():
    assert [parity.images(size, 1000) for size in (32, 224, 1024)] == [64, 20, 8]
    assert parity.images(32, 30) == 30


@pytest.mark.parametrize("numbers", [(float("nan"), 1.0), (1e-7, float("nan"))])
def test_nan_is_an_error(numbers):
    with pytest.raises(parity.ParityError, match="nan"):
        parity.check({"saliency": Parity("captum", 64, *numbers)})


def test_comparing_takes_medians_over_images():
    ours = np.ones((3, 1, 2, 2), np.float32)
    theirs = torch.ones(3, 1, 2, 2)
    theirs[0] = -5
    theirs[1, 0, 0, 0] = 2
    result = parity.compare(ours, theirs)
    assert result.relative_difference == pytest.approx(0.5)
    assert (result.pictures, result.against) == (3, "captum")


def test_an_all_zero_map_does_not_divide_by_zero():
    assert (
        parity.compare(
            np.zeros((2, 1, 2, 2), np.float32), torch.zeros(2, 1, 2, 2)
        ).relative_difference
        == 0
    )
