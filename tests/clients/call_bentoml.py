"""Calls a server by BentoML's client: URL IMAGE MASK NOISE → JSON on standard output.

It runs in a process of its own, because importing bentoml warns.
"""

import asyncio
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
    except (BentoMLException, TypeError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"
    return None


async def label_of():
    async with bentoml.AsyncHTTPClient(url, timeout=120) as client:
        return (await client.predict(image=image))["label"]


async def at_once():
    return await asyncio.gather(*(label_of() for _ in range(3)))


with (
    bentoml.SyncHTTPClient(url, timeout=120) as client,
    image.open("rb") as file,
    Image.open(file) as opened,
):
    found = {
        "predicted": client.predict(image=image),
        "both": client.predict(image=image, top_k=5, explain="grad_cam", map="array"),
        "pillow": client.predict(image=opened),
        "several": client.predict(image=[image, opened]),
        "explained": client.explain(
            image=image, method="integrated_gradients", steps=4, target="0", map="array"
        ),
        "masked": client.explain(image=image, mask=mask, method="feature_ablation"),
        "bad_image": refused(lambda: client.predict(image=noise)),
        "bad_method": refused(lambda: client.explain(image=image, method="magic")),
        "bad_parameter": refused(lambda: client.explain(image=image, stepz=4)),
        "open_file": refused(lambda: client.predict(image=file)),
        "at_once": asyncio.run(at_once()),
    }
json.dump(found, sys.stdout)
