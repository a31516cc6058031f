"""The production side: an image classifier that explains itself, on ONNX Runtime.

It imports neither torch nor training. For scripts and notebooks: `from service import open_model`
(service.local).
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.local import open_model

__all__ = ["TELEMETRY_OFF", "open_model"]

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


def __getattr__(name: str) -> Any:
    # Imported on demand: most modules of the service need no engine.
    if name == "open_model":
        from service.local import open_model  # noqa: PLC0415 - see above

        return open_model
    raise AttributeError(f"module service has no attribute {name}")
