"""Recipes: the hyper-parameters of a training, saved as JSON beside the weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from service.image.colour import Colour
from service.image.resize import Input, Resize, Size
from training.data.split import SHARE, HeldOut
from training.networks.catalogue import OWN_SIZE, Normalisation, build, normalisation
from training.networks.ours import Network

Optimizer = Literal["adam", "adamw", "muon", "sgd"]
Balance = Literal["none", "weights", "sampling"]
FINETUNE_TRANSLATE = 2
GREY = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
FORMER_NAMES = {
    "hide": "holes",
    "rate": "learning_rate_scale",
    "settle": "finetune_epochs",
    "spoil": "augmix",
}


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of a training.

    A step sees `batch` images, in ghost batches of `ghost_batch`, and sums the gradients of these.
    `held_out`, a number of training images or a share of each class, are for validation.

    Augmentation: shifts by up to `translate` pixels. `flip` mirrors every image in every other
    epoch. `holes` is the share of images with holes (`training.data.augment.cut_holes`), `augmix`
    the share that is corrupted (`training.data.augment.corrupt`). With `adversarial`, a radius in
    levels of 255, every image is attacked before the network learns from it.

    Learning rates fall to 0 within `epochs`, except those of Adam, and are multiplied by
    `learning_rate_scale`. Then follow `finetune_epochs` at a tenth of the first rates, on images
    without holes that are shifted by FINETUNE_TRANSLATE at most. The final weights are the mean of
    the weights after each of these steps (Izmailov et al., "Averaging Weights Leads to Wider
    Optima", arXiv 1803.05407).

    AdamW and SGD begin with a line from 0 to `peak_rate` within the share `warmup` of the epochs,
    and end with half a cosine. The first layers have `first_rate` times the rate of the head, those
    between them rates between. With `average` the network that is judged and kept is a running mean
    of the weights, over that share of the steps. With `patience` the training ends when the
    validation loss has not fallen for so many epochs; the weights with the least one are kept.

    `crop` above 0 shows random parts of the images, of at least that share of the area; `colour`
    changes brightness, contrast and saturation by up to that share. `balance` weighs the loss of
    each class by the inverse of its size, or draws every class equally often.

    With `fixed_norms` batch norms keep the statistics that the training begins with; the first
    layers, a share `frozen` of all, do not learn.

    `size` and `resize` bring images to the network, and `profiles` their colours (`Input.colour`).
    Training shows parts of `train_size`, 0 for `size`: things look larger in parts, so the network
    sees them in one size (Touvron et al., "Fixing the train-test resolution discrepancy", arXiv
    1906.06423). `weights` are the name and the SHA-256 of the published weights that the training
    begins with; the head is then fitted on their features. `start` is the SHA-256 of the weights of
    a run that it begins with, empty for none.

    `precision` is one of Lightning Fabric's, or `auto`: bfloat16 autocast where the processor
    computes in it.
    """

    network: str
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Optimizer = "muon"
    epochs: int = 10
    batch: int = 2000
    ghost_batch: int = 500
    label_smoothing: float = 0.0
    translate: int = 0
    flip: bool = False
    holes: float = 0.0
    finetune_epochs: int = 0
    augmix: float = 0.0
    adversarial: float = 0.0
    start: str = ""
    learning_rate_scale: float = 1.0
    peak_rate: float = 1e-3
    first_rate: float = 1.0
    weight_decay: float = 0.0
    warmup: float = 0.0
    average: float = 0.0
    patience: int = 0
    frozen: float = 0.0
    fixed_norms: bool = False
    crop: float = 0.0
    colour: float = 0.0
    balance: Balance = "none"
    size: Size = OWN_SIZE
    train_size: Size = 0
    resize: Resize = "crop"
    profiles: Colour = "srgb"
    weights: Mapping[str, str] = field(default_factory=dict)
    held_out: HeldOut = SHARE
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.batch % self.ghost_batch:
            raise ValueError(
                f"batch is {self.batch}, no multiple of ghost_batch {self.ghost_batch}: "
                "change one of them"
            )

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Recipe":
        """The recipe of a JSON object that `document` made, in this release or an earlier one."""
        values = current_names(document)
        # JSON has no tuples, and networks take their widths as one
        values["options"] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values["options"].items()
        }
        values.setdefault("profiles", "as-sent")  # what releases before 0.3 did
        for name in ("size", "train_size"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        return cls(**values)

    def document(self) -> dict[str, Any]:
        """This recipe as JSON values."""
        return asdict(self)

    @property
    def normalisation(self) -> Normalisation | None:
        """That of the published weights; None for that of the data."""
        known = normalisation(self.network) if self.weights else None
        # `pad` fills with the mean, which must be known before the images are read
        return known or (GREY if self.resize == "pad" else None)

    def input(
        self, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
    ) -> Input:
        """The input of the network: pixels of `size`, by `resize`.

        Without `mean` and `std` it serves to read images, before those of the data are known.
        """
        known = self.normalisation or GREY
        return Input(
            self.size, mean or known.mean, std or known.std, self.resize, colour=self.profiles
        )

    def network_for(self, classes: int) -> Network:
        """The untrained network, its weights drawn from `seed`.

        Raises:
            NetworkError: there is no such network, or it does not fit `size`.
        """
        torch.manual_seed(self.seed)
        return build(self.network, classes, self.options, self.size)


def current_names(document: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as JSON values, its fields under the names of this release."""
    return {FORMER_NAMES.get(name, name): value for name, value in document.items()}


RECIPES: Mapping[str, Recipe] = {
    "candor_net": Recipe(
        "candor_net",
        epochs=27,
        label_smoothing=0.2,
        translate=4,
        flip=True,
        holes=0.5,
        finetune_epochs=4,
    ),
    "seed_cnn": Recipe("seed_cnn", optimizer="adam", epochs=10, batch=64, ghost_batch=64),
}
