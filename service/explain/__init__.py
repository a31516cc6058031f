"""From an image and a question to an attribution: which pixels speak for a class, and how much.

A map is float32 (H, W) over the network's input; positive values speak for the target, and
`Method.sign` gives whether there are negative ones. `service.runtime.engine` computes everything on
ONNX Runtime. No method holds state: the same question gets the same bytes.
"""

from service.explain.attribution import Attribution, explain
from service.explain.maps.target import Target
from service.explain.method import Method, Parameter
from service.explain.methods import METHODS, available
from service.explain.question import (
    NOMINAL,
    Defaults,
    Question,
    ask,
    cheaper_questions,
    check_masked,
    check_passes,
    fitting_defaults,
    forward_passes,
    masked,
    passes_by_graph,
)
from service.explain.together import explain_together, fits

__all__ = [
    "METHODS",
    "NOMINAL",
    "Attribution",
    "Defaults",
    "Method",
    "Parameter",
    "Question",
    "Target",
    "ask",
    "available",
    "cheaper_questions",
    "check_masked",
    "check_passes",
    "explain",
    "explain_together",
    "fits",
    "fitting_defaults",
    "forward_passes",
    "masked",
    "passes_by_graph",
]
