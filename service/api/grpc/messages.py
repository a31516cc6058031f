"""The messages of inference.proto, as protobuf makes classes of their descriptors.

`inference.binpb` is what protoc makes of that file (tests/service/api/grpc/test_messages.py has the
command, and holds them together). Descriptors work with every version of protobuf's runtime;
generated Python needs one that fits the compiler's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from service.api.grpc import SERVICE

PROTO = Path(__file__).with_name("inference.proto")
DESCRIPTORS = PROTO.with_suffix(".binpb")
PARAMETER_FIELDS = {bool: "bool_param", int: "int64_param", float: "double_param"}


def _load() -> Mapping[str, Any]:
    """The classes of all messages, by name."""
    pool = descriptor_pool.Default()
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file
    for file in files:
        pool.Add(file)
    names = [file.name for file in files]
    classes = message_factory.GetMessageClassesForFiles(names, pool)
    return {name.partition(".")[2]: found for name, found in classes.items()}


_CLASSES = _load()
METHODS = tuple(
    method.name for method in descriptor_pool.Default().FindServiceByName(SERVICE).methods
)
ModelInferRequest = _CLASSES["ModelInferRequest"]
ModelInferResponse = _CLASSES["ModelInferResponse"]
ModelStreamInferResponse = _CLASSES["ModelStreamInferResponse"]


def request_of(method: str) -> Any:
    """The class of the requests of a method."""
    return _CLASSES[f"{method}Request"]


def response_of(method: str) -> Any:
    """The class of the responses of a method."""
    return _CLASSES[f"{method}Response"]


def value_of(parameter: Any) -> Any:
    """The value of an InferParameter; None if it has none."""
    choice = parameter.WhichOneof("parameter_choice")
    return None if choice is None else getattr(parameter, choice)


def set_parameters(target: Any, parameters: Mapping[str, Any]) -> None:
    """Fills a map of InferParameter with texts, numbers and booleans."""
    for name, value in parameters.items():
        setattr(target[name], PARAMETER_FIELDS.get(type(value), "string_param"), value)
