"""Muon's direction is nearly orthogonal."""

import pytest
import torch

from training.fit.muon import orthogonal


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (9, 9)])
def test_muons_direction_has_singular_values_near_one(shape):
    values = torch.linalg.svdvals(
        orthogonal(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), iterations=6)
    )
    assert values.min() > 0.5
    assert values.max() < 1.3
