"""The HTTP API: one Starlette application over a pipeline."""

from service.api.application import build

__all__ = ["build"]
