"""Documents about the model: GET /model and GET /methods."""

from typing import Annotated, NotRequired

from pydantic import WithJsonSchema
from typing_extensions import TypedDict

from service.api.wire.explanations import Origin
from service.api.wire.fields import Count, about
from service.bundle.calibration import Head
from service.settings import Runtime

Texts = dict[str, str]  # by language


class Device(TypedDict):
    """The device that computes."""

    name: Annotated[str, about("Its kind", "cpu")]
    provider: Annotated[
        str, about("ONNX Runtime's name of it, or OpenVINO", "CPUExecutionProvider")
    ]
    engine: Annotated[Runtime, about("The runtime", "onnxruntime")]
    precision: Annotated[str, about("The precision of predictions", "float32")]
    gradient: NotRequired[Origin]
    speed_ratio: NotRequired[
        Annotated[
            dict[str, float],
            about("Times as fast as ONNX Runtime in float32, if measured", {"predictions": 2.1}),
        ]
    ]
    cosines: NotRequired[
        Annotated[
            dict[str, float],
            about("With answers of ONNX Runtime in float32, if measured", {"logits": 0.9999}),
        ]
    ]
    in_float32: NotRequired[
        Annotated[list[str], about("Graphs that bfloat16 is not proven for", ["gradient.onnx"])]
    ]


class Input(TypedDict):
    """The network's input, and the way of an image to it."""

    size: Annotated[
        int | list[int],
        # Generators of Java write no class for a choice of a number and a list.
        WithJsonSchema({"type": ["integer", "array"], "items": {"type": "integer"}}),
        about("Its side, or height and width, in pixels", 32),
    ]
    mean: Annotated[list[float], about("Of red, green, blue, of 0…1", [0.49, 0.48, 0.45])]
    std: Annotated[list[float], about("Of red, green, blue, of 0…1", [0.25, 0.24, 0.26])]
    resize: Annotated[str, about("The rule by which an image is fitted", "crop")]
    short_side: Annotated[int | None, about("To which an image is scaled first, in pixels", 32)]
    colour: NotRequired[Annotated[str, about("srgb: colour profiles are applied", "srgb")]]


class Sample(TypedDict):
    """An image to try."""

    file: Annotated[str, about("Its file in the bundle", "ship.webp")]
    title: Annotated[Texts, about("By language", {"en": "A ship"})]
    attribution: Annotated[str, about("Its author and licence", "Drawn for Candor")]


class PublicManifest(TypedDict):
    """The public manifest of the model; docs/training.md describes its other fields."""

    name: Annotated[str, about("The name of the bundle", "cifar10")]
    version: Annotated[str, about("The first 12 digits of its SHA-256", "595a56a791ec")]
    labels: Annotated[list[str], about("The classes, in the order of their indices", ["ship"])]
    input: Input
    head: Annotated[Head, about("sigmoid: an image may have several classes", "softmax")]
    methods: Annotated[list[str], about("The methods that explain it", ["grad_cam"])]
    device: Device
    title: NotRequired[Annotated[Texts, about("For the page, by language", {"en": "Ten kinds"})]]
    description: NotRequired[Annotated[Texts, about("For the page, by language", {"en": "…"})]]
    samples: NotRequired[Annotated[list[Sample], about("Images to try")]]


Says = Annotated[
    str,
    about(
        "The former name of `description`; the next release leaves it out",
        "points on the path",
        deprecated=True,
    ),
]


class MethodParameter(TypedDict):
    """A parameter of a method: a number, or one of `choices`."""

    name: Annotated[str, about("Its name in requests", "steps")]
    default: Annotated[int | float | str, about("Its value if none is given, here", 32)]
    description: Annotated[str, about("Its meaning", "points on the path")]
    says: Says
    minimum: NotRequired[Annotated[float, about("The least number", 1)]]
    maximum: NotRequired[Annotated[float, about("The largest number", 512)]]
    choices: NotRequired[Annotated[list[str], about("All values", ["mean", "black"])]]


class MethodEntry(TypedDict):
    """A method."""

    name: Annotated[str, about("Its name in requests", "integrated_gradients")]
    title: Annotated[str, about("Its name in print", "Integrated Gradients")]
    description: Annotated[str, about("What its maps show", "contribution of each pixel")]
    says: Says
    source: Annotated[str, about("The paper", "Sundararajan et al. 2017, arXiv 1703.01365")]
    sign: Annotated[str, about("signed, or positive", "signed")]
    unit: Annotated[str, about("The unit of its values", "logit")]
    forward_passes: Annotated[Count, about("Its cost with these defaults", 102)]
    seconds: Annotated[float, about("With these defaults, on this machine while idle", 0.14)]
    parameters: Annotated[list[MethodParameter], about("Its parameters")]
    mask: Annotated[bool, about("Whether it takes the segments of a mask", False)]


class Methods(TypedDict):
    """The methods that explain this model."""

    methods: Annotated[list[MethodEntry], about("Those that the bundle has the graphs for")]
