"""The tools that make bundles. They import the service's bundle and engine, never the reverse."""

import service  # noqa: F401 - it silences dependencies that would report their use
