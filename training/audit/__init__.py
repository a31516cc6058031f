"""The audit: figures on the quality of a bundle, measured with the engine that serves it."""

from training.audit.report import audit, unrelated

__all__ = ["audit", "unrelated"]
