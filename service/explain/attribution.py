"""The answer to a question: an attribution map with measures of its own quality."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float32

from service.bundle import folder
from service.errors import DeadlineExceeded
from service.explain import cells, faithfulness, quality, render
from service.explain.faithfulness import Trial, Unit, unit_of
from service.explain.maps.mass import Mass, mass_of
from service.explain.maps.segments import cells as count_of
from service.explain.maps.target import Target, ranking, rival_of
from service.explain.method import Map
from service.explain.question import Question, quartered
from service.image.resize import InputPixels
from service.runtime.engine import Engine

GRAD_CAM = "grad_cam"
NOISE_GAP = 0.5  # the completeness gap above which a map is mostly error
NOISE_AGREEMENT = 0.5  # below it, another seed gives a map that is mostly different
NOISE_R2 = 0.1  # of LIME's linear model, below which it describes nothing
NOISE_SENSITIVITY = 1.0  # a change as large as the map, under noise that nobody sees
COUNTS = ("steps", "samples")  # measures of the work, which hold of a map that is nothing, too
NOTHING = "there is nothing to explain: the map is zero or rounding beside the spread of the logits"
MORE = "ask for more steps or samples, or give more time"


@dataclass(frozen=True)
class Attribution:
    """A `map` float32 (H, W) in the method's unit, positive where it speaks for `target`.

    `quality`: measures of the map by name. `question` is the one that was answered;
    `degraded_from` is the one that was sent, if its answer would have taken too long. `areas_unit`
    is that of deletion and insertion, where `quality` has them. `spread` is
    that of the image's logits; 0 if it is not known. `cells` are those that a class activation map
    was scaled from. `origin`: the graph, engine and precision that the map was computed by.
    """

    question: Question
    target: Target
    map: Float32[np.ndarray, "H W"]
    quality: Mapping[str, float]
    degraded_from: Question | None = None
    areas_unit: Unit | None = None
    spread: float = 0.0
    cells: Float32[np.ndarray, "height width"] | None = None
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def cell(self) -> int:
        """The side in pixels of the cells that the map is drawn by; 1: pixel by pixel."""
        method = self.question.method
        if not (method.of_pixels or method.of_cells):
            return 1
        return cells.cell_of(self.map.shape, signed=method.sign == "signed")

    @cached_property
    def shown(self) -> Float32[np.ndarray, "rows_shown columns_shown"]:
        """What an overlay shows of the map: a smooth surface through the means of its cells."""
        if self.cell == 1:
            return self.map
        if self.cells is not None:
            return cells.smooth_of(self.cells, self.map.shape, self.cell)
        return cells.smooth(cells.means(self.map, self.cell))

    @cached_property
    def largest(self) -> float:
        """The largest absolute value of the map."""
        return quality.weight(self.map, summed=False)

    @cached_property
    def weight(self) -> float:
        """What the map moves in all, in logits."""
        summed = self.question.method.summed
        return quality.weight(self.map, summed=True) if summed else self.largest

    @property
    def nothing(self) -> bool:
        """True if the map is zero, or rounding beside the spread of the logits."""
        return quality.is_nothing(self.weight, self.spread)

    @cached_property
    def limit(self) -> float:
        """The value of the strongest colour of an overlay; 0 if nothing is drawn.

        Of a map that hardly moves the logits it is above every value, so that it is drawn faint.
        """
        if self.nothing:
            return 0.0
        summed = self.question.method.summed
        return quality.faintness(self.weight, self.spread, summed=summed) * self.strongest

    @cached_property
    def strongest(self) -> float:
        """The value of the strongest colour of a map in full ink."""
        return render.limit(self.shown, self.question.method.scale)

    @cached_property
    def mass(self) -> Mass:
        """The mass of a class activation map."""
        assert self.cells is not None
        return mass_of(self.cells, self.spread)

    @property
    def aspects(self) -> tuple[float, ...] | None:
        """The aspects that drift is measured by, in the order of the manifest's `MapDistribution`.

        None of a map of another kind than those: Grad-CAMs of predicted classes, at the last layer.
        """
        asked = self.question
        is_known = (asked.method.name, asked.target, asked.graph) == (GRAD_CAM, None, folder.CAM)
        if self.cells is None or not is_known:
            return None
        # A map that is nothing is compared with nothing.
        return (*self.mass, self.quality.get("class_cosine", 0.0))

    def with_known(self, **values: object) -> "Attribution":
        """The attribution with `values` of its cached properties, which are then not computed."""
        vars(self).update(values)
        return self

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what makes the map unfit for use, by its own measures."""
        if self.nothing:
            return (NOTHING,)
        faults = [judge(self.quality) for name, judge in JUDGES.items() if name in self.quality]
        return tuple(fault for fault in (*faults, _coalitions(self.question)) if fault)


def _gap(quality: Mapping[str, float]) -> str:
    gap = quality["completeness_gap"]
    if gap <= NOISE_GAP:
        return ""
    return f"the map misses the change of the score by {gap:.0%}, so it is mostly error: {MORE}"


def _disagreement(quality: Mapping[str, float]) -> str:
    agreement = quality["agreement"]
    if agreement >= NOISE_AGREEMENT:
        return ""
    words = f"with another seed the map would be another (cosine {agreement:.2f})"
    return f"{words}, so it is mostly error: {MORE}"


def _surrogate(quality: Mapping[str, float]) -> str:
    r2 = quality["surrogate_r2"]
    if r2 >= NOISE_R2:
        return ""
    return f"the linear model describes {max(0.0, r2):.0%} of the network's answers: {MORE}"


def _order(quality: Mapping[str, float]) -> str:
    rivals = [faithfulness.unbeaten(quality, side) for side in faithfulness.SIDES]
    if not all(rivals):
        return ""
    by = " and ".join(
        f"{faithfulness.NAMES[found[0]]} by {side}"
        for side, found in zip(faithfulness.SIDES, rivals, strict=True)
    )
    return (
        f"an order of blocks that knows nothing of the network is as good as the map's ({by}): "
        "ask another method"
    )


def _unstable(quality: Mapping[str, float]) -> str:
    change = quality["sensitivity"]
    if change <= NOISE_SENSITIVITY:
        return ""
    return f"noise of 3 grey levels changes the map by {change:.0%}: {MORE}"


# What judges a measure, by its name.
JUDGES: Mapping[str, Callable[[Mapping[str, float]], str]] = {
    "completeness_gap": _gap,
    "agreement": _disagreement,
    "surrogate_r2": _surrogate,
    "deletion": _order,
    "sensitivity": _unstable,
}


def _coalitions(question: Question) -> str:
    samples, segments = (question.parameters.get(name) for name in ("samples", "segments"))
    if samples is None or segments is None or samples >= count_of(segments):
        return ""
    return f"{samples} samples are too few for {count_of(segments)} segments: {MORE}"


def explain(
    engine: Engine,
    pixels: InputPixels,
    question: Question,
    logits: Float32[np.ndarray, " classes"],
) -> Attribution:
    """Answers `question` about the network input `pixels` and its known `logits`.

    A question without a target is about the predicted class. If time is up once the map stands,
    measures are left out; without the full ones the answer's question asks for basic ones.
    """
    manifest = engine.manifest
    ranked = ranking(logits, manifest)
    target = question.target or Target(int(ranked.argmax()))
    rival = rival_of(target, ranked)
    spread = quality.spread(logits, sigmoid=manifest.head == "sigmoid")
    method = question.method
    result = method.compute(engine, pixels, target, rival, **question.parameters)
    values, measured = result.map, result.quality
    answer = partial(
        Attribution,
        target=target,
        map=values,
        spread=spread,
        cells=result.cells,
        origin=engine.origin(question.graph),
    )
    summed = method.summed
    if quality.is_nothing(quality.weight(values, summed=summed), spread):
        counts = {name: measured[name] for name in COUNTS if name in measured}
        return answer(question, quality=counts)
    other = result.rival
    if rival and other is None:
        other = _rival_map(engine, pixels, question, rival)
    if other is not None and not quality.is_nothing(quality.weight(other, summed=summed), spread):
        measured = measured | {"class_cosine": result.cosine_to(other)}
        if method.name in manifest.unrelated:
            measured["class_cosine_unrelated"] = manifest.unrelated[method.name].high
    if question.quality == "basic":
        return answer(question, quality=measured)
    trial = Trial(engine, pixels, target, unit_of(target, ranked))
    try:
        measured = measured | _in_full(trial, question, values)
    except DeadlineExceeded:
        return answer(replace(question, quality="basic"), quality=measured)
    return answer(question, quality=measured, areas_unit=trial.unit)


def _rival_map(
    engine: Engine, pixels: InputPixels, question: Question, rival: Target
) -> Map | None:
    """The map of `rival`; None if it takes too long, for the map of the target stands."""
    # It is only compared, never shown: a quarter of the steps is enough.
    fewer = {**question.parameters, **quartered(question.parameters)}
    with suppress(DeadlineExceeded):
        return question.method.compute(engine, pixels, rival, None, **fewer).map
    return None


def _in_full(trial: Trial, question: Question, values: Map) -> dict[str, float]:
    """The measures that cost passes of their own."""

    def again(noisy: InputPixels) -> Map:
        compute = question.method.compute
        return compute(trial.engine, noisy, trial.target, None, **question.parameters).map

    return {
        **faithfulness.measures(trial.areas(values), trial.opponents()),
        "sensitivity": quality.sensitivity(trial.pixels, values, again),
    }
