"""What the methods compute of one image, made of the functions in `service.explain.maps`.

Each is called with the engine, the network input uint8 (H, W, 3), the target, another class to
compare the map with or None, and its parameters by name.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from service.bundle import folder
from service.bundle.manifest import LAST
from service.explain.maps import cam, gradients, paths
from service.explain.maps.gradients import RowAttributions, SampleSums
from service.explain.maps.perturbation import TargetMaps
from service.explain.maps.sampling import until_agreed
from service.explain.maps.target import Target
from service.explain.method import Map, MethodResult
from service.explain.quality import completeness_gap
from service.image.resize import InputPixels
from service.runtime.engine import Engine
from service.runtime.graphs import Cam, Rows, Targets

Compute = Callable[..., MethodResult]


def summed(attribution: Rows) -> Map:
    """The sum over the colours of each pixel."""
    return np.asarray(attribution.sum(1)[0])


def strongest(attribution: Rows) -> Map:
    """The largest absolute value of each pixel's colours, as Simonyan et al. draw gradients."""
    return np.asarray(np.abs(attribution).max(1)[0])


def of_gradients(compute: Callable[..., RowAttributions], reduce: Callable[[Rows], Map]) -> Compute:
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


def of_samples(
    compute: Callable[..., SampleSums], reduce: Callable[[Rows], Map], *, adds_up: bool = False
) -> Compute:
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


_all_steps = of_gradients(gradients.integrated_gradients, summed)


def integrated_gradients(
    engine: Engine,
    pixels: InputPixels,
    target: Target,
    _rival: Target | None,
    steps: int,
    tolerance: float,
    baseline: str,
) -> MethodResult:
    """Integrated Gradients, which take points until the gap is within `tolerance`, up to `steps` or
    what fits the deadline.
    """
    if tolerance == 0:
        result = _all_steps(engine, pixels, target, None, steps=steps, baseline=baseline)
        return replace(result, quality=result.quality | {"steps": float(steps)})
    begun = paths.paths_to(engine, pixels[None], [target], baseline, steps)
    (path,) = paths.integrate(engine, begun, tolerance, steps)
    values = path.map
    gap = _gap(values, np.array([path.difference], np.float32))
    return MethodResult(values, gap | {"steps": float(len(path.cells))})


def of_activations(compute: Callable[[Cam], cam.Cells]) -> Compute:
    """A class activation map, from its cells."""

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

    It is empty where the logits are not linear in the last layer's activation.
    """
    if bias is None:
        return {}
    score, offset = (float(target.score(logits)[0]) for logits in (found.logits[:1], bias[None]))
    total = float(found.cam[0].sum(dtype=np.float64))
    return {"logit_gap": completeness_gap(total, score - offset)}


def of_passes(compute: Callable[..., TargetMaps]) -> Compute:
    """A method that computes the target's and the rival's map from the same forward passes."""

    def run(
        engine: Engine, pixels: InputPixels, target: Target, rival: Target | None, **parameters: Any
    ) -> MethodResult:
        result = compute(engine, pixels, [target, *([rival] if rival else [])], **parameters)
        other = result.maps[1] if rival else None
        return MethodResult(result.maps[0], dict(result.quality), other)

    return run
