"""The answers of an engine to images that are read in parts: they need not fit in memory."""

import numpy as np

from service.runtime.engine import Engine
from service.runtime.graphs import Outputs
from training.data.images import Images

PIECES = 8  # of the engine, a part: the decoders have work, and memory stays small


def outputs_of(engine: Engine, images: Images) -> Outputs:
    """The outputs of predict.onnx for `images`, equal to those of one call."""
    # whole pieces, so that every row is computed in the same batch size as in one call
    parts = [engine.predict(part) for part in images.parts(PIECES * engine.most_rows)]
    first = parts[0]._asdict()
    return Outputs(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name, values in first.items()
            if values is not None
        }
    )
