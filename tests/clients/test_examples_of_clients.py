"""Every example of docs/clients.md runs, and names the class that the server does."""

import os
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from playwright.sync_api import Error

from support import generated
from support.browser import chromium
from support.environments import python_of
from support.servers import ROOT, Server

TEXT = (ROOT / "docs" / "clients.md").read_text()
IMAGE = ROOT / "docs" / "images" / "red-ball.jpg"
PNG = b"\x89PNG\r\n"


def example(language, word):
    """The one example in `language` that has `word`."""
    blocks = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return found


@pytest.fixture
def place(tmp_path):
    """A folder to run an example in: it finds the image, and what it writes is found."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    return tmp_path


def run(command, place, **environment):
    done = subprocess.run(
        command,
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def of(server, text):
    return text.replace("127.0.0.1:3000", server.url.removeprefix("http://"))


def label_of(server):
    answer = server.client.post("/predict", content=IMAGE.read_bytes())
    return answer.json()["label"]


def answered(server, place, printed):
    """Checks that an example names the predicted class, and that it saves an overlay."""
    assert label_of(server) in printed
    assert (place / "why.png").read_bytes().startswith(PNG)


def needs(program, package):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing: scripts/packages {package}")
    return program


@pytest.mark.parametrize(
    "client", ["tritonclient", "kserve", "bentoml", "httpx", "requests", "service"]
)
def test_the_example_in_python_runs(client, server, embedded, place):
    begins = (
        ("import tritonclient.http",)
        if client == "tritonclient"
        else (f"import {client}", f"from {client}")
    )
    text = example("python", next(words for words in begins if words in TEXT))
    of_ours = client in ("bentoml", "httpx", "requests", "service")
    assert of_ours or f'"{embedded.manifest.name}"' in text
    python = sys.executable if of_ours else python_of(client)
    assert label_of(server) in run([python, "-c", of(server, text)], place)


def test_the_examples_in_python_have_their_overlays(server, place):
    answered(
        server, place, run([sys.executable, "-c", of(server, example("python", "httpx"))], place)
    )


@pytest.fixture(scope="module")
def document(server):
    return server.client.get("/openapi.json").content


def test_the_generated_client_of_python_predicts_and_explains(server, document, place):
    package = generated.python(document, place)
    text = of(server, example("python", "candor_client"))
    answered(server, place, run([python_of("openapi"), "-c", text], place, PYTHONPATH=str(package)))


def test_fetch_of_node_predicts_and_explains(server, place):
    node = needs("node", "nodejs")
    (place / "ask.mjs").write_text(of(server, example("js", "openAsBlob")))
    answered(server, place, run([node, "--no-warnings", "ask.mjs"], place))


def test_the_generated_client_of_typescript_predicts_and_explains(server, document, place):
    node, script = needs("node", "nodejs"), generated.typescript(document, example("ts", "paths"))
    # Beside its modules, which Node looks for in the folders above a script.
    here = script.with_name(f"ask-{server.port}.js")
    here.write_text(of(server, script.read_text()))
    try:
        answered(server, place, run([node, here], place))
    finally:
        here.unlink()


def java(server, place, word, *options):
    program = needs("java", "default-jdk-headless")
    (place / "Ask.java").write_text(of(server, example("java", word)))
    return run([program, "-XX:TieredStopAtLevel=1", *options, "Ask.java"], place)


def test_the_jdks_client_predicts_and_explains(server, place):
    answered(server, place, java(server, place, "HttpClient.newHttpClient"))


def test_the_generated_client_of_java_predicts_and_explains(server, document, place):
    printed = java(server, place, "openapitools", "-cp", generated.java(document))
    answered(server, place, printed)


class Blank(BaseHTTPRequestHandler):
    """A page with nothing on it."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def origin():
    """The origin of a page on a port of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Blank) as site:
        Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()


def test_fetch_of_a_page_predicts_and_explains_where_its_origin_is_allowed(
    origin, server, tmp_path
):
    needs("chromium", "chromium")
    script = f"""async (bytes) => {{
        {example("js", "createObjectURL")}
        const found = await ask(new File([new Uint8Array(bytes)], "ball.jpg"));
        const overlay = await (await fetch(found.overlay)).arrayBuffer();
        return {{ label: found.top[0].label, overlay: [...new Uint8Array(overlay).slice(0, 6)] }};
    }}"""
    given = list(IMAGE.read_bytes())
    with (
        Server(tmp_path, workers=1, allow_origins=origin) as allowing,
        chromium() as browser,
        browser.new_page() as page,
    ):
        page.goto(origin)
        found = page.evaluate(of(allowing, script), given)
        with pytest.raises(Error, match="Failed to fetch"):
            page.evaluate(of(server, script), given)
    assert found == {"label": label_of(server), "overlay": list(PNG)}
