"""The native API on a real server: three forms of requests, three of answers, and problems."""

import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from service.bundle import folder as contract
from service.explain import METHODS
from support.images import draw, encode, saved
from support.methods import OF_CNNS
from support.requests import BAD, GOOD, PROBLEM, answered, b64, plain, problem


def post(server, path="/predict", body=GOOD, kind="image/png", **headers):
    headers = {"content-type": kind, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return server.client.post(
        path, content=body, headers={k: v for k, v in headers.items() if v is not None}
    )


def test_an_image_raw_in_a_form_or_in_json_gets_the_same_prediction(server):
    raw = answered(post(server))
    form = answered(server.client.post("/predict", files={"image": ("a.png", GOOD, "image/png")}))
    document = answered(server.client.post("/predict", json={"image": b64(GOOD)}))
    assert plain(raw) == plain(form) == plain(document)
    assert set(raw) == {
        "model",
        "label",
        "index",
        "probability",
        "top",
        "temperature",
        "prediction_set",
        "familiarity",
        "image",
        "timing_ms",
    }
    assert raw["image"] == {"width": 96, "height": 64, "format": "PNG"}
    assert raw["top"][0] == {key: raw[key] for key in ("label", "index", "probability")}
    assert [len(raw["top"]), sum(entry["probability"] for entry in raw["top"]) <= 1.0001] == [
        3,
        True,
    ]


def test_the_served_prediction_equals_the_engines(server, engine):
    from service.image import resize
    from service.predictions import predict

    expected = predict(
        engine.predict(resize.to_input(draw(), engine.manifest.input)[None]).rows()[0],
        engine.manifest,
    )
    found = answered(post(server, body=encode(draw())))
    assert found["label"] == expected.best.label
    assert found["probability"] == pytest.approx(expected.best.probability, abs=1e-4)


@pytest.mark.parametrize("given", [{"top_k": 10}, {"top_k": "10"}])
def test_parameters_may_be_fields_of_the_json(given, server):
    assert (
        len(answered(server.client.post("/predict", json={"image": b64(GOOD), **given}))["top"])
        == 10
    )


def test_parameters_may_be_fields_of_the_form_or_the_query(server):
    files = {"image": ("a.png", GOOD)}
    assert (
        len(answered(server.client.post("/predict", files=files, data={"top_k": "1"}))["top"]) == 1
    )
    assert len(answered(server.client.post("/predict?top_k=2", files=files))["top"]) == 2


def test_several_images_are_answered_in_their_order_and_a_bad_one_alone_fails(server):
    images = [encode(draw(size=20 + n)) for n in range(3)]
    for response in (
        server.client.post(
            "/predict",
            json={
                "images": [b64(images[0]), "%%%", b64(images[1]), b64(b"noise"), b64(images[2]), 5]
            },
        ),
        server.client.post(
            "/predict",
            files=[
                ("image", p) for p in (images[0], b"", images[1], b"noise", images[2], b"GIF89a")
            ],
        ),
    ):
        results = answered(response)["results"]
        assert [entry["image"]["width"] for entry in results if "image" in entry] == [20, 21, 22]
        errors = [results[index]["error"] for index in (1, 3, 5)]
        assert [error["status"] for error in errors][:2] == [400, 415]
        assert all(set(error) == PROBLEM for error in errors)


def test_a_list_of_one_is_a_list(server):
    assert (
        len(answered(server.client.post("/predict", json={"images": [b64(GOOD)]}))["results"]) == 1
    )


@pytest.mark.parametrize("method", OF_CNNS)
def test_every_method_explains_over_http(method, server, engine):
    found = answered(post(server, f"/explain?method={method}&target=cat&deadline_ms=60000"))
    explanation = found["explanation"]
    values = np.frombuffer(base64.b64decode(explanation["map"]["data"]), "<f4").reshape(
        explanation["map"]["shape"]
    )
    assert values.shape == (32, 32)
    assert explanation["map"]["scale"] == pytest.approx(np.abs(values).max())
    assert explanation["target"] == {"label": "cat", "index": 3}
    assert explanation["parameters"] == {p.name: p.default for p in METHODS[method].parameters}
    head, _, data = explanation["overlay"].partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (96, 64)
    assert {"read", "decode", "queue", "infer", "explain", "render", "total"} <= set(
        found["timing_ms"]
    )


def test_integrated_gradients_report_their_completeness_gap(server):
    quality = answered(post(server, "/explain?method=integrated_gradients&steps=8"))["explanation"][
        "quality"
    ]
    assert quality["completeness_gap"] >= 0


def test_predict_adds_an_explanation_on_request(server):
    found = answered(post(server, "/predict?explain=grad_cam&map=array&top_k=1"))
    assert found["explanation"]["method"] == "grad_cam"
    assert found["explanation"]["target"]["label"] == found["label"]
    assert "overlay" not in found["explanation"]
    assert (
        "data"
        not in answered(post(server, "/predict?explain=grad_cam&map=overlay"))["explanation"]["map"]
    )


@pytest.mark.parametrize("kind", ["image/webp", "image/jpeg"])
def test_accept_chooses_the_file_of_the_overlay(kind, server):
    response = post(server, "/explain?method=grad_cam", accept=kind)
    assert response.headers["content-type"] == kind
    with Image.open(io.BytesIO(response.content)) as image:
        assert (image.size, Image.MIME[image.format]) == ((96, 64), kind)


def test_a_small_palette_is_a_png_too(server):
    path = "/explain?method=grad_cam&overlay_format=png8"
    response = post(server, path, accept="image/png")
    with Image.open(io.BytesIO(response.content)) as image:
        assert (image.format, image.mode) == ("PNG", "P")
    overlay = answered(post(server, f"{path}&map=overlay"))["explanation"]["overlay"]
    assert base64.b64decode(overlay.partition(",")[2]) == response.content


def test_the_cells_of_a_map_are_a_few_hundred_bytes(server):
    plain_size = len(post(server, "/predict").content)
    path = "/predict?explain=grad_cam&map=array&encoding="
    found = answered(post(server, f"{path}cells"))["explanation"]["map"]
    assert (found["encoding"], found["cells"]) == ("cells", [4, 4])
    sizes = {each: len(post(server, path + each).content) for each in ("cells", "base64")}
    assert sizes["cells"] - plain_size < 900
    assert sizes["base64"] > 4 * sizes["cells"]
    detail = problem(
        post(server, "/explain?method=saliency&encoding=cells"), 422, "invalid_parameter"
    )
    assert "saliency has none" in detail


def test_accept_png_returns_the_overlay(server):
    response = post(server, "/explain?method=saliency", accept="image/png")
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).size == (96, 64)


def test_a_legend_goes_below_the_image_and_moves_nothing(server):
    path = "/explain?method=saliency&legend="
    without, with_legend = (
        np.asarray(Image.open(io.BytesIO(post(server, path + flag, accept="image/png").content)))
        for flag in ("false", "true")
    )
    assert with_legend.shape[1] == 256
    assert with_legend.shape[0] > 64 + 50
    assert np.array_equal(with_legend[:64, :96], without)
    document = answered(
        server.client.post("/explain", json={"image": b64(GOOD), "legend": True, "map": "overlay"})
    )
    overlay = Image.open(
        io.BytesIO(base64.b64decode(document["explanation"]["overlay"].partition(",")[2]))
    )
    assert overlay.size[0] == 256


def test_the_map_names_its_colour_scale(server):
    found = answered(post(server, "/explain?method=integrated_gradients"))["explanation"]["map"]
    assert (found["colours"], found["unit"]) == ("diverging", "logit")
    assert 0 < found["limit"] <= found["scale"]
    assert (
        answered(post(server, "/explain?method=grad_cam"))["explanation"]["map"]["colours"]
        == "sequential"
    )


def test_accept_npy_returns_the_raw_map(server):
    response = post(server, "/explain?method=saliency", accept="application/x-npy")
    values = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert (values.shape, values.dtype) == ((32, 32), np.float32)


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/*",
        "text/html, application/json;q=0.5",
        "image/png;q=0, application/json",
        None,
    ],
)
def test_json_is_the_first_choice(accept, server):
    assert "explanation" in answered(post(server, "/explain", accept=accept))


KINDS = {
    "CMYK": lambda image: saved(image.convert("CMYK"), "JPEG", quality=100, subsampling=0),
    "palette": lambda image: saved(image.quantize(256)),
    "transparent": lambda image: saved(image.convert("RGBA")),
    "grey": lambda image: saved(image.convert("L")),
    "sixteen bits": lambda image: saved(
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_are_classified_as_their_plain_selves(kind, server):
    image = Image.fromarray(draw("blue", size=64))
    same = image.convert("L").convert("RGB") if kind in ("grey", "sixteen bits") else image
    media = "image/jpeg" if kind == "CMYK" else "image/png"
    found, plainly = (
        answered(post(server, body=KINDS[kind](image), kind=media)),
        answered(post(server, body=saved(same))),
    )
    assert found["label"] == plainly["label"]
    assert found["probability"] == pytest.approx(plainly["probability"], abs=0.05)


def test_a_rotated_image_is_classified_as_it_is_displayed(server):
    stored, exif = Image.fromarray(draw("green", size=64, width=96)), Image.Exif()
    exif[0x0112] = 6
    found = answered(post(server, body=saved(stored, exif=exif)))
    upright = answered(post(server, body=saved(stored.transpose(Image.Transpose.ROTATE_270))))
    assert found["image"] == {"width": 64, "height": 96, "format": "PNG"}
    assert found["top"] == upright["top"]


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "code", "words"),
    [case[1:] for case in BAD],
    ids=[case[0] for case in BAD],
)
def test_a_bad_request_gets_its_problem_and_the_next_good_one_an_answer(
    path, body, kind, status, code, words, server
):
    assert words in problem(post(server, path, body, kind), status, code)
    assert answered(post(server))["label"]


def test_a_chunked_body_is_cut_at_the_limit(server):
    def stream():
        yield b"\xff\xd8"
        for _ in range(11 * 16):
            yield b"\0" * 2**16

    try:
        response = httpx.post(
            server.url + "/predict",
            content=stream(),
            headers={"content-type": "image/jpeg"},
            timeout=30,
        )
        problem(response, 413, "body_too_large")
    except (
        httpx.WriteError,
        httpx.ReadError,
    ):  # the server may close the connection while the client sends
        pass
    assert answered(post(server))["label"]


def test_a_parameter_given_in_two_places_is_refused(server):
    response = server.client.post("/predict?top_k=1", json={"image": b64(GOOD), "top_k": 2})
    assert "top_k is given in the query and in the body" in problem(
        response, 422, "invalid_parameter"
    )


@pytest.mark.parametrize("top_k", ["--5", "5-", "1_0", "9" * 30, "²", 2.5])
def test_text_that_is_not_a_whole_number_is_refused(top_k, server):
    detail = problem(
        server.client.post("/predict", json={"image": b64(GOOD), "top_k": top_k}),
        422,
        "invalid_parameter",
    )
    assert "give a whole number" in detail


def test_too_many_images_at_once_are_refused(server):
    assert "the limit is 64" in problem(
        server.client.post("/predict", json={"images": [b64(GOOD)] * 65}), 422, "invalid_parameter"
    )
    assert "form" in problem(
        server.client.post("/predict", files=[("image", GOOD)] * 80), 400, "malformed_request"
    )


@pytest.mark.parametrize("name", ["file", "photo", "upload[]"])
def test_the_only_files_of_a_form_may_have_any_name(name, server):
    expected = plain(answered(post(server)))
    alone = answered(server.client.post("/predict", files={name: GOOD}))
    assert plain(alone) == expected
    both = answered(server.client.post("/predict", files=[(name, GOOD), (name, GOOD)]))
    assert [result["label"] for result in both["results"]] == [expected["label"]] * 2


def test_a_file_beside_an_image_is_refused(server):
    files = {"image": GOOD, "photo": GOOD}
    assert "'photo' beside 'image'" in problem(
        server.client.post("/predict", files=files), 400, "malformed_request"
    )


def test_fields_of_a_form_that_nobody_knows_are_ignored_with_a_warning(server):
    fields = {"csrf_token": "abc", "submit": "Go", "top_k": ""}
    found = answered(server.client.post("/predict?_=17", files={"image": GOOD}, data=fields))
    assert found["warnings"] == [
        f"the parameter {name!r} is not known here and was ignored"
        for name in ("csrf_token", "submit", "_")
    ]
    assert len(found["top"]) == 3


@pytest.mark.parametrize(
    "kind",
    ["image/jpg", "image/pjpeg", "image/*", "binary/octet-stream", "application/octet-stream",
     "application/x-www-form-urlencoded", "text/plain", None],
)  # fmt: skip
def test_the_bytes_decide_what_an_image_is(kind, server):
    headers = {} if kind is None else {"content-type": kind}
    found = answered(server.client.post("/predict", content=GOOD, headers=headers))
    assert found["image"]["format"] == "PNG"


def test_a_type_that_cannot_be_an_image_is_refused_with_those_that_can(server):
    response = server.client.post("/predict", content=GOOD, headers={"content-type": "video/mp4"})
    assert response.status_code == 415
    for kind in ("image/jpeg", "application/octet-stream", "multipart/form-data"):
        assert kind in response.json()["detail"]
    taken = server.client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]
    assert "application/octet-stream" in taken["content"]


@pytest.mark.parametrize("kind", [None, "text/plain;charset=UTF-8", "application/vnd.api+json"])
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
def test_json_may_come_under_any_name(kind, before, server):
    headers = {} if kind is None else {"content-type": kind}
    body = before + json.dumps({"image": "data:image/png;base64," + b64(GOOD)}).encode()
    assert answered(server.client.post("/predict", content=body, headers=headers))["label"]


def test_a_form_may_hold_a_data_url(server):
    part = {"image": (None, "data:image/png;base64," + b64(GOOD))}
    assert answered(server.client.post("/predict", files=part))["image"]["format"] == "PNG"


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "BMP", "TIFF"])
def test_other_formats_are_answered(kind, server):
    body = encode(draw(size=48), kind)
    found = answered(post(server, body=body, kind=f"image/{kind.lower()}"))
    assert found["image"] == {"width": 48, "height": 48, "format": kind}


def test_declared_defaults_are_accepted_where_they_have_no_meaning(server):
    query = "map=both&steps=128&quality=basic&legend=false&seed=0&layer=last"
    assert answered(post(server, f"/predict?{query}"))["label"]
    found = answered(post(server, f"/explain?method=grad_cam&{query}"))
    assert found["explanation"]["parameters"] == {"layer": "last"}


@pytest.mark.parametrize("kind", ["image/png", "application/x-npy"])
def test_an_answer_that_is_not_json_names_what_was_ignored_in_a_header(kind, server):
    for query, words in (("utm=ü%0A&_=1", ("'utm'", "'_'")), ("ж=1", ("'\\u0436'",))):
        response = server.client.post(f"/explain?{query}", content=GOOD, headers={"accept": kind})
        assert response.headers["content-type"] == kind
        assert all(word in response.headers["candor-warnings"] for word in words)
    plain = server.client.post("/explain", content=GOOD, headers={"accept": kind})
    assert "candor-warnings" not in plain.headers


def test_a_map_that_is_mostly_error_says_so_beside_the_array(server):
    query = "method=kernel_shap&samples=64"
    in_json = server.client.post(f"/explain?{query}&map=array", content=GOOD).json()
    warnings = in_json["explanation"]["warnings"]
    response = server.client.post(
        f"/explain?{query}", content=GOOD, headers={"accept": "application/x-npy"}
    )
    assert warnings
    assert response.headers["candor-warnings"].startswith(warnings[0][:20])


def test_two_images_cannot_become_one_png(server):
    response = server.client.post(
        "/explain", json={"images": [b64(GOOD)] * 2}, headers={"accept": "image/png"}
    )
    assert "2 images were sent" in problem(response, 422, "invalid_parameter")


def test_a_representation_that_does_not_exist_is_refused(server):
    assert "this route offers application/json" in problem(
        post(server, accept="text/html"), 406, "not_acceptable"
    )


def test_unknown_paths_and_methods_are_problems(server):
    assert "/openapi.json" in problem(server.client.get("/nowhere"), 404, "not_found")
    response = server.client.get("/predict")
    assert "use POST" in problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_the_manifest_is_public(server, embedded):
    found = answered(server.client.get("/model"))
    assert found["version"] == embedded.manifest.version
    assert found["labels"] == list(embedded.manifest.labels)
    assert found["device"] == {
        "name": "cpu",
        "provider": "CPUExecutionProvider",
        "engine": "onnxruntime",
        "precision": "float32",
    }
    assert set(found["methods"]) == set(OF_CNNS)
    assert server.client.get("/model/card").content == embedded.read(contract.CARD)


def test_methods_and_parameters_are_described(server):
    methods = {
        method["name"]: method for method in answered(server.client.get("/methods"))["methods"]
    }
    assert set(methods) == set(OF_CNNS)
    steps = METHODS["integrated_gradients"].parameters[0]
    assert methods["integrated_gradients"]["parameters"][0] == {
        "name": "steps",
        "default": 128,
        "description": steps.description,
        "says": steps.description,
        "minimum": 1,
        "maximum": 512,
    }
    assert methods["grad_cam"]["seconds"] < methods["kernel_shap"]["seconds"]
    for name, method in methods.items():
        assert method["source"]
        assert method["description"] == METHODS[name].description
        assert method["says"] == method["description"], "the former name, for one release"


@pytest.mark.parametrize("method", ['"saliency"', "saliency"])
def test_form_fields_may_be_json_texts_as_of_bentomls_client(method, server):
    found = answered(
        server.client.post(
            "/explain?map=array", files={"image": ("a.png", GOOD)}, data={"method": method}
        )
    )
    assert found["explanation"]["method"] == "saliency"


def test_bentomls_client_finds_both_endpoints(server):
    routes = {
        route["name"]: route for route in answered(server.client.get("/schema.json"))["routes"]
    }
    assert {name: route["route"] for name, route in routes.items()} == {
        "predict": "/predict",
        "explain": "/explain",
    }
    assert routes["explain"]["input"]["properties"]["image"]["type"] == "file"
    assert {"method", "steps"} <= set(routes["explain"]["input"]["properties"])


def test_metrics_count_by_route_and_never_by_path(server):
    for n in range(5):
        server.client.get(f"/wp-login-{n}.php")
    post(server, "/predict?explain=integrated_gradients")
    text = server.client.get("/metrics").text
    assert "wp-login" not in text
    assert re.search(r'candor_requests_total\{code="404",route="unknown"\} [1-9]', text)
    for name in (
        "stage_duration_seconds",
        "batch_size",
        "predictions_total",
        "prediction_confidence",
        "explanations_total",
        "completeness_gap",
        "model_info",
        "device_info",
    ):
        assert f"candor_{name}" in text, name


def test_concurrent_callers_get_their_own_answers(server):
    images = [
        encode(draw(colour, size=size)) for size in range(33, 49) for colour in ("red", "blue")
    ]
    expected = [answered(post(server, body=body)) for body in images]
    with ThreadPoolExecutor(16) as pool:
        found = list(
            pool.map(
                lambda body: httpx.post(
                    server.url + "/predict",
                    content=body,
                    headers={"content-type": "image/png"},
                    timeout=60,
                ).json(),
                images,
            )
        )
    assert [(f["image"], f["label"]) for f in found] == [(e["image"], e["label"]) for e in expected]
    assert json.dumps(found)
