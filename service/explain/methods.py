"""The registry: every method with its parameters, what its map means, what it costs and where it comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from service.bundle import folder
from service.bundle.manifest import Manifest
from service.explain import cam, gradients, perturbation
from service.explain.baselines import BASELINES, Fitted
from service.explain.colours import Scale
from service.explain.gradients import Explained
from service.explain.perturbation import Perturbed
from service.explain.quality import completeness_gap, cosine
from service.explain.segments import cells
from service.explain.target import Target
from service.runtime.engine import Engine
from service.runtime.graphs import Rows

Sign = Literal["signed", "positive"]
Map = Float32[np.ndarray, "size size"]
LOGIT, SLOPE, DROP = "logit", "logit per standard deviation of a pixel", "logit per segment"
ENOUGH = 0.05  # the completeness gap above which Integrated Gradients doubles its steps
GRADIENT_PASSES = 3  # a forward and a backward pass cost about three forward ones


@dataclass(frozen=True)
class Parameter:
    """What may be chosen: a number from `low` to `high`, whole where `default` is, or one of `choices`."""

    name: str
    default: int | float | str
    description: str
    low: int | float = 0
    high: int | float = 0
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A `map` float32 (S, S), and the `quality` measures that came with it for free."""

    map: Map
    quality: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """One way to explain. `graph` is what the bundle must hold; `passes` tells the cost in forward passes, from the parameters.

    `compute(engine, pixels, target, rival, **parameters)` answers for one fitted image uint8 (S, S, 3); `rival` is another class whose
    map comes for free where the method perturbs.
    """

    name: str
    title: str
    description: str
    source: str
    graph: str
    sign: Sign
    unit: str
    scale: Scale
    compute: Callable[..., Answer]
    passes: Callable[[Mapping[str, Any]], int]
    parameters: tuple[Parameter, ...] = ()

    @property
    def takes_mask(self) -> bool:
        """Whether it cuts the image into segments, which a caller may draw."""
        return SEGMENTS in self.parameters


STEPS = Parameter("steps", 32, "points on the way from the baseline to the image", 1, 512)
MAX_STEPS = Parameter(
    "max_steps", 128, "how far the steps are doubled while the completeness gap exceeds 5 %", 1, 512
)
SAMPLES = Parameter("samples", 16, "noisy copies of the image", 1, 512)
NOISE = Parameter(
    "noise", 0.15, "standard deviation of the noise, as a share of the image's range", 0.0, 1.0
)
SEED = Parameter(
    "seed", 0, "of the random numbers: the same seed gives the same bytes", 0, 2**32 - 1
)
BASELINE = Parameter(
    "baseline",
    "mean",
    "what stands for nothing to see; mean is the mean colour of the training images",
    choices=BASELINES,
)
SEGMENTS = Parameter(
    "segments",
    8,
    "cells a side of the grid that cuts the image; a mask sent with it takes their place",
    2,
    32,
)
WINDOW = Parameter(
    "window", 0.375, "side of the covering window, as a share of the image's side", 0.05, 1.0
)
STRIDE = Parameter("stride", 0.125, "step of the window, as a share of the image's side", 0.05, 1.0)
CELLS = Parameter("cells", 7, "cells a side of the coarse random masks", 2, 32)


def _coalitions(count: int) -> Parameter:
    return Parameter("samples", count, "random coalitions of segments, or masks", 16, 4096)


def _sum(attribution: Rows) -> Map:
    """What the colours of a pixel say together."""
    return np.asarray(attribution.sum(1)[0])


def _strongest(attribution: Rows) -> Map:
    """The largest absolute value of the channels, as Simonyan et al. draw gradients."""
    return np.asarray(np.abs(attribution).max(1)[0])


def _gradient(
    compute: Callable[..., Explained], reduce: Callable[[Rows], Map]
) -> Callable[..., Answer]:
    """One image's answer: of a contrast, the difference of the two classes' attributions, before any absolute value."""

    def run(
        engine: Engine, pixels: Fitted, target: Target, _rival: Target | None, **parameters: Any
    ) -> Answer:
        rows = target.rows
        explained = compute(engine, np.repeat(pixels[None], len(rows), 0), rows, **parameters)
        values = reduce(_contrast(explained.attribution))
        if explained.difference is None:
            return Answer(values)
        difference = float(_contrast(explained.difference)[0])
        return Answer(
            values,
            {"completeness_gap": completeness_gap(float(values.sum(dtype=np.float64)), difference)},
        )

    return run


def _contrast(rows: np.ndarray) -> np.ndarray:
    return rows[:1] - rows[1:] if len(rows) > 1 else rows


_fixed_steps = _gradient(gradients.integrated_gradients, _sum)


def _integrated_gradients(
    engine: Engine, pixels: Fitted, target: Target, rival: Target | None, **given: Any
) -> Answer:
    """With twice the steps, and again, while the gap exceeds 5 %."""
    most, steps = given.pop("max_steps"), given.pop("steps")
    answer = _fixed_steps(engine, pixels, target, rival, steps=steps, **given)
    while answer.quality["completeness_gap"] > ENOUGH and 2 * steps <= most:
        steps *= 2
        answer = _fixed_steps(engine, pixels, target, rival, steps=steps, **given)
    return Answer(answer.map, answer.quality | {"steps": float(steps)})


def _cam(compute: Callable[..., np.ndarray]) -> Callable[..., Answer]:
    def run(engine: Engine, pixels: Fitted, target: Target, _rival: Target | None) -> Answer:
        rows = target.rows
        return Answer(_contrast(compute(engine, np.repeat(pixels[None], len(rows), 0), rows))[0])

    return run


def _perturbing(compute: Callable[..., Perturbed]) -> Callable[..., Answer]:
    """The map of the target, and its cosine with the rival's, from the same forward passes."""

    def run(
        engine: Engine, pixels: Fitted, target: Target, rival: Target | None, **parameters: Any
    ) -> Answer:
        found = compute(engine, pixels, [target, *([rival] if rival else [])], **parameters)
        quality: dict[str, float] = {}
        if found.difference is not None:
            quality["completeness_gap"] = completeness_gap(
                float(found.maps[0].sum(dtype=np.float64)), float(found.difference[0])
            )
        if found.surrogate_r2:
            quality["surrogate_r2"] = found.surrogate_r2[0]
        if rival:
            quality["class_cosine"] = cosine(found.maps[0], found.maps[1])
        return Answer(found.maps[0], quality)

    return run


def _windows(given: Mapping[str, Any]) -> int:
    return int(np.ceil((1 - given["window"]) / given["stride"]) + 1) ** 2 + 1


def _steepness(name: str, title: str, description: str, source: str, **rest: Any) -> Method:
    """A method whose map is a slope, without a sign."""
    return Method(
        name, title, description, source, folder.GRADIENT, "positive", SLOPE, "sequential", **rest
    )


def _share(name: str, title: str, description: str, source: str, **rest: Any) -> Method:
    """A method of gradients whose map shares out a difference of logits."""
    return Method(
        name, title, description, source, folder.GRADIENT, "signed", LOGIT, "diverging", **rest
    )


def _activation(
    name: str, title: str, description: str, source: str, compute: Callable[..., np.ndarray]
) -> Method:
    """A class activation map."""
    return Method(
        name,
        title,
        description,
        source,
        folder.CAM,
        "signed",
        LOGIT,
        "sequential",
        _cam(compute),
        lambda _: 1,
    )


def _trial(
    name: str,
    title: str,
    description: str,
    source: str,
    *,
    unit: str,
    compute: Callable[..., Perturbed],
    **rest: Any,
) -> Method:
    """A method that changes the image."""
    return Method(
        name,
        title,
        description,
        source,
        folder.PREDICT,
        "signed",
        unit,
        "diverging",
        _perturbing(compute),
        **rest,
    )


_ALL: tuple[Method, ...] = (
    _steepness(
        "saliency",
        "Saliency",
        "how much the target's logit changes when a pixel changes a little; says nothing about for or against",
        "Simonyan et al. 2014, arXiv 1312.6034",
        compute=_gradient(gradients.saliency, _strongest),
        passes=lambda _: GRADIENT_PASSES,
    ),
    _share(
        "input_x_gradient",
        "Input × gradient",
        "what each pixel adds to the target's logit, compared with mean grey, if the network were linear",
        "Shrikumar et al. 2016, arXiv 1605.01713",
        compute=_gradient(gradients.input_x_gradient, _sum),
        passes=lambda _: GRADIENT_PASSES,
    ),
    _share(
        "integrated_gradients",
        "Integrated Gradients",
        "what each pixel adds to the target's logit on the way from the baseline to the image; the map sums to the difference",
        "Sundararajan et al. 2017, arXiv 1703.01365",
        compute=_integrated_gradients,
        passes=lambda given: GRADIENT_PASSES * (given["steps"] + 2),
        parameters=(STEPS, BASELINE, MAX_STEPS),
    ),
    _steepness(
        "smooth_grad",
        "SmoothGrad",
        "saliency, averaged over noisy copies of the image so that single pixels count less",
        "Smilkov et al. 2017, arXiv 1706.03825",
        compute=_gradient(gradients.smooth_grad, _strongest),
        passes=lambda given: GRADIENT_PASSES * given["samples"],
        parameters=(SAMPLES, NOISE, SEED),
    ),
    _share(
        "gradient_shap",
        "GradientSHAP",
        "Integrated Gradients averaged over several baselines, noise and random places on the way",
        "Erion et al. 2021, arXiv 1906.10670",
        compute=_gradient(gradients.gradient_shap, _sum),
        passes=lambda given: GRADIENT_PASSES * (given["samples"] + 5),
        parameters=(
            Parameter("samples", 64, "random places on random ways", 1, 512),
            Parameter("noise", 0.05, NOISE.description, 0.0, 1.0),
            SEED,
        ),
    ),
    _activation(
        "grad_cam",
        "Grad-CAM",
        "which regions, as a late layer sees them, speak for the target; coarse, and cheap",
        "Selvaraju et al. 2017, arXiv 1610.02391",
        compute=cam.grad_cam,
    ),
    _activation(
        "grad_cam_plus_plus",
        "Grad-CAM++",
        "Grad-CAM that covers a class which shows several times",
        "Chattopadhay et al. 2018, arXiv 1710.11063",
        compute=cam.grad_cam_plus_plus,
    ),
    _activation(
        "layer_cam",
        "LayerCAM",
        "like Grad-CAM, weighed cell by cell instead of channel by channel",
        "Jiang et al. 2021, IEEE TIP 30",
        compute=cam.layer_cam,
    ),
    _trial(
        "occlusion",
        "Occlusion",
        "how much the target's logit drops when a window covers a pixel",
        "Zeiler and Fergus 2014, arXiv 1311.2901",
        unit=LOGIT,
        compute=perturbation.occlusion,
        passes=_windows,
        parameters=(WINDOW, STRIDE, BASELINE),
    ),
    _trial(
        "feature_ablation",
        "Feature ablation",
        "how much the target's logit drops when a segment is taken away",
        "Covert et al. 2021, arXiv 2011.14878",
        unit=DROP,
        compute=perturbation.feature_ablation,
        passes=lambda given: cells(given["segments"]) + 1,
        parameters=(SEGMENTS, BASELINE),
    ),
    _trial(
        "lime",
        "LIME",
        "the coefficients of a linear model of the network near this image; surrogate_r2 says how well it describes the network",
        "Ribeiro et al. 2016, arXiv 1602.04938",
        unit=DROP,
        compute=perturbation.lime,
        passes=lambda given: int(given["samples"]),
        parameters=(SEGMENTS, _coalitions(512), BASELINE, SEED),
    ),
    _trial(
        "kernel_shap",
        "KernelSHAP",
        "the Shapley values of the segments: what each adds, averaged over all orders; the map sums to the difference",
        "Lundberg and Lee 2017, arXiv 1705.07874",
        unit=LOGIT,
        compute=perturbation.kernel_shap,
        passes=lambda given: given["samples"] + 2,
        parameters=(SEGMENTS, _coalitions(1024), BASELINE, SEED),
    ),
    _trial(
        "rise",
        "RISE",
        "how the target's logit goes with a pixel's being shown, over smooth random masks",
        "Petsiuk et al. 2018, arXiv 1806.07421",
        unit=LOGIT,
        compute=perturbation.rise,
        passes=lambda given: int(given["samples"]),
        parameters=(CELLS, _coalitions(512), BASELINE, SEED),
    ),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}


def available(manifest: Manifest) -> tuple[Method, ...]:
    """The methods that the bundle has the graphs for."""
    return tuple(method for method in _ALL if method.graph in manifest.files)
