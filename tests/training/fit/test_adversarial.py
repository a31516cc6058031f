"""An attack for training stays within its radius and raises the loss."""

import torch

from support.recipes import SMALL
from training.fit.adversarial import attacked


def test_an_attack_stays_within_its_radius_beyond_the_noise_and_raises_the_loss():
    torch.manual_seed(0)
    network = SMALL.network_for(4).eval()
    x, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    radius = torch.tensor([0.05, 0.1, 0.2]).view(1, 3, 1, 1)
    changed = attacked(network, x, labels, radius)
    assert ((changed - x).abs() <= 3 * radius * 1.0001).all()
    losses = [torch.nn.functional.cross_entropy(network(rows), labels) for rows in (x, changed)]
    assert losses[1] > losses[0]
    assert all(parameter.grad is None for parameter in network.parameters())
