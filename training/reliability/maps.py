"""The maps of images as a service would answer with them, and their distribution over held-out
images, against which it measures the drift of maps.
"""

import numpy as np
from jaxtyping import Float64

from service.bundle.manifest import MapDistribution
from service.explain import ask, explain
from service.explain.attribution import GRAD_CAM
from service.runtime.engine import Engine
from service.runtime.graphs import Outputs
from service.telemetry.drift import MAPS
from training.data import Pixels
from training.data.images import Images
from training.figures.outputs import outputs_of
from training.reliability.distribution import bins_of, quantiles

Aspects = Float64[np.ndarray, "images aspects"]


def fit_maps(aspects: Aspects | None) -> MapDistribution | None:
    """The distribution of the maps of held-out images; None of too few for two bins."""
    most = 0 if aspects is None else bins_of(len(aspects))
    if aspects is None or not most:
        return None
    columns = zip(MAPS.aspects, aspects.T, strict=True)
    return MapDistribution(len(aspects), **{name: quantiles(of, most) for name, of in columns})


def outputs_and_maps(engine: Engine, images: Images) -> tuple[Outputs, Aspects | None]:
    """The outputs of predict.onnx for `images`, and the aspects of the maps that come in the same
    pass; None where none do.
    """
    if not engine.one_pass:
        return outputs_of(engine, images), None
    question = ask(engine.manifest, GRAD_CAM, None, {})
    rows: list[tuple[float, ...]] = []

    def explained(part: Pixels) -> Outputs:
        outputs = engine.predict_quick(part, activation=True)
        assert outputs.activation is not None
        for image in zip(part, outputs.logits, outputs.activation, strict=True):
            pixels, logits, activation = image
            found = explain(engine.seeing(logits, activation), pixels, question, logits).aspects
            assert found is not None
            rows.append(found)
        return outputs._replace(activation=None)

    outputs = outputs_of(engine, images, explained)
    return outputs, np.array(rows)
