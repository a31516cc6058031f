"""Explanations in answers: the question, the map and its quality."""

from typing import Annotated, Any, Literal, NotRequired

from typing_extensions import TypedDict

from service.api.wire.fields import Base64, Count, Index, Label, about
from service.explain.encoding import Encoding
from service.explain.faithfulness import Unit
from service.explain.policy import Reason
from service.settings import Runtime


class Target(TypedDict):
    """A class."""

    label: Label
    index: Index


class Values(TypedDict, total=False):
    """The values of a map, coded."""

    encoding: Annotated[Encoding, about("The coding of `data`", "base64")]
    range: Annotated[
        list[float],
        about("Of png16: the values of the darkest and the lightest grey", [-0.2, 0.45]),
    ]
    cells: Annotated[list[int], about("Of cells: how many, down and across", [4, 4])]
    data: Annotated[
        Base64,
        about(
            "The values: base64 of float32, little-endian, row by row", "AAAAPwAAAL8AAIA+AAAAAA=="
        ),
    ]


class AttributionMap(Values):
    """The map: positive values are evidence for the target."""

    shape: Annotated[list[int], about("Height and width of the network's input", [32, 32])]
    dtype: Annotated[Literal["float32"], about("The type of the values", "float32")]
    sign: Annotated[
        Literal["signed", "positive"], about("Whether there are negative values", "signed")
    ]
    unit: Annotated[str, about("The unit of the values", "logit")]
    scale: Annotated[float, about("The largest absolute value", 0.45)]
    colours: Annotated[
        Literal["diverging", "sequential"], about("The colours of the overlay", "diverging")
    ]
    limit: Annotated[float, about("The value of the strongest colour; 0 if nothing is drawn", 0.42)]
    cell: Annotated[
        Count,
        about("The side, in pixels, of the cells whose means are drawn; 1: each pixel is drawn", 1),
    ]


class Origin(TypedDict):
    """What computes a map."""

    graph: Annotated[str, about("The file of the bundle", "predict.onnx")]
    engine: Annotated[Runtime, about("The runtime", "onnxruntime")]
    precision: Annotated[str, about("Its precision: float32, bfloat16, float16 or int8", "float32")]


class Explanation(TypedDict):
    """The evidence of each pixel for the target."""

    reason: NotRequired[
        Annotated[Reason, about("Why it came along: asked for, or a condition of `when`", "asked")]
    ]
    method: Annotated[str, about("The method, by its name in GET /methods", "grad_cam")]
    target: Target
    against: Annotated[Target | None, about("The class that the target is contrasted with")]
    parameters: Annotated[
        dict[str, Any], about("The method's parameters, all of them", {"layer": "last"})
    ]
    degraded_from: Annotated[
        dict[str, Any] | None,
        about("The request, if time allowed only a cheaper method", {"method": "rise"}),
    ]
    map: AttributionMap
    computed_by: Origin
    quality: Annotated[
        dict[str, float],
        about(
            "Measures of the map's quality, by name; docs/explanations.md defines them",
            {"class_cosine": 0.31},
        ),
    ]
    areas_unit: Annotated[
        Unit | None, about("Of deletion and insertion, where measured", "probability")
    ]
    warnings: Annotated[
        list[str],
        about(
            "What makes the map unfit for use, by its measures",
            ["with another seed the map would be another (cosine 0.37), so it is mostly error"],
        ),
    ]
    overlay: NotRequired[
        Annotated[
            str,
            about(
                "The map over the image, a file of `overlay_format` as a data URL",
                "data:image/png;base64,iVBORw0K…",
            ),
        ]
    ]
