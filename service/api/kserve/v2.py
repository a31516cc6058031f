"""The Open Inference Protocol (KServe's V2) over HTTP: health, metadata, and inference by tensors.

An inference has one input of N images. With K classes and maps of H × W its outputs are:

    logits          FP32 (N, K)
    probabilities   FP32 (N, K)     calibrated
    label           BYTES (N,)
    likely          BOOL (N, K)     a probability of at least 0.5; of a multi-label model
    prediction_set  BOOL (N, K)     membership of each class; where the bundle has sets
    familiarity     FP32 (N,)       a score for the parameter `threshold`; where the bundle has one
    attribution     FP32 (N, H, W)  the explanation
    quality         FP32 (N, M)     M `measures` of `attribution`, NaN where a cheaper one has none

With the parameter `classification` k, from Triton's extension of that name, `logits` and
`probabilities` are BYTES (N, k) instead: the largest k values as "value:index:label".

A request without outputs gets the first three. The parameters of an explanation (`method`,
`target`, …) and of sets (`coverage`, `by_class`) belong to their output, or to the request, for
clients that cannot set those of an output. One bad row fails the request: the protocol has no error
for one row.

Source: https://github.com/kserve/open-inference-protocol, inference_rest.md.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import orjson
from jaxtyping import Float32
from starlette.requests import Request
from starlette.responses import Response

import service
from service.api import body as request_body
from service.api import large
from service.api import parameters as request_parameters
from service.api.access import guard
from service.api.access.guard import GuardedRoute
from service.api.body import Limits
from service.api.kserve import repository, tensors
from service.api.kserve.tensors import InferenceRequest, Output, OutputRequest, Row
from service.api.negotiation import compressed
from service.api.parameters import Options
from service.api.tasks import cancel_on_disconnect, gather_rows, timing_of
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.errors import InvalidParameter, NotFound, RequestError, short
from service.explain import Attribution, Question
from service.predictions import LIKELY, Prediction, PredictionSet, most_probable, most_top_k
from service.runtime.graphs import Logits
from service.schedule.pipeline import Pipeline, Sent
from service.schedule.timing import Timing

PREFIX = "/v2"
DEFAULT, SETS, FAMILIARITY = ("logits", "probabilities", "label"), "prediction_set", "familiarity"
LIKELY_CLASSES = "likely"
ATTRIBUTION, QUALITY = "attribution", "quality"
CLASSIFICATION, CLASSIFIED = "classification", ("logits", "probabilities")
PARAMETERS_OF = {
    SETS: request_parameters.OF_SETS,
    ATTRIBUTION: (*request_parameters.OF_ATTRIBUTIONS, *request_parameters.OF_INFER),
}
PLATFORM = "onnx_onnxv1"
VERSION = "1"  # taken for the served one: clients of numbered versions ask for the first
SERVER = {
    "name": "candor",
    "version": service.__version__,
    "extensions": list(tensors.EXTENSIONS),
}
Written = TypeVar("Written")
Write = Callable[[Mapping[str, Any], Sequence[Output]], Written]


class Asked(NamedTuple):
    """A checked request: its rows, the outputs it wants, and the `head` of its answer."""

    rows: Sequence[Row]
    outputs: Sequence[OutputRequest]
    options: Options
    head: Mapping[str, Any]


class OpenInference:
    """The endpoints of the V2 protocol over one pipeline."""

    def __init__(self, pipeline: Pipeline, bundle: Bundle, limits: Limits) -> None:
        self._pipeline = pipeline
        self._manifest = bundle.manifest
        self._limits = limits

    def routes(self) -> list[GuardedRoute]:
        """The routes of these endpoints."""
        models = (f"{PREFIX}/models/{{name}}", f"{PREFIX}/models/{{name}}/versions/{{version}}")
        every = f"{PREFIX}/models/stats"
        return [
            GuardedRoute(PREFIX, guard.DOCUMENTS, self.server),
            GuardedRoute(f"{PREFIX}/health/live", guard.OPEN, self.live),
            GuardedRoute(f"{PREFIX}/health/ready", guard.OPEN, self.ready),
            *(
                GuardedRoute(f"{model}/infer", guard.PREDICT, self.infer, ["POST"])
                for model in models
            ),
            *(GuardedRoute(f"{model}/ready", guard.OPEN, self.model_ready) for model in models),
            *(GuardedRoute(f"{model}/config", guard.DOCUMENTS, self.config) for model in models),
            GuardedRoute(every, guard.DOCUMENTS, self.statistics),  # before a model of that name
            *(GuardedRoute(f"{model}/stats", guard.DOCUMENTS, self.statistics) for model in models),
            GuardedRoute(f"{PREFIX}/repository/index", guard.DOCUMENTS, self.index, ["POST"]),
            *(GuardedRoute(model, guard.DOCUMENTS, self.model) for model in models),
        ]

    async def server(self, _request: Request) -> Response:
        """GET /v2."""
        return _json(SERVER)

    async def live(self, _request: Request) -> Response:
        """GET /v2/health/live."""
        return _json({"live": True})

    async def ready(self, _request: Request) -> Response:
        """GET /v2/health/ready: always true, because the server listens once the model is warm."""
        return _json({"ready": True})

    async def model(self, request: Request) -> Response:
        """GET /v2/models/NAME."""
        return _json(metadata(self._manifest, self._name_of(request)))

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/NAME/ready."""
        return _json({"name": self._name_of(request), "ready": True})

    async def config(self, request: Request) -> Response:
        """GET /v2/models/NAME/config."""
        described = metadata(self._manifest, self._name_of(request))
        return _json(repository.configuration(described))

    async def index(self, _request: Request) -> Response:
        """POST /v2/repository/index."""
        return Response(
            orjson.dumps(repository.index(self._manifest)), media_type="application/json"
        )

    async def statistics(self, request: Request) -> Response:
        """GET /v2/models/NAME/stats, and of all models."""
        if "name" in request.path_params:
            self._name_of(request)
        return _json({"model_stats": [await self.counted()]})

    async def counted(self) -> dict[str, Any]:
        """The statistics of the model."""
        # The text of all workers' metrics takes milliseconds to write and to read.
        return await asyncio.to_thread(
            lambda: repository.statistics(self._manifest, self._pipeline.metrics.text())
        )

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME/infer."""
        name = self._name_of(request)
        timing = timing_of(request, self._pipeline)
        with timing.of("read"):
            body = await request_body.body_of(request, self._limits)
            json_length = request.headers.get(tensors.HEADER)
            inference = await large.parse(
                body,
                lambda: tensors.read(
                    body, json_length, self._manifest.input, self._pipeline.max_pixels
                ),
            )
        asked = self.asked(name, inference)
        if asked.options.question is not None:
            guard.require(request, guard.EXPLAIN)
        timing.allow(asked.options.deadline_ms)
        answer = await cancel_on_disconnect(request, self.answer(asked, timing, tensors.write))
        return await compressed(answer, request.headers.get("accept-encoding", ""))

    def asked(self, name: str, inference: InferenceRequest) -> Asked:
        """What a request of the model `name` asks for, checked.

        Raises:
            InvalidParameter: an unknown output or parameter, or a parameter given twice.
            MethodUnavailable: the model cannot be explained by that method.
        """
        default = DEFAULT[:1] if repository.is_plain(name, self._manifest) else DEFAULT
        outputs = inference.outputs or tuple(
            OutputRequest(output, inference.binary) for output in default
        )
        options = self._options(inference, outputs)
        return Asked(inference.rows, outputs, options, self._head(name, inference.id, options))

    async def answer(self, asked: Asked, timing: Timing, write: Write[Written]) -> Written:
        """The answer in the form that `write` makes of its head and its outputs.

        Raises:
            RequestError: a row cannot be answered.
        """
        # The outputs hold all logits and one label: a longer list would be made for nothing.
        options = asked.options
        question, first_class = options.question, replace(options.prediction, top_k=1)
        self._pipeline.charge(question, len(asked.rows), timing)
        images = await gather_rows("row", (self._receive(row, timing) for row in asked.rows))
        predictions = await gather_rows(
            "row",
            (self._pipeline.predict(image, first_class, timing, question) for image in images),
        )
        maps: Sequence[Attribution] = ()
        if question is not None:
            maps = await gather_rows(
                "row",
                (
                    self._pipeline.explain(image, question, prediction, timing, row / len(images))
                    for row, (image, prediction) in enumerate(
                        zip(images, predictions, strict=True), start=1
                    )
                ),
            )
        with timing.of("encode"):
            outputs = [self._output(output, predictions, maps) for output in asked.outputs]
            return write(asked.head, outputs)

    def _name_of(self, request: Request) -> str:
        """The name of the model in the path, which is served."""
        path = request.path_params
        return self.served(path["name"], path.get("version", self._manifest.version))

    def served(self, name: str, version: str) -> str:
        """`name`, of a model that is served.

        Raises:
            NotFound: there is no such model, or not of that version.
        """
        served, names = self._manifest.version, repository.names(self._manifest)
        if name not in names or version not in (served, VERSION):
            raise NotFound(
                f"there is no model {short(name)} of version {short(version)}; "
                f"{' and '.join(map(repr, names))} of version {served!r} are served"
            )
        return name

    def _options(self, inference: InferenceRequest, outputs: Sequence[OutputRequest]) -> Options:
        """Merges the parameters of the request with those of its outputs.

        Raises:
            InvalidParameter: an unknown output or parameter, or a parameter given twice.
            MethodUnavailable: the model cannot be explained by that method.
        """
        by_output = {output.name: output.parameters for output in outputs}
        for name, parameters in by_output.items():
            self._check_output(name, parameters, by_output)
        # A parameter without its output would be ignored in silence.
        for name, own in PARAMETERS_OF.items():
            unused = set(inference.parameters) & set(own) - set(request_parameters.OF_INFER)
            if name not in by_output and unused:
                raise InvalidParameter(
                    f"{', '.join(sorted(unused))} belongs to the output {name!r}, "
                    "which was not requested: request it, too"
                )
        of_outputs = {**by_output.get(ATTRIBUTION, {}), **by_output.get(SETS, {})}
        twice = set(of_outputs) & set(inference.parameters)
        if twice:
            raise InvalidParameter(
                f"{', '.join(sorted(twice))} is given with the output and with the request: "
                "give it once"
            )
        return request_parameters.of_infer(
            self._manifest,
            {**inference.parameters, **of_outputs},
            explained=ATTRIBUTION in by_output,
            sets=SETS in by_output,
            defaults=self._pipeline.defaults,
        )

    def _check_output(
        self, name: str, parameters: Mapping[str, Any], outputs: Collection[str]
    ) -> None:
        available = outputs_of(self._manifest)
        if name not in available:
            raise InvalidParameter(
                f"there is no output {short(name)}; there are {', '.join(available)}"
            )
        own = (CLASSIFICATION,) if name in CLASSIFIED else PARAMETERS_OF.get(name, ())
        known = (*own, "binary_data")
        for parameter in parameters:
            if parameter not in known:
                raise InvalidParameter(
                    f"{name} has no parameter {short(parameter)}; it has {', '.join(known)}"
                )
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

    async def _receive(self, row: Row, timing: Timing) -> Sent:
        if isinstance(row, RequestError):
            raise row
        if isinstance(row, bytes):
            return await self._pipeline.receive(row, timing, keep=False)
        return await self._pipeline.receive_pixels(row, timing)

    def _head(self, name: str, identity: str | None, options: Options) -> Mapping[str, Any]:
        head: dict[str, Any] = {"model_name": name, "model_version": self._manifest.version}
        if identity is not None:
            head["id"] = identity
        if options.warnings:
            head["parameters"] = {"warnings": "; ".join(options.warnings)}
        return head

    def _output(
        self,
        request: OutputRequest,
        predictions: Sequence[Prediction],
        maps: Sequence[Attribution],
    ) -> Output:
        if request.name in (ATTRIBUTION, QUALITY):
            return _explanation(request, maps)
        if request.name == SETS:
            return self._sets(request, [prediction.prediction_set for prediction in predictions])
        if request.name == FAMILIARITY:
            return self._familiarity(request, predictions)
        if request.name == "label":
            return Output(request, [prediction.best.label for prediction in predictions])
        values = np.stack([prediction.logits for prediction in predictions])
        if request.name == LIKELY_CLASSES:
            return Output(request, self._manifest.calibration.probabilities(values) >= LIKELY)
        if request.name == "probabilities":
            values = self._manifest.calibration.probabilities(values).astype(np.float32)
        count = request.parameters.get(CLASSIFICATION)
        return Output(request, values) if count is None else self._classes(request, values, count)

    def _classes(self, request: OutputRequest, values: Logits, count: int) -> Output:
        labels = self._manifest.labels
        texts = [
            f"{row[index]:f}:{index}:{labels[index]}"
            for row in values
            for index in most_probable(row.astype(np.float64), count).tolist()
        ]
        return Output(request, texts, columns=count)

    def _familiarity(self, request: OutputRequest, predictions: Sequence[Prediction]) -> Output:
        scores = [each.familiarity.score for each in predictions if each.familiarity]
        assert self._manifest.familiarity
        threshold = {"threshold": self._manifest.familiarity.threshold}
        return Output(request, np.array(scores, np.float32), threshold)

    def _sets(self, request: OutputRequest, by_row: Sequence[PredictionSet | None]) -> Output:
        sets = [each for each in by_row if each is not None]
        membership = np.zeros((len(sets), len(self._manifest.labels)), bool)
        for row, each in zip(membership, sets, strict=True):
            row[each.indices] = True
        parameters = {"coverage": sets[0].coverage, "by_class": sets[0].by_class}
        return Output(request, membership, parameters)


def outputs_of(manifest: Manifest) -> tuple[str, ...]:
    """The names of the outputs of a model."""
    optional = (
        (LIKELY_CLASSES, manifest.is_multi_label),
        (SETS, manifest.prediction_sets),
        (FAMILIARITY, manifest.familiarity),
    )
    present = (name for name, part in optional if part)
    return (*DEFAULT, *present, ATTRIBUTION, QUALITY)


def metadata(manifest: Manifest, name: str) -> dict[str, Any]:
    """GET /v2/models/NAME. Its input is what a request must have; numbers may stand in for it."""
    head = {"name": name, "versions": [manifest.version], "platform": PLATFORM}
    if repository.is_plain(name, manifest):
        return {**head, **repository.plain_metadata(manifest)}
    classes = len(manifest.labels)
    kinds = {
        "logits": (tensors.FP32, [-1, classes]),
        "probabilities": (tensors.FP32, [-1, classes]),
        "label": (tensors.BYTES, [-1]),
        LIKELY_CLASSES: (tensors.BOOL, [-1, classes]),
        SETS: (tensors.BOOL, [-1, classes]),
        FAMILIARITY: (tensors.FP32, [-1]),
        ATTRIBUTION: (tensors.FP32, [-1, *manifest.input.shape]),
        QUALITY: (tensors.FP32, [-1, -1]),
    }
    return {
        **head,
        "inputs": [{"name": "image", "datatype": tensors.BYTES, "shape": [-1]}],
        "outputs": [
            {"name": name, "datatype": kinds[name][0], "shape": kinds[name][1]}
            for name in outputs_of(manifest)
        ],
    }


def _explanation(request: OutputRequest, maps: Sequence[Attribution]) -> Output:
    if request.name == ATTRIBUTION:
        values = np.stack([each.map for each in maps]).astype(np.float32)
        return Output(request, values, map_parameters(maps))
    measures, values = _quality(maps)
    # The unit of deletion and insertion is another where the target is not predicted.
    units = [f"row {row}: {each.areas_unit}" for row, each in enumerate(maps) if each.areas_unit]
    noted = {"areas_unit": "; ".join(units)} if units else {}
    return Output(request, values, {"measures": ",".join(measures)} | noted)


def _quality(
    maps: Sequence[Attribution],
) -> tuple[list[str], Float32[np.ndarray, "rows measures"]]:
    """The names of the measures, and their values; NaN where a row has none."""
    # A degraded row may have a method with other measures than the rest.
    measures = sorted({name for each in maps for name in each.quality})
    values = [[each.quality.get(name, np.nan) for name in measures] for each in maps]
    return measures, np.array(values, np.float32).reshape(len(maps), len(measures))


def map_parameters(maps: Sequence[Attribution]) -> dict[str, str | int | float]:
    """The question, the meaning of the values; the rows with a cheaper question, and with noise."""
    question = maps[0].degraded_from or maps[0].question
    parameters = {
        "method": question.method.name,
        **_scalars(question),
        "sign": question.method.sign,
        "unit": question.method.unit,
    }
    degraded = [
        f"row {row}: {_in_words(each.question)}"
        for row, each in enumerate(maps)
        if each.degraded_from
    ]
    warned = [
        f"row {row}: {'; '.join(each.warnings)}" for row, each in enumerate(maps) if each.warnings
    ]
    notes = {"degraded": degraded, "warnings": warned}
    return parameters | {name: "; ".join(rows) for name, rows in notes.items() if rows}


def _in_words(question: Question) -> str:
    parameters = (f"{name}={value}" for name, value in _scalars(question).items())
    return " ".join([question.method.name, *parameters])


def _scalars(question: Question) -> dict[str, str | int | float]:
    # The protocol has no parameter that is a list or an object.
    return {
        name: value
        for name, value in question.parameters.items()
        if isinstance(value, str | int | float)
    }


def _json(document: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
