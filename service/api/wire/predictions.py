"""Answers about images: POST /predict, and with an explanation POST /explain.

A field that a bundle has no figures for is null; one that was not requested is absent.
"""

from typing import Annotated, NotRequired

from typing_extensions import TypedDict

from service.api.problems import Problem
from service.api.wire.explanations import Explanation
from service.api.wire.fields import Count, Index, Label, Share, Warnings, about
from service.predictions import LIKELY, SET_LABELS


class Model(TypedDict):
    """The model that answers."""

    name: Annotated[str, about("The name of the bundle", "cifar10")]
    version: Annotated[str, about("The first 12 digits of its SHA-256", "595a56a791ec")]


class Class(TypedDict):
    """A class and its calibrated probability."""

    label: Label
    index: Index
    probability: Annotated[Share, about("Its calibrated probability", 0.93)]


class Counted(TypedDict):
    """Held-out images' sets like this one, in bundles that counted them."""

    sets: Annotated[Count, about("The number of these sets", 471)]
    share: Annotated[Share, about("The share of them that held the true class", 0.979)]
    interval: Annotated[list[Share], about("The 95 % interval of the share", [0.961, 0.988])]
    least_size: Annotated[Count, about("They have at least so many classes", 1)]
    most_size: Annotated[Count | None, about("At most so many; null: any number", 1)]
    same_label: Annotated[bool, about("True: those that held this class alone", True)]


class PredictionSet(TypedDict):
    """Classes that may be the true one. Of the sets of all images a share `coverage` holds the true
    class, of large sets fewer; with `by_class`, of those of each class, each class for itself. In a
    multi-label model each class is a member for itself, and a set may be empty.
    """

    labels: Annotated[
        list[str], about(f"The most probable {SET_LABELS} or `top_k`, if there are more", ["ship"])
    ]
    indices: Annotated[list[int], about("The indices of these classes", [8])]
    size: Annotated[Count, about("The number of all classes in the set", 1)]
    coverage: Annotated[Share, about("The promised share", 0.95)]
    by_class: Annotated[bool, about("Whether the promise holds within each class", False)]
    measured: NotRequired[Counted]


class Familiarity(TypedDict):
    """Likeness to the training images: familiar from `threshold` on, which 95 % of the held-out
    images reach, and images of something else may.
    """

    score: Annotated[float, about("The likeness", 0.963)]
    threshold: Annotated[float, about("The least score of a familiar image", 0.955)]
    familiar: Annotated[bool, about("Whether the score reaches the threshold", True)]


class ImageInfo(TypedDict):
    """The image as it was sent."""

    width: Annotated[Count, about("In pixels, as displayed", 320)]
    height: Annotated[Count, about("In pixels, as displayed", 240)]
    format: Annotated[str, about("The format of the file, by its bytes", "JPEG")]


class Nearest(TypedDict):
    """A reference image."""

    index: Annotated[Count, about("Its row among the reference images", 386)]
    label: Label
    name: Annotated[str, about("Its path in the data set", "train/bird/1757.jpg")]
    distance: Annotated[float, about("1 − cosine of the features", 0.036, ge=0, le=2)]
    picture: NotRequired[Annotated[str, about("The path of the image here", "/reference/386")]]


class Seen(Class):
    """The predicted class, or the most probable of several, and how far to trust it."""

    top: Annotated[list[Class], about("The `top_k` most probable classes, the first is predicted")]
    likely: NotRequired[
        Annotated[
            list[Class],
            about(f"Of a multi-label model: the classes with a probability of at least {LIKELY}"),
        ]
    ]
    classes: NotRequired[Annotated[list[Class], about("Those that the request names")]]
    temperature: Annotated[float, about("The divisor of this image's logits", 0.469, gt=0)]
    prediction_set: Annotated[PredictionSet | None, about("null: the bundle has no sets")]
    familiarity: Annotated[Familiarity | None, about("null: the bundle measures none")]
    image: ImageInfo
    nearest: NotRequired[Annotated[list[Nearest], about("The nearest reference images")]]
    explanation: NotRequired[Explanation]


class Prediction(Seen):
    """The prediction of one image among several."""

    timing_ms: Annotated[
        dict[str, float], about("Milliseconds by stage", {"infer": 1.1, "total": 1.4})
    ]


class Answer(Prediction):
    """The answer about one image."""

    model: Model
    warnings: NotRequired[Warnings]


class Failure(TypedDict):
    """An image that cannot be answered."""

    error: Problem


class Answers(TypedDict):
    """The answers about several images."""

    model: Model
    results: Annotated[list[Prediction | Failure], about("In the order of the images")]
    warnings: NotRequired[Warnings]
