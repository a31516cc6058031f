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
from service.api.kserve.tensors import InferenceRequest
from service.api.models.endpoints import Answers
from service.api.models.repository import Repository
from service.api.parameters import OF_INFER, TIMEOUT
from service.api.tasks import timing_for
from service.api.wire.parameters import MAX_DEADLINE_MS
from service.bundle.manifest import Manifest
from service.errors import MalformedRequest
from service.repository.loaded import Loaded
from service.repository.shelf import Shelf
from service.telemetry import account

WAY_BACK = 0.95  # of the time that a call has left: its answer must arrive within it, too


class Methods:
    """The methods over the models of `shelf`, as answers to calls."""

    def __init__(
        self, shelf: Shelf[Answers], models: Repository, reads: Reads, calls: Calls
    ) -> None:
        self._shelf = shelf
        self._models = models
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
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
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
        await self._named("ModelReady", call)
        return _encoded("ModelReady", {"ready": self._calls.drain.ready})

    async def model_metadata(self, call: Call) -> bytes:
        """What HTTP has at GET /v2/models/NAME."""
        name, manifest = await self._named("ModelMetadata", call)
        return _encoded("ModelMetadata", v2.metadata(manifest, name))

    async def model_config(self, call: Call) -> bytes:
        """What HTTP has at GET /v2/models/NAME/config."""
        name, manifest = await self._named("ModelConfig", call)
        described = v2.metadata(manifest, name)
        return _encoded("ModelConfig", {"config": repository.configuration(described)})

    async def model_statistics(self, call: Call) -> bytes:
        """What HTTP has at GET /v2/models/NAME/stats; of all models without a name."""
        asked = await self._message("ModelStatistics", call)
        found = [await self._loaded(asked.name, asked.version)] if asked.name else self._shelf
        stats = [await each.answers.inference.counted() for each in list(found)]
        return _encoded("ModelStatistics", {"model_stats": stats})

    async def server_metadata(self, _call: Call) -> bytes:
        """What HTTP has at GET /v2."""
        return _encoded("ServerMetadata", v2.SERVER)

    async def repository_index(self, _call: Call) -> bytes:
        """What HTTP has at POST /v2/repository/index."""
        return _encoded("RepositoryIndex", {"models": await self._models.entries()})

    async def load(self, call: Call) -> bytes:
        """What HTTP has at POST /v2/repository/models/NAME/load.

        KServe's messages have the name where Triton's have that of a repository.
        """
        asked = await self._message("RepositoryModelLoad", call)
        await self._models.reload.load(asked.model_name or asked.repository_name)
        return _encoded("RepositoryModelLoad", {})

    async def unload(self, call: Call) -> bytes:
        """What HTTP has at POST /v2/repository/models/NAME/unload."""
        asked = await self._message("RepositoryModelUnload", call)
        await self._models.reload.unload(asked.model_name or asked.repository_name)
        return _encoded("RepositoryModelUnload", {})

    async def infer(self, call: Call) -> bytes:
        """Predicts images, and explains."""
        self.admit()
        started = time.perf_counter()
        body, lease = await self._reads.read(call.context.read())
        if lease is not None:
            call.leases.append(lease)
        message = await self.message_of(body)
        response = await self.answer(call, body, message, started)
        encoded: bytes = response.SerializeToString()
        return encoded

    def admit(self) -> None:
        """Checks for a free place before anything is read, when no model is known yet.

        Raises:
            TooManyRequests: the queue of the default model is full.
        """
        self._shelf.default.answers.pipeline.admit()

    async def message_of(self, body: Any) -> Any:
        """A ModelInferRequest.

        Raises:
            MalformedRequest: the bytes are none.
        """
        return await large.parse(
            b"" if body is EOF else body, lambda: _decoded(messages.ModelInferRequest, body)
        )

    async def answer(self, call: Call, body: Any, message: Any, started: float) -> Any:
        """The ModelInferResponse to the `message` in `body`, a request that began at `started`.

        Raises:
            RequestError: it cannot be answered.
        """
        loaded = await self._loaded(message.model_name, message.model_version)
        with loaded.used() as answers:
            pipeline, inference = answers.pipeline, answers.inference
            pipeline.sign(account.current.get())
            timing = timing_for(call.caller, pipeline, started)
            spec, max_pixels = answers.manifest.input, pipeline.max_pixels
            read = await large.parse(body, lambda: tensors.read(message, spec, max_pixels))
            timing.add("read", time.perf_counter() - started)
            name = inference.served(message.model_name, answers.manifest.version)
            left = call.seconds_left
            asked = inference.asked(name, _within(read, left))
            if asked.options.question is not None:
                guard.check(call.key, guard.EXPLAIN)
            timing.allow(asked.options.deadline_ms)
            if left is not None:
                timing.deadline = min(timing.deadline, time.perf_counter() + WAY_BACK * left)
            return await inference.answer(asked, timing, tensors.write)

    async def _loaded(self, name: str, version: str) -> Loaded[Answers]:
        """What answers for a model; gRPC has no paths, and so each call names one."""
        return await self._shelf.take(name, version or None)

    async def _named(self, method: str, call: Call) -> tuple[str, Manifest]:
        """The name that a call has for a model that is served, and its manifest."""
        asked = await self._message(method, call)
        answers = (await self._loaded(asked.name, asked.version)).answers
        return answers.inference.served(asked.name, answers.manifest.version), answers.manifest

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
