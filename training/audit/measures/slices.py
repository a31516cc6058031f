"""Slices: gaps of accuracy between classes, and between groups of similar test images.

A slice is a third of the images by one property: the darkest, the middle, the brightest. Which
images are dark depends on the class, and some classes are harder. The *excess* of an image
therefore is 1 or 0, for correct or not, minus the accuracy of its class. A permutation test judges
the mean excess of all slices at once, with excesses shuffled within each class. The p-value is the
share of shuffles in which any slice differs as much, which corrects for the number of slices
(Westfall and Young, 1993).

`correct` bool (N,), `labels` int64 (N,), pixels uint8 (N, H, W, 3).
"""

import colorsys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from fairlearn.metrics import MetricFrame
from jaxtyping import Bool, Float64
from scipy import ndimage
from sklearn.metrics import accuracy_score

from service.bundle.manifest import Manifest
from training.data import ClassIndices, Pixels
from training.data.images import Images
from training.figures.intervals import bootstrap, wilson

PART = 128  # images that are measured together: in float64 they take eight times the memory
SHUFFLES = 500
DOMINANT = "dominant_colour"
THIRDS = ("low", "middle", "high")
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta", "none")
GREY = 0.12  # saturation below which an image has no dominant colour

Property = Callable[[Pixels], Float64[np.ndarray, " rows"]]


def slices(
    images: Images, predicted: ClassIndices, manifest: Manifest, seed: int
) -> Mapping[str, Any]:
    """The accuracy of each class, and accuracy, excess and p-value of each slice."""
    labels = images.labels
    correct = predicted == labels
    names = np.asarray(manifest.labels)[labels]
    classes = MetricFrame(
        metrics=accuracy_score, y_true=labels, y_pred=predicted, sensitive_features=names
    )
    count = np.bincount(labels, minlength=len(manifest.labels))
    of_class = np.bincount(labels, correct, len(count)) / np.maximum(count, 1)
    return {
        "classes": {
            "accuracy": {str(key): float(value) for key, value in classes.by_group.items()},
            "gap": float(classes.difference()),
            "gap_interval": bootstrap(
                lambda rows: _gap(correct[rows], labels[rows]), len(labels), seed
            ),
        },
        "slices": _slice_figures(
            grouped(images), correct, correct - of_class[labels], labels, seed
        ),
    }


def _gap(correct: Bool[np.ndarray, " rows"], labels: ClassIndices) -> float:
    """The accuracy of the best class minus that of the worst."""
    count = np.bincount(labels)
    accuracy = np.bincount(labels, correct)[count > 0] / count[count > 0]
    return float(accuracy.max() - accuracy.min())


def grouped(images: Images) -> dict[str, np.ndarray]:
    """The name of each image's slice, by property."""
    properties = {**PROPERTIES, DOMINANT: _hue_names}
    parts = [
        {name: measure(part) for name, measure in properties.items()} for part in images.parts(PART)
    ]
    measured = {name: np.concatenate([part[name] for part in parts]) for name in properties}
    return {
        name: values if name == DOMINANT else _thirds(values) for name, values in measured.items()
    }


def _thirds(values: Float64[np.ndarray, " rows"]) -> np.ndarray:
    places = np.digitize(values, np.quantile(values, (1 / 3, 2 / 3)))
    return np.asarray(np.asarray(THIRDS)[places])


def _slice_figures(
    groups: Mapping[str, np.ndarray],
    correct: Bool[np.ndarray, " rows"],
    excess: Float64[np.ndarray, " rows"],
    labels: ClassIndices,
    seed: int,
) -> list[dict[str, Any]]:
    members = {
        (name, value): group == value
        for name, group in groups.items()
        for value in np.unique(group).tolist()
    }
    p_values = _p_values(np.stack(list(members.values())), excess, labels, seed)
    return [
        {
            "property": name,
            "slice": value,
            "pictures": int(inside.sum()),
            "accuracy": float(correct[inside].mean()),
            "accuracy_interval": wilson(int(correct[inside].sum()), int(inside.sum())),
            "excess": float(excess[inside].mean()),
            "p_value": p_value,
        }
        for ((name, value), inside), p_value in zip(members.items(), p_values, strict=True)
    ]


def _p_values(
    members: Bool[np.ndarray, "slices rows"],
    excess: Float64[np.ndarray, " rows"],
    labels: ClassIndices,
    seed: int,
) -> list[float]:
    """The p-value of each slice, by the largest standardised excess of any slice in a shuffle."""
    rng = np.random.default_rng(seed)
    # a sum over n images varies by √n: slices of different sizes compare
    weights = members / np.sqrt(np.maximum(members.sum(1, keepdims=True), 1))
    measured = np.abs(weights @ excess)
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    largest = np.empty(SHUFFLES)
    for shuffle in range(SHUFFLES):
        mixed = excess.copy()
        for place in places:
            mixed[place] = excess[rng.permutation(place)]
        largest[shuffle] = np.abs(weights @ mixed).max()
    # the measured order is one of the possible shuffles: no p-value is 0
    return [float((1 + (largest >= value).sum()) / (1 + SHUFFLES)) for value in measured]


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
    """The uniformity of the border, an eighth of a side wide: 1 where it has one colour."""
    edge = max(1, min(pixels.shape[1:3]) // 8)
    inside = np.zeros(pixels.shape[1:3], bool)
    inside[edge:-edge, edge:-edge] = True
    return np.asarray(1 - pixels[:, ~inside].std(1).mean(-1) / 255)


def _hue_names(pixels: Pixels) -> np.ndarray:
    means = pixels.mean((1, 2)) / 255
    colours = [colorsys.rgb_to_hsv(*mean) for mean in means]
    return np.array(
        [
            HUES[-1] if saturation < GREY else HUES[round(hue * 6) % 6]
            for hue, saturation, _ in colours
        ]
    )


PROPERTIES: Mapping[str, Property] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "sharpness": _sharpness,
    "background_uniformity": _uniformity,
}
