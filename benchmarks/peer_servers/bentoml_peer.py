"""BentoML as its documentation writes a service: the image is a part of a form."""

from typing import Any

import bentoml
from common import PROCESSES, Classifier, answer
from PIL.Image import Image


@bentoml.service(workers=PROCESSES)
class Peer:
    """One session a worker."""

    def __init__(self) -> None:
        self.classifier = Classifier()

    @bentoml.api
    def predict(self, image: Image) -> dict[str, Any]:
        """One image."""
        return answer(self.classifier.logits(self.classifier.fit(image)[None])[0])
