"""What a training tells while it goes on, by step: to TensorBoard always, and to Weights & Biases where it is asked to.

Both have the same names, values and steps. TensorBoard's file is in the run's folder, and so is what Weights & Biases keeps (`wandb/`);
where that is sent, if anywhere, is for its own variables to say (WANDB_MODE=offline sends nothing, `wandb sync` does later). A training that
is resumed is another run of theirs, in the same group.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

PROJECT = "candor"

Track = Literal["wandb"]


class TrackingError(Exception):
    """Weights & Biases was asked for, and is not installed or not logged in."""


class Tracker:
    """Tells `board` and `run`, as far as there are any; processes that are not the first of a training have neither."""

    def __init__(self, board: SummaryWriter | None = None, run: Any = None) -> None:
        self._board = board
        self._run = run

    def scalar(self, name: str, value: float, step: int) -> None:
        """A number."""
        if self._board is not None:
            self._board.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log({name: value}, step=step)

    def images(
        self, name: str, pixels: UInt8[Tensor, "rows channels height width"], step: int
    ) -> None:
        """Images with one channel, grey, or three, RGB."""
        if self._board is not None:
            self._board.add_images(name, pixels, step)
        if self._run is not None:
            self._run.log(
                {name: [_image(image) for image in pixels.permute(0, 2, 3, 1).numpy()]}, step=step
            )


@contextmanager
def tracking(
    folder: Path, config: Mapping[str, Any], track: Track | None = None
) -> Iterator[Tracker]:
    """The tracker of a training into `folder`, whose settings are `config`.

    Raises:
        TrackingError: Weights & Biases cannot begin.
    """
    with ExitStack() as open_ones:
        run = None if track is None else open_ones.enter_context(_begun(folder, config))
        yield Tracker(open_ones.enter_context(SummaryWriter(str(folder))), run)


def _begun(folder: Path, config: Mapping[str, Any]) -> Any:
    try:
        import wandb  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise TrackingError(
            "wandb is not installed: pip install 'candor[wandb]', or leave --track out"
        ) from None
    try:
        return wandb.init(
            project=PROJECT,
            group=folder.name,
            dir=folder,
            config=dict(config),
            settings=wandb.Settings(console="off", silent=True),
        )
    except wandb.errors.Error as error:
        raise TrackingError(
            f"Weights & Biases does not begin ({error}): log in, set WANDB_MODE=offline, or leave --track out"
        ) from None


def _image(pixels: UInt8[np.ndarray, "height width channels"]) -> Any:
    import wandb  # noqa: PLC0415

    return wandb.Image(pixels)
