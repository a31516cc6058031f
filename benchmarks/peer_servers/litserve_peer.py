"""LitServe: the image is base64 in JSON."""

import base64
from typing import Any

import litserve
import numpy as np
from common import PORT, PROCESSES, Classifier, answer


class Api(litserve.LitAPI):
    """The four words of LitServe."""

    def setup(self, device: str) -> None:
        """Opens the session of this worker."""
        del device
        self.classifier = Classifier()

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        """JSON → pixels."""
        return self.classifier.decode(base64.b64decode(request["image"]))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Pixels → logits."""
        return self.classifier.logits(x[None])[0]

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        """Logits → answer."""
        return answer(output)


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=PROCESSES)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
