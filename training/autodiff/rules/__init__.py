"""One rule an ONNX operator, by family. Importing this package registers all of them in `training.autodiff.graph.RULES`.

A rule is a function from a `Call` to the gradients of the inputs, by index; gradients have the shape of what they are the gradient of.
In the formulas below x is the input, y the output, g the gradient of y, and the answer the gradient of x.
"""

from training.autodiff.rules import (
    convolution,
    elementwise,
    linear,
    normalization,
    pooling,
    reduction,
    shape,
)

__all__ = ["convolution", "elementwise", "linear", "normalization", "pooling", "reduction", "shape"]
