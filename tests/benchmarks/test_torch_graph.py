"""The networks that Captum differentiates are those of the bundle."""

import numpy as np
import pytest
import torch

from benchmarks.torch_graph import TorchGraph, as_trained
from service.bundle import folder
from service.runtime.engine import Engine
from support.images import draw


@pytest.mark.parametrize("network", [TorchGraph, as_trained])
def test_the_network_for_torch_has_the_logits_of_the_bundle(network, embedded):
    engine = Engine(embedded, "cpu", 1)
    images = np.stack([draw("red", 32, seed) for seed in range(3)])
    with torch.no_grad():
        logits = network(embedded.read(folder.PREDICT))(torch.from_numpy(engine.normalise(images)))
    assert np.abs(logits.numpy() - engine.predict(images).logits).max() < 1e-4
