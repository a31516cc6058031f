"""KServe, its V1 protocol: the image is base64 in `instances`."""

import base64
from functools import cached_property
from typing import Any

import numpy as np
from common import PORT, PROCESSES, Classifier, answer
from kserve import Model, ModelServer


class Peer(Model):
    """The model is pickled into its worker processes, so each opens the session at first use."""

    def __init__(self) -> None:
        super().__init__("model")
        self.ready = True

    @cached_property
    def classifier(self) -> Classifier:
        """This worker's session."""
        return Classifier()

    async def predict(self, payload: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        """Some images."""
        bodies = [
            base64.b64decode(instance["image_bytes"]["b64"]) for instance in payload["instances"]
        ]
        logits = self.classifier.logits(np.stack([self.classifier.decode(body) for body in bodies]))
        return {"predictions": [answer(row) for row in logits]}


if __name__ == "__main__":
    ModelServer(http_port=PORT, workers=PROCESSES, enable_grpc=False, access_log_format=None).start(
        [Peer()]
    )
