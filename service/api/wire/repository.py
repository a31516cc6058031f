"""The models of a service and their rollouts: what is sent and answered below /models."""

from typing import Annotated, Literal, NotRequired

from typing_extensions import TypedDict

from service.api.wire.fields import Count, Warnings, about

Name = Annotated[str, about("The name of a model", "cifar10")]
Version = Annotated[str, about("12 hex digits of the digest of its manifest", "595a56a791ec")]
Mode = Annotated[
    Literal["canary", "shadow"],
    about("A canary answers a share of the requests, a shadow none", "shadow"),
]
Correlation = Annotated[float, about("Of two maps", 0.9, ge=-1, le=1)]
Part = Annotated[float, about("Of requests or images", 0.1, ge=0, le=1)]
LeastLabels = Annotated[float, about("Labels that agree less end it", 0.8, ge=0, le=1)]
LeastMaps = Annotated[float, about("Maps that correlate less end it", 0.5, ge=-1, le=1)]
LeastImages = Annotated[int, about("Images before it may end", 100, ge=1)]


class ModelEntry(TypedDict):
    """A model, its served version, and all versions in its folder."""

    name: Name
    version: Annotated[str, about("The served version; empty if there is none", "595a56a791ec")]
    state: Annotated[
        Literal["READY", "AVAILABLE", "UNAVAILABLE"],
        about("In memory, loaded by the first request, or not served", "READY"),
    ]
    reason: Annotated[str, about("Why it is not served; else empty", "")]
    versions: Annotated[list[str], about("The versions in its folder", ["595a56a791ec"])]


class Models(TypedDict):
    """The models of this service."""

    default: Annotated[str, about("The model of the short paths", "cifar10")]
    models: Annotated[list[ModelEntry], about("The default one first")]


class LoadedModel(TypedDict):
    """A model that was loaded."""

    name: Name
    version: Version


class UnloadedModel(TypedDict):
    """A model that was unloaded."""

    name: Name


class AskedRollout(TypedDict):
    """A new version beside the served one."""

    version: Annotated[str, about("Its name in the folder, or 12 or 64 hex digits", "2")]
    mode: NotRequired[Mode]
    share: NotRequired[Part]
    least_labels: NotRequired[LeastLabels]
    least_maps: NotRequired[LeastMaps]
    least_images: NotRequired[LeastImages]


class StandingRollout(TypedDict):
    """The rollout of a version."""

    version: Version
    mode: Mode
    share: Part
    least_labels: LeastLabels
    least_maps: LeastMaps
    least_images: LeastImages


class BegunRollout(TypedDict):
    """The rollout that has begun."""

    model: Name
    rollout: StandingRollout
    warnings: NotRequired[Warnings]


class Interval(TypedDict):
    """A value with the ends of its 95 % interval."""

    value: Annotated[float, about("The value", 0.93)]
    low: Annotated[float, about("The lower end", 0.88)]
    high: Annotated[float, about("The upper end", 0.96)]


class Confidence(TypedDict):
    """The mean probability of the predicted classes of both versions."""

    served: Annotated[float, about("Of the served version", 0.91, ge=0, le=1)]
    candidate: Annotated[float, about("Of the other version", 0.9, ge=0, le=1)]


class Comparison(TypedDict):
    """How a version compares with the served one, over images of callers."""

    model: Name
    served: Version
    version: Version
    rollout: Annotated[StandingRollout | None, about("The rollout, while it goes on")]
    ended: Annotated[str | None, about("Why its rollout has ended", "")]
    images: Annotated[Count, about("Images compared", 400)]
    label_agreement: Annotated[Interval | None, about("The same label")]
    set_agreement: Annotated[Interval | None, about("The same prediction set")]
    map_correlation: Annotated[Interval | None, about("Of their Grad-CAMs")]
    mean_confidence: Annotated[Confidence | None, about("Mean probabilities")]


class EndedRollout(TypedDict):
    """The version that is served from now on."""

    model: Name
    version: Version
    warnings: NotRequired[Warnings]
