"""Masks by every way into the service are seen as the image is seen, and answered alike."""

import base64

import numpy as np
import pytest
from PIL import Image

from service.explain import METHODS
from support.images import draw, encode, saved
from support.masks import BAD, IMAGE, MASK, stripes
from support.requests import answered, b64, plain, problem

CUTTING = [name for name in METHODS if METHODS[name].takes_mask]


@pytest.mark.parametrize("method", CUTTING)
def test_every_way_in_explains_the_segments_of_a_mask(method, server):
    fewer = "&samples=64" if "samples" in {p.name for p in METHODS[method].parameters} else ""
    path = f"/explain?method={method}&map=array&deadline_ms=60000{fewer}"
    form = answered(server.client.post(path, files={"image": IMAGE, "mask": MASK}))
    body = answered(server.client.post(path, json={"image": b64(IMAGE), "mask": b64(MASK)}))
    beside = answered(
        server.client.post(
            f"/predict?explain={method}&map=array&deadline_ms=60000{fewer}",
            files={"mask": MASK, "image": IMAGE},
        )
    )
    assert plain(form) == plain(body) == plain(beside)
    explanation = form["explanation"]
    assert explanation["parameters"]["mask"] == {"segments": 4}
    assert not {"segments", "segmentation"} & set(explanation["parameters"])
    values = np.frombuffer(base64.b64decode(explanation["map"]["data"]), "<f4").reshape(32, 32)
    assert (values == values[0]).all()
    columns = values[0]
    assert len(np.unique(columns)) == 4  # the outer stripes are half cropped away
    assert [int((columns == value).sum()) for value in dict.fromkeys(columns)] == [4, 12, 12, 4]


def test_the_overlay_and_the_raw_map_take_a_mask_too(server):
    files = {"image": IMAGE, "mask": MASK}
    for accept in ("image/png", "application/x-npy"):
        first, second = (
            server.client.post(
                "/explain?method=lime&samples=64", files=files, headers={"accept": accept}
            )
            for _ in range(2)
        )
        assert first.status_code == 200, first.text
        assert first.content == second.content


def test_a_mask_has_the_size_of_the_image_as_it_is_displayed(server):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = saved(Image.fromarray(draw(size=64, width=96)), exif=exif)
    path = "/explain?method=feature_ablation"
    assert answered(
        server.client.post(path, files={"image": image, "mask": encode(stripes(96, 64))})
    )
    rejected = server.client.post(path, files={"image": image, "mask": MASK})
    assert "as it is displayed, 64×96 px" in problem(rejected, 422, "invalid_parameter")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_mask_is_a_problem(name, server):
    body, message = BAD[name]
    for sent in (
        {"files": {"image": IMAGE, "mask": body}},
        {"json": {"image": b64(IMAGE), "mask": b64(body)}},
    ):
        assert message in problem(
            server.client.post("/explain?method=lime", **sent), 422, "invalid_parameter"
        )


MISPLACED = {
    "a method without segments": (
        "/explain?method=saliency",
        {},
        422,
        "saliency does not use segments; the methods that do are feature",
    ),
    "the default method": ("/explain", {}, 422, "grad_cam does not use segments"),
    "no explanation": ("/predict", {}, 422, "add explain=METHOD"),
    "cells as well": (
        "/explain?method=lime&segments=8",
        {},
        422,
        "segments is '8' and a mask was sent: give one of them",
    ),
    "superpixels as well": (
        "/explain?method=lime&segmentation=superpixels",
        {},
        422,
        "segmentation is 'superpixels' and a mask was sent: give one of them",
    ),
    "in the query": ("/explain?method=lime&mask=a", {}, 422, "mask is in the query"),
    "no base64": (
        "/explain?method=lime",
        {"mask": "%%%"},
        400,
        "the mask of 3 characters is not base64",
    ),
    "a number": ("/explain?method=lime", {"mask": 5}, 400, "the mask is given as a number"),
    "nothing": ("/explain?method=lime", {"mask": ""}, 400, "the mask is empty"),
}


@pytest.mark.parametrize("name", MISPLACED)
def test_a_misplaced_mask_is_rejected(name, server):
    path, changed, status, message = MISPLACED[name]
    document = {"image": b64(IMAGE), "mask": b64(MASK)} | changed
    code = "malformed_request" if status == 400 else "invalid_parameter"
    assert message in problem(server.client.post(path, json=document), status, code)


def test_a_mask_goes_with_one_image(server):
    path = "/explain?method=lime"
    for sent in (
        {"json": {"images": [b64(IMAGE)] * 2, "mask": b64(MASK)}},
        {"files": [("image", IMAGE), ("image", IMAGE), ("mask", MASK)]},
    ):
        assert "a mask was sent with 2 images" in problem(
            server.client.post(path, **sent), 422, "invalid_parameter"
        )
    twice = server.client.post(path, files=[("image", IMAGE), ("mask", MASK), ("mask", MASK)])
    assert "'mask' is given 2 times" in problem(twice, 422, "invalid_parameter")
    empty = server.client.post(path, files=[("image", IMAGE), ("mask", b"")])
    assert "'mask' is empty" in problem(empty, 400, "malformed_request")
    (alone,) = answered(server.client.post(path, json={"images": [b64(IMAGE)], "mask": b64(MASK)}))[
        "results"
    ]
    assert alone["explanation"]["parameters"]["mask"] == {"segments": 4}


def test_the_methods_and_the_document_name_the_places_of_a_mask(server):
    assert [
        method["name"]
        for method in answered(server.client.get("/methods"))["methods"]
        if method["mask"]
    ] == CUTTING
    document = answered(server.client.get("/openapi.json"))
    assert (
        "greyscale"
        in document["components"]["schemas"]["ExplainImage"]["properties"]["mask"]["description"]
    )
    for name in ("PredictForm", "ExplainForm"):
        form = document["components"]["schemas"][name]
        assert {"image", "mask"} < set(form["properties"])
