"""Calls a server by KServe's gRPC client: HOST:PORT MODEL IMAGE → JSON on standard output."""

import asyncio
import json
import logging
import sys
from pathlib import Path

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput

address, model, image = sys.argv[1:]
body = Path(image).read_bytes()
MAP = {"method": "integrated_gradients", "steps": 4, "target": "0"}
logging.disable()  # it logs every error that it raises


def tensor(value, *, binary=True):
    given = InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array([value], dtype=object), binary_data=binary)
    return [given]


def contents(answer):
    return {"id": answer.id, "model": answer.model_name} | {
        "values": {output.name: np.asarray(output.as_numpy()).tolist() for output in answer.outputs}
    }


async def refused(call):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return {"status": error.code().name, "message": error.details()}
    return None


async def main():
    wanted = [RequestedOutput("label"), RequestedOutput("attribution", MAP)]
    late = [RequestedOutput("attribution", {"method": "lime", "samples": 2000})]
    async with InferenceGRPCClient(address) as client:

        def ask(value, outputs=None, **options):
            request = InferRequest(
                model, tensor(value), request_id="seven", request_outputs=outputs
            )
            return client.infer(request, **options)

        found = {
            "ready": await client.is_server_ready(),
            "live": await client.is_server_live(),
            "model_ready": await client.is_model_ready(model),
            "predicted": contents(await ask(body)),
            "explained": contents(await ask(body, wanted)),
            "refused": await refused(ask(b"noise")),
            "late": await refused(ask(body, late, timeout=0.001)),
        }
    json.dump(found, sys.stdout, default=lambda value: value.decode())


asyncio.run(main())
