"""Temperature and prediction sets are fitted on different images, where there are enough."""

from dataclasses import replace

import numpy as np
import pytest

from training.reliability.fitting import halves, held_out_sentence


def test_many_images_are_split_into_halves_of_each_class():
    labels = np.repeat([0, 1, 2], [100, 60, 40])
    first, second = halves(labels, 3)
    assert sorted(np.concatenate([first, second])) == list(range(200))
    assert np.bincount(labels[first]).tolist() == np.bincount(labels[second]).tolist()


@pytest.mark.parametrize(
    ("counts", "classes"), [([100, 99], 2), ([150, 150], 20), ([250, 1], 2)], ids=str
)
def test_few_images_fit_both(counts, classes):
    labels = np.repeat(np.arange(len(counts)), counts)
    for part in halves(labels, classes):
        assert part.tolist() == list(range(len(labels)))


def test_a_card_says_which_images_fitted_what(bundle):
    assert bundle.manifest.provenance["held_out"]["same_images"]
    assert "The same 30 held-out images fit" in held_out_sentence(bundle.manifest)
    apart = {"temperature": 150, "prediction_sets": 151, "same_images": False}
    manifest = replace(bundle.manifest, provenance={"held_out": apart})
    assert "150 held-out images fit the temperature, and 151 others" in held_out_sentence(manifest)
    assert held_out_sentence(replace(manifest, provenance={})) == ""
