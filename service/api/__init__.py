"""The HTTP API: one Starlette application over a pipeline."""

from service.api.app import build

__all__ = ["build"]
