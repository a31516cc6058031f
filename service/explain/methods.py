"""The registry of methods: parameters, meaning of the map, cost in forward passes, and source.

A new method is one entry of METHODS; docs, routes, the command line and the page read them here.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from service.bundle import folder
from service.bundle.manifest import LAST, LAYERS, Manifest
from service.explain import rungs
from service.explain.computing import (
    integrated_gradients,
    of_activations,
    of_gradients,
    of_passes,
    of_samples,
    strongest,
    summed,
)
from service.explain.maps import cam, gradients, perturbation
from service.explain.maps.baselines import BASELINES
from service.explain.maps.perturbation import TargetMaps
from service.explain.maps.sampling import GOOD_AGREEMENT
from service.explain.maps.segments import GRID, SEGMENTATIONS, cells
from service.explain.method import Method, Parameter
from service.runtime.graphs import Cam

LOGIT, SLOPE, DROP = "logit", "logit per standard deviation of a pixel", "logit per segment"
GRADIENT_PASSES = 3  # a forward and a backward pass cost about three forward ones

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
    "noise", 0.15, "standard deviation of the noise, a share of the image's range", 0.0, 1.0
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
        of_activations(compute),
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
        of_passes(compute),
        **rest,
    )


_ALL: tuple[Method, ...] = (
    _slope(
        "saliency",
        "Saliency",
        "how much the target's logit changes when a pixel changes a little; without a sign",
        "Simonyan et al. 2014, arXiv 1312.6034",
        compute=of_gradients(gradients.saliency, strongest),
        passes=lambda _: GRADIENT_PASSES,
    ),
    _share(
        "input_x_gradient",
        "Input × gradient",
        "contribution of each pixel to the target's logit, compared with the mean colour, "
        "if the network were linear",
        "Shrikumar et al. 2016, arXiv 1605.01713",
        compute=of_gradients(gradients.input_x_gradient, summed),
        passes=lambda _: GRADIENT_PASSES,
    ),
    _share(
        "integrated_gradients",
        "Integrated Gradients",
        "contribution of each pixel to the target's logit on the path from the baseline to the "
        "image; the map sums to the difference",
        "Sundararajan et al. 2017, arXiv 1703.01365",
        compute=integrated_gradients,
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
        compute=of_samples(gradients.smooth_grad, strongest),
        passes=lambda given: GRADIENT_PASSES * given["samples"],
        parameters=(SAMPLES, _most_samples(64, 2, 512), NOISE, SEED),
        fewer=rungs.fewer_samples(least=4),
    ),
    _share(
        "gradient_shap",
        "GradientSHAP",
        "Integrated Gradients averaged over several baselines, noise and random points of the path",
        "Erion et al. 2021, arXiv 1906.10670",
        compute=of_samples(gradients.gradient_shap, summed, adds_up=True),
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
        compute=of_gradients(gradients.attn_lrp, summed),
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
