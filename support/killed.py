"""A Predictor that kills its process once, in the middle of its work.

So does the system, where memory ends.
"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.bulk import arrow

DEADLY = "deadly.png"  # the image at which a process dies, unless one did before
MARK = "a-process-died"  # the file beside it


@dataclass(frozen=True)
class Predictor(arrow.Predictor):
    """Dies at the first batch with DEADLY, after its rows were made."""

    def __call__(self, batch: Any) -> Any:
        """The rows of a batch."""
        rows = super().__call__(batch)
        for path in batch.column(self.path).to_pylist():
            if Path(path).name == DEADLY:
                mark = Path(path.removeprefix("file:")).with_name(MARK)
                try:
                    mark.touch(exist_ok=False)
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return rows
