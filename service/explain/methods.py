"""The registry: every method with its parameters, what its map means, what it costs and where it comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from service import bundle
from service.bundle import Manifest
from service.engine import Batch, Engine, Targets
from service.explain import cam, gradients
from service.explain.gradients import BASELINES, Explained

Sign = Literal["signed", "positive"]
Maps = Float32[np.ndarray, "rows size size"]
LOGIT, SLOPE = "logit", "logit per standard deviation of a pixel"


@dataclass(frozen=True)
class Parameter:
    """What may be chosen: a number from `low` to `high`, whole where `default` is, or one of `choices`."""

    name: str
    default: int | float | str
    says: str
    low: int | float = 0
    high: int | float = 0
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a method computes: `maps` float32 (N, S, S); `difference` float32 (N,) that an additive map should sum to."""

    maps: Maps
    difference: Float32[np.ndarray, " rows"] | None = None


@dataclass(frozen=True)
class Method:
    """One way to explain. `passes` tells the cost in forward passes, from the parameters; `graph` is what the bundle must hold."""

    name: str
    title: str
    says: str
    source: str
    graph: str
    sign: Sign
    unit: str
    scale: Literal["diverging", "sequential"]
    compute: Callable[..., Answer]
    passes: Callable[[Mapping[str, Any]], int]
    parameters: tuple[Parameter, ...] = ()

    def run(self, engine: Engine, batch: Batch, target: Targets, parameters: Mapping[str, Any]) -> Answer:
        """Maps of uint8 (N, S, S, 3) pictures for int64 (N,) targets, all 0…K−1."""
        return self.compute(engine, batch, target, **parameters)


STEPS = Parameter("steps", 32, "points on the way from the baseline to the picture", 1, 512)
SAMPLES = Parameter("samples", 16, "noisy copies of the picture", 1, 512)
NOISE = Parameter("noise", 0.15, "standard deviation of the noise, as a share of the picture's range", 0.0, 1.0)
SEED = Parameter("seed", 0, "of the random numbers: the same seed gives the same bytes", 0, 2**32 - 1)
BASELINE = Parameter(
    "baseline", "mean", "what stands for nothing to see; mean is the mean grey of the training pictures", choices=BASELINES
)


def _signed(compute: Callable[..., Explained]) -> Callable[..., Answer]:
    """The sum over the channels: what the colours of a pixel say together."""

    def run(*args: Any, **parameters: Any) -> Answer:
        explained = compute(*args, **parameters)
        return Answer(explained.attribution.sum(1), explained.difference)

    return run


def _strongest(compute: Callable[..., Explained]) -> Callable[..., Answer]:
    """The largest absolute value of the channels, as Simonyan et al. draw gradients."""

    def run(*args: Any, **parameters: Any) -> Answer:
        return Answer(np.abs(compute(*args, **parameters).attribution).max(1))

    return run


_GRADIENT_PASSES = 3  # a forward and a backward pass cost about three forward ones

_ALL = (
    Method(
        "saliency",
        "Saliency",
        "how much the target's logit changes when a pixel changes a little; says nothing about for or against",
        "Simonyan et al. 2014, arXiv 1312.6034",
        bundle.GRADIENT,
        "positive",
        SLOPE,
        "sequential",
        _strongest(gradients.saliency),
        lambda _: _GRADIENT_PASSES,
    ),
    Method(
        "input_x_gradient",
        "Input × gradient",
        "what each pixel adds to the target's logit, compared with mean grey, if the network were linear",
        "Shrikumar et al. 2016, arXiv 1605.01713",
        bundle.GRADIENT,
        "signed",
        LOGIT,
        "diverging",
        _signed(gradients.input_x_gradient),
        lambda _: _GRADIENT_PASSES,
    ),
    Method(
        "integrated_gradients",
        "Integrated Gradients",
        "what each pixel adds to the target's logit on the way from the baseline to the picture; the map sums to the difference",
        "Sundararajan et al. 2017, arXiv 1703.01365",
        bundle.GRADIENT,
        "signed",
        LOGIT,
        "diverging",
        _signed(gradients.integrated_gradients),
        lambda given: _GRADIENT_PASSES * (given["steps"] + 2),
        (STEPS, BASELINE),
    ),
    Method(
        "smooth_grad",
        "SmoothGrad",
        "saliency, averaged over noisy copies of the picture so that single pixels count less",
        "Smilkov et al. 2017, arXiv 1706.03825",
        bundle.GRADIENT,
        "positive",
        SLOPE,
        "sequential",
        _strongest(gradients.smooth_grad),
        lambda given: _GRADIENT_PASSES * given["samples"],
        (SAMPLES, NOISE, SEED),
    ),
    Method(
        "grad_cam",
        "Grad-CAM",
        "which regions, as a late layer sees them, speak for the target; coarse, and cheap",
        "Selvaraju et al. 2017, arXiv 1610.02391",
        bundle.CAM,
        "signed",
        LOGIT,
        "sequential",
        lambda *args: Answer(cam.grad_cam(*args)),
        lambda _: 1,
    ),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}


def available(manifest: Manifest) -> tuple[Method, ...]:
    """The methods that the bundle has the graphs for."""
    return tuple(method for method in _ALL if method.graph in manifest.files)
