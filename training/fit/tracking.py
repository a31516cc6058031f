"""Figures of a training, step by step: for TensorBoard always, for Weights & Biases on request.

Both get the same names, values and steps. TensorBoard's file lies in the folder of the run, and so
does the copy that Weights & Biases keeps (`wandb/`). Its own variables decide where figures are
sent: WANDB_MODE=offline sends nothing, and `wandb sync` can send them later. A resumed training is
another run of Weights & Biases, in the same group.
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
    """Weights & Biases is not installed or not logged in."""


class Tracker:
    """Writes to `board` and to `run`, each where it is given.

    Only the first process of a training has them.
    """

    def __init__(self, board: SummaryWriter | None = None, run: Any = None) -> None:
        self._board = board
        self._run = run

    def scalar(self, name: str, value: float, step: int) -> None:
        """Writes a number."""
        if self._board is not None:
            self._board.add_scalar(name, value, step)
        if self._run is not None:
            self._run.log({name: value}, step=step)

    def images(
        self, name: str, pixels: UInt8[Tensor, "rows channels height width"], step: int
    ) -> None:
        """Writes images with one channel, grey, or three, RGB."""
        if self._board is not None:
            self._board.add_images(name, pixels, step)
        if self._run is not None:
            images = [_image(image) for image in pixels.permute(0, 2, 3, 1).numpy()]
            self._run.log({name: images}, step=step)


@contextmanager
def tracking(
    folder: Path, config: Mapping[str, Any], track: Track | None = None
) -> Iterator[Tracker]:
    """The tracker of a training into `folder`, with the settings `config`.

    Raises:
        TrackingError: Weights & Biases cannot start.
    """
    with ExitStack() as stack:
        # first, so that a failed start leaves no file for TensorBoard
        run = None if track is None else stack.enter_context(_start_wandb(folder, config))
        yield Tracker(stack.enter_context(SummaryWriter(str(folder))), run)


def _start_wandb(folder: Path, config: Mapping[str, Any]) -> Any:
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
            # wandb would capture stdout, where the report goes
            settings=wandb.Settings(console="off", silent=True),
        )
    except wandb.errors.Error as error:
        raise TrackingError(
            f"Weights & Biases does not start ({error}): log in, set WANDB_MODE=offline, "
            "or leave --track out"
        ) from None


def _image(pixels: UInt8[np.ndarray, "height width channels"]) -> Any:
    import wandb  # noqa: PLC0415 - an extra, and slow to import

    return wandb.Image(pixels)
