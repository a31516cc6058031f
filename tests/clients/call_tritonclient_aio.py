"""Calls a server by tritonclient's asynchronous client: HOST:PORT MODEL IMAGE → JSON."""

import asyncio
import json
import sys
import time
from pathlib import Path

import numpy as np
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.http import aio as triton
from tritonclient.utils import InferenceServerException

address, model, image = sys.argv[1:]
body = Path(image).read_bytes()
MAP = {"method": "integrated_gradients", "steps": 4, "target": "0"}
SLOW = {"method": "kernel_shap", "samples": 4096}


def encoded():
    tensor = InferInput("image", [1], "BYTES")
    return [tensor.set_data_from_numpy(np.array([body], dtype=object))]


def wanted(*names):
    return [InferRequestedOutput(name) for name in names]


def label(answer):
    return answer.as_numpy("label")[0].decode()


async def cancelled(client):
    """The name of the error of a call that is cancelled, and how long it took."""
    started = time.monotonic()
    task = asyncio.create_task(
        client.infer(model, encoded(), outputs=wanted("attribution"), parameters=SLOW)
    )
    await asyncio.sleep(0.3)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError as error:
        return {"error": type(error).__name__, "seconds": time.monotonic() - started}
    return None


async def timed_out():
    async with triton.InferenceServerClient(address, conn_timeout=0.3) as hasty:
        try:
            await hasty.infer(model, encoded(), outputs=wanted("attribution"), parameters=SLOW)
        except TimeoutError as error:
            return type(error).__name__
    return None


async def late(client):
    try:
        await client.infer(
            model, encoded(), outputs=wanted("attribution"), parameters=SLOW, timeout=1_000
        )
    except InferenceServerException as error:
        return error.status()
    return None


async def main():
    async with triton.InferenceServerClient(address) as client:
        answers = await asyncio.gather(
            *(
                client.infer(
                    model,
                    encoded(),
                    outputs=wanted("label"),
                    request_id=str(number),
                    request_compression_algorithm=packed,
                    response_compression_algorithm=packed,
                )
                for number, packed in enumerate((None, "gzip", "deflate"))
            )
        )
        explained = await client.infer(
            model,
            encoded(),
            outputs=wanted("label", "attribution"),
            parameters=MAP,
            response_compression_algorithm="deflate",
        )
        document = {
            "labels": [label(answer) for answer in answers],
            "ids": [answer.get_response()["id"] for answer in answers],
            "map": explained.as_numpy("attribution").tolist(),
            "config": (await client.get_model_config(model))["name"],
            "cancelled": await cancelled(client),
            "timed_out": await timed_out(),
            "late": await late(client),
        }
    json.dump(document, sys.stdout)


asyncio.run(main())
