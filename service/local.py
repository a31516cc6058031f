"""A model in this process, for scripts and notebooks.

    from service import open_model

    model = open_model("bundle")                    # or open_model(): the embedded model
    model.predict("cat.jpg")                        # a notebook shows the answer
    model.explain("cat.jpg", "grad_cam").save("why.png")

An image is a path, the bytes of a file, or a Pillow image.
"""

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from PIL import Image

from service import predictions, words
from service.api import responses
from service.bundle import folder
from service.bundle.manifest import Manifest
from service.explain import Attribution, ask, available, check_masked, explain, render
from service.explain.legend import legend_of
from service.explain.question import cheapest_method
from service.image.budget import MAX_PIXELS
from service.predictions import Prediction
from service.runtime.engine import Engine
from service.schedule.sent import Sent, draw_overlay, fit_image, question_on_mask
from service.settings import EMBEDDED, Settings

Source = str | Path | bytes | Image.Image
SUFFIXES = (".png", ".npy")
NO_PARAMETERS: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Answer:
    """The prediction for one image, of the model with `manifest`."""

    manifest: Manifest
    sent: Sent
    prediction: Prediction

    @property
    def label(self) -> str:
        """The predicted class."""
        return self.prediction.best.label

    @property
    def probability(self) -> float:
        """The calibrated probability of the predicted class, in 0…1."""
        return self.prediction.best.probability

    def document(self) -> dict[str, Any]:
        """The answer as POST /predict gives it."""
        model = responses.model(self.manifest)
        return {"model": model, **responses.prediction(self.prediction, self.sent)}

    def lines(self) -> list[str]:
        """The answer in words."""
        return [words.classes(self.prediction), words.trust(self.prediction)]

    def _repr_html_(self) -> str:
        return _paragraphs(self.lines())


@dataclass(frozen=True)
class Explanation(Answer):
    """A prediction with an attribution map."""

    attribution: Attribution
    engine: Engine

    @property
    def map(self) -> Float32[np.ndarray, "height width"]:
        """The map over the network's input, in the method's unit; positive: speaks for."""
        return self.attribution.map

    @property
    def quality(self) -> Mapping[str, float]:
        """The measures of the map, by name."""
        return self.attribution.quality

    @cached_property
    def png(self) -> bytes:
        """The map over the image, magnified if it is small, with a legend: a PNG file."""
        legend = legend_of(self.attribution, self.manifest, self.prediction.logits)
        assert self.sent.ground is not None
        ground = render.magnified(self.sent.ground)
        return draw_overlay(self.engine, ground, self.sent, self.attribution, legend)

    def overlay(self) -> bytes:
        """The map over the image, pixel for pixel and without a legend: a PNG file."""
        assert self.sent.ground is not None
        return draw_overlay(self.engine, self.sent.ground, self.sent, self.attribution)

    def save(self, path: str | Path) -> Path:
        """Writes the overlay with its legend (.png) or the raw map (.npy).

        Raises:
            ValueError: `path` has another suffix.
        """
        path = Path(path)
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path} ends neither in .png (the overlay) nor in .npy (the raw map)")
        path.write_bytes(self.png if path.suffix == ".png" else responses.npy(self.attribution))
        return path

    def document(self) -> dict[str, Any]:
        """The answer as POST /explain gives it, without the overlay."""
        explanation = responses.explanation(self.attribution, self.manifest)
        return {**super().document(), "explanation": explanation}

    def lines(self) -> list[str]:
        """The answer in words: classes, trust, place and quality of the map."""
        return words.lines(self.prediction, self.attribution, self.manifest)

    def _repr_html_(self) -> str:
        source = base64.b64encode(self.png).decode()
        return f'<img src="data:image/png;base64,{source}">{_paragraphs(self.lines())}'


class Model:
    """A model that predicts and explains in this process, in the caller's thread."""

    def __init__(self, engine: Engine, max_pixels: int = MAX_PIXELS) -> None:
        self.engine, self.manifest = engine, engine.manifest
        self._max_pixels = max_pixels

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the logits."""
        return self.manifest.labels

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that this model can be explained by; the first one is the default."""
        cheapest = cheapest_method(self.manifest)
        names = [method.name for method in available(self.manifest)]
        return tuple(sorted(names, key=lambda name: cheapest is None or name != cheapest.name))

    def predict(self, image: Source, top_k: int = predictions.TOP_K) -> Answer:
        """The `top_k` most probable classes of an image.

        Raises:
            RequestError: the image cannot be read, or `top_k` is out of range.
        """
        sent = self._fit(image, keep=False)
        return Answer(self.manifest, sent, self._predict(sent, top_k))

    def explain(
        self,
        image: Source,
        method: str | None = None,
        target: str | int | None = None,
        parameters: Mapping[str, Any] = NO_PARAMETERS,
        *,
        mask: bytes | None = None,
        quality: Literal["basic", "full"] = "basic",
    ) -> Explanation:
        """A map of what speaks for the class `target`, by default the predicted one.

        `parameters` are those of the method: {"steps": 64}. `mask`: a PNG file of the image's size,
        each value a segment.

        Raises:
            RequestError: the image cannot be read; method, class or parameter is unknown.
        """
        method = method or self.methods[0]
        sent = self._fit(image, keep=True)
        chosen = None if target is None else str(target)
        question = ask(self.manifest, method, chosen, parameters, quality)
        if mask is not None:
            check_masked(method, parameters)
            question = question_on_mask(sent, mask, question, self.manifest.input)
        prediction = self._predict(sent, predictions.TOP_K)
        attribution = explain(self.engine, sent.fitted, question, prediction.logits)
        return Explanation(self.manifest, sent, prediction, attribution, self.engine)

    def _fit(self, image: Source, *, keep: bool) -> Sent:
        return fit_image(_content(image), self.manifest.input, self._max_pixels, keep=keep)

    def _predict(self, sent: Sent, top_k: int) -> Prediction:
        options = predictions.PredictionOptions(predictions.check_top_k(top_k, self.manifest))
        row = self.engine.predict(sent.fitted[None]).rows()[0]
        return predictions.predict(row, self.manifest, options)


def open_model(bundle: str | Path | None = None) -> Model:
    """The model in a folder, or an embedded one by name: cifar10, imagenet.

    The default is that of CANDOR_BUNDLE, else cifar10.

    Device and threads come from the settings (docs/settings.md).

    Raises:
        BundleError: there is no bundle, or it is damaged.
    """
    settings = Settings.from_environment()
    if bundle is None:
        opened = folder.load(settings.bundle, settings.bundle_digest)
    else:
        opened = folder.load(EMBEDDED.get(str(bundle), Path(bundle)))
    # As beside other workers, the graphs of explanations are open once: that saves memory.
    engine = Engine(opened, settings.device, settings.threads, alone=False)
    return Model(engine, settings.max_pixels or MAX_PIXELS)


def _content(image: Source) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()
    return Path(image).read_bytes()


def _paragraphs(lines: list[str]) -> str:
    return "".join(f"<p>{html.escape(line)}</p>" for line in lines)
