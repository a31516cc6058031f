"""MLServer, the Open Inference Protocol: the image is base64 in a BYTES tensor."""

import base64

import numpy as np
from common import Classifier, probabilities
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Peer(MLModel):
    """Loaded once a worker process."""

    async def load(self) -> bool:
        """Opens the session."""
        self.classifier = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Some images."""
        data = payload.inputs[0].data
        batch = np.stack(
            [self.classifier.decode(base64.b64decode(row)) for row in getattr(data, "root", data)]
        )
        outputs = [
            NumpyCodec.encode_output("probabilities", probabilities(self.classifier.logits(batch)))
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
