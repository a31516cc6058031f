"""Generates a client of a server and calls it: URL IMAGE FOLDER → JSON on standard output.

The generator's warnings, of parts that it could not make, go to standard error and end the run.
"""

import base64
import importlib
import io
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

url, image, folder = sys.argv[1], Path(sys.argv[2]).read_bytes(), Path(sys.argv[3])
document = folder / "openapi.json"
document.write_bytes(urllib.request.urlopen(f"{url}/openapi.json").read())
programs = Path(sys.executable).parent
made = subprocess.run(
    [programs / "openapi-python-client", "generate", "--path", document, "--output-path",
     folder / "generated", "--fail-on-warning"],
    env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"},
    capture_output=True,
    text=True,
    check=False,
)  # fmt: skip
if made.returncode:
    sys.exit(made.stdout[:2000] + made.stderr[:2000])
sys.path.insert(0, str(folder / "generated"))
(package,) = (
    path.name for path in (folder / "generated").iterdir() if path.name.endswith("client")
)


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
body = models.V2InferJsonBody.from_dict({"inputs": [tensor]})
rejected = predict.sync_detailed(client=client, body=file(b"hello"))

json.dump(
    {
        "raw": predict.sync(client=client, body=file()).to_dict(),
        "form": predict.sync(
            client=client, body=models.PredictFilesBody(image=[file(), file()])
        ).to_dict(),
        "json": explain.sync(client=client, body=models.OneImage(image=text)).to_dict(),
        "several": predict.sync(
            client=client, body=models.SeveralImages(images=[text, text])
        ).to_dict(),
        "tensors": infer.sync(
            name=models.V2InferName(served.name), client=client, body=body
        ).to_dict(),
        "rejected": {"status": rejected.status_code, **rejected.parsed.to_dict()},
    },
    sys.stdout,
)
