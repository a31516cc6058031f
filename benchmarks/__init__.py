"""Benchmarks; `scripts/bench` runs them."""

import service  # noqa: F401 - it silences dependencies that would report their use
