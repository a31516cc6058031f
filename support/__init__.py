"""Servers, clients, loads and images that tests, benchmarks and drawings share."""
