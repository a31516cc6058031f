"""A page of another origin asks: with CORS set it is answered, without it is refused."""

import base64
import http.server
import threading

import pytest

from service.api.access.keys import make
from support.browser import chromium
from support.images import draw, encode
from support.servers import Server, free_port

HTML = b"<!doctype html><meta charset=utf-8><title>Another page</title>"
SCOPES = ("predict", "explain")
KEY, LINE = make("page", SCOPES)
SLOW_KEY, SLOW_LINE = make("slow", SCOPES, passes=1)
MOST = 40_000  # bytes of a body
IMAGE = encode(draw("red", size=64), "JPEG")

# What a page reads of an answer; of one that the browser keeps from it, the name of the error.
ASK = """async ({ url, how, key, text }) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const form = new FormData();
    form.append("file", new Blob([bytes], { type: "image/jpeg" }), "a.jpg");
    const requests = {
        image: { body: bytes, headers: { "Content-Type": "image/jpeg" } },
        bytes: { body: bytes },
        json: {
            body: JSON.stringify({ image: `data:image/jpeg;base64,${text}` }),
            headers: { "Content-Type": "application/json" },
        },
        form: { body: form },
        large: { body: new Uint8Array(50000) },
        nonsense: { body: "{}", headers: { "Content-Type": "application/json" } },
    };
    const { body, headers = {} } = requests[how];
    if (key) headers.Authorization = `Bearer ${key}`;
    try {
        const answer = await fetch(url, { method: "POST", body, headers });
        return {
            status: answer.status,
            document: await answer.json(),
            id: answer.headers.get("X-Request-Id"),
            retry: answer.headers.get("Retry-After"),
        };
    } catch (error) {
        return { error: error.name };
    }
}"""


class Quiet(http.server.BaseHTTPRequestHandler):
    """Serves one page, and writes no log."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(HTML)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def other():
    """The port of a web server that is not the service."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Quiet) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield site.server_address[1]
        site.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def allowing(tmp_path_factory, other):
    """A service with keys that the page on `localhost` may call."""
    folder = tmp_path_factory.mktemp("allowing")
    keys = folder / "keys"
    keys.write_text(f"{LINE}\n{SLOW_LINE}")
    keys.chmod(0o600)
    settings = {"keys": keys, "max_body_bytes": MOST, "allow_origins": f"http://localhost:{other}"}
    with Server(folder, workers=1, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def ask(browser, other):
    """Sends the image as a page of `host` does."""
    pages = {host: browser.new_page() for host in ("localhost", "127.0.0.1")}
    for host, page in pages.items():
        page.goto(f"http://{host}:{other}/")

    def asked(server, how, path="/predict", host="localhost", key=None):
        text = base64.b64encode(IMAGE).decode()
        url = f"{server.url}{path}"
        return pages[host].evaluate(ASK, {"url": url, "how": how, "key": key, "text": text})

    return asked


@pytest.mark.parametrize("how", ["image", "bytes", "json", "form"])
def test_an_allowed_page_predicts_with_its_key(ask, allowing, how):
    answer = ask(allowing, how, key=KEY)
    assert answer["status"] == 200, answer
    assert answer["document"]["label"]
    assert answer["id"]


def test_it_explains_until_its_allowance_is_used_and_reads_when_to_retry(ask, allowing):
    path = "/explain?method=occlusion&map=overlay"
    answers = [ask(allowing, "image", path, key=SLOW_KEY) for _ in range(2)]
    first, second = answers
    assert first["status"] == 200, first
    assert first["document"]["explanation"]["overlay"]
    assert second["status"] == 429, second
    assert int(second["retry"]) >= 1
    assert second["document"]["code"] == "too_many_requests"


@pytest.mark.parametrize(
    ("how", "path", "key", "status"),
    [
        ("nonsense", "/predict", KEY, 400),
        ("image", "/predict?top_k=0", KEY, 422),
        ("image", "/predict", None, 401),
        ("image", "/predict", "candor_wrong", 401),
        ("image", "/nothing", KEY, 404),
        ("large", "/predict", KEY, 413),
    ],
    ids=["nonsense", "parameter", "no key", "wrong key", "nothing", "large"],  # a key is drawn
)
def test_it_reads_errors(ask, allowing, how, path, key, status):
    answer = ask(allowing, how, path, key=key)
    assert answer.get("status") == status, answer
    assert answer["document"]["status"] == status
    assert answer["id"]


@pytest.mark.parametrize("how", ["image", "json", "form"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_without_the_setting_a_page_reads_nothing(ask, server, how, host):
    assert ask(server, how, host=host) == {"error": "TypeError"}


def test_nor_does_a_page_that_is_not_named(ask, allowing):
    assert ask(allowing, "json", host="127.0.0.1", key=KEY) == {"error": "TypeError"}
