"""Calls a server by the client that is generated from its document: URL IMAGE FOLDER → JSON."""

import base64
import importlib
import io
import json
import sys
from pathlib import Path

url, image, folder = sys.argv[1], Path(sys.argv[2]).read_bytes(), sys.argv[3]
sys.path.insert(0, folder)
package = "candor_client"


def module(name):
    return importlib.import_module(f"{package}.{name}")


def operation(name):
    return module(f"api.{name}")


models, types = module("models"), module("types")
client = module("client").Client(base_url=url, raise_on_unexpected_status=True)


def file(body=image):
    return types.File(payload=io.BytesIO(body), file_name="image.jpg", mime_type="image/jpeg")


predict, explain = operation("candor.predict"), operation("candor.explain")
infer = operation("open_inference_protocol.v2_infer")
served = operation("candor.get_model").sync(client=client)
text = base64.b64encode(image).decode()
tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
body = models.InferRequest.from_dict({"inputs": [tensor]})
rejected = predict.sync_detailed(client=client, body=file(b"hello"))

json.dump(
    {
        "raw": predict.sync(client=client, body=file()).to_dict(),
        "form": predict.sync(
            client=client, body=models.PredictForm(image=[file(), file()])
        ).to_dict(),
        "json": explain.sync(client=client, body=models.ExplainImage(image=text)).to_dict(),
        "several": predict.sync(
            client=client, body=models.PredictImages(images=[text, text])
        ).to_dict(),
        "tensors": infer.sync(
            name=models.V2InferName(served.name), client=client, body=body
        ).to_dict(),
        "rejected": {"status": rejected.status_code, **rejected.parsed.to_dict()},
    },
    sys.stdout,
)
