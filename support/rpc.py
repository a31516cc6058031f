"""Calls of the Open Inference Protocol over gRPC, by gRPC's own client."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Self

import grpc
import numpy as np

from service.api.grpc import SERVICE, messages

SECONDS = 60
# A connection of its own for each channel: gRPC shares them within a process otherwise.
APART = (("grpc.use_local_subchannel_pool", 1),)


class Client(AbstractContextManager["Client"]):
    """A client of the server at a port of loopback, over one connection."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=APART)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def method(self, name: str) -> Any:
        """A method of one message and one answer."""
        return self.channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=bytes_of,
            response_deserializer=messages.response_of(name).FromString,
        )

    def call(self, name: str, message: Any = None, seconds: float = SECONDS, **options: Any) -> Any:
        """The response of a method."""
        given = messages.request_of(name)() if message is None else message
        return self.method(name)(given, timeout=seconds, **options)

    def stream(self, requests: Iterable[Any], seconds: float = SECONDS, **options: Any) -> Any:
        """The call that sends `requests` as a stream; its items are the answers."""
        method = self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=bytes_of,
            response_deserializer=messages.ModelStreamInferResponse.FromString,
        )
        return method(iter(requests), timeout=seconds, **options)

    def refused(self, name: str, message: Any = None, **options: Any) -> tuple[str, str]:
        """The code and the details of a call that fails.

        Raises:
            AssertionError: It does not fail.
        """
        try:
            self.call(name, message, **options)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        raise AssertionError(f"{name} was answered")


def bytes_of(message: Any) -> bytes:
    """A message as bytes; bytes as they are."""
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


def request(
    model: str,
    data: bytes | np.ndarray,
    outputs: Mapping[str, Mapping[str, Any]] | None = None,
    **parameters: Any,
) -> Any:
    """A ModelInferRequest of one encoded image, or of a tensor; its data is raw."""
    message = messages.ModelInferRequest(model_name=model)
    messages.set_parameters(message.parameters, parameters)
    if isinstance(data, bytes):
        message.inputs.add(name="image", datatype="BYTES", shape=[1])
        message.raw_input_contents.append(len(data).to_bytes(4, "little") + data)
    else:
        kind = {"uint8": "UINT8", "float32": "FP32", "float16": "FP16"}[data.dtype.name]
        message.inputs.add(name="pixels", datatype=kind, shape=data.shape)
        message.raw_input_contents.append(data.tobytes())
    for name, own in (outputs or {}).items():
        messages.set_parameters(message.outputs.add(name=name).parameters, own)
    return message


def values(response: Any) -> dict[str, Any]:
    """The outputs of a response by name: arrays, and lists of texts."""
    found: dict[str, Any] = {}
    for number, output in enumerate(response.outputs):
        raw = response.raw_output_contents[number] if response.raw_output_contents else None
        found[output.name] = _values(output, raw)
    return found


def _values(output: Any, raw: bytes | None) -> Any:
    shape = tuple(output.shape)
    if output.datatype == "BYTES":
        return [
            text.decode()
            for text in (output.contents.bytes_contents if raw is None else split(raw))
        ]
    if raw is not None:
        return np.frombuffer(raw, {"FP32": "<f4", "BOOL": "?"}[output.datatype]).reshape(shape)
    field = {"FP32": "fp32_contents", "BOOL": "bool_contents"}[output.datatype]
    return np.array(getattr(output.contents, field)).reshape(shape)


def split(raw: bytes) -> list[bytes]:
    """The elements of raw BYTES."""
    found, start = [], 0
    while start < len(raw):
        end = start + 4 + int.from_bytes(raw[start : start + 4], "little")
        found.append(raw[start + 4 : end])
        start = end
    return found
