"""One rule for each ONNX operator, by family. Importing this package registers all of them.

In the formulas x is the input (a, b where there are two), y the output, g the gradient of y, and
the formula gives the gradient of x. A gradient has the shape of its tensor. Operators are those of
https://onnx.ai/onnx/operators; derivatives are calculus unless a source is named. At ties, bounds
and kinks a rule follows torch 2.15, unless its docstring names the difference.
"""

from training.autodiff.rules import (
    borrowed,
    convolution,
    elementwise,
    index,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    shape,
)

__all__ = [
    "borrowed",
    "convolution",
    "elementwise",
    "index",
    "linear",
    "normalization",
    "pooling",
    "quantization",
    "reduction",
    "shape",
]
