"""Requests and answers of KServe's protocols: V2, the Open Inference Protocol, and V1."""

from typing import Annotated, Any, Literal, NotRequired

from typing_extensions import TypedDict

from service.api.payload import MAX_IMAGES
from service.api.wire.bodies import IMAGE, Text
from service.api.wire.explanations import Explanation
from service.api.wire.fields import Count, Warnings, about
from service.api.wire.predictions import Prediction

Scalars = Annotated[
    dict[str, str | float | bool], about("Parameters by name", {"method": "grad_cam"})
]
InputDatatype = Annotated[
    Literal[
        "BYTES",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
    ],
    about("The type of its values", "BYTES"),
]
Datatype = Annotated[
    Literal["BYTES", "BOOL", "FP32", "UINT8"], about("The type of its values", "FP32")
]
Name = Annotated[str, about("The name of the model", "cifar10")]
Version = Annotated[str, about("Its version", "595a56a791ec")]


class ProtocolError(TypedDict):
    """An error of KServe's protocols."""

    error: Annotated[str, about("The cause, the value, the limit and the remedy", "no such model")]


class Server(TypedDict):
    """The server."""

    name: Annotated[str, about("Always candor", "candor")]
    version: Annotated[str, about("Its release", "0.2.0")]
    extensions: Annotated[list[str], about("Triton's extensions here", ["classification"])]


class Live(TypedDict):
    """Liveness of the server."""

    live: Annotated[bool, about("Always true", True)]


class Ready(TypedDict):
    """Readiness of the server."""

    ready: Annotated[bool, about("True: it accepts requests", True)]


class ModelReady(TypedDict):
    """Readiness of a model."""

    name: Name
    ready: Annotated[
        bool, about("Always true: the model is loaded before the server listens", True)
    ]


class VersionStatus(TypedDict):
    """The state of a version, in TensorFlow Serving's words."""

    version: Annotated[str, about("Always 1", "1")]
    state: Annotated[str, about("Always AVAILABLE", "AVAILABLE")]
    status: Annotated[dict[str, str], about("Without an error", {"error_code": "OK"})]


class ModelStatus(ModelReady):
    """Readiness of a model, in KServe's and TensorFlow Serving's words."""

    model_version_status: Annotated[list[VersionStatus], about("Of the one version")]


class Signatures(TypedDict):
    """The signature of a model (TensorFlow Serving)."""

    model_spec: Annotated[dict[str, str], about("The model", {"name": "cifar10"})]
    metadata: Annotated[
        dict[str, Any], about("Its inputs and outputs", {"signature_def": {"signature_def": {}}})
    ]


class TensorInfo(TypedDict):
    """A tensor as the metadata describe it."""

    name: Annotated[str, about("Its name", "probabilities")]
    datatype: Datatype
    shape: Annotated[list[int], about("Its lengths; -1: any", [-1, 10])]


class ModelMetadata(TypedDict):
    """The tensors of a model."""

    name: Name
    versions: Annotated[list[str], about("The version that is served", ["595a56a791ec"])]
    platform: Annotated[str, about("The platform", "onnx_onnxv1")]
    inputs: Annotated[list[TensorInfo], about("What a request must have")]
    outputs: Annotated[list[TensorInfo], about("What it may ask for")]


class ConfiguredTensor(TypedDict):
    """A tensor in Triton's words."""

    name: Annotated[str, about("Its name", "image")]
    data_type: Annotated[str, about("Its datatype", "TYPE_STRING")]
    dims: Annotated[list[int], about("Its lengths without that of the batch; -1: any", [1])]
    format: NotRequired[Annotated[str, about("Of an input: its layout", "FORMAT_NONE")]]


class ModelConfiguration(TypedDict):
    """The configuration of a model (Triton's extension)."""

    name: Name
    platform: Annotated[str, about("The platform", "onnxruntime_onnx")]
    backend: Annotated[str, about("The backend", "onnxruntime")]
    max_batch_size: Annotated[Count, about("The most images in a request", 64)]
    input: Annotated[list[ConfiguredTensor], about("Its inputs")]
    output: Annotated[list[ConfiguredTensor], about("Its outputs")]


class IndexEntry(TypedDict):
    """A model that is served."""

    name: Name
    version: Version
    state: Annotated[str, about("READY or UNAVAILABLE", "READY")]
    reason: Annotated[str, about("Why it is not served; else empty", "")]


class Duration(TypedDict):
    """A count and a sum of times."""

    count: Annotated[Count, about("How many", 12)]
    ns: Annotated[Count, about("Nanoseconds, summed", 3_454_181)]


class ModelStatistics(TypedDict):
    """What a model inferred."""

    name: Name
    version: Version
    last_inference: Annotated[int, about("Always 0: it is not kept", 0)]
    inference_count: Annotated[Count, about("Images", 12)]
    execution_count: Annotated[Count, about("Batches", 5)]
    inference_stats: Annotated[dict[str, Duration], about("By stage, and by outcome")]
    batch_stats: Annotated[list[dict[str, Any]], about("Always empty", [])]


class Statistics(TypedDict):
    """What was inferred."""

    model_stats: Annotated[list[ModelStatistics], about("By model")]


class Tensor(TypedDict):
    """A tensor: its data in JSON, or binary behind the JSON."""

    name: Annotated[str, about("Its name", "label")]
    shape: Annotated[list[Count], about("Its lengths", [1], min_length=1)]
    datatype: Datatype
    parameters: NotRequired[Scalars]
    data: NotRequired[
        Annotated[list[Any], about("Its values, row by row, flat or nested", ["ship"])]
    ]


class InputParameters(TypedDict, total=False):
    """Where the data of an input are, and how they are written."""

    binary_data_size: Annotated[Count, about("The bytes of the input behind the JSON", 1_024)]
    content_type: Annotated[
        Literal["base64"], about("How BYTES are written in JSON: always base64", "base64")
    ]


class InputTensor(TypedDict):
    """BYTES (N,) of encoded images, or numbers (N, H, W, 3) or (N, 3, H, W)."""

    name: Annotated[str, about("Any name", "image")]
    shape: Annotated[list[Count], about("Its lengths", [1], min_length=1)]
    datatype: InputDatatype
    parameters: NotRequired[InputParameters]
    data: NotRequired[
        Annotated[list[Any], about("Images in base64, or numbers, flat or nested", [IMAGE])]
    ]


class OutputName(TypedDict):
    """A requested output."""

    name: Annotated[str, about("The output", "label")]
    parameters: NotRequired[Scalars]


class InferRequest(TypedDict):
    """One tensor: BYTES (N,) of encoded images, or numbers (N, H, W, 3) or (N, 3, H, W)."""

    inputs: Annotated[list[InputTensor], about("One tensor", min_length=1, max_length=1)]
    id: NotRequired[Annotated[str, about("Comes back in the answer", "seven")]]
    parameters: NotRequired[Scalars]
    outputs: NotRequired[Annotated[list[OutputName], about("The outputs to compute")]]


class InferAnswer(TypedDict):
    """The requested tensors."""

    model_name: Name
    model_version: Version
    outputs: Annotated[list[Tensor], about("In the order of the request")]
    id: NotRequired[Annotated[str, about("That of the request", "seven")]]
    parameters: NotRequired[Scalars]


class ModelNames(TypedDict):
    """The names of the models."""

    models: Annotated[list[str], about("The models that are served", ["cifar10"])]


class EncodedImage(TypedDict):
    """An image as TensorFlow Serving writes one."""

    b64: Text


class NamedImage(TypedDict):
    """An image as KServe's samples write one."""

    image_bytes: EncodedImage


class Instances(TypedDict):
    """Images; further fields are the parameters of the native API."""

    instances: Annotated[
        list[EncodedImage | NamedImage | Text],
        about("Images", [{"b64": IMAGE}], min_length=1, max_length=MAX_IMAGES),
    ]


class Examples(TypedDict):
    """Images to classify; further fields are the parameters of the native API."""

    examples: Annotated[
        list[EncodedImage | NamedImage | Text],
        about("Images", [{"b64": IMAGE}], min_length=1, max_length=MAX_IMAGES),
    ]


class Classified(TypedDict):
    """The classes of each image, most probable first."""

    results: Annotated[
        list[list[list[str | float]]], about("Labels with probabilities", [[["ship", 0.8]]])
    ]
    warnings: NotRequired[Warnings]


class Predictions(TypedDict):
    """The predictions."""

    predictions: Annotated[list[Prediction], about("In the order of the instances")]
    warnings: NotRequired[Warnings]


class Explanations(Predictions):
    """The predictions and their explanations."""

    explanations: Annotated[list[Explanation], about("In the order of the instances")]
