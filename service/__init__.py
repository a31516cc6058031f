"""The production side: an image classifier that explains itself, on ONNX Runtime.

It imports neither torch nor training.
"""

__version__ = "0.2.0"
