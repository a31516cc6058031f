"""The networks compute the same in training as afterwards, but for batch norm."""

import torch

from training.fit.recipes import RECIPES
from training.networks.ours import CandorNet


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


def test_whitening_makes_patches_uncorrelated():
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.avg_pool2d(torch.randn(200, 3, 34, 34, generator=generator), 3, 1)
    network = CandorNet(3, (8, 8, 8))
    network.prepare(x)
    seen = network.whitening(x)[:, :12].permute(1, 0, 2, 3).flatten(1)
    covariance = seen @ seen.T / seen.shape[1]
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 0.05
    assert covariance.diagonal().max() < 1.1
