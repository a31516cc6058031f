"""The production side: an image classifier that explains itself, on ONNX Runtime.

It imports neither torch nor training.
"""

import os

__version__ = "0.2.0"

# Dependencies that report their use over the network, each silenced by its variable. ONNX Runtime
# reads its own at its import, and every import of it here, in training and in benchmarks comes
# after this module. A value that the caller has set changes nothing.
TELEMETRY_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",
    "BENTOML_DO_NOT_TRACK": "true",  # "1" does not count
    "WANDB_ERROR_REPORTING": "false",
}
os.environ.update(TELEMETRY_OFF)
