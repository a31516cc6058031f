"""A body that stops arriving fails after a limit, and all bodies together have one."""

import asyncio
import base64
import json
import socket
import time

import numpy as np
import pytest
from starlette.requests import Request

from service.api import body
from service.api.body import Limits
from service.errors import SlowRequest
from service.image.budget import Budget
from support.images import draw, encode
from support.servers import Server

MOST = 300_000  # bytes of a body, and three quarters of the memory of all
USED = 'candor_budget_used_bytes{budget="bodies"}'


def test_a_body_that_stops_half_way_times_out(monkeypatch):
    monkeypatch.setattr(body, "READ_SECONDS", 0.05)
    parts = iter([{"type": "http.request", "body": b"half", "more_body": True}])

    async def receive():
        for part in parts:
            return part
        return await asyncio.Event().wait()

    async def read():
        request = Request(
            {
                "type": "http",
                "method": "POST",
                "path": "/predict",
                "headers": [],
                "query_string": b"",
            },
            receive,
        )
        return await body.body_of(request, Limits(100, Budget("bodies", 1_000)))

    with pytest.raises(SlowRequest, match=r"the body is incomplete after 0\.05 s"):
        asyncio.run(read())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(
        tmp_path_factory.mktemp("server"),
        workers=1,
        max_body_bytes=MOST,
        body_memory=MOST * 4 // 3,
    ) as one:
        yield one


def used(server, expected):
    """Waits until the bodies in memory have `expected` bytes."""
    end = time.monotonic() + 10
    while server.metric(USED) != expected:
        assert time.monotonic() < end, server.metric(USED)
        time.sleep(0.05)


def chunks():
    yield b"x" * 100_000
    yield b"x" * 100_000


@pytest.mark.parametrize(
    "path", ["/predict", "/explain", "/v1/models/{}:predict", "/v2/models/{}/infer"]
)
@pytest.mark.parametrize("body", [b"x" * 200_000, chunks], ids=["announced", "chunked"])
def test_a_body_that_does_not_fit_now_is_rejected_and_later_read(server, path, body):
    path = path.format(server.client.get("/v1/models").json()["models"][0])
    headers = {"content-type": "application/json"}

    def post():
        content = body() if callable(body) else body
        return server.client.post(path, content=content, headers=headers)

    start = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    head = f"{start}Content-Length: {MOST}"
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(f"{head}\r\n\r\nhello".encode())
        used(server, MOST)
        answer = post()
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert "of memory for bodies are in use; the limit is 0.4 MB: retry later" in answer.text
        small = server.client.post(
            "/predict", content=encode(draw()), headers={"content-type": "image/png"}
        )
        assert small.status_code == 200
    used(server, 0)
    assert post().status_code == 400  # it is no JSON
    used(server, 0)


def test_a_body_above_the_limit_is_a_413_at_any_time(server):
    answer = server.client.post(
        "/predict", content=bytes(MOST + 1), headers={"content-type": "image/png"}
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_overlays_of_many_images_are_charged_until_the_answer_is_made(server):
    # Rows that repeat: a file of 3 kB, whose overlay has 50 kB. An answer holds that four times.
    noise = np.random.default_rng(0).integers(0, 256, (4, 140)).astype(np.uint8)
    texts = [base64.b64encode(encode(np.tile(noise, (35, 1)))).decode()] * 8
    answer = server.client.post(
        "/explain",
        content=json.dumps({"images": texts}),
        headers={"content-type": "application/json"},
    )
    codes = [result.get("error", {}).get("status", 200) for result in answer.json()["results"]]
    assert set(codes) == {200, 429}
    used(server, 0)
