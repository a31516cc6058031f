"""The networks that a name stands for, each as a `training.networks.ours.Network`.

    candor_net, seed_cnn    of this project, for 32 pixels
    efficientnet_lite0      Google's, with the names of its published weights
    a name of torchvision   any of its classifiers that end with a linear layer: resnet18 …
    a name of timm          the same (an extra, candor[timm])
    module:function         function(classes) → nn.Module; the module is on Python's path

The normalisation is that of the published weights, by which pixels in 0…1 become the input.
"""

import importlib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn

from service.image.resize import Size, described, sides
from training.networks import efficientnet_lite
from training.networks.efficientnet_lite import EfficientNetLite0
from training.networks.ours import CandorNet, Network, SeedCnn
from training.networks.wrapped import NetworkError, Wrapped

OURS: Mapping[str, type[Network]] = {"candor_net": CandorNet, "seed_cnn": SeedCnn}
LITE = "efficientnet_lite0"
OWN_SIZE, SIZE = 32, 224  # pixels: of OURS, and of the others unless one is named
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, of pixels in 0…1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def build(name: str, classes: int, options: Mapping[str, Any], size: Size = OWN_SIZE) -> Network:
    """The network `name` with random weights (seed torch first); `options` are its keywords.

    Raises:
        NetworkError: there is no such network, or it cannot be trained on images of `size`.
    """
    if name in OURS:
        if size != OWN_SIZE:
            raise NetworkError(
                f"{name} sees {OWN_SIZE} × {OWN_SIZE} pixels, not {described(size)}: leave --size "
                f"out, or choose another network, {LITE} for example"
            )
        return OURS[name](classes, **options)
    if name == LITE:
        return EfficientNetLite0(classes, **options)
    try:
        return Wrapped(_foreign(name, classes, options), classes, size)
    except NetworkError as error:
        raise NetworkError(f"{name} {error}") from None


def runs_on(network: Network, size: Size) -> bool:
    """True if `network` takes images of `size`, too; most transformers do not."""
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *sides(size)))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def normalisation(name: str) -> Normalisation | None:
    """The normalisation of the published weights of the network `name`; None if it has none."""
    if name == LITE:
        return Normalisation(efficientnet_lite.MEAN, efficientnet_lite.STD)
    if name in torchvision_names():
        return _of_transforms(torchvision.models.get_model_weights(name).DEFAULT.transforms())
    if name in OURS or ":" in name:
        return None
    published = timm(name).get_pretrained_cfg(name)
    return Normalisation(tuple(published.mean), tuple(published.std)) if published else None


def torchvision_names() -> list[str]:
    """The names of torchvision's classifiers."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def timm(network: str) -> Any:
    """The module timm, for the sake of `network`.

    Raises:
        NetworkError: it is not installed, or has no such network.
    """
    try:
        module = importlib.import_module("timm")
    except ImportError:
        near = get_close_matches(network, [*OURS, LITE, *torchvision_names()], 3)
        raise NetworkError(
            "is no network of this project or of torchvision"
            + (f" (there are {', '.join(near)})" if near else "")
            + "; for those of timm: pip install 'candor[timm]'"
        ) from None
    if not module.is_model(network):
        near = get_close_matches(network, [*torchvision_names(), *module.list_models()], 3)
        raise NetworkError(
            "is no network of this project, of torchvision or of timm"
            + (f" (there are {', '.join(near)})" if near else "")
        )
    return module


def _foreign(name: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
    network: nn.Module
    if ":" in name:
        network = _of_function(_function(name), classes, options)
    elif name in torchvision_names():
        network = torchvision.models.get_model(name, weights=None, **options)
    else:
        network = timm(name).create_model(name, pretrained=False, **options)
    return network


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise NetworkError(
            f"cannot be imported ({error}): give module:function, with the module on Python's path"
        ) from None
    return found


def _of_function(
    function: Callable[..., Any], classes: int, options: Mapping[str, Any]
) -> nn.Module:
    try:
        network = function(classes, **options)
    except Exception as error:
        raise NetworkError(
            f"fails ({type(error).__name__}: {error}): it must take the number of classes"
        ) from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"returns {type(network).__name__}: it must return a torch.nn.Module")
    return network


def _of_transforms(transforms: Any) -> Normalisation:
    # a few older ones are functions without these attributes; all of those are of ImageNet
    return Normalisation(
        tuple(getattr(transforms, "mean", IMAGENET_MEAN)),
        tuple(getattr(transforms, "std", IMAGENET_STD)),
    )
