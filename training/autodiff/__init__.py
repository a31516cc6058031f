"""Gradients of ONNX graphs as ONNX graphs: `gradient_graph` and `cam_graph` are what a bundle needs; see graph.py for the pass."""

from training.autodiff.attribution import FORWARD, cam_graph, gradient_graph
from training.autodiff.graph import DifferentiationError, Graph, prune

__all__ = ["FORWARD", "DifferentiationError", "Graph", "cam_graph", "gradient_graph", "prune"]
