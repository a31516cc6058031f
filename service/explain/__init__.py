"""From an image and a question to an attribution: which pixels speak for the target, and how much.

A map is float32 (S, S) over the network's input, positive = speaks for the target; `Method.sign` says whether it can be negative.
Everything is computed on ONNX Runtime by `service.runtime.engine`; no method holds state, and the same question gets the same bytes.
"""

from service.explain.attribution import Attribution, explain
from service.explain.cost import cheaper_questions, forward_passes
from service.explain.methods import METHODS, Method, Parameter, available
from service.explain.question import Question, ask, check_masked, masked
from service.explain.target import Target

__all__ = [
    "METHODS",
    "Attribution",
    "Method",
    "Parameter",
    "Question",
    "Target",
    "ask",
    "available",
    "check_masked",
    "explain",
    "cheaper_questions",
    "masked",
    "forward_passes",
]
