"""Calls a server by KServe's client: URL MODEL IMAGE FLOATS.npy → JSON on standard output."""

import asyncio
import base64
import json
import sys
from pathlib import Path

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

url, model, image, pixels = sys.argv[1:]
body = Path(image).read_bytes()
text = base64.b64encode(body).decode()
MAP = {"method": "integrated_gradients", "steps": 4, "target": "0"}


def tensor(value, binary):
    given = InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array([value], dtype=object), binary_data=binary)
    return [given]


def contents(answer):
    return {"id": answer.id, "model": answer.model_name} | {
        "values": {output.name: np.asarray(output.as_numpy()).tolist() for output in answer.outputs}
    }


async def v2(client):
    wanted = [RequestedOutput("label"), RequestedOutput("attribution", MAP | {"binary_data": True})]
    plain = [RequestedOutput("label"), RequestedOutput("attribution", MAP)]
    binary = InferRequest(
        model, tensor(body, binary=True), request_id="seven", request_outputs=wanted
    )
    coded = InferRequest(model, tensor(text.encode(), binary=False), request_outputs=plain)
    sets = [
        RequestedOutput("prediction_set", {"coverage": "0.9", "by_class": True}),
        RequestedOutput("familiarity"),
    ]
    trusted = InferRequest(model, tensor(body, binary=True), request_outputs=sets)
    return {
        "ready": await client.is_server_ready(url),
        "live": await client.is_server_live(url),
        "model_ready": await client.is_model_ready(url, model),
        "binary": contents(await client.infer(url, binary, model_name=model)),
        "json": contents(await client.infer(url, coded, model_name=model)),
        "trusted": contents(await client.infer(url, trusted, model_name=model)),
        "late": await late(client),
        "refused": await refused(
            client.infer(url, InferRequest(model, tensor(b"noise", binary=True)), model_name=model)
        ),
    }


def floats():
    """The network's own input, channels first, as nested lists."""
    return np.load(pixels).tolist()


async def hasty():
    """The error of a call that its client gives up."""
    slow = {"method": "kernel_shap", "samples": 4096}
    wanted = [RequestedOutput("attribution", slow)]
    request = InferRequest(model, tensor(body, binary=True), request_outputs=wanted)
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=0.3, retries=0)) as client:
        try:
            await client.infer(url, request, model_name=model)
        except httpx.TimeoutException as error:
            return type(error).__name__
    return None


async def late(client):
    """The error of a request whose deadline is too near."""
    wanted = [RequestedOutput("attribution", {"method": "kernel_shap", "samples": 4096})]
    parameters = {"deadline_ms": 1}
    request = InferRequest(
        model, tensor(body, binary=True), request_outputs=wanted, parameters=parameters
    )
    return await refused(client.infer(url, request, model_name=model))


async def v1(client):
    instances = {"instances": [{"image_bytes": {"b64": text}}, {"b64": text}, text]}
    return {
        "v1_ready": await client.is_model_ready(url, model),
        "predicted": await client.infer(url, instances, model_name=model),
        "sampled": [
            await client.infer(url, {"instances": [instance]}, model_name=model)
            for instance in ({"image": {"b64": text}}, {"data": text}, floats())
        ],
        "explained": await client.explain(
            url, model, instances | {"method": "grad_cam", "map": "array"}
        ),
        "v1_refused": await refused(client.infer(url, {"instances": ["%%%"]}, model_name=model)),
    }


async def refused(call):
    try:
        await call
    except httpx.HTTPStatusError as error:
        return {"status": error.response.status_code, "message": str(error)}
    return None


async def main():
    async with (
        InferenceRESTClient(RESTConfig(protocol="v2", timeout=120)) as second,
        InferenceRESTClient(RESTConfig(timeout=120)) as first,
    ):
        answers = await v2(second) | await v1(first) | {"hasty": await hasty()}
        json.dump(answers, sys.stdout)


asyncio.run(main())
