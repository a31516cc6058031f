"""Servers, clients, loads and images that tests, benchmarks and drawings share."""

import service  # noqa: F401 - it silences dependencies that would report their use
