"""The memory that sessions compute in comes back."""

import os

import numpy as np

from service.runtime import arena
from service.runtime.engine import Engine
from service.workers import host, memory

MEBIBYTES = 15  # of a batch of gradients; 27 were measured


def resident():
    memory.trim()
    return host.resident_bytes([os.getpid()]) / 2**20


def test_what_a_batch_took_comes_back_and_answers_stay(embedded):
    engine = Engine(embedded, "cpu", 1)
    x = np.random.default_rng(0).standard_normal((16, 3, 32, 32)).astype(np.float32)
    target = np.arange(16) % 10
    gradient = engine.gradient(x, target).gradient
    used = resident()
    arena.shrink()
    assert used - resident() >= MEBIBYTES
    np.testing.assert_array_equal(engine.gradient(x, target).gradient, gradient)
