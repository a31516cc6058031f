"""The choice of what computes on a CPU: a runtime and a precision, by what was measured.

`service.runtime.decision` has it measured at the start of the service; the workers receive it.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from service.bundle import folder
from service.bundle.manifest import Bfloat16, Int8, Manifest
from service.settings import Precision, Runtime

TITLES: Mapping[Runtime, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
PASSED = "_CANDOR_CHOICE"  # the variable by which the supervisor passes it to the workers
LEAST_GAIN = 1.1  # less is within the noise of a measurement at a start
LARGEST_LOSS = 0.003  # of macro F1, by the bundle's figures
# The least median cosine with ONNX Runtime in float32, over a few images.
LEAST_COSINES = {"logits": 0.995, "gradient": 0.99, "cam": 0.999}
GRAPHS = {"gradient": folder.GRADIENT, "cam": folder.CAM}


@dataclass(frozen=True)
class Choice:
    """A `runtime` and the `precision` of its predictions.

    `speed_ratio`: times as fast as ONNX Runtime in float32 on one thread of this machine:
    `predictions`, and `gradients` where the bundle has them. `cosines`: the median cosines with
    its `logits`, `gradient` and `cam`. Both are empty if nothing was measured. `exact`: the graphs
    that stay in float32 where predictions are in bfloat16. `gradient` computes gradient.onnx, where
    another choice is quicker at it; the figures of gradients are then that one's.
    """

    runtime: Runtime = "onnxruntime"
    precision: Precision = "float32"
    speed_ratio: Mapping[str, float] = field(default_factory=dict)
    cosines: Mapping[str, float] = field(default_factory=dict)
    exact: tuple[str, ...] = ()
    gradient: "Choice | None" = None

    @property
    def title(self) -> str:
        """For example "OpenVINO in bfloat16"."""
        gradient = "" if self.gradient is None else f" with gradients by {self.gradient.title}"
        return f"{TITLES[self.runtime]} in {self.precision}{gradient}"

    @property
    def has_openvino(self) -> bool:
        """True if OpenVINO computes any graph."""
        return "openvino" in (self.runtime, self.of(folder.GRADIENT).runtime)

    def of(self, graph: str) -> "Choice":
        """The choice that computes `graph`."""
        return self.gradient if self.gradient and graph == folder.GRADIENT else self

    @property
    def is_proven(self) -> bool:
        """True if its answers are near enough to those of ONNX Runtime in float32."""
        return all(value >= LEAST_COSINES[name] for name, value in self.cosines.items())

    @property
    def unproven(self) -> tuple[str, ...]:
        """The graphs of explanations whose maps differ too much."""
        return tuple(
            graph
            for name, graph in GRAPHS.items()
            if self.cosines.get(name, 1.0) < LEAST_COSINES[name]
        )

    def precision_of(self, graph: str) -> Precision:
        """The precision in which OpenVINO opens `graph`."""
        chosen = self.of(graph)
        return "float32" if graph in chosen.exact else chosen.precision

    @property
    def is_worth_it(self) -> bool:
        """True if predictions gain."""
        return self.speed_ratio["predictions"] >= LEAST_GAIN

    @property
    def sentence(self) -> str:
        """The measured ratios and cosines in words."""
        ratios, cosines = (
            ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items())
            for values, digits in ((self.speed_ratio, 2), (self.cosines, 5))
        )
        near = f"; cosines with its answers: {cosines}" if cosines else ""
        exact = f" (but {', '.join(self.exact)} in float32)" if self.exact else ""
        return (
            f"{self.title}{exact} beside ONNX Runtime, times as fast on one thread: {ratios}{near}"
        )

    def with_gradient_of(self, measured: Iterable["Choice"]) -> "Choice":
        """This choice with the gradient of the quickest proven one, if that gains enough."""
        usual = self.speed_ratio.get("gradients", 1.0)
        fit = [
            other
            for other in measured
            if other.speed_ratio.get("gradients", 0.0) >= LEAST_GAIN * usual
            and other.cosines.get("gradient", 0.0) >= LEAST_COSINES["gradient"]
        ]
        if not fit:
            return self
        quickest = max(fit, key=lambda other: other.speed_ratio["gradients"])
        precision = quickest.precision_of(folder.GRADIENT)
        return replace(
            self,
            # Where predictions are in int8, gradients are in float32.
            gradient=Choice(quickest.runtime, "float32" if precision == "int8" else precision),
            speed_ratio={**self.speed_ratio, "gradients": quickest.speed_ratio["gradients"]},
            cosines={**self.cosines, "gradient": quickest.cosines["gradient"]},
        )

    def without_openvino(self) -> "Choice":
        """ONNX Runtime instead, in int8 or float32; nothing of it was measured."""
        return Choice(precision="int8" if self.precision == "int8" else "float32")

    def makes_cams(self, manifest: Manifest) -> bool:
        """True if a Grad-CAM may be made of what a prediction computes on its way."""
        if self.precision == "int8":
            cosine = None if manifest.int8 is None else manifest.int8.cam_cosine
            return cosine is not None and cosine >= LEAST_COSINES["cam"]
        return self.precision_of(folder.CAM) == self.precision_of(folder.PREDICT)

    def of_bundle(self, manifest: Manifest) -> "Choice":
        """This choice, for another bundle: in float32 where its figures forbid int8."""
        forbidden = self.precision == "int8" and "int8" not in precisions(manifest, None)
        return Choice() if forbidden else self

    def document(self) -> dict[str, object]:
        """The choice as GET /model has it: JSON values."""
        found = {"engine": self.runtime, "precision": self.precision}
        gradient = self.gradient
        further = {
            "gradient": {"graph": folder.GRADIENT, **gradient.document()} if gradient else {},
            "speed_ratio": dict(self.speed_ratio),
            "cosines": dict(self.cosines),
            "in_float32": list(self.exact),
        }
        return found | {name: values for name, values in further.items() if values}

    def pass_on(self) -> None:
        """Leaves the choice in the environment, for the processes that this one starts."""
        os.environ[PASSED] = json.dumps(asdict(self))


def parse(text: str) -> Choice:
    """The choice that the JSON `text` of `asdict` describes."""
    return _choice_of(json.loads(text))


def _choice_of(document: dict[str, Any]) -> Choice:
    exact, gradient = tuple(document["exact"]), document["gradient"]
    return Choice(
        **document | {"exact": exact, "gradient": _choice_of(gradient) if gradient else None}
    )


def unchanged(usual: Choice) -> Choice:
    """`usual` as if it had been measured beside itself."""
    return replace(
        usual,
        speed_ratio={"predictions": 1.0, "gradients": 1.0},
        cosines=dict.fromkeys(LEAST_COSINES, 1.0),
    )


def received(precision: Precision | None) -> Choice:
    """The choice of the supervisor; without one, ONNX Runtime in `precision`, or float32."""
    passed = os.environ.get(PASSED)
    return parse(passed) if passed else Choice(precision=precision or "float32")


def best(measured: Sequence[Choice], *, forced: bool) -> Choice | None:
    """The proven one that predicts fastest, if it is worth it or one is `forced`; its gradients may
    be another's.
    """
    fit = [choice for choice in measured if choice.is_proven and (forced or choice.is_worth_it)]
    found = max(fit, key=lambda choice: choice.speed_ratio["predictions"], default=None)
    return None if found is None else found.with_gradient_of(measured)


def precisions(
    manifest: Manifest, wanted: Precision | None, *, bfloat16: bool = False
) -> tuple[Precision, ...]:
    """The precisions to try: `wanted`, or those whose loss the manifest does not forbid.

    `bfloat16` says that the CPU has it. A manifest without figures of bfloat16 leaves the judgement
    to the comparison at the start.
    """
    if wanted is not None:
        return (wanted,)
    found: list[Precision] = ["float32"]
    if bfloat16 and _small(manifest.bfloat16):
        found.append("bfloat16")
    if manifest.int8 is not None and _small(manifest.int8):
        found.append("int8")
    return tuple(found)


def _small(figures: Int8 | Bfloat16 | None) -> bool:
    return figures is None or figures.macro_f1_float32 - figures.macro_f1 <= LARGEST_LOSS
