"""The Open Inference Protocol over gRPC; the service imports this room if CANDOR_GRPC_PORT is set.

`NEEDS` has the methods that are served, with the scopes of which each needs one.
"""

from collections.abc import Mapping

from service.api.access.guard import ADMIN, DOCUMENTS, OPEN, PREDICT, Needs

SERVICE = "inference.GRPCInferenceService"
INFER, STREAM = "ModelInfer", "ModelStreamInfer"
NEEDS: Mapping[str, Needs] = {
    "ServerLive": OPEN,
    "ServerReady": OPEN,
    "ModelReady": OPEN,
    "ServerMetadata": DOCUMENTS,
    "ModelMetadata": DOCUMENTS,
    "ModelConfig": DOCUMENTS,
    "ModelStatistics": DOCUMENTS,
    "RepositoryIndex": DOCUMENTS,
    "RepositoryModelLoad": ADMIN,
    "RepositoryModelUnload": ADMIN,
    INFER: PREDICT,
    STREAM: PREDICT,
}
# What metrics count: probes are no traffic.
COUNTED = tuple(f"/{SERVICE}/{name}" for name, needs in NEEDS.items() if needs != OPEN)
