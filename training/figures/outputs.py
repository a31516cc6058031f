"""The answers of an engine to images that are read or changed in parts, which bounds the memory."""

from collections.abc import Callable

import numpy as np

from service.runtime.engine import Engine
from service.runtime.graphs import Outputs
from training.data import ClassIndices, Pixels
from training.data.images import Images

PIECES = 8  # of the engine, a part: the decoders have work, and memory stays small

Change = Callable[[slice], Pixels]


def outputs_of(
    engine: Engine, images: Images, predict: Callable[[Pixels], Outputs] | None = None
) -> Outputs:
    """The outputs of predict.onnx for `images`, equal to those of one call; those of `predict`, if
    it is given, which makes more of a part.
    """
    predict = predict or engine.predict
    # whole pieces, so that every row is computed in the same batch size as in one call
    parts = [predict(part) for part in images.parts(PIECES * engine.most_rows)]
    first = parts[0]._asdict()
    return Outputs(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name, values in first.items()
            if values is not None
        }
    )


def classes_of(engine: Engine, count: int, changed: Change) -> ClassIndices:
    """The classes of `count` images; `changed` makes those at a slice of them."""
    rows = PIECES * engine.most_rows
    parts = (slice(start, min(start + rows, count)) for start in range(0, count, rows))
    answers = [engine.predict(changed(part)).logits.argmax(1) for part in parts]
    return np.concatenate(answers) if answers else np.zeros(0, np.int64)
