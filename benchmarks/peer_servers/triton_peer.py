"""NVIDIA Triton through PyTriton: the image is a BYTES tensor after the JSON header."""

from collections.abc import Callable

import numpy as np
from common import PORT, PROCESSES, Classifier, probabilities
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

GRPC, METRICS = 500, 600  # added to PORT


def worker() -> Callable[..., dict[str, np.ndarray]]:
    """The function of one worker process."""
    classifier = Classifier()

    @batch
    def infer(image: np.ndarray) -> dict[str, np.ndarray]:
        logits = classifier.logits(np.stack([classifier.decode(row[0]) for row in image]))
        return {"probabilities": probabilities(logits)}

    return infer


if __name__ == "__main__":
    ports = TritonConfig(
        http_address="127.0.0.1", http_port=PORT, grpc_port=PORT + GRPC, metrics_port=PORT + METRICS
    )
    with Triton(config=ports) as triton:
        triton.bind(
            model_name="model",
            infer_func=[worker() for _ in range(PROCESSES)],
            inputs=[Tensor(name="image", dtype=np.bytes_, shape=(1,))],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(
                max_batch_size=32, batcher=DynamicBatcher(max_queue_delay_microseconds=500)
            ),
        )
        triton.serve()
