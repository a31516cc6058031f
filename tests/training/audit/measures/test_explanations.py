"""The border's share of a map is relative to its area."""

import numpy as np
import pytest

from training.audit.measures.explanations import border_share


def test_a_map_that_is_spread_evenly_has_a_border_share_of_one():
    assert border_share(np.ones((32, 32), np.float32)) == pytest.approx(1.0)
    inside = np.zeros((32, 32), np.float32)
    inside[16, 16] = 1
    assert border_share(inside) == 0.0
