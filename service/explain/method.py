"""One way to explain: its parameters, what its map means, its cost, and what it gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from service.bundle import folder
from service.bundle.manifest import LAST
from service.explain import rungs
from service.explain.colours import Scale
from service.explain.maps import scaling
from service.explain.maps.sampling import cosine
from service.explain.rungs import Rung

Sign = Literal["signed", "positive"]
Map = Float32[np.ndarray, "H W"]


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
        return any(each.name == "segments" for each in self.parameters)
