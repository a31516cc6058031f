"""Images of other kinds fit the network, and scrambling keeps every pixel."""

import numpy as np

from training.audit.measures.out_of_distribution import out_of_distribution


def test_other_kinds_fit_the_network_and_scrambling_keeps_every_pixel(bundle, dataset):
    kinds = out_of_distribution(dataset.test.pixels, bundle.manifest.input, 5, seed=0)
    assert set(kinds) == {"noise", "scrambled", "textures", "digits"}
    assert all(
        pixels.shape == (5, 32, 32, 3) and pixels.dtype == np.uint8 for pixels in kinds.values()
    )
    for before, after in zip(dataset.test.pixels, kinds["scrambled"], strict=False):
        assert not np.array_equal(before, after)
        assert np.array_equal(
            np.sort(before.reshape(-1, 3), axis=0), np.sort(after.reshape(-1, 3), axis=0)
        )
