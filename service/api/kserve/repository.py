"""The model as Triton describes one: configuration, statistics.

Sources: Triton's extensions "model configuration" and "statistics",
https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

from typing import Any

from service.api.kserve import tensors, views
from service.bundle.manifest import Manifest
from service.telemetry.samples import Samples

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
_INFER = "/v2/.*/infer|/inference[.].*Infer"
_STAGES = {
    "queue": "queue",
    "compute_input": "decode",
    "compute_infer": "infer",
    "compute_output": "encode",
}


def configuration(described: dict[str, Any]) -> dict[str, Any]:
    """GET /v2/models/NAME/config, of its metadata."""
    return {
        "name": described["name"],
        "platform": PLATFORM,
        "backend": BACKEND,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": tensors.MAX_ROWS,
        "input": [
            {
                "name": each["name"],
                "data_type": _type(each["datatype"]),
                "format": views.format_of(each["shape"]),
                "dims": each["shape"][1:] or [1],
            }
            for each in described["inputs"]
        ],
        "output": [
            {
                "name": each["name"],
                "data_type": _type(each["datatype"]),
                "dims": each["shape"][1:] or [1],
            }
            for each in described["outputs"]
        ],
        "dynamic_batching": {},
    }


def _type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == tensors.BYTES else f"TYPE_{datatype}"


def statistics(manifest: Manifest, metrics: bytes) -> dict[str, Any]:
    """GET /v2/models/NAME/stats: of all workers, from the text of GET /metrics.

    An execution is a batch. Times are nanoseconds, summed; those of `success` are of failures, too.
    """
    found = Samples(metrics.decode())

    def figure(name: str, **labels: str) -> dict[str, int]:
        seconds = found.total(f"{name}_sum", **labels)
        return {"count": int(found.total(f"{name}_count", **labels)), "ns": round(seconds * 10**9)}

    answers = found.total("candor_requests_total", route=_INFER)
    good = found.total("candor_requests_total", route=_INFER, code="2..")
    whole = figure("candor_request_duration_seconds", route=_INFER)
    return {
        "name": manifest.name,
        "version": manifest.version,
        "last_inference": 0,
        "inference_count": int(found.total("candor_batch_size_sum", lane="predict")),
        "execution_count": int(found.total("candor_batch_size_count", lane="predict")),
        "inference_stats": {
            "success": {"count": int(good), "ns": whole["ns"]},
            "fail": {"count": int(answers - good), "ns": 0},
            **{
                of: figure("candor_stage_duration_seconds", stage=stage)
                for of, stage in _STAGES.items()
            },
        },
        "batch_stats": [],
    }
