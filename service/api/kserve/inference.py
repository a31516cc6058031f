"""An inference by tensors, without its transport: parameters → options, rows → output tensors.

The parameters of an explanation (`method`, `target`, …) and of sets (`coverage`, `by_class`) belong
to their output, or to the request, for clients that cannot set those of an output. One bad row
fails the request: the protocol has no error for one row.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from service.api import parameters as request_parameters
from service.api.kserve import outputs as model_outputs
from service.api.kserve import repository, tensors, views
from service.api.kserve.outputs import (
    ATTRIBUTION,
    CLASSIFICATION,
    CLASSIFIED,
    QUALITY,
    SETS,
    output_of,
)
from service.api.kserve.tensors import InferenceRequest, Output, OutputRequest, Row
from service.api.parameters import Options
from service.api.tasks import gather_rows
from service.bundle.manifest import Manifest
from service.errors import InvalidParameter, NotFound, RequestError, short
from service.explain import Attribution
from service.predictions import most_top_k
from service.schedule.pipeline import Pipeline
from service.schedule.sent import Sent
from service.schedule.timing import Timing

PARAMETERS_OF = {
    SETS: request_parameters.OF_SETS,
    ATTRIBUTION: (*request_parameters.OF_ATTRIBUTIONS, *request_parameters.OF_INFER),
}
BINARY_DATA = "binary_data"
VERSION = "1"  # taken for the served one: clients of numbered versions ask for the first
Written = TypeVar("Written")
Write = Callable[[Mapping[str, Any], Sequence[Output]], Written]


class Asked(NamedTuple):
    """A checked request: its rows, the outputs that it wants, and the `head` of its answer."""

    rows: Sequence[Row]
    outputs: Sequence[OutputRequest]
    options: Options
    head: Mapping[str, Any]


class Inference:
    """Answers inferences over one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._manifest: Manifest = pipeline.engine.manifest

    def served(self, name: str, version: str) -> str:
        """`name`, of a model that is served.

        Raises:
            NotFound: there is no such model, or not of that version.
        """
        served, names = self._manifest.version, views.names(self._manifest)
        if name not in names or version not in (served, VERSION):
            raise NotFound(
                f"there is no model {short(name)} of version {short(version)}; "
                f"{', '.join(map(repr, names))} of version {served!r}, or {VERSION}, are served"
            )
        return name

    def asked(self, name: str, inference: InferenceRequest) -> Asked:
        """What a request of the model `name` asks for, checked.

        Raises:
            InvalidParameter: an unknown output, a parameter that has no meaning, or one given
                twice.
            MethodUnavailable: the model cannot be explained by that method.
        """
        outputs = inference.outputs or tuple(
            OutputRequest(output, inference.binary)
            for output in views.find(name, self._manifest).usual_outputs(self._manifest)
        )
        options = self._options(inference, outputs)
        return Asked(inference.rows, outputs, options, self._head(name, inference.id, options))

    async def answer(self, asked: Asked, timing: Timing, write: Write[Written]) -> Written:
        """The answer in the form that `write` makes of its head and its outputs.

        Raises:
            RequestError: a row cannot be answered; the message names it.
        """
        # The outputs hold all logits and one label: a longer list would be made for nothing.
        options = asked.options
        question, first_class = options.question, replace(options.prediction, top_k=1)
        self._pipeline.charge(question, len(asked.rows), timing)
        images = await gather_rows("row", (self._receive(row, timing) for row in asked.rows))
        seen = await gather_rows(
            "row",
            (self._pipeline.predict(image, first_class, timing, question) for image in images),
        )
        maps: Sequence[Attribution] = ()
        if question is not None:
            maps = await gather_rows(
                "row",
                (
                    self._pipeline.explain(image, question, each, timing, row / len(images))
                    for row, (image, each) in enumerate(zip(images, seen, strict=True), start=1)
                ),
            )
        with timing.of("encode"):
            predictions = [each.prediction for each in seen]
            outputs = [output_of(each, predictions, maps, self._manifest) for each in asked.outputs]
            return write(asked.head, outputs)

    async def counted(self) -> dict[str, Any]:
        """The statistics of the model."""
        # The text of all workers' metrics takes milliseconds to write and to read.
        return await asyncio.to_thread(
            lambda: repository.statistics(self._manifest, self._pipeline.metrics.text())
        )

    async def _receive(self, row: Row, timing: Timing) -> Sent:
        if isinstance(row, RequestError):
            raise row
        if isinstance(row, bytes):
            return await self._pipeline.receive(row, timing, keep=False)
        return await self._pipeline.receive_pixels(row, timing)

    def _options(self, inference: InferenceRequest, outputs: Sequence[OutputRequest]) -> Options:
        """The parameters of the request merged with those of its outputs."""
        by_output = {output.name: output.parameters for output in outputs}
        ignored = [*inference.ignored]
        for name, parameters in by_output.items():
            self._check_output(name, parameters, by_output)
            ignored += _ignored(name, parameters)
        _check_belonging(inference.parameters, by_output)
        of_outputs = {
            parameter: value
            for name, own in PARAMETERS_OF.items()
            for parameter, value in by_output.get(name, {}).items()
            if parameter in own
        }
        twice = set(of_outputs) & set(inference.parameters)
        if twice:
            raise InvalidParameter(
                f"{', '.join(sorted(twice))} is given with the output and with the request: "
                "give it once"
            )
        options = request_parameters.of_infer(
            self._manifest,
            {**inference.parameters, **of_outputs},
            explained=ATTRIBUTION in by_output,
            sets=SETS in by_output,
            defaults=self._pipeline.defaults,
        )
        return replace(options, warnings=(*options.warnings, *ignored))

    def _check_output(
        self, name: str, parameters: Mapping[str, Any], outputs: Collection[str]
    ) -> None:
        available = model_outputs.names(self._manifest)
        if name not in available:
            raise InvalidParameter(
                f"there is no output {short(name)}; there are {', '.join(available)}"
            )
        tensors.check_memory(parameters)
        count, most = parameters.get(CLASSIFICATION, 1), most_top_k(self._manifest)
        # To Python, true is a whole number.
        if type(count) is not int or not 1 <= count <= most:
            raise InvalidParameter(
                f"{CLASSIFICATION} of {name} is {short(count)}; give 1 to {most:,}"
            )
        if name == QUALITY and ATTRIBUTION not in outputs:
            raise InvalidParameter(
                f"{QUALITY} measures the output {ATTRIBUTION!r}, which was not requested: "
                "request it, too"
            )

    def _head(self, name: str, identity: str | None, options: Options) -> Mapping[str, Any]:
        head: dict[str, Any] = {"model_name": name, "model_version": self._manifest.version}
        if identity is not None:
            head["id"] = identity
        if options.warnings:
            head["parameters"] = {"warnings": "; ".join(options.warnings)}
        return head


def _ignored(name: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Warnings of the parameters of the output `name` that nobody knows."""
    own = (CLASSIFICATION,) if name in CLASSIFIED else PARAMETERS_OF.get(name, ())
    known = (*own, BINARY_DATA)
    unknown = [parameter for parameter in parameters if parameter not in known]
    for parameter in unknown:
        if parameter == CLASSIFICATION or parameter in request_parameters.EVERYWHERE:
            raise InvalidParameter(
                f"{name} has no parameter {short(parameter)}; it has {', '.join(known)}"
            )
    return request_parameters.ignored(unknown, known)


def _check_belonging(parameters: Mapping[str, Any], outputs: Collection[str]) -> None:
    """Checks that no parameter of the request is about an output that was not requested."""
    for name, own in PARAMETERS_OF.items():
        unused = set(parameters) & set(own) - set(request_parameters.OF_INFER)
        if name not in outputs and unused:
            raise InvalidParameter(
                f"{', '.join(sorted(unused))} belongs to the output {name!r}, "
                "which was not requested: request it, too"
            )
