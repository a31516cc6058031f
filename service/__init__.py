"""What runs in production: an image classifier that explains itself, on ONNX Runtime. Imports neither torch nor training."""

__version__ = "0.2.0"
