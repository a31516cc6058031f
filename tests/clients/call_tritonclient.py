"""Calls a server by tritonclient, and prints what it answers as JSON.

HOST:PORT MODEL IMAGE PIXELS.npy [MEAN, STD]
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

address, model, image, pixels, normalisation = sys.argv[1:]
NORMALISATION = json.loads(normalisation)  # mean and std
body, array = Path(image).read_bytes(), np.load(pixels)
client = triton.InferenceServerClient(address, network_timeout=120, connection_timeout=120)


def encoded(*bodies, binary=True, column=False):
    shape = [len(bodies), 1] if column else [len(bodies)]
    tensor = triton.InferInput("image", shape, "BYTES")
    return [
        tensor.set_data_from_numpy(
            np.array(bodies, dtype=object).reshape(shape), binary_data=binary
        )
    ]


def raw(values, *, binary=True):
    return [
        triton.InferInput("pixels", list(values.shape), "UINT8").set_data_from_numpy(
            values, binary_data=binary
        )
    ]


def floats(values):
    """The network's own input, channels first, as another server of the ONNX file takes it."""
    mean, std = (np.array(each, np.float32) for each in NORMALISATION)
    x = np.moveaxis((values.astype(np.float32) / 255 - mean) / std, 3, 1)
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    return [tensor.set_data_from_numpy(np.ascontiguousarray(x))]


def contents(answer):
    response = answer.get_response()
    found = {entry["name"]: answer.as_numpy(entry["name"]) for entry in response["outputs"]}
    texts = {
        name: [text.decode() if isinstance(text, bytes) else text for text in values.ravel()]
        for name, values in found.items()
        if values.dtype == object
    }
    return response | {"values": {name: values.tolist() for name, values in found.items()} | texts}


def refused(call):
    try:
        call()
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    return None


def explained(tensor, binary):
    wanted = [
        triton.InferRequestedOutput("attribution", binary_data=binary),
        triton.InferRequestedOutput("label", binary_data=binary),
    ]
    parameters = {"method": "integrated_gradients", "steps": 4, "target": "0"}
    return contents(client.infer(model, tensor, outputs=wanted, parameters=parameters))


def trusted(binary):
    names = ("prediction_set", "familiarity", "attribution", "quality")
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    return contents(
        client.infer(
            model, encoded(body), outputs=wanted, parameters={"coverage": "0.9", "by_class": True}
        )
    )


config = client.get_model_config(f"{model}.logits")
height, width, _ = config["input"][0]["dims"]
own_size = np.ascontiguousarray(array[:, :height, :width])

json.dump(
    {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "other_ready": client.is_model_ready("other"),
        "server": client.get_server_metadata(),
        "model": client.get_model_metadata(model),
        "encoded": contents(client.infer(model, encoded(body, body), request_id="seven")),
        "column": contents(client.infer(model, encoded(body, column=True))),
        "base64": contents(client.infer(model, encoded(base64.b64encode(body), binary=False))),
        "pixels": contents(client.infer(model, raw(array))),
        "pixels_json": contents(
            client.infer(
                model,
                raw(array, binary=False),
                outputs=[triton.InferRequestedOutput("logits", binary_data=False)],
            )
        ),
        "explained": explained(encoded(body), binary=True),
        "explained_json": explained(encoded(body), binary=False),
        "trusted": trusted(binary=True),
        "trusted_json": trusted(binary=False),
        "bad_image": refused(lambda: client.infer(model, encoded(body, b"noise"))),
        **{
            packed: contents(
                client.infer(
                    model,
                    encoded(body),
                    request_compression_algorithm=packed,
                    response_compression_algorithm="gzip",
                )
            )
            for packed in ("gzip", "deflate")
        },
        "config": config,
        "index": client.get_model_repository_index(),
        "statistics": client.get_inference_statistics(model),
        "classes": contents(
            client.infer(
                f"{model}.logits",
                raw(array),
                outputs=[triton.InferRequestedOutput("logits", class_count=3)],
                priority=1,
                timeout=5_000_000,
            )
        ),
        "own_size": contents(client.infer(model, raw(own_size))),
        "floats": contents(client.infer(model, floats(own_size))),
        "other_model": refused(lambda: client.infer("other", encoded(body))),
        "other_version": refused(lambda: client.infer(model, encoded(body), model_version="2")),
    },
    sys.stdout,
)
