"""Messages of inferences as requests and answers of the protocol, which both transports share.

A tensor's data is raw bytes beside the tensors, as in HTTP's binary data, or typed `contents`. Each
element of BYTES is an image file itself, never base64. An answer has the form of its request.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.api.grpc import messages
from service.api.kserve import tensors
from service.api.kserve.tensors import InferenceRequest, Output
from service.errors import MalformedRequest, short
from service.image.resize import Input

# The field of `contents` that has the elements of a datatype.
_SMALL, _UNSIGNED = "int_contents", "uint_contents"
FIELDS = {
    "BOOL": "bool_contents",
    "INT8": _SMALL, "INT16": _SMALL, "INT32": _SMALL, "INT64": "int64_contents",
    "UINT8": _UNSIGNED, "UINT16": _UNSIGNED, "UINT32": _UNSIGNED, "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}  # fmt: skip


def read(message: Any, spec: Input, max_pixels: int) -> InferenceRequest:
    """Reads a ModelInferRequest.

    Raises:
        RequestError: as `service.api.kserve.tensors.read`.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise MalformedRequest(
            f"raw_input_contents has {len(raw):,} elements for {len(message.inputs):,} inputs: "
            "give one for each"
        )
    document = {
        "id": message.id or None,
        # Typed contents are answered by typed contents.
        "parameters": {"binary_data_output": bool(raw)} | _parameters(message),
        "inputs": [_tensor(tensor, raw) for tensor in message.inputs],
        "outputs": [
            {"name": output.name, "parameters": _parameters(output)} for output in message.outputs
        ],
    }
    return tensors.parsed(document, memoryview(raw[0] if raw else b""), spec, max_pixels)


def write(head: Mapping[str, Any], outputs: Sequence[Output]) -> Any:
    """The ModelInferResponse of a `head` and its outputs; raw if one of them is."""
    message = messages.ModelInferResponse(
        model_name=head["model_name"], model_version=head["model_version"], id=head.get("id", "")
    )
    messages.set_parameters(message.parameters, head.get("parameters", {}))
    # The protocol knows no answer that is raw in part.
    raw = any(output.request.binary for output in outputs)
    for output in outputs:
        kind, shape, content = tensors.laid_out(output.values, output.columns)
        tensor = message.outputs.add(name=output.request.name, datatype=kind, shape=shape)
        if output.parameters:
            messages.set_parameters(tensor.parameters, output.parameters)
        if raw:
            message.raw_output_contents.append(content)
        else:
            getattr(tensor.contents, FIELDS[kind]).extend(_elements(output))
    return message


def _parameters(owner: Any) -> dict[str, Any]:
    if not owner.parameters:
        return {}
    return {name: messages.value_of(value) for name, value in owner.parameters.items()}


def _tensor(tensor: Any, raw: Sequence[bytes]) -> dict[str, Any]:
    """A tensor as HTTP's JSON describes it."""
    given = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    parameters = _parameters(tensor)
    parameters.pop("binary_data_size", None)  # HTTP's, which some clients send along
    has_contents = tensor.HasField("contents")
    if raw and has_contents:
        raise MalformedRequest(
            f"the input {short(tensor.name)} has contents, and raw_input_contents are given, too: "
            "give one of them"
        )
    if raw:
        return given | {"parameters": parameters | {"binary_data_size": len(raw[0])}}
    field = FIELDS.get(tensor.datatype)
    if field is None or not has_contents:
        needs = "raw_input_contents" if field is None else f"contents.{field} or raw_input_contents"
        raise MalformedRequest(
            f"the input {short(tensor.name)} of datatype {short(tensor.datatype)} has no data: "
            f"give {needs}"
        )
    return given | {"parameters": parameters, "data": list(getattr(tensor.contents, field))}


def _elements(output: Output) -> Any:
    if isinstance(output.values, np.ndarray):
        return output.values.ravel().tolist()
    return [text.encode() for text in output.values]
