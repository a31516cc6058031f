"""Calls a server by tritonclient, and prints what it answers as JSON.

HOST:PORT MODEL IMAGE PIXELS.npy [MEAN, STD]
"""

import base64
import json
import sys
import time
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


def one_in_one_out(name):
    """The model's only input and output, if it has what Triton's image client expects."""
    found, described = client.get_model_metadata(name), client.get_model_config(name)
    (given,), (output,), (configured,) = found["inputs"], found["outputs"], described["input"]
    assert described["max_batch_size"] > 0
    assert output["datatype"] == "FP32"
    assert (len(given["shape"]), len(output["shape"])) == (4, 2)
    assert given["shape"][1:] == configured["dims"]
    return given, output, configured["format"]


def as_image_client(name, values, scaled=None):
    """The classes that Triton's image client prints: pixels in the model's own layout and type."""
    given, output, layout = one_in_one_out(name)
    ordered = values if scaled is None else scaled
    if layout == "FORMAT_NCHW":
        ordered = np.moveaxis(ordered, 3, 1)
    dtype = {"UINT8": np.uint8, "FP32": np.float32}[given["datatype"]]
    ordered = np.ascontiguousarray(ordered, dtype)
    tensor = triton.InferInput(given["name"], list(ordered.shape), given["datatype"])
    tensor.set_data_from_numpy(ordered)
    wanted = [triton.InferRequestedOutput(output["name"], class_count=3)]
    return classes(client.async_infer(name, [tensor], outputs=wanted).get_result(), output["name"])


def as_ensemble_client(name, *bodies):
    """The classes that Triton's client of ensembles prints: files in, all outputs as classes."""
    found = client.get_model_metadata(name)
    (given,) = found["inputs"]
    batch = np.stack([np.array([each], dtype=object) for each in bodies])
    tensor = triton.InferInput(given["name"], list(batch.shape), "BYTES")
    tensor.set_data_from_numpy(batch, binary_data=True)
    names = [output["name"] for output in found["outputs"]]
    wanted = [triton.InferRequestedOutput(each, binary_data=True, class_count=2) for each in names]
    answer = client.infer(name, [tensor], outputs=wanted)
    return {each: classes(answer, each) for each in names}


def classes(answer, output):
    """Value, index and label of each class, by row."""
    return [[text.decode().split(":") for text in row] for row in answer.as_numpy(output)]


def seconds(call):
    """The error of a call that its client gives up, and how long that took."""
    started = time.monotonic()
    try:
        call()
    except Exception as error:  # noqa: BLE001 - clients raise what their library raises
        return {"error": type(error).__name__, "seconds": time.monotonic() - started}
    return None


config = client.get_model_config(f"{model}.logits")
height, width, _ = config["input"][0]["dims"]
own_size = np.ascontiguousarray(array[:, :height, :width])
mean, std = (np.array(each, np.float32) for each in NORMALISATION)
hasty = triton.InferenceServerClient(address, network_timeout=0.3, connection_timeout=120)
slow = {"method": "kernel_shap", "samples": 4096}
attribution = [triton.InferRequestedOutput("attribution")]

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
        "load": client.load_model(model),
        "unload": refused(lambda: client.unload_model(model)),
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
        "image_client": as_image_client(f"{model}.logits", own_size),
        "image_client_scaled": as_image_client(
            f"{model}.floats", own_size, (own_size / np.float32(255) - mean) / std
        ),
        "ensemble_client": as_ensemble_client(f"{model}.files", body, body),
        "hasty": seconds(
            lambda: hasty.infer(model, encoded(body), outputs=attribution, parameters=slow)
        ),
        "late": refused(
            lambda: client.infer(
                model, encoded(body), outputs=attribution, parameters=slow, timeout=1_000
            )
        ),
        "shared": refused(client.get_system_shared_memory_status),
        "tracing": refused(client.get_trace_settings),
        "own_size": contents(client.infer(model, raw(own_size))),
        "floats": contents(client.infer(model, floats(own_size))),
        "other_model": refused(lambda: client.infer("other", encoded(body))),
        "other_version": refused(lambda: client.infer(model, encoded(body), model_version="2")),
    },
    sys.stdout,
)
