"""The networks compute the same in training as afterwards, but for batch norm."""

import torch

from training.fit.recipes import RECIPES


def test_one_convolution_with_stride_equals_a_convolution_and_a_pool():
    network = RECIPES["candor_net"].network_for(10).double()
    for group, channels, size in zip(network.groups, (24, 64, 256), (33, 16, 8), strict=True):
        x = torch.randn(
            2,
            channels,
            size,
            size,
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(size),
        )
        quick, plain = group.train().halve(x), group.eval().halve(x)
        assert (
            quick.shape
            == plain.shape
            == (2, len(group.convolutions[0].weight), size // 2, size // 2)
        )
        assert (quick - plain).abs().max() < 1e-12
