"""The registry of methods: parameters, meaning of the map, cost in forward passes, and source.

A new method is one entry of METHODS; docs, routes, the command line and the page read them here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from service.bundle import folder
from service.bundle.manifest import LAST, LAYERS, Manifest
from service.explain import rungs
from service.explain.colours import Scale
from service.explain.maps import cam, gradients, paths, perturbation, scaling
from service.explain.maps.baselines import BASELINES
from service.explain.maps.gradients import RowAttributions, SampleSums
from service.explain.maps.perturbation import TargetMaps
from service.explain.maps.sampling import GOOD_AGREEMENT, cosine, until_agreed
from service.explain.maps.segments import GRID, SEGMENTATIONS, cells
from service.explain.maps.target import Target
from service.explain.quality import completeness_gap
from service.explain.rungs import Rung
from service.image.resize import InputPixels
from service.runtime.engine import Engine
from service.runtime.graphs import Cam, Rows, Targets

Sign = Literal["signed", "positive"]
Map = Float32[np.ndarray, "H W"]
LOGIT, SLOPE, DROP = "logit", "logit per standard deviation of a pixel", "logit per segment"
GRADIENT_PASSES = 3  # a forward and a backward pass cost about three forward ones


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method: a number from `low` to `high`, or one of `choices`.

    The number is whole if `default` is.
    """

    name: str
    default: int | float | str
    description: str
    low: int | float = 0
    high: int | float = 0
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class MethodResult:
    """A `map` float32 (H, W), and the `quality` measures that came with it for free.

    `cells` is what a class activation map was scaled from. `rival` is the map of another class,
    or its cells where there are `cells`, if the method has it from the same passes.
    """

    map: Map
    quality: dict[str, float] = field(default_factory=dict)
    rival: Float32[np.ndarray, "height width"] | None = None
    cells: Float32[np.ndarray, "height width"] | None = None

    def cosine_to(self, other: Float32[np.ndarray, "height width"]) -> float:
        """The cosine of the map to that of another class, which is like `rival`."""
        if self.cells is None:
            return cosine(self.map, other)
        return scaling.cosine(self.cells, other, self.map.shape)


@dataclass(frozen=True)
class Method:
    """One way to explain.

    `graph`: the file that the bundle must hold. `passes`: the cost in forward passes, as a function
    of the parameters; `operations`: the multiplications of its algebra; `fewer`: its next cheaper
    parameters. `compute(engine, pixels, target, rival, **parameters)` explains one network input
    uint8 (H, W, 3); `rival` is another class, to compare the map with where that is free.
    """

    name: str
    title: str
    description: str
    source: str
    graph: str  # of the default parameters
    sign: Sign
    unit: str
    scale: Scale
    compute: Callable[..., MethodResult]
    passes: Callable[[Mapping[str, Any]], int]
    parameters: tuple[Parameter, ...] = ()
    operations: Callable[[Mapping[str, Any]], int] = lambda _: 0
    fewer: Rung = rungs.none
    divides: bool = False

    @property
    def summed(self) -> bool:
        """True if the pixels of a map count together; else each value stands for itself."""
        return self.of_pixels or self.divides

    def graph_of(self, parameters: Mapping[str, Any]) -> str:
        """The graph that runs for `parameters`."""
        return self.graph if parameters.get("layer", LAST) == LAST else folder.GRADIENT

    @property
    def of_pixels(self) -> bool:
        """True if each pixel has a value of its own, which at many pixels is a grain."""
        return self.graph in (folder.GRADIENT, folder.LRP)

    @property
    def is_rectified(self) -> bool:
        """True if its maps have one sign, by the method's definition: they are alike by that."""
        return self.sign == "positive" or self.name in ("grad_cam_plus_plus", "layer_cam")

    @property
    def of_cells(self) -> bool:
        """True if the map comes from the few cells of a layer, scaled up."""
        return self.graph == folder.CAM

    @property
    def takes_mask(self) -> bool:
        """True if the method uses segments, which a caller may draw as a mask."""
        return SEGMENTS in self.parameters


STEPS = Parameter(
    "steps",
    128,
    "most points on the path from the baseline to the image; all of them if tolerance is 0",
    1,
    512,
)
TOLERANCE = Parameter(
    "tolerance",
    0.05,
    "completeness gap that is good enough: until it is reached, the path gets more points where it "
    "misses most; 0 for all steps",
    0.0,
    1.0,
)
SAMPLES = Parameter("samples", 16, "noisy copies of the image", 2, 512)
NOISE = Parameter(
    "noise", 0.15, "standard deviation of the noise, as a share of the image's range", 0.0, 1.0
)
SEED = Parameter(
    "seed", 0, "seed of the random numbers: the same seed gives the same bytes", 0, 2**32 - 1
)
BASELINE = Parameter(
    "baseline",
    "mean",
    "input that stands for nothing to see; mean is the mean colour of the training images",
    choices=BASELINES,
)
SEGMENTS = Parameter(
    "segments",
    8,
    "cells a side of the grid of segments; a mask sent with the image replaces them",
    2,
    32,
)
SEGMENTATION = Parameter(
    "segmentation",
    GRID,
    "how the image is cut into segments: by the grid, or into as many superpixels at most, along "
    "the edges in the image",
    choices=SEGMENTATIONS,
)
WINDOW = Parameter("window", 0.375, "side of the window, as a share of the input's side", 0.05, 1.0)
STRIDE = Parameter("stride", 0.125, "step of the window, as a share of the input's side", 0.05, 1.0)
CELLS = Parameter("cells", 7, "cells a side of the coarse random masks", 2, 32)
LAYER = Parameter(
    "layer",
    LAST,
    "layer whose activation is weighed: the last one, which costs a forward pass, or an earlier "
    "one of finer cells, which costs what a gradient does",
    choices=LAYERS,
)
# Of methods of class activation.
SAME = (
    "where a mean of each channel and a linear layer follow the last layer, Grad-CAM++ and "
    "LayerCAM are one map there: Grad-CAM without the channels that speak against the target"
)


def _coalitions(count: int) -> tuple[Parameter, Parameter]:
    return (
        Parameter("samples", count, "random coalitions of segments, or masks", 16, 4096),
        _most_samples(4 * count, 16, 4096),
    )


def _most_samples(default: int, low: int, high: int) -> Parameter:
    return Parameter(
        "max_samples",
        default,
        f"limit of doubling the samples while the agreement is below {GOOD_AGREEMENT:.0%}; those "
        "given, if samples are",
        low,
        high,
    )


def _sum(attribution: Rows) -> Map:
    """The sum over the colours of each pixel."""
    return np.asarray(attribution.sum(1)[0])


def _strongest(attribution: Rows) -> Map:
    """The largest absolute value of each pixel's colours, as Simonyan et al. draw gradients."""
    return np.asarray(np.abs(attribution).max(1)[0])


def _gradient(
    compute: Callable[..., RowAttributions], reduce: Callable[[Rows], Map]
) -> Callable[..., MethodResult]:
    """A method of one image from a batched one of gradients; `reduce` sums up the colours."""

    def run(
        engine: Engine,
        pixels: InputPixels,
        target: Target,
        rival: Target | None,
        **parameters: Any,
    ) -> MethodResult:
        # The rival's row runs beside the target's: two cores take no longer for both.
        rows = _rows(target, rival)
        result = compute(engine, np.repeat(pixels[None], len(rows), 0), rows, **parameters)
        own = len(target.rows)
        # The classes are subtracted before `reduce`, which may take absolute values.
        values = reduce(_contrast(result.attribution[:own]))
        difference = None if result.difference is None else result.difference[:own]
        other = reduce(result.attribution[own:]) if rival else None
        return MethodResult(values, _gap(values, difference), other)

    return run


def _rows(target: Target, rival: Target | None) -> Targets:
    """The classes that need a gradient; the rival's comes last."""
    return np.concatenate([target.rows, *([rival.rows] if rival else [])])


def _sampled(
    compute: Callable[..., SampleSums], reduce: Callable[[Rows], Map], *, adds_up: bool = False
) -> Callable[..., MethodResult]:
    """A method of one image from gradients at random points; with `adds_up` its gap is measured."""

    def run(
        engine: Engine,
        pixels: InputPixels,
        target: Target,
        _rival: Target | None,
        samples: int,
        max_samples: int,
        **parameters: Any,
    ) -> MethodResult:
        rows = target.rows
        batch = np.repeat(pixels[None], len(rows), 0)
        # The points of two halves are spread evenly; independent ones need not be halved alone.
        groups = 2 if adds_up or samples % 4 else 4

        def draw(first: int, count: int) -> list[SampleSums]:
            numbers = np.arange(first, first + count)
            return [
                compute(engine, batch, rows, numbers[i::groups], **parameters)
                for i in range(groups)
            ]

        def values_of(sums: SampleSums) -> Rows:
            return _contrast(sums.mean.attribution)

        found = until_agreed(
            draw,
            values_of,
            samples,
            max_samples,
            lambda count: engine.has_time_for(folder.GRADIENT, len(rows) * count),
            reduce,
        )
        values = reduce(values_of(found.evidence))
        gap = _gap(values, found.evidence.mean.difference) if adds_up else {}
        return MethodResult(values, gap | found.measures)

    return run


def _gap(values: Map, difference: Float32[np.ndarray, " rows"] | None) -> dict[str, float]:
    """The completeness gap of a map, by name, if its sum has a number to reach."""
    if difference is None:
        return {}
    reached = float(_contrast(difference)[0])
    # Summed in float64: the rounding of thousands of float32 sums would count as a gap.
    return {"completeness_gap": completeness_gap(float(values.sum(dtype=np.float64)), reached)}


def _contrast(rows: np.ndarray) -> np.ndarray:
    """The rows of the first class minus those of the second, if there is one."""
    return rows[:1] - rows[1:] if len(rows) > 1 else rows


_all_steps = _gradient(gradients.integrated_gradients, _sum)


def _integrated_gradients(
    engine: Engine,
    pixels: InputPixels,
    target: Target,
    _rival: Target | None,
    steps: int,
    tolerance: float,
    baseline: str,
) -> MethodResult:
    """Takes points until the gap is within `tolerance`, to `steps` or what fits the deadline."""
    if tolerance == 0:
        result = _all_steps(engine, pixels, target, None, steps=steps, baseline=baseline)
        return replace(result, quality=result.quality | {"steps": float(steps)})
    begun = paths.paths_to(engine, pixels[None], [target], baseline, steps)
    (path,) = paths.integrate(engine, begun, tolerance, steps)
    values = path.map
    gap = _gap(values, np.array([path.difference], np.float32))
    return MethodResult(values, gap | {"steps": float(len(path.cells))})


def _cam(compute: Callable[[Cam], cam.Cells]) -> Callable[..., MethodResult]:
    def run(
        engine: Engine, pixels: InputPixels, target: Target, rival: Target | None, layer: str
    ) -> MethodResult:
        if target.against is None:
            rows, against = _rows(target, rival), None
        else:
            rows, against = target.rows[:1], target.rows[1:]
        found = cam.at_layer(engine, pixels[None], rows, layer, against)
        found_cells = compute(found)
        (own,) = cam.scaled(found_cells[:1], pixels.shape[:2])
        sums = compute is cam.grad_cam and layer == LAST
        measured = _logit_gap(found, target, engine.bias) if sums else {}
        return MethodResult(own, measured, found_cells[1] if rival else None, found_cells[0])

    return run


def _logit_gap(
    found: Cam, target: Target, bias: Float32[np.ndarray, " classes"] | None
) -> dict[str, float]:
    """How far the cells of Grad-CAM are from summing to the score without its `bias`, by name.

    Nothing of a network whose logits are not linear in the last layer's activation.
    """
    if bias is None:
        return {}
    score, offset = (float(target.score(logits)[0]) for logits in (found.logits[:1], bias[None]))
    total = float(found.cam[0].sum(dtype=np.float64))
    return {"logit_gap": completeness_gap(total, score - offset)}


def _perturbing(compute: Callable[..., TargetMaps]) -> Callable[..., MethodResult]:
    """A method that computes the target's and the rival's map from the same forward passes."""

    def run(
        engine: Engine, pixels: InputPixels, target: Target, rival: Target | None, **parameters: Any
    ) -> MethodResult:
        result = compute(engine, pixels, [target, *([rival] if rival else [])], **parameters)
        other = result.maps[1] if rival else None
        return MethodResult(result.maps[0], dict(result.quality), other)

    return run


def _windows(given: Mapping[str, Any]) -> int:
    # The squared number of windows a side, and the image itself.
    return int(np.ceil((1 - given["window"]) / given["stride"]) + 1) ** 2 + 1


def _regression(given: Mapping[str, Any]) -> int:
    # The normal equations of all samples and of either half, their solutions, and an inverse.
    segments = cells(given["segments"])
    return int(2 * given["samples"] + 4 * segments) * segments**2


def _slope(name: str, title: str, description: str, source: str, **rest: Any) -> Method:
    """A method of gradients with a slope as its map, without a sign."""
    return Method(
        name, title, description, source, folder.GRADIENT, "positive", SLOPE, "sequential", **rest
    )


def _share(
    name: str, title: str, description: str, source: str, graph: str = folder.GRADIENT, **rest: Any
) -> Method:
    """A method of gradients that divides the logit, or a difference, among the pixels."""
    return Method(name, title, description, source, graph, "signed", LOGIT, "diverging", **rest)


def _activation(
    name: str, title: str, description: str, source: str, compute: Callable[[Cam], cam.Cells]
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
        lambda given: 1 if given["layer"] == LAST else GRADIENT_PASSES,
        (LAYER,),
        fewer=rungs.last_layer,
    )


def _perturbation(
    name: str,
    title: str,
    description: str,
    source: str,
    *,
    unit: str,
    compute: Callable[..., TargetMaps],
    **rest: Any,
) -> Method:
    """A method that changes the image and looks at the logits."""
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
    _slope(
        "saliency",
        "Saliency",
        "how much the target's logit changes when a pixel changes a little; without a sign",
        "Simonyan et al. 2014, arXiv 1312.6034",
        compute=_gradient(gradients.saliency, _strongest),
        passes=lambda _: GRADIENT_PASSES,
    ),
    _share(
        "input_x_gradient",
        "Input × gradient",
        "contribution of each pixel to the target's logit, compared with the mean colour, "
        "if the network were linear",
        "Shrikumar et al. 2016, arXiv 1605.01713",
        compute=_gradient(gradients.input_x_gradient, _sum),
        passes=lambda _: GRADIENT_PASSES,
    ),
    _share(
        "integrated_gradients",
        "Integrated Gradients",
        "contribution of each pixel to the target's logit on the path from the baseline to the "
        "image; the map sums to the difference",
        "Sundararajan et al. 2017, arXiv 1703.01365",
        compute=_integrated_gradients,
        passes=lambda given: GRADIENT_PASSES * (rungs.expected_steps(given) + 2),
        parameters=(STEPS, TOLERANCE, BASELINE),
        fewer=rungs.fewer_steps,
    ),
    _slope(
        "smooth_grad",
        "SmoothGrad",
        "absolute value of the mean gradient over noisy copies of the image; slopes of opposite "
        "signs cancel, as in the paper",
        "Smilkov et al. 2017, arXiv 1706.03825",
        compute=_sampled(gradients.smooth_grad, _strongest),
        passes=lambda given: GRADIENT_PASSES * given["samples"],
        parameters=(SAMPLES, _most_samples(64, 2, 512), NOISE, SEED),
        fewer=rungs.fewer_samples(least=4),
    ),
    _share(
        "gradient_shap",
        "GradientSHAP",
        "Integrated Gradients averaged over several baselines, noise and random points of the path",
        "Erion et al. 2021, arXiv 1906.10670",
        compute=_sampled(gradients.gradient_shap, _sum, adds_up=True),
        passes=lambda given: (GRADIENT_PASSES + 1) * given["samples"] + 4,
        parameters=(
            Parameter("samples", 64, "random points on paths from each baseline", 2, 512),
            _most_samples(256, 2, 512),
            Parameter("noise", 0.05, NOISE.description, 0.0, 1.0),
            SEED,
        ),
        fewer=rungs.fewer_samples(least=16),
    ),
    _share(
        "attn_lrp",
        "AttnLRP",
        "share of each pixel in the target's logit, handed back through a transformer from layer "
        "to layer; biases and position embeddings keep the rest",
        "Achtibat et al. 2024, arXiv 2402.05602",
        folder.LRP,
        compute=_gradient(gradients.attn_lrp, _sum),
        passes=lambda _: GRADIENT_PASSES,
    ),
    _activation(
        "grad_cam",
        "Grad-CAM",
        "regions that speak for the target, as a layer sees them; the last one is coarse and cheap",
        "Selvaraju et al. 2017, arXiv 1610.02391",
        compute=cam.grad_cam,
    ),
    _activation(
        "grad_cam_plus_plus",
        "Grad-CAM++",
        f"Grad-CAM for images that show a class several times; {SAME}",
        "Chattopadhay et al. 2018, arXiv 1710.11063",
        compute=cam.grad_cam_plus_plus,
    ),
    _activation(
        "layer_cam",
        "LayerCAM",
        f"like Grad-CAM, weighted cell by cell, which is made for earlier layers; {SAME}",
        "Jiang et al. 2021, IEEE TIP 30",
        compute=cam.layer_cam,
    ),
    _perturbation(
        "occlusion",
        "Occlusion",
        "how much the target's logit drops when a window covers a pixel",
        "Zeiler and Fergus 2014, arXiv 1311.2901",
        unit=LOGIT,
        compute=perturbation.occlusion,
        passes=_windows,
        parameters=(WINDOW, STRIDE, BASELINE),
        fewer=rungs.wider_steps,
    ),
    _perturbation(
        "feature_ablation",
        "Feature ablation",
        "how much the target's logit drops when a segment is removed",
        "Covert et al. 2021, arXiv 2011.14878",
        unit=DROP,
        compute=perturbation.feature_ablation,
        passes=lambda given: cells(given["segments"]) + 1,
        parameters=(SEGMENTS, SEGMENTATION, BASELINE),
        fewer=rungs.fewer_cells,
    ),
    _perturbation(
        "lime",
        "LIME",
        "coefficients of a linear model of the network near this image; surrogate_r2 is how well "
        "it describes the network",
        "Ribeiro et al. 2016, arXiv 1602.04938",
        unit=DROP,
        compute=perturbation.lime,
        passes=lambda given: int(given["samples"]),
        operations=_regression,
        parameters=(SEGMENTS, SEGMENTATION, *_coalitions(512), BASELINE, SEED),
        fewer=rungs.fewer_coalitions("segments"),
    ),
    _perturbation(
        "kernel_shap",
        "KernelSHAP",
        "Shapley values of the segments: the contribution of each, averaged over all orders; "
        "the map sums to the difference",
        "Lundberg and Lee 2017, arXiv 1705.07874",
        unit=LOGIT,
        divides=True,
        compute=perturbation.kernel_shap,
        passes=lambda given: given["samples"] + 2,
        operations=_regression,
        parameters=(SEGMENTS, SEGMENTATION, *_coalitions(512), BASELINE, SEED),
        fewer=rungs.fewer_coalitions("segments"),
    ),
    _perturbation(
        "rise",
        "RISE",
        "how the target's logit goes with each pixel's being shown, over smooth random masks; "
        "logits, less than half of those between masks that show the pixel and masks that hide it",
        "Petsiuk et al. 2018, arXiv 1806.07421",
        unit=LOGIT,
        compute=perturbation.rise,
        passes=lambda given: int(given["samples"]),
        parameters=(CELLS, *_coalitions(512), BASELINE, SEED),
        fewer=rungs.fewer_coalitions("cells"),
    ),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}


def available(manifest: Manifest) -> tuple[Method, ...]:
    """The methods that the bundle has the graphs for, with the layers that it has."""
    return tuple(_fitted(method, manifest) for method in _ALL if method.graph in manifest.files)


def _fitted(method: Method, manifest: Manifest) -> Method:
    if LAYER not in method.parameters or manifest.layer_names == LAYERS:
        return method
    return replace(method, parameters=(replace(LAYER, choices=manifest.layer_names),))
