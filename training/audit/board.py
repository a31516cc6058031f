"""The report in TensorBoard: figures as scalars, plots as images, the card as text.

Each version of a bundle is a run of its own.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from service.bundle.folder import CARD, Bundle
from training.audit.comparison import figures

NOT_IN_TAGS = re.compile(r"[^\w./-]+")


def show(folder: Path, bundle: Bundle, report: Mapping[str, Any]) -> None:
    """Writes the run FOLDER/NAME-VERSION of an audited `bundle` and its `report`."""
    with SummaryWriter(str(folder / f"{bundle.manifest.name}-{bundle.manifest.version}")) as writer:
        for name, value, _ in figures(report):
            writer.add_scalar(NOT_IN_TAGS.sub("_", name), value, 0)
        for name in sorted(bundle.manifest.files):
            if name.endswith(".png"):
                plot = np.asarray(Image.open(io.BytesIO(bundle.read(name))).convert("RGB"))
                writer.add_image(name.removesuffix(".png"), plot, 0, dataformats="HWC")
        writer.add_text("card", bundle.read(CARD).decode(), 0)
