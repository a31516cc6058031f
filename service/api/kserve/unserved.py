"""Paths of other servers' protocols that are not served here, each with its reason and remedy.

Sources: Triton's extensions "shared memory", "trace", "logging", and "generate";
https://www.tensorflow.org/tfx/serving/api_rest; https://pytorch.org/serve/inference_api.html.
"""

import re

from service.errors import NotFound

_REASONS = (
    (
        r"/v2/(system|cuda)sharedmemory(/.*)?",
        "no memory is shared with callers: send the tensors in the request",
    ),
    (
        r"/v2(/models/[^/]+)?/trace/setting",
        "requests are not traced: GET /metrics has the time of each stage",
    ),
    (r"/v2/logging", "the log is set at the start, not by callers: see CANDOR_ACCESS_LOG"),
    (
        r"/v2/models/[^/]+(/versions/[^/]+)?/generate(_stream)?",
        "the model generates no text: POST to /infer",
    ),
    (r"/predictions/.+", "this path is TorchServe's: POST the same body to /predict"),
    (r"/explanations/.+", "this path is TorchServe's: POST the same body to /explain"),
    (r"/ping", "this path is TorchServe's: GET /readyz"),
    (
        r"/v1/models/[^/]+(/versions/[^/]+)?:regress",
        "a classifier has no regression: POST to :predict or :classify",
    ),
    (
        r"/v1/models/[^/]+/labels/.*",
        "versions have no labels here: leave the label out, or name /versions/1",
    ),
)
_PATTERNS = tuple((re.compile(path), words) for path, words in _REASONS)


def error(path: str) -> NotFound | None:
    """The error that says why `path` is not served, if it belongs to a known protocol."""
    for pattern, words in _PATTERNS:
        if pattern.fullmatch(path):
            return NotFound(f"{path} is not served: {words}")
    return None
