"""The area under the curve is one half for a guess, and one without errors."""

import numpy as np
import pytest

from training.audit.measures.familiarity import auroc


def test_the_area_of_a_guess_is_one_half():
    rng = np.random.default_rng(0)
    assert auroc(rng.normal(size=2000), rng.normal(size=2000)) == pytest.approx(0.5, abs=0.03)
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
