"""Gradients of ONNX graphs, as ONNX graphs, without a training framework.

Reverse-mode differentiation appends the reverse pass to a copy of the graph. `gradient_graph`,
`relevance_graph` and `cam_graph` make the graphs that a bundle needs. The modules, from the ground
up:

    model          functions of a whole model: shapes of tensors, order of nodes, pruning
    builder        Builder: a model that grows by nodes and constants
    registry       Context: a node as its rule sees it; the tables operator → rule, → expansion
    expansions/    operators written as plainer ones, by family
    rules/         one rule for each operator, by family
    graph          Graph: a Builder that walks its nodes backwards and applies the rules
    relevance      a second table of rules, for relevance in the place of gradients
    attribution    the graphs of a bundle

Needs onnx and numpy. Takes opsets 13 to 21, and static shapes but for the batch.

Prior art: `onnx-ad` (MIT) and `onnax` differentiate ONNX graphs, too; ONNXExplainer
(arXiv 2309.16916) does so for DeepSHAP. `onnx-ad` is an oracle in the tests, and lends its rules of
two operators (rules.borrowed).
"""

from training.autodiff.attribution import (
    FORWARD,
    cam_graph,
    gradient_graph,
    gradients_of,
    has_relevance,
    relevance_graph,
)
from training.autodiff.builder import NEWEST_OPSET, OLDEST_OPSET, DifferentiationError
from training.autodiff.graph import Graph
from training.autodiff.model import constants_of, opset_of, prune, with_shapes

__all__ = [
    "FORWARD",
    "NEWEST_OPSET",
    "OLDEST_OPSET",
    "DifferentiationError",
    "Graph",
    "cam_graph",
    "constants_of",
    "gradient_graph",
    "gradients_of",
    "has_relevance",
    "opset_of",
    "prune",
    "relevance_graph",
    "with_shapes",
]
