"""The Open Inference Protocol (KServe's V2) over HTTP: health, metadata and inference, with JSON or binary tensors.

An inference has one input, an image a row, and of N rows, K classes and maps of side S these outputs:

    logits          FP32 (N, K)
    probabilities   FP32 (N, K)     calibrated
    label           BYTES (N,)
    prediction_set  BOOL (N, K)     whether the class is in the set of `coverage`, `by_class` or over all; where the bundle has sets
    familiarity     FP32 (N,)       the score, to be compared with the parameter `threshold`; where the bundle has one
    attribution     FP32 (N, S, S)  the explanation
    quality         FP32 (N, M)     the M `measures` of it, NaN where a cheaper method has none; only beside `attribution`

Without outputs asked for, the first three are given. What the explanation is of (`method`, `target`, `steps` …) stands in the parameters of
that output, or of the request for clients that cannot give parameters to an output; so does what set is wanted. A row that cannot be
answered fails the request: the protocol has no error for one row.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from jaxtyping import Float32
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import service
from service.api import body as request_body
from service.api import parameters as request_parameters
from service.api.kserve import tensors
from service.api.kserve.tensors import Inference, Output, Requested, Row
from service.api.parameters import Options
from service.api.tasks import cancel_on_disconnect, gather_rows
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.errors import InvalidParameter, MalformedRequest, NotFound, RequestError, short
from service.explain import Attribution, Question
from service.predictions import Prediction, PredictionSet
from service.schedule.pipeline import PIXELS, Pipeline, Sent
from service.schedule.timing import Timing
from service.settings import Settings

PREFIX = "/v2"
DEFAULT, SETS, FAMILIARITY = ("logits", "probabilities", "label"), "prediction_set", "familiarity"
ATTRIBUTION, QUALITY = "attribution", "quality"
TAKES = {
    SETS: request_parameters.OF_SETS,
    ATTRIBUTION: (*request_parameters.OF_ATTRIBUTIONS, *request_parameters.OF_INFER),
}  # output → its parameters
PLATFORM = "onnx_onnxv1"


class OpenInference:
    """The endpoints over one pipeline."""

    def __init__(self, pipeline: Pipeline, bundle: Bundle, settings: Settings) -> None:
        self._pipeline = pipeline
        self._manifest = bundle.manifest
        self._max_body_bytes, self._max_pixels = settings.max_body_bytes, settings.max_pixels

    def routes(self) -> list[Route]:
        """The routes that it serves."""
        models = (f"{PREFIX}/models/{{name}}", f"{PREFIX}/models/{{name}}/versions/{{version}}")
        return [
            Route(PREFIX, self.server),
            Route(f"{PREFIX}/health/live", self.live),
            Route(f"{PREFIX}/health/ready", self.ready),
            *(Route(f"{model}/infer", self.infer, methods=["POST"]) for model in models),
            *(Route(f"{model}/ready", self.model_ready) for model in models),
            *(Route(model, self.model) for model in models),
        ]

    async def server(self, _request: Request) -> Response:
        """GET /v2."""
        return _json(
            {"name": "candor", "version": service.__version__, "extensions": [tensors.EXTENSION]}
        )

    async def live(self, _request: Request) -> Response:
        """GET /v2/health/live."""
        return _json({"live": True})

    async def ready(self, _request: Request) -> Response:
        """GET /v2/health/ready: nothing is served before the model is warm."""
        return _json({"ready": True})

    async def model(self, request: Request) -> Response:
        """GET /v2/models/NAME."""
        self._check(request)
        return _json(metadata(self._manifest))

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/NAME/ready."""
        self._check(request)
        return _json({"name": self._manifest.name, "ready": True})

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME/infer."""
        self._check(request)
        timing = Timing(self._pipeline.metrics)
        with timing.of("read"):
            body = await request_body.body_of(request, self._max_body_bytes)
            asked = tensors.read(body, request.headers.get(tensors.HEADER), self._max_pixels)
        outputs = asked.outputs or tuple(Requested(name, asked.binary) for name in DEFAULT)
        chosen = self._chosen(asked, outputs)
        timing.allow(chosen.deadline_ms)
        return await cancel_on_disconnect(request, self._answer(asked, outputs, chosen, timing))

    async def _answer(
        self, asked: Inference, outputs: Sequence[Requested], chosen: Options, timing: Timing
    ) -> Response:
        question, read = chosen.question, replace(chosen.asked, top_k=1)
        explained = question is not None
        sent = await gather_rows("row", (self._receive(row, timing) for row in asked.rows))
        predictions = await gather_rows(
            "row", (self._pipeline.predict(one, read, timing, explained=explained) for one in sent)
        )
        maps: Sequence[Attribution] = ()
        if question is not None:
            pairs = zip(sent, predictions, strict=True)
            maps = await gather_rows(
                "row",
                (self._pipeline.explain(one, question, found, timing) for one, found in pairs),
            )
        with timing.of("encode"):
            given = [self._output(output, predictions, maps) for output in outputs]
            return tensors.write(self._head(asked.id), given)

    def _check(self, request: Request) -> None:
        name, version = (
            request.path_params["name"],
            request.path_params.get("version", self._manifest.version),
        )
        if (name, version) != (self._manifest.name, self._manifest.version):
            raise NotFound(
                f"there is no model {short(name)} of version {short(version)}; "
                f"{self._manifest.name!r} of version {self._manifest.version!r} is served"
            )

    def _chosen(self, asked: Inference, outputs: Sequence[Requested]) -> Options:
        """What is asked for, by the parameters of the request and those of the explanation's output.

        Raises:
            InvalidParameter: an output that there is not, a parameter that nothing takes, or one that is given twice.
            MethodUnavailable: the model cannot be explained that way.
        """
        own = {output.name: output.parameters for output in outputs}
        for name, parameters in own.items():
            self._check_output(name, parameters, own)
        for name, takes in TAKES.items():
            idle = set(asked.parameters) & set(takes) - set(request_parameters.OF_INFER)
            if name not in own and idle:
                raise InvalidParameter(
                    f"{', '.join(sorted(idle))} is for the output {name!r}, which is not asked for: ask for it"
                )
        particular = {**own.get(ATTRIBUTION, {}), **own.get(SETS, {})}
        twice = set(particular) & set(asked.parameters)
        if twice:
            raise InvalidParameter(
                f"{', '.join(sorted(twice))} is given with the output and with the request: give it once"
            )
        given = {**asked.parameters, **particular}
        return request_parameters.of_infer(
            self._manifest, given, explained=ATTRIBUTION in own, sets=SETS in own
        )

    def _check_output(
        self, name: str, parameters: Mapping[str, Any], outputs: Collection[str]
    ) -> None:
        offered = outputs_of(self._manifest)
        if name not in offered:
            raise InvalidParameter(
                f"there is no output {short(name)}; there are {', '.join(offered)}"
            )
        unknown = next(
            (parameter for parameter in parameters if parameter not in TAKES.get(name, ())), None
        )
        if unknown is not None:
            there = ", ".join((*TAKES.get(name, ()), "binary_data"))
            raise InvalidParameter(f"{name} has no parameter {short(unknown)}; there is {there}")
        if name == QUALITY and ATTRIBUTION not in outputs:
            raise InvalidParameter(
                f"{QUALITY} is of the output {ATTRIBUTION!r}, which is not asked for: ask for it, too"
            )

    async def _receive(self, row: Row | MalformedRequest, timing: Timing) -> Sent:
        if isinstance(row, RequestError):
            raise row
        if isinstance(row, bytes):
            return await self._pipeline.receive(row, timing, keep=False)
        return await self._pipeline.fit(row, timing)

    def _head(self, identity: str | None) -> dict[str, str]:
        named = {"model_name": self._manifest.name, "model_version": self._manifest.version}
        return named if identity is None else {**named, "id": identity}

    def _output(
        self, asked: Requested, predictions: Sequence[Prediction], maps: Sequence[Attribution]
    ) -> Output:
        if asked.name in (ATTRIBUTION, QUALITY):
            return _explained(asked, maps)
        if asked.name == SETS:
            return self._sets(asked, [found.prediction_set for found in predictions])
        if asked.name == FAMILIARITY:
            scores = [found.familiarity.score for found in predictions if found.familiarity]
            assert self._manifest.familiarity
            return Output(
                asked,
                np.array(scores, np.float32),
                {"threshold": self._manifest.familiarity.threshold},
            )
        if asked.name == "label":
            return Output(asked, [found.best.label for found in predictions])
        logits = np.stack([found.logits for found in predictions])
        if asked.name == "logits":
            return Output(asked, logits)
        return Output(asked, self._manifest.calibration.probabilities(logits).astype(np.float32))

    def _sets(self, asked: Requested, found: Sequence[PredictionSet | None]) -> Output:
        sets = [each for each in found if each is not None]
        held = [
            [label in members for label in self._manifest.labels]
            for members in (frozenset(each.labels) for each in sets)
        ]
        return Output(
            asked,
            np.array(held, bool),
            {"coverage": sets[0].coverage, "by_class": sets[0].by_class},
        )


def outputs_of(manifest: Manifest) -> tuple[str, ...]:
    """The names of the outputs that a model has."""
    trust = ((SETS, manifest.prediction_sets), (FAMILIARITY, manifest.familiarity))
    return (*DEFAULT, *(name for name, known in trust if known is not None), ATTRIBUTION, QUALITY)


def metadata(manifest: Manifest) -> dict[str, Any]:
    """GET /v2/models/NAME. Of the inputs one is sent: encoded images, or pixels."""
    classes, size = len(manifest.labels), manifest.input.size
    kinds = {
        "logits": (tensors.FLOATS, [-1, classes]),
        "probabilities": (tensors.FLOATS, [-1, classes]),
        "label": (tensors.BYTES, [-1]),
        SETS: (tensors.TRUTH, [-1, classes]),
        FAMILIARITY: (tensors.FLOATS, [-1]),
        ATTRIBUTION: (tensors.FLOATS, [-1, size, size]),
        QUALITY: (tensors.FLOATS, [-1, -1]),
    }
    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": PLATFORM,
        "inputs": [
            {"name": "image", "datatype": tensors.BYTES, "shape": [-1]},
            {"name": PIXELS, "datatype": tensors.PIXELS, "shape": [-1, -1, -1, 3]},
        ],
        "outputs": [
            {"name": name, "datatype": kinds[name][0], "shape": kinds[name][1]}
            for name in outputs_of(manifest)
        ],
    }


def _explained(asked: Requested, maps: Sequence[Attribution]) -> Output:
    if asked.name == ATTRIBUTION:
        return Output(
            asked, np.stack([found.map for found in maps]).astype(np.float32), _told(maps)
        )
    measures, values = _measured(maps)
    return Output(asked, values, {"measures": ",".join(measures)})


def _measured(
    maps: Sequence[Attribution],
) -> tuple[list[str], Float32[np.ndarray, "rows measures"]]:
    """The names of the measures of quality, and of each row their values."""
    measures = sorted({name for found in maps for name in found.quality})
    values = [[found.quality.get(name, np.nan) for name in measures] for found in maps]
    return measures, np.array(values, np.float32).reshape(len(maps), len(measures))


def _told(maps: Sequence[Attribution]) -> dict[str, str | int | float]:
    """What the maps are: the question, what the values mean, and the rows for which time allowed only a cheaper question."""
    asked = maps[0].degraded_from or maps[0].question
    told = {
        "method": asked.method.name,
        **_scalars(asked),
        "sign": asked.method.sign,
        "unit": asked.method.unit,
    }
    cheaper = [
        f"row {row}: {_named(found.question)}"
        for row, found in enumerate(maps)
        if found.degraded_from
    ]
    return told | ({"degraded": "; ".join(cheaper)} if cheaper else {})


def _named(question: Question) -> str:
    return " ".join(
        [question.method.name, *(f"{name}={value}" for name, value in _scalars(question).items())]
    )


def _scalars(question: Question) -> dict[str, str | int | float]:
    """The parameters that the protocol can write."""
    return {
        name: value
        for name, value in question.parameters.items()
        if isinstance(value, str | int | float)
    }


def _json(document: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
