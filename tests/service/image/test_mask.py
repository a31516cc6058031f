"""Segments that a caller draws: decoded safely, seen as the image is seen, explained exactly, by every way in."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidParameter
from service.explain import METHODS, ask, explain, masked
from service.explain.baselines import pixels_of
from service.explain.segments import areas, of_labels
from service.image import mask as image_mask
from service.image import resize as image_resize
from service.image.resize import Input
from support import toys
from support.commands import run
from support.images import draw, encode, header_of
from support.requests import answered, b64, plain, problem
from support.servers import ROOT

CUTTING = [name for name in METHODS if METHODS[name].takes_mask]
IMAGE = encode(draw(size=64, width=96))


def stripes(height=64, width=96, count=4):
    """`count` upright stripes with values far apart."""
    return np.broadcast_to(np.arange(width) * count // width * 50 + 3, (height, width)).astype(
        np.uint8
    )


MASK = encode(stripes())


def palette(labels):
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    image.putpalette(
        [0, 0, 0] * 256
    )  # one colour for all: the places in the palette are what counts
    return image


def file_of(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (encode(stripes()), stripes()),
        (encode(stripes().astype(np.uint16) * 257), stripes().astype(np.uint16) * 257),
        (file_of(palette(stripes())), stripes()),
        (file_of(Image.fromarray(stripes() > 60)), stripes() > 60),
    ],
    ids=["8 bits", "16 bits", "palette", "1 bit"],
)
def test_every_value_arrives_as_it_is(body, expected):
    assert np.array_equal(image_mask.decode(body, 96, 64), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_mask_is_turned_as_its_own_orientation_says(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = stripes().astype(kind)
    found = image_mask.decode(file_of(Image.fromarray(stored), exif=exif), 64, 96)
    assert np.array_equal(found, np.rot90(stored, -1))


BAD = {
    "a JPEG": (encode(stripes(), "JPEG"), "is no PNG"),
    "noise": (b"noise", "is no PNG"),
    "cut off": (MASK[: len(MASK) // 2], "damaged or cut off"),
    "only a beginning": (MASK[:20], "cut off"),
    "colours": (IMAGE, "the channels RGB, and one is taken"),
    "transparency": (file_of(Image.fromarray(stripes()).convert("LA")), "the channels LA"),
    "another size": (
        encode(stripes(63)),
        "the mask is 96×63 px and the image, as it is displayed, 96×64 px",
    ),
    "turned": (encode(stripes(96, 64)), "the mask is 64×96 px"),
    "40,000 x 40,000": (header_of(40_000, 40_000) + MASK[33:], "the mask is 40000×40000 px"),
    "one value": (
        encode(np.full((64, 96), 7, np.uint8)),
        "has 1 segments in the 32×32 px that the network sees; it takes 2 to 1,024",
    ),
}


@pytest.mark.parametrize("name", [name for name in BAD if name != "one value"])
def test_a_bad_mask_is_refused_with_the_remedy(name):
    body, told = BAD[name]
    with pytest.raises(InvalidParameter) as refused:
        image_mask.decode(body, 96, 64)
    assert told in str(refused.value)


@given(
    place=st.integers(0, len(MASK) - 1), value=st.integers(0, 255), cut=st.integers(0, len(MASK))
)
def test_whatever_the_bytes_are_only_our_own_error_is_raised(place, value, cut):
    damaged = bytearray(MASK[:cut] or b"\0")
    damaged[place % len(damaged)] = value
    try:
        assert image_mask.decode(bytes(damaged), 96, 64).shape == (64, 96)
    except InvalidParameter as error:
        assert len(str(error)) < 300


def test_too_many_segments_are_refused_and_as_many_as_the_finest_grid_are_not():
    every = np.arange(33 * 33).reshape(33, 33)
    with pytest.raises(
        InvalidParameter,
        match=r"has 1,089 segments in the 33×33 px .* it takes 2 to 1,024: join some",
    ):
        of_labels(every)
    assert areas(of_labels(every[:32, :32])).tolist() == [1] * 1024


def test_the_numbers_of_segments_leave_no_gap():
    assert np.array_equal(of_labels(np.array([[70, 3], [3, -1]])), [[2, 1], [1, 0]])


SPECS = [
    Input(16, (0.5,) * 3, (1.0,) * 3, resize, short)
    for resize, short in (("crop", 16), ("crop", 20), ("stretch", 16), ("pad", 16))
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.resize} {spec.short_side}")
@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (32, 32), (64, 96), (100, 33), (7, 50), (1, 300)]
)
def test_the_network_sees_mask_and_image_alike(height, width, spec):
    left = np.arange(width) < width * 0.6
    labels = np.broadcast_to(np.where(left, 5, 9), (height, width)).astype(np.uint16)
    pixels = np.broadcast_to(np.where(left, 0, 255)[None, :, None], (height, width, 3)).astype(
        np.uint8
    )
    fitted, seen = (
        image_resize.mask_to_input(labels, spec),
        image_resize.to_input(pixels, spec).astype(int)[:, :, 0],
    )
    assert set(np.unique(fitted)) <= {-1, 5, 9}
    assert ((seen < 60) == (fitted == 5)).mean() > 0.93  # at the border the image blends
    assert (
        np.array_equal(fitted == -1, seen == 128)
        or spec.resize != "pad"
        or (height, width) == (1, 300)
    )


def answer(engine, pixels, method, cut, target="0", **parameters):
    question = masked(ask(engine.manifest, method, target, parameters), cut)
    return explain(engine, pixels, question, engine.predict(pixels[None]).logits[0])


def terms_of(engine, pixels, weights, baseline):
    x, start = (engine.normalise(p[None])[0] for p in (pixels, pixels_of(engine, pixels, baseline)))
    return (weights.reshape(3, toys.SIZE, toys.SIZE) * (x - start)).sum(0)


@pytest.mark.parametrize("baseline", ["mean", "blur"])
@pytest.mark.parametrize("seed", [0, 1])
def test_of_a_linear_network_each_segment_gets_the_sum_of_its_pixels(seed, baseline, tmp_path):
    engine, pixels = toys.linear(tmp_path), toys.image()
    cut = of_labels(np.random.default_rng(seed).integers(0, 12, (toys.SIZE, toys.SIZE)) * 1000)
    sums = np.bincount(
        cut.ravel(), terms_of(engine, pixels, toys.weights_of()[0], baseline).ravel()
    )
    ablation = answer(engine, pixels, "feature_ablation", cut, baseline=baseline).map
    shapley = answer(engine, pixels, "kernel_shap", cut, baseline=baseline).map
    assert np.abs(ablation - sums[cut]).max() < 1e-4 * np.abs(sums).max()
    assert (
        np.abs(np.bincount(cut.ravel(), shapley.ravel()) - sums).max() < 1e-4 * np.abs(sums).max()
    )
    assert np.ptp([np.ptp(shapley[cut == number]) for number in range(12)]) == 0


def test_a_mask_of_two_halves_is_enough(tmp_path):
    engine, pixels = toys.linear(tmp_path), toys.image()
    cut = of_labels(np.indices((toys.SIZE, toys.SIZE))[0] // 8)
    for method in CUTTING:
        assert len(np.unique(answer(engine, pixels, method, cut).map)) == 2


@pytest.mark.parametrize("method", CUTTING)
def test_a_mask_drawn_like_the_grid_gives_the_maps_of_the_grid(method, engine):
    grid = np.indices((32, 32)) // 8
    pixels = draw()
    question = ask(engine.manifest, method, "3", {"segments": 4})
    expected = explain(engine, pixels, question, engine.predict(pixels[None]).logits[0]).map
    assert (
        answer(engine, pixels, method, of_labels(grid[0] * 9 + grid[1]), "3").map.tobytes()
        == expected.tobytes()
    )


@pytest.mark.parametrize("method", CUTTING)
def test_every_way_in_explains_the_segments_of_the_mask(method, server):
    path = f"/explain?method={method}&map=array&deadline_ms=60000"
    form = answered(server.client.post(path, files={"image": IMAGE, "mask": MASK}))
    told = answered(server.client.post(path, json={"image": b64(IMAGE), "mask": b64(MASK)}))
    beside = answered(
        server.client.post(
            f"/predict?explain={method}&map=array&deadline_ms=60000",
            files={"mask": MASK, "image": IMAGE},
        )
    )
    assert plain(form) == plain(told) == plain(beside)
    explanation = form["explanation"]
    assert explanation["parameters"]["mask"] == {"segments": 4}
    assert "segments" not in explanation["parameters"]
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


def test_a_mask_is_of_the_image_as_it_is_displayed(server):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = file_of(Image.fromarray(draw(size=64, width=96)), exif=exif)
    path = "/explain?method=feature_ablation"
    assert answered(
        server.client.post(path, files={"image": image, "mask": encode(stripes(96, 64))})
    )
    refused = server.client.post(path, files={"image": image, "mask": MASK})
    assert "as it is displayed, 64×96 px" in problem(refused, 422, "invalid_parameter")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_mask_is_a_problem(name, server):
    body, told = BAD[name]
    for sent in (
        {"files": {"image": IMAGE, "mask": body}},
        {"json": {"image": b64(IMAGE), "mask": b64(body)}},
    ):
        assert told in problem(
            server.client.post("/explain?method=lime", **sent), 422, "invalid_parameter"
        )


REFUSED = {
    "a method without segments": (
        "/explain?method=saliency",
        {},
        422,
        "saliency cuts no image into segments; those that do: feature",
    ),
    "the default method": ("/explain", {}, 422, "grad_cam cuts no image"),
    "no explanation": ("/predict", {}, 422, "add explain=METHOD"),
    "cells as well": (
        "/explain?method=lime&segments=8",
        {},
        422,
        "segments is '8' and a mask was sent: give one of them",
    ),
    "in the query": ("/explain?method=lime&mask=a", {}, 422, "mask is in the query"),
    "no base64": (
        "/explain?method=lime",
        {"mask": "%%%"},
        400,
        "the mask of 3 characters is not base64",
    ),
    "a number": ("/explain?method=lime", {"mask": 5}, 400, "the mask is given as int"),
    "nothing": ("/explain?method=lime", {"mask": ""}, 400, "the mask is empty"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mask_that_has_no_place_is_refused(name, server):
    path, changed, status, told = REFUSED[name]
    document = {"image": b64(IMAGE), "mask": b64(MASK)} | changed
    code = "malformed_request" if status == 400 else "invalid_parameter"
    assert told in problem(server.client.post(path, json=document), status, code)


def test_a_mask_is_of_one_image(server):
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


def test_what_takes_a_mask_is_told(server):
    assert [
        method["name"]
        for method in answered(server.client.get("/methods"))["methods"]
        if method["mask"]
    ] == CUTTING
    document = answered(server.client.get("/openapi.json"))
    assert (
        "greyscale"
        in document["components"]["schemas"]["Submission"]["properties"]["mask"]["description"]
    )
    for path in ("/predict", "/explain"):
        form = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"][
            "schema"
        ]
        assert set(form["properties"]) == {"image", "mask"}


def test_the_command_line_takes_a_mask(tmp_path):
    image, mask, other = tmp_path / "image.png", tmp_path / "mask.png", tmp_path / "other.png"
    image.write_bytes(IMAGE)
    mask.write_bytes(MASK)
    other.write_bytes(encode(stripes(10, 10)))
    arguments = (
        "explain",
        image,
        "--method",
        "feature_ablation",
        "--out",
        tmp_path / "map.npy",
        "--mask",
    )
    assert json.loads(run(tmp_path, *arguments, mask).stdout)["explanation"]["parameters"][
        "mask"
    ] == {"segments": 4}
    assert len(np.unique(np.load(tmp_path / "map.npy", allow_pickle=False))) == 4
    refused = run(tmp_path, *arguments, other)
    assert refused.returncode == 1
    assert "the mask is 10×10 px" in refused.stderr


def test_the_mask_in_the_documents_is_one_of_its_image():
    labels = image_mask.decode((ROOT / "docs/images/red-ball-mask.png").read_bytes(), 320, 240)
    assert len(np.unique(labels)) == 4
