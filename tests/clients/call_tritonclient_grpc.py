"""Calls a server by tritonclient's gRPC clients, and prints what it answers as JSON.

HOST:PORT MODEL IMAGE PIXELS.npy
"""

import asyncio
import json
import queue
import sys
import time
from pathlib import Path

import numpy as np
from tritonclient import grpc as triton
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

address, model, image, pixels = sys.argv[1:]
body, array = Path(image).read_bytes(), np.load(pixels)
MAP = {"method": "integrated_gradients", "steps": 4, "target": "0"}
LONG = {"method": "lime", "samples": 2000, "deadline_ms": 60_000}


def encoded(*bodies):
    tensor = triton.InferInput("image", [len(bodies)], "BYTES")
    return [tensor.set_data_from_numpy(np.array(bodies, dtype=object))]


def raw(values):
    tensor = triton.InferInput("pixels", list(values.shape), "UINT8")
    return [tensor.set_data_from_numpy(values)]


def contents(answer):
    response = answer.get_response(as_json=True)
    found = {entry["name"]: answer.as_numpy(entry["name"]) for entry in response["outputs"]}
    return {"id": response.get("id"), "outputs": response["outputs"]} | {
        "values": {
            name: [text.decode() for text in values.ravel()]
            if values.dtype == object
            else values.tolist()
            for name, values in found.items()
        }
    }


def refused(call):
    try:
        call()
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    return None


def wanted(*names):
    return [triton.InferRequestedOutput(name) for name in names]


def streamed(client):
    """The answers to a stream of three requests, of which the second is none."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for inputs in (raw(array), encoded(b"noise"), encoded(body)):
        client.async_stream_infer(model, inputs)
    found = [answers.get(timeout=60) for _ in range(3)]
    client.stop_stream()
    return [
        contents(result)["values"]["label"] if error is None else error.message()
        for result, error in found
    ]


def cancelled(client):
    """What a call answers that is cancelled while it explains."""
    answers = queue.Queue()
    call = client.async_infer(
        model,
        raw(array),
        # It is called by these names.
        lambda result, error: answers.put((result, error)),
        outputs=wanted("attribution"),
        parameters=LONG,
    )
    time.sleep(0.3)
    call.cancel()
    return answers.get(timeout=60)[1].status()


def blocking():
    client = triton.InferenceServerClient(address)
    explained = {"outputs": wanted("attribution", "label"), "parameters": MAP}
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "server": client.get_server_metadata(as_json=True),
        "model": client.get_model_metadata(model, as_json=True),
        "config": client.get_model_config(model, as_json=True)["config"],
        "load": client.load_model(model),
        "unload": refused(lambda: client.unload_model(model)),
        "index": client.get_model_repository_index(as_json=True),
        "encoded": contents(client.infer(model, encoded(body, body), request_id="seven")),
        "pixels": contents(client.infer(model, raw(array), compression_algorithm="gzip")),
        "explained": contents(client.infer(model, encoded(body), **explained)),
        "classes": contents(
            client.infer(
                f"{model}.logits",
                raw(array),
                outputs=[triton.InferRequestedOutput("logits", class_count=3)],
                timeout=5_000_000,
                priority=1,
            )
        ),
        "statistics": client.get_inference_statistics(model, as_json=True),
        "bad_image": refused(lambda: client.infer(model, encoded(body, b"noise"))),
        "other_model": refused(lambda: client.infer("other", encoded(body))),
        "late": refused(
            lambda: client.infer(
                model,
                raw(array),
                outputs=wanted("attribution"),
                parameters=LONG,
                client_timeout=0.001,
            )
        ),
        "memory": refused(client.get_system_shared_memory_status),
        "streamed": streamed(client),
        "cancelled": cancelled(client),
    }


async def concurrent():
    async with aio.InferenceServerClient(address) as client:
        answers = await asyncio.gather(*(client.infer(model, raw(array)) for _ in range(16)))

        async def requests():
            for _ in range(3):
                yield {"model_name": model, "inputs": raw(array)}

        streamed = [
            result async for result, error in client.stream_infer(requests()) if error is None
        ]
        return [contents(answer)["values"]["label"] for answer in (*answers, *streamed)]


json.dump(blocking() | {"concurrent": asyncio.run(concurrent())}, sys.stdout)
