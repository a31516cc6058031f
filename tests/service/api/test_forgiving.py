"""Requests of strangers: what is clear in its meaning is answered, the rest says what to do."""

import gzip
import json
import socket
import zlib
from urllib.parse import quote

import pytest

from support.requests import GOOD, b64

TEXT = b64(GOOD)
DATA_URL = "data:image/png;base64," + TEXT
FORM = {"content-type": "multipart/form-data; boundary=B"}
PAIRS = {"content-type": "application/x-www-form-urlencoded"}
JSON = {"content-type": "application/json"}
NO_FILE = 'name="{}"; filename=""'  # as a browser sends a choice of files that was left empty


def form(*parts):
    """A body in parts, each a pair of a Content-Disposition and bytes."""
    heads = [f"--B\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() for head, _ in parts]
    bodies = [body + b"\r\n" for _, body in parts]
    return b"".join(head + body for head, body in zip(heads, bodies, strict=True)) + b"--B--\r\n"


def one(server, **request):
    """The label of an image that was answered."""
    answer = server.client.post("/predict", **request)
    assert answer.status_code == 200, answer.text
    assert answer.json()["image"] == {"width": 96, "height": 64, "format": "PNG"}
    return answer.json()


def refusal(server, **request):
    answer = server.client.post("/predict", **request)
    return answer.status_code, answer.json()["detail"]


@pytest.mark.parametrize(
    "kind",
    ["image", "IMAGE/JPEG; a=b", "image/jpeg, image/jpeg", "application/x-image", "binary", "*",
     'application/octet-stream; name="a;b"'],
)  # fmt: skip
def test_only_a_type_that_says_something_else_is_refused(kind, server):
    one(server, content=GOOD, headers={"content-type": kind})


@pytest.mark.parametrize("kind", ["video/mp4", "text/html", "application/pdf", "multipart/mixed"])
def test_such_a_type_is_named(kind, server):
    status, detail = refusal(server, content=GOOD, headers={"content-type": kind})
    assert status == 415
    assert f"{kind!r} says that the body is no image; supported are image/jpeg" in detail


@pytest.mark.parametrize("text", [TEXT, DATA_URL, TEXT[:76] + "\n" + TEXT[76:]])
@pytest.mark.parametrize("kind", ["text/plain", "image/png", PAIRS["content-type"]])
def test_a_body_may_be_base64(text, kind, server):
    one(server, content=text, headers={"content-type": kind})


@pytest.mark.parametrize(
    "value", [quote(TEXT, safe=""), TEXT, quote(DATA_URL), quote(DATA_URL, "")]
)
@pytest.mark.parametrize("name", ["image", "picture", "image%5B%5D"])
def test_a_form_of_pairs_may_hold_an_image(name, value, server):
    found = one(server, content=f"top_k=2&{name}={value}", headers=PAIRS)
    assert len(found["top"]) == 2


def test_a_form_of_pairs_without_an_image_says_what_it_lacks(server):
    assert refusal(server, content="a=b", headers=PAIRS) == (
        400,
        "the form has no part named 'image': send one or more",
    )


@pytest.mark.parametrize(
    "parts",
    [
        [("name=image; filename*=UTF-8''%e2%82%ac.png", GOOD)],
        [("name=\"a photo\"; filename*=UTF-8''a.png", GOOD)],
        [('name="image"', GOOD)],
        [('name="picture"', GOOD)],
        [('name="picture"', TEXT.encode())],
        [('name="image"; filename="a.txt"', TEXT.encode())],
        [(NO_FILE.format("file"), b""), ('name="photo"; filename="a.png"', GOOD)],
        [(NO_FILE.format("image"), b""), ('name="file"; filename="a.png"', GOOD)],
        [('name="image"; filename="a.png"', GOOD), (NO_FILE.format("mask"), b"")],
        [('name="image"; filename="a.png"', GOOD), (NO_FILE.format("image"), b"")],
        [('name="images[0]"; filename="a.png"', GOOD), ('name="submit"', b"Send")],
    ],
)
def test_a_lone_image_in_a_form_is_found(parts, server):
    one(server, content=form(*parts), headers=FORM)


@pytest.mark.parametrize(
    "names",
    [("file1", "file2"), ("images[0]", "images[1]"), ("file[]", "file[]"), ("image", "image2")],
)
def test_images_that_are_numbered_are_several(names, server):
    parts = [(f'name="{name}"; filename="a.png"', GOOD) for name in names]
    answer = server.client.post("/predict", content=form(*parts), headers=FORM)
    assert [each["image"]["format"] for each in answer.json()["results"]] == ["PNG", "PNG"]


def test_files_of_different_names_are_not_guessed(server):
    parts = [(f'name="{name}"; filename="a.png"', GOOD) for name in ("front", "back")]
    status, detail = refusal(server, content=form(*parts), headers=FORM)
    assert status == 400
    assert "name images 'image' and a mask 'mask'" in detail


def test_a_form_that_ends_early_says_so(server):
    body = form(('name="image"; filename="a.png"', GOOD))[:-200]
    assert "no whole part" in refusal(server, content=body, headers=FORM)[1]


@pytest.mark.parametrize(
    "document",
    [
        {"file": TEXT},
        {"img": DATA_URL, "top_k": 3},
        {"inputs": {"b64": TEXT}},
        {"image": {"base64": TEXT}},
        {"images": TEXT},
        TEXT,
    ],
)
def test_a_lone_image_in_json_is_found(document, server):
    one(server, content=json.dumps(document), headers=JSON)


@pytest.mark.parametrize("document", [[TEXT], {"image": [TEXT]}, {"instances": [{"b64": TEXT}]}])
def test_a_list_in_json_is_answered_by_one(document, server):
    answer = server.client.post("/predict", content=json.dumps(document), headers=JSON)
    assert len(answer.json()["results"]) == 1


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"a": TEXT, "b": TEXT}, 'exactly one of "image" and "images"'),
        ({"image": list(GOOD)}, "is given as a list"),
        ({"image": {"type": "Buffer", "data": list(GOOD)}}, "an object with 'type', 'data'"),
        ({"image": "cat.jpg"}, "send the bytes of the file"),
        ({"classes": "cat"}, 'exactly one of "image" and "images"'),
    ],
)
def test_other_json_says_what_to_send(document, words, server):
    status, detail = refusal(server, content=json.dumps(document), headers=JSON)
    assert (status, words in detail) == (400, True), detail


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),
        ("", bytes),
        ("identity", bytes),
    ],
)
@pytest.mark.parametrize("in_form", [False, True])
def test_a_body_may_be_compressed_by_any_name(encoding, pack, in_form, server):
    body = form(('name="image"; filename="a.png"', GOOD)) if in_form else GOOD
    headers = {"content-encoding": encoding, **(FORM if in_form else {})}
    one(server, content=pack(body), headers=headers)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("explain=GradCAM", "did you mean grad_cam? the methods are"),
        ("explain=grad-cam", "did you mean grad_cam?"),
        ("explain=ig", "did you mean integrated_gradients?"),
        ("explain=shap", "did you mean gradient_shap or kernel_shap?"),
        ("explain=magic", "method is 'magic'; the methods are"),
        ("topK=2", "did you mean top_k?"),
        ("classes=SHIP", "did you mean ship? Name a label"),
        ("classes=trukc", "did you mean truck?"),
        ("classes=unicorn", "classes is 'unicorn'; name a label"),
        ("by_class=maybe", "give true or false"),
    ],
)
def test_what_is_misspelt_is_guessed(query, words, server):
    status, detail = refusal(server, content=GOOD, params=query)
    assert (status, words in detail) == (422, True), detail


@pytest.mark.parametrize("value", ["True", "1", "on", "yes", "False", "0", "off", "no", "true"])
def test_a_choice_is_read_as_people_write_it(value, server):
    one(server, content=GOOD, params={"by_class": value})


@pytest.mark.parametrize("name", ["_", "utm_source", "api_key", "callback"])
def test_a_cache_buster_is_ignored_with_a_warning(name, server):
    found = one(server, content=GOOD, params={name: "123"})
    assert found["warnings"] == [f"the parameter {name!r} is not known here and was ignored"]


@pytest.mark.parametrize(
    "accept", ["image/webp,*/*;q=0.1", "*", "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"]
)
def test_a_client_that_accepts_everything_last_gets_json(accept, server):
    one(server, content=GOOD, headers={"accept": accept})


def test_a_slash_at_the_end_is_named(server):
    answer = server.client.post("/predict/", content=GOOD)
    assert "leave out the slash at its end" in answer.json()["detail"]


@pytest.mark.parametrize(
    "head",
    [
        "POST /predict HTTP/1.0",
        "POST /predict HTTP/1.1\r\nHost: localhost.",
        "POST /predict HTTP/1.1\r\nHost: LOCALHOST.:3000",
        "POST http://localhost/predict?_=1 HTTP/1.1\r\nHost: localhost",
        "POST /predict HTTP/1.1\r\nHost: localhost" + 2 * "\r\nContent-Type: image/png",
    ],
)
def test_old_and_odd_heads_are_answered(head, server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        end = f"\r\nConnection: close\r\nContent-Length: {len(GOOD)}\r\n\r\n"
        connection.sendall((head + end).encode() + GOOD)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
