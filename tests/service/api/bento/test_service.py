"""The BentoML APIs: in process, through `depends`, in the schema and in OpenAPI."""

import json
import subprocess
import sys

import httpx
import pytest

from service.api.access.keys import make
from support.servers import ROOT, Server, environment

IMAGE = ROOT / "docs" / "images" / "red-ball.jpg"
IN_PROCESS = """
import asyncio, json, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from PIL import Image
from service.app import Candor

candor, path = Candor(), Path(sys.argv[1])

def error(call):
    try:
        return asyncio.run(call)
    except Exception as error:
        return [type(error).__name__, getattr(error, "error_code", None), str(error)]

async def together():
    return await asyncio.gather(*(candor.predict(path, top_k=1) for _ in range(8)))

json.dump({
    "bytes": candor.to_sync.predict(path.read_bytes(), top_k=2),
    "path": asyncio.run(candor.predict(path)),
    "pillow": asyncio.run(candor.predict(Image.open(path))),
    "together": asyncio.run(together()),
    "several": asyncio.run(candor.predict([path, path])),
    "explained": asyncio.run(candor.explain(path, method="saliency", map="array")),
    "bad_image": error(candor.predict(b"noise")),
    "bad_parameter": error(candor.explain(path, stepz=4)),
    "bad_type": error(candor.predict(3)),
}, sys.stdout)
"""
SECOND = """
import base64
from pathlib import Path

import bentoml
from bentoml.exceptions import BentoMLException

from service.app import Candor

@bentoml.service(name="second", workers=1)
class Second:
    candor = bentoml.depends(Candor{url})

    @bentoml.api
    async def both(self, image: Path) -> dict:
        prediction = await self.candor.predict(image=image, top_k=2)
        body = image.read_bytes()
        explanation = await self.candor.explain(image=body, method="grad_cam", map="array")
        return {{"prediction": prediction, "explanation": explanation["explanation"]}}

    @bentoml.api
    def wrong(self) -> list:
        try:
            return [self.candor.to_sync.predict(image=b"noise")]
        except BentoMLException as error:
            return [error.error_code, str(error)]

    @bentoml.api
    async def often(self, image: Path, calls: int) -> int:
        body = image.read_bytes()
        return sum([(await self.candor.predict(image=body))["index"] == 2 for _ in range(calls)])
"""


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    """The results of calls in a process that serves nothing."""
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESS, IMAGE],
        cwd=ROOT,
        env=environment(tmp_path_factory.mktemp("called"), device="cpu"),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_service_predicts_in_process(called):
    for call in ("path", "bytes", "pillow"):
        assert called[call]["label"] == "bird"
    assert len(called["bytes"]["top"]) == 2
    assert [one["label"] for one in called["together"]] == ["bird"] * 8
    assert [one["label"] for one in called["several"]["results"]] == ["bird", "bird"]


def test_the_service_explains_in_process(called):
    assert called["explained"]["explanation"]["method"] == "saliency"
    assert called["explained"]["explanation"]["map"]["shape"] == [32, 32]


def test_a_bad_call_is_an_exception_of_bentoml_with_a_status(called):
    kind, status, message = called["bad_image"]
    assert (kind, status) == ("BentoMLException", 415)
    assert message.startswith("the 5 bytes look like text")
    assert called["bad_parameter"][:2] == ["BentoMLException", 422]
    assert "stepz" in called["bad_parameter"][2]
    assert called["bad_type"][:2] == ["BentoMLException", 400]


def second(folder, url=None, **settings):
    """A second service, which depends on Candor: served with it, or at `url`."""
    (folder / "second.py").write_text(SECOND.format(url=f", url={url!r}" if url else ""))
    command = [sys.executable, "-m", "bentoml", "serve", "second:Second"]
    server = Server(folder, [*command, "--working-dir", str(folder)], workers=1, **settings)
    server._command += ["--host", "127.0.0.1", "--port", str(server.port)]
    server.environment["PYTHONPATH"] = str(ROOT)
    return server


@pytest.fixture(scope="module", params=["beside", "elsewhere"])
def dependent(request, tmp_path_factory):
    """A second service: beside a Candor that wants keys of others, or in front of another one."""
    folder = tmp_path_factory.mktemp("second")
    if request.param == "elsewhere":
        started = second(folder, request.getfixturevalue("server").url)
    else:
        keys = folder / "keys"
        keys.touch(0o600)
        keys.write_text(make("camera", ("metrics",))[1])
        started = second(folder, keys=keys)
    with started as running:
        yield running


def post(server, path, **fields):
    with IMAGE.open("rb") as file:
        response = server.client.post(
            path, files={"image": ("ball.jpg", file, "image/jpeg")}, data=fields, timeout=120
        )
    assert response.status_code == 200, (response.text, server.log.read_text())
    return response.json()


def test_a_dependent_service_gets_predictions_and_explanations_without_a_key(dependent):
    both = post(dependent, "/both")
    assert both["prediction"]["label"] == "bird"
    assert len(both["prediction"]["top"]) == 2
    assert both["explanation"]["method"] == "grad_cam"
    assert both["explanation"]["map"]["shape"] == [32, 32]


def test_a_dependent_service_gets_a_bad_image_as_a_client_error(dependent):
    status, message = dependent.client.post("/wrong", json={}).json()
    assert status == 415
    assert "the 5 bytes look like text" in message


def test_a_dependent_service_may_call_more_often_than_bentomls_client_keeps_a_session(dependent):
    assert post(dependent, "/often", calls="250") == 250


def test_pickles_are_not_taken_from_the_network(server):
    body, kind = b"\x80\x04N.", {"content-type": "application/vnd.bentoml+pickle"}
    response = server.client.post("/predict", content=body, headers=kind)
    assert response.status_code == 415
    assert "the body is no image" in response.text  # its bytes are looked at, and never loaded


def test_schema_and_openapi_of_bentoml_list_both_apis(server):
    schema = server.client.get("/schema.json").json()
    assert {route["name"]: route["route"] for route in schema["routes"]} == {
        "predict": "/predict",
        "explain": "/explain",
    }
    for route in schema["routes"]:
        assert route["input"]["properties"]["image"]["type"] == "file"
    spec = server.client.get("/docs.json").json()
    for path in ("/predict", "/explain"):
        form = spec["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]
        assert form["schema"]["properties"]["image"] == {"type": "string", "format": "binary"}


def test_the_class_lists_both_apis(tmp_path):
    code = (
        "import warnings; warnings.simplefilter('ignore'); from service.app import Candor; "
        "print(sorted(Candor.apis))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "['explain', 'predict']"


def test_bentomls_page_is_not_served(server):
    assert "googletagmanager" not in httpx.get(f"{server.url}/").text
