"""What an answer costs, in forward passes, and what can be asked instead when time is short."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from service.bundle import folder
from service.bundle.manifest import Manifest
from service.explain.methods import METHODS
from service.explain.quality import FAITHFULNESS_PASSES, NOISY_COPIES
from service.explain.question import Question

FEWEST = 4  # steps or samples that are never gone below
LAST = "grad_cam"  # what costs little more than a prediction


def forward_passes(question: Question) -> int:
    """The forward passes of an answer, its measures of quality included."""
    method = question.method
    own = method.passes(question.parameters)
    free = method.graph == folder.PREDICT  # the map of the other class comes with the same passes
    total = (
        own
        if free
        else own + method.passes({**question.parameters, **quartered(question.parameters)})
    )
    return total + NOISY_COPIES * own + FAITHFULNESS_PASSES if question.quality == "full" else total


def quartered(parameters: Mapping[str, Any]) -> dict[str, int]:
    """A quarter of the steps or samples, not doubled where steps would be."""
    fewer = {
        name: min(parameters[name], max(FEWEST, parameters[name] // 4))
        for name in ("steps", "samples")
        if name in parameters
    }
    return fewer | ({"max_steps": fewer["steps"]} if "max_steps" in parameters else {})


def cheaper_questions(question: Question, manifest: Manifest) -> Iterator[Question]:
    """`question` and, each cheaper than the one before: without full measures, with a quarter of the steps or samples, by Grad-CAM."""
    yield question
    if question.quality == "full":
        question = replace(question, quality="basic")
        yield question
    fewer = quartered(question.parameters)
    if any(fewer[name] < question.parameters[name] for name in fewer):
        yield replace(question, parameters={**question.parameters, **fewer})
    if folder.CAM in manifest.files and forward_passes(question) > forward_passes(
        replace(question, method=METHODS[LAST], parameters={})
    ):
        yield replace(question, method=METHODS[LAST], parameters={})
