"""Linear layers that follow each other become one, so that predicting and explaining multiply less; the function stays the same.

An average pool behind a convolution makes it one with stride. Convolving and averaging commute, so the mean of 2×2 outputs is the output
of the mean of 2×2 inputs, and with 3×3 weights that multiplies 9 times an output where the two multiplied 36 times. ONNX Runtime averages
quickly where the channels fill the blocks of its CPU kernels; where they do not, the weights take the mean over, and 4×4 of them multiply 16
times. The batch norm behind it is a scale and a bias, which weights and bias take over. Sums are taken in float64 and rounded once.

Only networks that are trained here are folded: the weights of a foreign ONNX file stay what they are, bit for bit.
"""

from typing import Any

import numpy as np
from jaxtyping import Float32
from onnx import ModelProto
from onnxscript import ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase, RewriteRuleSet, rewrite
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule

BLOCK = 16  # channels: the block of ONNX Runtime's convolutions and pools with AVX-512, and a multiple of that with AVX2

Filters = Float32[np.ndarray, "out in height width"]


def fold(model: ModelProto) -> ModelProto:
    """`model` with its average pools and batch norms in the convolutions before them, where that saves multiplications."""
    pools = RewriteRuleSet([_AveragePoolOfConv.rule()])  # type: ignore[no-untyped-call]
    pooled: ModelProto = rewrite(model, pattern_rewrite_rules=pools)
    folded: ModelProto = rewrite(
        pooled, pattern_rewrite_rules=RewriteRuleSet([fuse_batchnorm_into_conv_rule])
    )
    return folded


def pooled_filters(
    filters: Filters, pool: int
) -> Float32[np.ndarray, "out in pooled_height pooled_width"]:
    """What convolves like `filters` (out, in, K, K) followed by the mean of pool × pool outputs: (out, in, K + pool − 1, K + pool − 1)."""
    out, inside, height, width = filters.shape
    total = np.zeros((out, inside, height + pool - 1, width + pool - 1))
    for top in range(pool):
        for left in range(pool):
            total[:, :, top : top + height, left : left + width] += filters
    return (total / pool**2).astype(np.float32)


class _AveragePoolOfConv(RewriteRuleClassBase):
    """AveragePool ∘ Conv → Conv with stride ∘ AveragePool without, or Conv with stride."""

    def pattern(self, op: Any, x: Any) -> Any:
        """A convolution whose output nothing but the pool reads."""
        convolved = op.Conv(
            x, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["convolved"]
        )
        return op.AveragePool(convolved, _allow_other_attributes=True, _outputs=["pooled"])

    def check(self, _context: Any, x: Any, convolved: ir.Value, pooled: ir.Value) -> MatchResult:
        """Whether both are plain, the weights are constant, and one convolution multiplies less than two steps."""
        del x
        conv, pool = _nodes(convolved, pooled)
        result = MatchResult()
        filters, kernel = _constant(conv.inputs[1]), pool.attributes.get_ints("kernel_shape")
        if filters is None or not kernel or len(set(kernel)) != 1:
            return result.fail("the weights are computed, or the pool is not square")
        strides = pool.attributes.get_ints("strides", [1, 1])
        plain = not any(pool.attributes.get_ints("pads", [0])) and not pool.attributes.get_int(
            "ceil_mode", 0
        )
        unit = all(
            set(conv.attributes.get_ints(name, [1])) == {1} for name in ("strides", "dilations")
        )
        explicit = all(
            node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET" for node in (conv, pool)
        )
        if not (plain and unit and explicit and set(strides) == set(kernel)):
            return result.fail(
                "strides, pads or dilations are not those of a plain pool behind a plain convolution"
            )
        side = filters.shape[2]
        if (side + kernel[0] - 1) ** 2 >= (side * kernel[0]) ** 2:
            return result.fail("it would not multiply less")
        return result

    def rewrite(self, op: Any, x: Any, convolved: ir.Value, pooled: ir.Value) -> Any:
        """The padding is that of the convolution, for the pool leaves out what does not fill a window."""
        conv, pool = _nodes(convolved, pooled)
        filters, kernel = _constant(conv.inputs[1]), list(pool.attributes.get_ints("kernel_shape"))
        assert filters is not None
        pads = list(conv.attributes.get_ints("pads", [0, 0, 0, 0]))
        kept = {
            name: value
            for name, value in conv.attributes.items()
            if name not in ("kernel_shape", "strides", "pads")
        }
        if filters.shape[1] % BLOCK == 0 and max(pads) < kernel[0]:  # a pool takes no more padding
            mean = op.AveragePool(x, kernel_shape=kernel, pads=pads, count_include_pad=1)
            return op.op("Conv", mean, *conv.inputs[1:], **kept, strides=kernel)
        initializer = op.initializer(
            ir.tensor(pooled_filters(filters, kernel[0])), name=conv.inputs[1].name
        )
        return op.op("Conv", x, initializer, *conv.inputs[2:], **kept, strides=kernel, pads=pads)


def _nodes(convolved: ir.Value, pooled: ir.Value) -> tuple[Any, Any]:
    """The two nodes, loosely typed: their inputs and attributes have many kinds, of which a convolution has one each."""
    return convolved.producer(), pooled.producer()


def _constant(value: Any) -> np.ndarray | None:
    """The weights that a node reads, if they are constant."""
    return (
        None
        if value is None or value.const_value is None
        else np.asarray(value.const_value.numpy())
    )
