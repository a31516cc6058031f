"""Calls a server by BentoML's client: URL IMAGE MASK NOISE → JSON on standard output.

It runs in a process of its own, because importing bentoml warns.
"""

import json
import sys
from pathlib import Path

import bentoml
from bentoml.exceptions import BentoMLException
from PIL import Image

url, *paths = sys.argv[1:]
image, mask, noise = map(Path, paths)


def refused(call):
    try:
        call()
    except (BentoMLException, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


with (
    bentoml.SyncHTTPClient(url, timeout=120) as client,
    image.open("rb") as file,
    Image.open(file) as image,
):
    found = {
        "predicted": client.predict(image=image),
        "both": client.predict(image=image, top_k=5, explain="grad_cam", map="array"),
        "pillow": client.predict(image=image),
        "several": client.predict(image=[image, image]),
        "explained": client.explain(
            image=image, method="integrated_gradients", steps=4, target="0", map="array"
        ),
        "masked": client.explain(image=image, mask=mask, method="feature_ablation"),
        "bad_image": refused(lambda: client.predict(image=noise)),
        "bad_method": refused(lambda: client.explain(image=image, method="magic")),
        "bad_parameter": refused(lambda: client.explain(image=image, stepz=4)),
    }
json.dump(found, sys.stdout)
