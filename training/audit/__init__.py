"""The audit: what a bundle is worth, measured as it is served, on ONNX Runtime through `service.runtime.engine`."""

from training.audit.report import audit

__all__ = ["audit"]
