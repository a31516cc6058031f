"""Folding: layers that follow each other become one, so that fewer numbers are multiplied.

An average pool behind a convolution makes it a convolution with stride. Convolving and averaging
commute: the mean of 2×2 outputs is the output of the mean of 2×2 inputs. With 3×3 weights that
multiplies 9 times for an output, where the two layers multiplied 36 times. A batch norm behind
them is a scale and a bias, which weights and bias take over. The function stays the same, up to
rounding: sums are taken in float64 and rounded once.

Only networks that are trained here are folded; a foreign ONNX file keeps its weights bit for bit.
"""

from typing import Any

import numpy as np
from jaxtyping import Float32
from onnx import ModelProto
from onnxscript import ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase, RewriteRuleSet, rewrite
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule

# Channels in a block of ONNX Runtime's convolutions and pools with AVX-512; a multiple of AVX2's.
BLOCK = 16

Filters = Float32[np.ndarray, "out in height width"]


def fold(model: ModelProto) -> ModelProto:
    """`model` with average pools and batch norms folded into convolutions, where that pays."""
    pools = RewriteRuleSet([_AveragePoolOfConv.rule()])  # type: ignore[no-untyped-call]
    pooled: ModelProto = rewrite(model, pattern_rewrite_rules=pools)
    norms = RewriteRuleSet([fuse_batchnorm_into_conv_rule])
    folded: ModelProto = rewrite(pooled, pattern_rewrite_rules=norms)
    return folded


def pooled_filters(
    filters: Filters, pool: int
) -> Float32[np.ndarray, "out in pooled_height pooled_width"]:
    """Filters (out, in, K + pool − 1, K + pool − 1) that give the mean of pool × pool outputs.

    With a stride of `pool` they convolve like `filters` (out, in, K, K) and an average pool.
    """
    channels_out, channels_in, height, width = filters.shape
    total = np.zeros((channels_out, channels_in, height + pool - 1, width + pool - 1))
    for top in range(pool):
        for left in range(pool):
            total[:, :, top : top + height, left : left + width] += filters
    return (total / pool**2).astype(np.float32)


class _AveragePoolOfConv(RewriteRuleClassBase):
    """AveragePool ∘ Conv → Conv with stride ∘ AveragePool with stride 1, or Conv with stride."""

    def pattern(self, op: Any, x: Any) -> Any:
        """A convolution, read by an average pool alone."""
        convolved = op.Conv(
            x, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["convolved"]
        )
        return op.AveragePool(convolved, _allow_other_attributes=True, _outputs=["pooled"])

    def check(self, _context: Any, x: Any, convolved: ir.Value, pooled: ir.Value) -> MatchResult:
        """Fails unless both are plain, the weights are constant, and the result multiplies less."""
        del x
        conv, pool = _nodes(convolved, pooled)
        result = MatchResult()
        filters, kernel = _constant(conv.inputs[1]), pool.attributes.get_ints("kernel_shape")
        if filters is None or not kernel or len(set(kernel)) != 1:
            return result.fail("the weights are computed, or the pool is not square")
        if not _are_plain(conv, pool, kernel):
            return result.fail("strides, pads or dilations are not those of plain layers")
        side = filters.shape[2]
        if (side + kernel[0] - 1) ** 2 >= (side * kernel[0]) ** 2:
            return result.fail("it would not multiply less")
        return result

    def rewrite(self, op: Any, x: Any, convolved: ir.Value, pooled: ir.Value) -> Any:
        """The convolution with stride, and the average pool before it or inside its weights."""
        conv, pool = _nodes(convolved, pooled)
        filters, kernel = _constant(conv.inputs[1]), list(pool.attributes.get_ints("kernel_shape"))
        assert filters is not None
        # The padding stays that of the convolution: the pool leaves out incomplete windows.
        pads = list(conv.attributes.get_ints("pads", [0, 0, 0, 0]))
        replaced = ("kernel_shape", "strides", "pads")
        kept = {name: value for name, value in conv.attributes.items() if name not in replaced}
        # ONNX Runtime averages quickly where the channels fill the blocks of its CPU kernels. Its
        # pools take less padding than their kernel.
        if filters.shape[1] % BLOCK == 0 and max(pads) < kernel[0]:
            mean = op.AveragePool(x, kernel_shape=kernel, pads=pads, count_include_pad=1)
            return op.op("Conv", mean, *conv.inputs[1:], **kept, strides=kernel)
        tensor = ir.tensor(pooled_filters(filters, kernel[0]))
        initializer = op.initializer(tensor, name=conv.inputs[1].name)
        return op.op("Conv", x, initializer, *conv.inputs[2:], **kept, strides=kernel, pads=pads)


def _nodes(convolved: ir.Value, pooled: ir.Value) -> tuple[Any, Any]:
    """The two nodes; loosely typed, because inputs and attributes of nodes are unions of types."""
    return convolved.producer(), pooled.producer()


def _are_plain(conv: Any, pool: Any, kernel: Any) -> bool:
    """True for a convolution with stride 1 and a pool without padding or overlap."""
    strides = pool.attributes.get_ints("strides", [1, 1])
    tight = not any(pool.attributes.get_ints("pads", [0]))
    floored = not pool.attributes.get_int("ceil_mode", 0)
    unit = all(set(conv.attributes.get_ints(name, [1])) == {1} for name in ("strides", "dilations"))
    explicit = all(
        node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET" for node in (conv, pool)
    )
    return tight and floored and unit and explicit and set(strides) == set(kernel)


def _constant(value: Any) -> np.ndarray | None:
    """The weights that a node reads; None if they are computed."""
    if value is None or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())
