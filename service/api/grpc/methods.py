"""The methods of the protocol, over the same inference as HTTP's.

Source: https://github.com/kserve/open-inference-protocol, inference_grpc.md, and Triton's
extensions "model configuration", "model repository" and "statistics".
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from grpc.aio import EOF

from service.api import large
from service.api.access import guard
from service.api.grpc import messages, tensors
from service.api.grpc.calls import Answer, Call, Calls
from service.api.grpc.reading import Reads
from service.api.kserve import repository, v2
from service.api.kserve.inference import Inference
from service.api.kserve.tensors import InferenceRequest
from service.api.parameters import OF_INFER, TIMEOUT
from service.api.tasks import timing_for
from service.api.wire.parameters import MAX_DEADLINE_MS
from service.bundle.manifest import Manifest
from service.errors import MalformedRequest
from service.schedule.pipeline import Pipeline
from service.schedule.timing import Timing

WAY_BACK = 0.95  # of the time that a call has left: its answer must arrive within it, too


class Methods:
    """The methods over one pipeline, as answers to calls."""

    def __init__(
        self,
        pipeline: Pipeline,
        manifest: Manifest,
        inference: Inference,
        reads: Reads,
        calls: Calls,
    ) -> None:
        self._pipeline = pipeline
        self._manifest = manifest
        self._inference = inference
        self._reads = reads
        self._calls = calls

    def answers(self) -> Mapping[str, Answer]:
        """The answer of each method that has one message and one answer."""
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
            "ModelInfer": self.infer,
        }

    async def server_live(self, _call: Call) -> bytes:
        """True while the process runs."""
        return _encoded("ServerLive", {"live": True})

    async def server_ready(self, _call: Call) -> bytes:
        """True while requests are accepted."""
        return _encoded("ServerReady", {"ready": self._calls.drain.ready})

    async def model_ready(self, call: Call) -> bytes:
        """The same, of a model that is served."""
        self._named(await self._message("ModelReady", call))
        return _encoded("ModelReady", {"ready": self._calls.drain.ready})

    async def server_metadata(self, _call: Call) -> bytes:
        """What HTTP has at GET /v2."""
        return _encoded("ServerMetadata", v2.SERVER)

    async def model_metadata(self, call: Call) -> bytes:
        """What HTTP has at GET /v2/models/NAME."""
        name = self._named(await self._message("ModelMetadata", call))
        return _encoded("ModelMetadata", v2.metadata(self._manifest, name))

    async def model_config(self, call: Call) -> bytes:
        """What HTTP has at GET /v2/models/NAME/config."""
        name = self._named(await self._message("ModelConfig", call))
        described = v2.metadata(self._manifest, name)
        return _encoded("ModelConfig", {"config": repository.configuration(described)})

    async def model_statistics(self, call: Call) -> bytes:
        """What HTTP has at GET /v2/models/NAME/stats; of all models without a name."""
        asked = await self._message("ModelStatistics", call)
        if asked.name:
            self._named(asked)
        return _encoded("ModelStatistics", {"model_stats": [await self._inference.counted()]})

    async def repository_index(self, _call: Call) -> bytes:
        """What HTTP has at POST /v2/repository/index."""
        return _encoded("RepositoryIndex", {"models": repository.index(self._manifest)})

    async def infer(self, call: Call) -> bytes:
        """Predicts images, and explains."""
        self._pipeline.admit()
        timing = timing_for(call.caller, self._pipeline)
        with timing.of("read"):
            body, lease = await self._reads.read(call.context.read())
            if lease is not None:
                call.leases.append(lease)
            message, inference = await self.parsed(body)
        answer: bytes = (await self.answer(call, message, inference, timing)).SerializeToString()
        return answer

    async def parsed(self, body: Any) -> tuple[Any, InferenceRequest]:
        """A ModelInferRequest, and what it asks.

        Raises:
            RequestError: it breaks the protocol.
        """
        spec, max_pixels = self._manifest.input, self._pipeline.max_pixels

        def parse() -> tuple[Any, InferenceRequest]:
            message = _decoded(messages.ModelInferRequest, body)
            return message, tensors.read(message, spec, max_pixels)

        return await large.parse(b"" if body is EOF else body, parse)

    async def answer(
        self, call: Call, message: Any, inference: InferenceRequest, timing: Timing
    ) -> Any:
        """The ModelInferResponse to a request.

        Raises:
            RequestError: it cannot be answered.
        """
        name = self._inference.served(
            message.model_name, message.model_version or self._manifest.version
        )
        left = call.seconds_left
        asked = self._inference.asked(name, _within(inference, left))
        if asked.options.question is not None:
            guard.check(call.key, guard.EXPLAIN)
        timing.allow(asked.options.deadline_ms)
        if left is not None:
            timing.deadline = min(timing.deadline, time.perf_counter() + WAY_BACK * left)
        return await self._inference.answer(asked, timing, tensors.write)

    def _named(self, message: Any) -> str:
        return self._inference.served(message.name, message.version or self._manifest.version)

    async def _message(self, method: str, call: Call) -> Any:
        """The one message of a call that has no images."""
        body, lease = await self._reads.read(call.context.read())
        if lease is not None:
            call.leases.append(lease)
        return _decoded(messages.request_of(method), body)


def _within(inference: InferenceRequest, seconds: float | None) -> InferenceRequest:
    """`inference` with the deadline of its call, unless its own parameters name one."""
    if seconds is None or not {TIMEOUT, *OF_INFER}.isdisjoint(inference.parameters):
        return inference
    milliseconds = min(max(1, int(1000 * seconds)), MAX_DEADLINE_MS)
    return replace(inference, parameters={**inference.parameters, "deadline_ms": milliseconds})


def _decoded(kind: Any, body: Any) -> Any:
    """A message from its bytes.

    Raises:
        MalformedRequest: the call has no message, or bytes that are none.
    """
    if body is EOF:
        raise MalformedRequest("the call has no message: send one")
    try:
        return kind.FromString(body)
    except DecodeError:
        raise MalformedRequest(
            f"the {len(body):,} bytes are no {kind.DESCRIPTOR.full_name}: "
            "encode it by the protocol's .proto file"
        ) from None


def _encoded(method: str, document: Mapping[str, Any]) -> bytes:
    """The response of a method, from the document that HTTP has."""
    response = json_format.ParseDict(document, messages.response_of(method)())
    encoded: bytes = response.SerializeToString()
    return encoded
