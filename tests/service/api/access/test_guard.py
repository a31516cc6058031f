"""Keys on a real server: every route with no key, a wrong one, another scope and the right one."""

import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from starlette.responses import Response
from starlette.routing import Route

from service.api.access.guard import OPEN, Guard
from service.api.access.keys import SCOPES, make
from service.api.access.sites import Sites
from support import arrivals, load
from support.requests import GOOD, b64
from support.servers import ROOT, Server, environment, free_port

PNG = {"content-type": "image/png"}
KEYS = {scope: make(scope, (scope,)) for scope in SCOPES}
WRONG = make("wrong", SCOPES)[0]
POSTS = (
    *("/predict", "/explain", ":predict", ":explain", ":classify", "/infer", "/index"),
    *("/load", "/unload", "/rollout", "/promote", "/rollback"),
)
PROBES = {
    "/livez",
    "/readyz",
    "/healthz",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{name}/ready",
    "/v2/models/{name}/versions/{version}/ready",
}


def bearer(secret):
    return {} if secret is None else {"authorization": f"Bearer {secret}"}


def file_of(folder, *lines):
    """A file of keys, put in place at once."""
    new = folder / "keys.new"
    new.write_text("\n".join(lines))
    new.chmod(0o600)
    return new.replace(folder / "keys")


def keyed(folder, **settings):
    keys = file_of(folder, *(line for _, line in KEYS.values()))
    return Server(folder, keys=keys, reference=folder, **settings)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a key for each scope, which other machines reach."""
    with keyed(tmp_path_factory.mktemp("keyed"), workers=1, host="0.0.0.0") as running:  # noqa: S104
        yield running


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """A server that logs every request, and has a port of its own for administrators."""
    port = free_port()
    logged = {"access_log": "true", "log_format": "json"}
    with keyed(tmp_path_factory.mktemp("apart"), workers=1, admin_port=port, **logged) as running:
        yield running, port


@pytest.fixture
def table(needs, embedded):
    """Method, path, and the scopes it needs."""
    manifest = embedded.manifest
    names = {"name": manifest.name, "version": manifest.version, "row": 0}
    return [
        (
            "POST" if template.endswith(POSTS) else "GET",
            template.replace(":int", "").format(**names, file=bundle_file(template, manifest)),
            scopes,
        )
        for template, scopes in needs.items()
    ]


def bundle_file(template, manifest):
    """A file of the bundle that a template leads to."""
    if "plots" in template:
        return next(name for name in manifest.files if name.endswith(".png"))
    return manifest.samples[0].file


def statuses(client, table, seen):
    """The statuses of every route that needs a key: without, with a wrong one, another scope."""
    for method, path, needed in table:
        if needed == OPEN:
            continue
        other = next((scope for scope in SCOPES if scope not in needed), None)
        for kind, secret in (("none", None), ("wrong", WRONG), ("other", other and KEYS[other][0])):
            if secret is None and kind == "other":
                continue
            body = GOOD if method == "POST" else None
            answer = client.request(method, path, content=body, headers=PNG | bearer(secret))
            seen.append((kind, method, path, answer.status_code))
    return seen


def assert_shut(seen):
    expected = {"none": 401, "wrong": 401, "other": 403}
    assert [entry for entry in seen if entry[3] != expected[entry[0]]] == []
    assert len(seen) > 40


def test_exactly_probes_and_the_page_are_open(needs):
    open_paths = {path for path, scopes in needs.items() if scopes == OPEN}
    page = {path for path in open_paths if path in ("/", "/docs") or path.startswith("/web/")}
    assert open_paths - page == PROBES


def test_a_route_without_scopes_stops_the_start():
    async def answer(_request):
        return Response()

    with pytest.raises((AttributeError, TypeError), match=r"needs|GuardedRoute"):
        Guard([Route("/new", answer)], {}, None, Sites("*"))


def test_every_route_wants_its_key(server, table):
    assert_shut(statuses(server.client, table, []))


def test_every_route_is_answered_with_its_key(server, table):
    for method, path, needed in table:
        for scope in needed or [None]:
            headers = PNG | bearer(scope and KEYS[scope][0])
            body = GOOD if method == "POST" else None
            answer = server.client.request(method, path, content=body, headers=headers)
            if not path.endswith("/reference/0"):  # the folder of this server has no images
                assert answer.status_code not in (401, 403, 404, 405), (method, path, scope)
            assert answer.status_code < 500, (path, answer.text)


def test_an_unknown_path_wants_a_key_and_has_nothing(server):
    assert server.client.get("/nothing").status_code == 401
    headers = bearer(KEYS["metrics"][0])
    assert server.client.get("/nothing", headers=headers).status_code == 404


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/predict", "/model", "/metrics", "/v2/models/cifar10/infer"])
def test_other_methods_want_a_key_too(method, path, server):
    assert server.client.request(method, path).status_code == 401


def test_an_answer_names_the_challenge_and_the_missing_scope(server):
    missing = server.client.post("/explain", content=GOOD, headers=PNG)
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.headers["www-authenticate"] == 'Bearer realm="candor"'
    assert missing.json()["code"] == "unauthorized"
    assert missing.json()["detail"].startswith("the request has no key: send `Authorization")
    headers = PNG | bearer(KEYS["predict"][0])
    lacking = server.client.post("/explain", content=GOOD, headers=headers)
    assert lacking.json()["code"] == "forbidden"
    assert lacking.json()["detail"].startswith("the key 'predict' lacks the scope explain")
    assert 'error="insufficient_scope", scope="explain"' in lacking.headers["www-authenticate"]


@pytest.mark.parametrize(
    "value",
    [
        "{key}",
        "Basic {key}",
        "Bearer",
        "Bearer {key} {key}",
        "Bearer {key}x",
        "Bearer {digest}",
        "Bearer\t{key}",
    ],
)
def test_what_is_not_a_bearer_key_is_none(value, server):
    secret, line = KEYS["admin"]
    given = value.format(key=secret, digest=line.split()[2])
    assert server.client.get("/model", headers={"authorization": given}).status_code == 401


def test_the_scheme_has_no_case_and_two_keys_are_malformed(server):
    secret = KEYS["admin"][0]
    given = ("authorization", f"bEARER   {secret}")
    assert server.client.get("/model", headers=[given]).status_code == 200
    assert server.client.get("/model", headers=[given, given]).status_code == 400


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/predict?explain=saliency", {"content": GOOD, "headers": PNG}),
        ("/predict?%65xplain=saliency", {"content": GOOD, "headers": PNG}),
        ("/predict", {"files": {"image": GOOD}, "data": {"explain": "saliency"}}),
        ("/predict", {"json": {"image": b64(GOOD), "explain": "saliency"}}),
        (
            "/v1/models/cifar10:predict",
            {"json": {"instances": [b64(GOOD)], "explain": "saliency"}},
        ),
        (
            "/v2/models/cifar10/infer",
            {
                "json": {
                    "inputs": [
                        {"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(GOOD)]}
                    ],
                    "outputs": [{"name": "attribution"}],
                }
            },
        ),
    ],
)
def test_an_explanation_needs_its_scope_wherever_it_is_asked_for(path, sent, server):
    headers = sent.get("headers", {}) | bearer(KEYS["predict"][0])
    answer = server.client.post(path, **sent | {"headers": headers})
    assert answer.status_code == 403, answer.text
    assert "explain" in answer.text


def test_a_key_is_wanted_before_the_body_is_sent(server):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(head)
        assert connection.recv(1_000).startswith(b"HTTP/1.1 401 ")


def test_under_overload_a_key_is_wanted_too(server, table):
    secret = KEYS["predict"][0]
    request = load.Request("/predict", GOOD, {"Content-Type": "image/png"} | bearer(secret))
    let_go, seen = threading.Event(), []

    def more():
        while not let_go.is_set():
            yield request.raw()

    limit = 'candor_queue_limit{lane="predict"}'
    text = server.client.get("/metrics", headers=bearer(KEYS["metrics"][0])).text
    places = int(float(re.search(re.escape(limit) + r" (\S+)", text)[1]))
    run = arrivals.closed_loop(server.port, more(), places + 40, lambda _: None)
    pressing = threading.Thread(target=arrivals.run, args=(run,))
    pressing.start()
    try:
        right = set()
        deadline = time.monotonic() + 60
        while 429 not in right and time.monotonic() < deadline:
            headers = PNG | bearer(secret)
            right.add(server.client.post("/predict", content=GOOD, headers=headers).status_code)
        posts = [entry for entry in table if entry[0] == "POST"]
        for _ in range(4):
            statuses(server.client, posts, seen)
            asked = {"content": GOOD, "headers": PNG | bearer(secret)}
            path = "/predict?explain=saliency"
            seen.append(("other", "POST", path, server.client.post(path, **asked).status_code))
    finally:
        let_go.set()
        pressing.join(60)
    assert 429 in right
    assert right <= {200, 429}
    assert_shut(seen)


def test_while_draining_a_key_is_wanted_too(tmp_path):
    with keyed(tmp_path, workers=1) as server:
        path = "/explain?method=integrated_gradients&steps=512&deadline_ms=60000"
        headers = PNG | bearer(KEYS["explain"][0])
        answers = []

        def explain():
            answers.append(httpx.post(server.url + path, content=GOOD, headers=headers, timeout=60))

        thread = threading.Thread(target=explain)
        thread.start()
        in_flight = "candor_requests_in_flight 1.0"
        scraper = bearer(KEYS["metrics"][0])
        while in_flight not in httpx.get(f"{server.url}/metrics", headers=scraper).text:
            assert not answers, "the request was over before the signal"
        server.process.send_signal(signal.SIGTERM)
        while httpx.get(f"{server.url}/readyz").status_code == httpx.codes.OK:
            assert not answers, "the request was over before the server drained"
        without = httpx.post(server.url + "/predict", content=GOOD, headers=PNG)
        right = httpx.post(
            server.url + "/predict", content=GOOD, headers=PNG | bearer(KEYS["predict"][0])
        )
        thread.join(60)
    assert (without.status_code, right.status_code) == (401, 200)
    assert right.headers["connection"] == "close"
    assert answers[0].status_code == 200


def test_rotation_under_load_fails_nobody_and_a_removed_key_is_dead(tmp_path):
    old, new = make("camera", ("predict",)), make("camera", ("predict",))
    keys = file_of(tmp_path, old[1])
    with Server(tmp_path, keys=keys, workers=2) as server:
        current, stop, seen = [old[0]], threading.Event(), []

        def predict():
            while not stop.is_set():
                with httpx.Client(base_url=server.url, timeout=60) as client:
                    for _ in range(20):
                        headers = PNG | bearer(current[0])
                        seen.append(
                            client.post("/predict", content=GOOD, headers=headers).status_code
                        )
                        time.sleep(0.02)  # leaves a core to others: the load is not the point

        callers = [threading.Thread(target=predict) for _ in range(4)]
        for caller in callers:
            caller.start()
        time.sleep(1)
        file_of(tmp_path, old[1], new[1])
        time.sleep(3)
        current[0] = new[0]
        time.sleep(1)  # until the requests with the old key are answered
        file_of(tmp_path, new[1])
        time.sleep(5)
        stop.set()
        for caller in callers:
            caller.join(60)
        assert set(seen) == {200}
        assert len(seen) > 100
        dead = [
            httpx.post(
                server.url + "/predict", content=GOOD, headers=PNG | bearer(old[0])
            ).status_code
            for _ in range(12)  # connections, which both workers get
        ]
        assert set(dead) == {401}


def test_a_port_of_its_own_serves_metrics_and_administrators_and_nothing_else(apart, table):
    server, port = apart
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as admin:
        assert_shut(statuses(admin, table, []))
        for method, path, needed in table:
            headers = PNG | bearer(needed and KEYS[needed[-1]][0])
            sent = {"content": GOOD if method == "POST" else None, "headers": headers}
            there = admin.request(method, path, **sent)
            here = server.client.request(method, path, **sent)
            own = needed in (("metrics",), ("admin",))
            if needed != OPEN:
                assert (there.status_code == 404) != own, path
                assert (here.status_code == 404) == own or path.endswith("/reference/0"), path
        headers = bearer(KEYS["metrics"][0])
        assert f"is served on port {port}" in server.client.get("/metrics", headers=headers).text
        assert "candor_ready 1.0" in admin.get("/metrics", headers=headers).text


@pytest.mark.parametrize("kind", ["taken", "same"])
def test_an_admin_port_that_cannot_be_its_own_stops_the_start(kind, tmp_path):
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        settings = {"port": port if kind == "same" else free_port(), "admin_port": port}
        done = subprocess.run(
            [sys.executable, "-m", "service", "serve"],
            check=False,
            cwd=ROOT,
            env=environment(tmp_path, device="cpu", **settings),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode != 0
    assert f"CANDOR_ADMIN_PORT is {port}" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def mutated(generator, secret):
    """A request with a key, of which some bytes are others."""
    path = generator.choice(["/predict", "/explain", "/model", "/v2/models/cifar10/infer", "/x"])
    raw = load.Request(path, GOOD, {"Content-Type": "image/png"} | bearer(secret)).raw()
    start, end = raw.index(secret.encode()), raw.index(secret.encode()) + len(secret)
    data = bytearray(raw)
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(len(data))
        if not start <= place < end:
            data[place] = generator.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("count", [500, pytest.param(5_000, marks=pytest.mark.benchmark)])
def test_the_key_is_in_no_log_answer_or_metric(count, apart):
    generator, (secret, _), (server, port) = random.Random(20), KEYS["predict"], apart
    answers = [exchanged(server.port, mutated(generator, secret)) for _ in range(count)]
    headers = bearer(KEYS["metrics"][0])
    metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=headers)
    assert metrics.status_code == 200
    written = [*answers, metrics.content, server.log.read_bytes()]
    assert sum(b"HTTP/1.1" in answer for answer in answers) > count // 2
    assert b'candor_key_requests_total{code="200",key="predict"}' in metrics.content
    assert not any(secret.encode() in text or secret[7:].encode() in text for text in written)


def exchanged(port, raw):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        with suppress(OSError):
            while data := connection.recv(65_536):
                received += data
        return received


def test_bentomls_client_gives_its_token(server):
    script = (
        "import sys, bentoml; from pathlib import Path\n"
        "with bentoml.SyncHTTPClient(sys.argv[1], token=sys.argv[2]) as client:\n"
        "    print(client.predict(image=Path(sys.argv[3]))['label'])\n"
    )
    arguments = [server.url, KEYS["predict"][0], ROOT / "docs" / "images" / "red-ball.jpg"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(Path(server.environment["BENTOML_HOME"]).parent / "client"),
    )
    assert done.stdout.strip(), done.stderr


@pytest.mark.parametrize(
    ("command", "settings", "sentence"),
    [
        (["service", "serve"], {"host": "0.0.0.0"}, "would listen on 0.0.0.0, which other"),  # noqa: S104
        (["service", "serve"], {"host": "::"}, "would listen on ::, which other machines reach"),
        (["bentoml", "serve", "service.app:Candor"], {}, "would listen on 0.0.0.0, which other"),
        (["service", "serve"], {"keys": "/no/such/file"}, "/no/such/file, which cannot be read"),
        (
            ["bentoml", "serve", "service.app:Candor", "--host", "127.0.0.1"],
            {"keys": "/no/such/file"},
            "/no/such/file, which cannot be read",
        ),
    ],
)
def test_a_start_without_protection_is_refused_in_a_sentence(command, settings, sentence, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment(tmp_path, device="cpu", **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_other_machines_may_call_a_keyed_server_by_any_name(server):
    assert server.client.get("/readyz", headers={"host": "candor.example"}).status_code == 200
