"""Operators written as plainer ones before a graph is differentiated, by family.

Their gradients follow from the rules of those. Importing this package registers all of them. Only
graphs of gradients hold the plainer operators: predictions keep the faster ones.
"""

from training.autodiff.expansions import recurrent, sampling

__all__ = ["recurrent", "sampling"]
