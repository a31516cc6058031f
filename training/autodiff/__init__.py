"""Gradients of ONNX graphs as ONNX graphs: `gradient_graph` and `cam_graph` are what a bundle needs; see graph.py for the pass."""

from training.autodiff.attribution import cam_graph, gradient_graph
from training.autodiff.graph import DifferentiationError, Graph, prune

__all__ = ["DifferentiationError", "Graph", "cam_graph", "gradient_graph", "prune"]
