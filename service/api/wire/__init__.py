"""What goes over the wire, as types: parameters, JSON bodies and answers of every route.

Parameters and bodies are checked by these classes, answers are built as them under mypy, and
`service.api.openapi` makes the document of them. Answers are not checked at run time; a test checks
real ones of every route.
"""

from service.api.wire.explanations import AttributionMap, Explanation, Origin, Target
from service.api.wire.models import MethodEntry, MethodParameter, Methods
from service.api.wire.predictions import (
    Answer,
    Answers,
    Class,
    Counted,
    Failure,
    Familiarity,
    ImageInfo,
    Model,
    Nearest,
    Prediction,
    PredictionSet,
    Seen,
)

__all__ = [
    "Answer",
    "Answers",
    "AttributionMap",
    "Class",
    "Counted",
    "Explanation",
    "Failure",
    "Familiarity",
    "ImageInfo",
    "MethodEntry",
    "MethodParameter",
    "Methods",
    "Model",
    "Nearest",
    "Origin",
    "Prediction",
    "PredictionSet",
    "Seen",
    "Target",
]
