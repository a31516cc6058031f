"""Calls a server by tritonclient: HOST:PORT MODEL IMAGE PIXELS.npy → JSON on standard output."""

import base64
import json
import sys
from pathlib import Path

import numpy as np
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

address, model, image, pixels = sys.argv[1:]
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


def contents(answer):
    response = answer.get_response()
    found = {entry["name"]: answer.as_numpy(entry["name"]) for entry in response["outputs"]}
    texts = {
        name: [text.decode() if isinstance(text, bytes) else text for text in values]
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
        "compressed": refused(
            lambda: client.infer(model, encoded(body), request_compression_algorithm="gzip")
        ),
        "other_model": refused(lambda: client.infer("other", encoded(body))),
        "other_version": refused(lambda: client.infer(model, encoded(body), model_version="1")),
    },
    sys.stdout,
)
