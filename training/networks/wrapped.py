"""A foreign classifier as a `training.networks.ours.Network`: x float32 (N, 3, H, W) → logits.

Its last linear layer is replaced by one for the classes of the data. One run in evaluation mode
finds that layer and the two that class activation maps and familiarity read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from service.image.resize import Size, described, sides
from training.networks.ours import Network

IMAGE_RANK, FEATURES_RANK = 4, 2


class NetworkError(Exception):
    """A network does not exist, or cannot be trained here."""


class Wrapped(Network):
    """`network` up to its last linear layer, which has the name `head_name` there, and a new one.

    Parameters that do not reach the logits in evaluation mode (of auxiliary heads) do not learn.

    Raises:
        NetworkError: `network` does not run on images of `size`, does not end with a
            linear layer, or has no layer with pixels.
    """

    def __init__(self, network: nn.Module, classes: int, size: Size) -> None:
        super().__init__()
        _keep_inputs(network)
        seen = _run(network.eval(), size)
        self.head_name = seen.head()
        self.cam_layer, self.texture_layer = (
            f"network.{name}" for name in (seen.last_map(), seen.first_map())
        )
        last = network.get_submodule(self.head_name)
        assert isinstance(last, nn.Linear)
        owner, _, name = self.head_name.rpartition(".")
        setattr(network.get_submodule(owner), name, nn.Identity())
        self.network = network
        self.head = nn.Linear(last.in_features, classes)
        self.train()

    def features(self, x: Float[Tensor, "rows 3 height width"]) -> Float[Tensor, "rows features"]:
        """The input of the last linear layer."""
        answer = self.network(x)
        # with auxiliary heads, networks answer with a tuple while they learn
        features: Tensor = answer[0] if isinstance(answer, tuple) else answer
        return features

    def own_name(self, published: str) -> str:
        """The name here of a tensor that the foreign network calls `published`."""
        layer, _, name = published.rpartition(".")
        return f"head.{name}" if layer == self.head_name else f"network.{published}"


@dataclass
class _Seen:
    """The modules of a run in the order in which they answered, with their inputs and outputs.

    `shape`: height and width of the images, in pixels.
    """

    answer: Tensor
    shape: tuple[int, int]
    calls: list[tuple[str, nn.Module, Tensor, Tensor]] = field(default_factory=list)

    def head(self) -> str:
        """The name of the linear layer that answers for the network."""
        linear = [call for call in self.calls if isinstance(call[1], nn.Linear)]
        if not linear:
            raise NetworkError(
                "has no linear layer at its end, with an output for each class: "
                "choose a network with one, or put one behind it (module:function)"
            )
        name, _, x, y = linear[-1]
        if y is not self.answer or x.ndim != FEATURES_RANK:
            raise NetworkError(
                f"does not end with its last linear layer, {name}: its answer must be that "
                "layer's output (N, classes), with no softmax behind it"
            )
        return name

    def last_map(self) -> str:
        """The name of the last module with a map of several cells a side as its output."""
        return self._maps()[-1][0]

    def first_map(self) -> str:
        """The name of the first such module, or of the batch norm behind it."""
        maps = self._maps()
        (first, _, y), *others = maps
        after = [name for name, module, z in others[:1] if isinstance(module, nn.BatchNorm2d)]
        return after[0] if after and others[0][2].shape == y.shape else first

    def _maps(self) -> list[tuple[str, nn.Module, Tensor]]:
        names = [name for name, *_ in self.calls]
        found = [
            (name, module, y)
            for name, module, _, y in self.calls
            # a hook on a module that runs twice would see two maps; (N, h, w, C) is no map
            if names.count(name) == 1 and y.ndim == IMAGE_RANK and _is_map(y.shape[2:], self.shape)
        ]
        if not found:
            raise NetworkError(
                "has no layer with maps (N, C, h, w), which class activation maps need: "
                "choose a convolutional network, or a larger --size"
            )
        return found


def _is_map(cells: Sequence[int], shape: tuple[int, int]) -> bool:
    """True for several cells a side, as many to the pixel in height and in width."""
    (rows, columns), (height, width) = cells, shape
    # Strides round the number of cells of a side up or down.
    return min(cells) > 1 and abs(rows * width - columns * height) < max(height, width)


def _keep_inputs(network: nn.Module) -> None:
    """Lets no layer overwrite its input, which another may read: hooks see what layers answered."""
    for module in network.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False  # type: ignore[assignment]


def _run(network: nn.Module, size: Size) -> _Seen:
    """Runs `network` once; freezes the parameters that its answer does not depend on."""
    calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def keeper(name: str) -> torch.utils.hooks.RemovableHandle:
        def keep(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                calls.append((name, module, inputs[0], output))

        return network.get_submodule(name).register_forward_hook(keep)

    handles = [keeper(name) for name, _ in network.named_modules() if name]
    try:
        answer = network(torch.zeros(2, 3, *sides(size)))
    except Exception as error:
        raise NetworkError(
            f"does not run on images of {described(size)} pixels ({error}): choose another --size"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(answer, Tensor) or answer.ndim != FEATURES_RANK:
        raise NetworkError("does not answer with logits (N, classes): it is no classifier")
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    slopes = torch.autograd.grad(answer.sum(), learning, allow_unused=True)
    for parameter, slope in zip(learning, slopes, strict=True):
        parameter.requires_grad_(slope is not None)
    return _Seen(answer, sides(size), calls)
