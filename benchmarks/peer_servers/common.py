"""The graph, the decoding and the answer that all peers share. One process uses one thread.

The environment gives MODEL, a predict.onnx (image uint8 (N, H, W, 3) → logits float32 (N, K));
PORT, the port to listen on; and PROCESSES, the number of workers.
"""

import io
import os
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image

PORT = int(os.environ["PORT"])
PROCESSES = int(os.environ["PROCESSES"])


class Classifier:
    """One session; every worker process opens its own."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self._size: int = self._session.get_inputs()[0].shape[1]

    def decode(self, body: bytes) -> np.ndarray:
        """An encoded image → uint8 (H, W, 3), RGB."""
        return self.fit(Image.open(io.BytesIO(body)))

    def fit(self, image: Image.Image) -> np.ndarray:
        """An image → uint8 (H, W, 3), RGB."""
        return np.asarray(
            image.convert("RGB").resize((self._size, self._size), Image.Resampling.BILINEAR)
        )

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) → float32 (N, K)."""
        return np.asarray(self._session.run(["logits"], {"image": batch})[0])


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def answer(logits: np.ndarray) -> dict[str, Any]:
    """One image's answer, as JSON values."""
    shares = probabilities(logits)
    index = int(shares.argmax())
    return {"index": index, "probability": float(shares[index]), "probabilities": shares.tolist()}
