# ruff: noqa: INP001 - Python imports it from a folder that is no package
"""A device that fails on request, for servers with this folder in PYTHONPATH.

While the file exists that SICK_DEVICE names, every run of ONNX Runtime raises, as after a sticky
error of CUDA.
"""

import os
from pathlib import Path
from typing import Any

import onnxruntime

FAULT = Path(os.environ["SICK_DEVICE"])


class SickSession(onnxruntime.InferenceSession):  # type: ignore[misc] # onnxruntime is untyped
    """A session whose runs fail while FAULT exists."""

    def run(self, *args: Any, **options: Any) -> Any:
        """Runs the graph, or raises."""
        if FAULT.exists():
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        return super().run(*args, **options)


onnxruntime.InferenceSession = SickSession
