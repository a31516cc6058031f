"""Parity is measured by medians over images, and an entry beyond its limits is an error."""

import numpy as np
import pytest
import torch

from service.bundle import folder as contract
from service.bundle.manifest import Parity
from service.runtime.engine import Engine
from training.export import parity, reference
from training.export.proof import points, prove


def test_another_network_is_an_error(bundle, run, dataset):
    other = reference.copy_of(run.network)
    with torch.no_grad():
        other.head.weight.mul_(1.1)
    engine = Engine(bundle, "cpu")
    files = {name: bundle.read(name) for name in contract.HALVES}
    proof = prove(files, points(engine.normalise(dataset.validation.pixels)))
    assert parity.check(reference.measure_float64(proof, run.network))
    with pytest.raises(
        parity.ParityError, match=r"differs from captum, in float64: median relative difference"
    ):
        parity.check(reference.measure_float64(proof, other))


@pytest.mark.parametrize(
    ("entry", "limit"),
    [
        ("saliency", 0.1),
        ("float64/logits", 1e-5),
        ("float64/grad_cam", 1e-5),
        ("float64/saliency", 1e-2),
        ("exact/saliency", 1e-5),
        ("exact/attn_lrp", 1e-5),
    ],
)
def test_an_entry_beyond_its_limit_is_an_error(entry, limit):
    within = {entry: Parity("captum", 64, limit, 1.0)}
    assert parity.check(within) == within
    with pytest.raises(parity.ParityError, match="relative difference"):
        parity.check({entry: Parity("captum", 64, 1.01 * limit, 1.0)})


def test_a_wrong_direction_is_an_error():
    with pytest.raises(parity.ParityError, match=r"cosine 0.5"):
        parity.check({"saliency": Parity("captum", 64, 1e-7, 0.5)})


def test_fewer_images_are_compared_where_they_are_large():
    assert [reference.images(size, 1000) for size in (32, 224, 1024)] == [64, 20, 8]
    assert reference.images(32, 30) == 30


@pytest.mark.parametrize("numbers", [(float("nan"), 1.0), (1e-7, float("nan"))])
def test_nan_is_an_error(numbers):
    with pytest.raises(parity.ParityError, match="nan"):
        parity.check({"saliency": Parity("captum", 64, *numbers)})


def test_comparing_takes_medians_over_images():
    ours = np.ones((3, 1, 2, 2), np.float32)
    theirs = np.ones((3, 1, 2, 2))
    theirs[0] = -5
    theirs[1, 0, 0, 0] = 2
    result = parity.compare(ours, theirs)
    assert result.relative_difference == pytest.approx(0.5)
    assert (result.pictures, result.against) == (3, "captum")


def test_maps_of_zeros_are_equal():
    zeros = np.zeros((2, 1, 2, 2), np.float32)
    assert parity.compare(zeros, np.zeros((2, 1, 2, 2))) == Parity("captum", 2, 0.0, 1.0)


def test_values_that_float32_cannot_hold_count_as_zero():
    zeros = np.zeros((2, 1, 2, 2), np.float32)
    result = parity.compare(zeros, np.full((2, 1, 2, 2), 1e-60))
    assert result.relative_difference < 1e-20
