"""Does the model serve some images worse than others? Gaps between classes, and between slices of the test images by what they look like.

A slice is a third of the images by one property: the darkest, the middle, the brightest. Which images are dark depends on the class,
and some classes are harder; so what is compared is whether an image is right less the accuracy of its class. Whether a slice differs is a
permutation test, outcomes shuffled within each class, over all slices at once: the p-value is the share of shuffles in which any slice differs
as much, which corrects for having looked at many (Westfall and Young, 1993).

`right` bool (N,), `labels` int64 (N,), pixels uint8 (N, S, S, 3).
"""

import colorsys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from fairlearn.metrics import MetricFrame
from jaxtyping import Bool, Float64, Int64, UInt8
from scipy import ndimage
from sklearn.metrics import accuracy_score

from service.bundle.manifest import Manifest
from training.audit.measures.accuracy import interval

SHUFFLES = 500
THIRDS = ("low", "middle", "high")
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta", "none")
GREY = 0.12  # of saturation, below which an image has no dominant colour

Pixels = UInt8[np.ndarray, "rows size size 3"]
Property = Callable[[Pixels], Float64[np.ndarray, " rows"]]
Labels = Int64[np.ndarray, " rows"]


def slices(
    pixels: Pixels, predicted: Labels, labels: Labels, manifest: Manifest, seed: int
) -> Mapping[str, Any]:
    """Of classes and slices: accuracy with its interval; of slices the excess over what their classes let expect, with its p-value."""
    right = predicted == labels
    names = np.asarray(manifest.labels)[labels]
    classes = MetricFrame(
        metrics=accuracy_score, y_true=labels, y_pred=predicted, sensitive_features=names
    )
    groups = {name: grouped(name, pixels) for name in (*PROPERTIES, "dominant_colour")}
    excess = (
        right
        - np.array([right[labels == label].mean() for label in range(len(manifest.labels))])[labels]
    )
    return {
        "classes": {
            "accuracy": {str(key): float(value) for key, value in classes.by_group.items()},
            "gap": float(classes.difference()),
        },
        "slices": _told(groups, right, excess, labels, predicted, seed),
    }


def grouped(name: str, pixels: Pixels) -> np.ndarray:
    """The name of the slice of each image, by one property."""
    if name == "dominant_colour":
        return _hue_names(pixels)
    values = PROPERTIES[name](pixels)
    return np.asarray(THIRDS)[np.digitize(values, np.quantile(values, (1 / 3, 2 / 3)))]


def _told(
    groups: Mapping[str, np.ndarray],
    right: Bool[np.ndarray, " rows"],
    excess: np.ndarray,
    labels: Labels,
    predicted: Labels,
    seed: int,
) -> list[dict[str, Any]]:
    members = {
        (name, value): group == value
        for name, group in groups.items()
        for value in np.unique(group).tolist()
    }
    p_values = _p_values(np.stack(list(members.values())), excess, labels, seed)
    frames = {
        name: MetricFrame(
            metrics=accuracy_score, y_true=labels, y_pred=predicted, sensitive_features=group
        ).by_group
        for name, group in groups.items()
    }
    return [
        {
            "property": name,
            "slice": value,
            "pictures": int(inside.sum()),
            "accuracy": float(frames[name][value]),
            "accuracy_interval": _interval_of(right[inside], seed),
            "excess": float(excess[inside].mean()),
            "p_value": p_value,
        }
        for ((name, value), inside), p_value in zip(members.items(), p_values, strict=True)
    ]


def _p_values(
    members: Bool[np.ndarray, "slices rows"], excess: np.ndarray, labels: Labels, seed: int
) -> list[float]:
    """By the largest of all slices' standardised excesses in shuffles within each class."""
    rng, weights = (
        np.random.default_rng(seed),
        members / np.sqrt(np.maximum(members.sum(1, keepdims=True), 1)),
    )
    found = np.abs(weights @ excess)
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    largest = np.empty(SHUFFLES)
    for shuffle in range(SHUFFLES):
        mixed = excess.copy()
        for place in places:
            mixed[place] = excess[rng.permutation(place)]
        largest[shuffle] = np.abs(weights @ mixed).max()
    return [float((1 + (largest >= value).sum()) / (1 + SHUFFLES)) for value in found]


def _brightness(pixels: Pixels) -> Float64[np.ndarray, " rows"]:
    return np.asarray(pixels.mean((1, 2, 3)) / 255)


def _contrast(pixels: Pixels) -> Float64[np.ndarray, " rows"]:
    return np.asarray(pixels.mean(-1).std((1, 2)) / 255)


def _saturation(pixels: Pixels) -> Float64[np.ndarray, " rows"]:
    return np.asarray(
        ((pixels.max(-1) - pixels.min(-1)) / np.maximum(pixels.max(-1), 1)).mean((1, 2))
    )


def _sharpness(pixels: Pixels) -> Float64[np.ndarray, " rows"]:
    return np.array([np.abs(ndimage.laplace(image.mean(-1))).mean() for image in pixels]) / 255


def _uniformity(pixels: Pixels) -> Float64[np.ndarray, " rows"]:
    """Of the border, an eighth of a side wide: 1 where it has one colour."""
    edge = max(1, pixels.shape[1] // 8)
    inside = np.zeros(pixels.shape[1:3], bool)
    inside[edge:-edge, edge:-edge] = True
    return np.asarray(1 - pixels[:, ~inside].std(1).mean(-1) / 255)


def _hue_names(pixels: Pixels) -> np.ndarray:
    means = pixels.mean((1, 2)) / 255
    told = [colorsys.rgb_to_hsv(*mean) for mean in means]
    return np.array(
        [HUES[-1] if saturation < GREY else HUES[round(hue * 6) % 6] for hue, saturation, _ in told]
    )


PROPERTIES: Mapping[str, Property] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "sharpness": _sharpness,
    "background_uniformity": _uniformity,
}


def _interval_of(right: Bool[np.ndarray, " inside"], seed: int) -> Any:
    return interval(lambda rows: right[rows].mean(), len(right), seed)
