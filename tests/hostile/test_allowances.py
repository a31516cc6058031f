"""On a real server no caller takes more than its allowance, and none pays for another's."""

import threading
import time

import httpx
import pytest

from service.api.access.keys import make
from service.schedule.allowance import BURST_SECONDS
from support.images import draw, encode
from support.requests import GOOD, answered, b64, problem
from support.servers import Server

PNG = {"content-type": "image/png"}
RATE = 3  # forward passes a second
GREEDY, MODEST, DEEP, PIXELS, FREE = (
    make("greedy", ("predict", "explain"), passes=RATE),
    make("modest", ("predict", "explain")),
    make("deep", ("predict", "explain")),
    make("pixels", ("predict", "explain"), passes=0),
    make("free", ("predict", "explain"), passes=0, megapixels=0),
)


def bearer(key):
    return {"authorization": f"Bearer {key[0]}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("allowances")
    keys = folder / "keys"
    keys.write_text("\n".join(line for _, line in (GREEDY, MODEST, DEEP, PIXELS, FREE)))
    keys.chmod(0o600)
    limits = {"passes_per_second": 100, "megapixels_per_second": 1}
    with Server(folder, workers=2, keys=keys, **limits) as running:
        yield running


def statuses(server, key, path, seconds):
    """The statuses of a caller that asks on new connections, so of all workers."""
    seen, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        with httpx.Client(base_url=server.url, headers=bearer(key) | PNG, timeout=30) as client:
            seen += [client.post(path, content=GOOD).status_code for _ in range(5)]
        time.sleep(0.2)  # far more than the rate, and not all that a core can do
    return seen


def test_a_caller_gets_its_rate_from_all_workers_together_and_others_get_theirs(server):
    seconds, seen = 5.0, []
    greedy = [
        threading.Thread(target=lambda: seen.extend(statuses(server, GREEDY, "/predict", seconds)))
        for _ in range(4)
    ]
    started = time.monotonic()
    for caller in greedy:
        caller.start()
    modest = statuses(server, MODEST, "/predict", seconds)
    for caller in greedy:
        caller.join(60)
    allowed = RATE * (BURST_SECONDS + time.monotonic() - started)
    assert set(seen) == {200, 429}
    assert 0.8 * RATE * BURST_SECONDS <= seen.count(200) <= allowed + len(greedy)
    assert set(modest) == {200}


def test_a_rejection_names_the_rate_and_the_time_of_a_retry(server):
    # It takes 20,000 passes at most.
    explain = "/explain?method=kernel_shap&samples=4096&quality=full"
    headers = bearer(DEEP) | PNG
    answered(server.client.post(explain, content=GOOD, headers=headers))
    answer = server.client.post("/predict", content=GOOD, headers=headers)
    detail = problem(answer, 429, "too_many_requests")
    assert "key deep has used its forward passes, 100 a second and 1000 at once" in detail
    assert int(answer.headers["retry-after"]) >= 1


def test_megapixels_are_charged_in_every_protocol(server, embedded):
    body = encode(draw(size=1_700), "JPEG")  # 2.9 megapixels
    name, own = embedded.manifest.name, bearer(PIXELS)
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [b64(body)]}
    calls = {
        "/predict": {"content": body, "headers": own | {"content-type": "image/jpeg"}},
        f"/v1/models/{name}:predict": {"json": {"instances": [b64(body)]}, "headers": own},
        f"/v2/models/{name}/infer": {"json": {"inputs": [tensor]}, "headers": own},
    }
    first = server.client.post("/predict", **calls["/predict"])
    assert first.status_code == 200
    for _ in range(4):  # 10 megapixels at once
        for path, sent in calls.items():
            answer = server.client.post(path, **sent)
    for path, sent in calls.items():
        answer = server.client.post(path, **sent)
        assert answer.status_code == 429, path
        assert "key pixels has used its megapixels, 1 a second and 10 at once" in answer.text


def test_a_key_without_limits_has_none(server):
    assert set(statuses(server, FREE, "/predict", 1.0)) == {200}


def test_callers_without_keys_are_limited_by_their_address(tmp_path):
    with Server(tmp_path, workers=1, passes_per_second=1) as server:
        explain = "/explain?method=kernel_shap&samples=1000"
        answered(server.client.post(explain, content=GOOD, headers=PNG))
        for path in (explain, "/predict"):
            detail = problem(
                server.client.post(path, content=GOOD, headers=PNG), 429, "too_many_requests"
            )
            assert "127.0.0.1 has used its forward passes, 1 a second" in detail
        assert server.client.get("/readyz").status_code == 200
        assert server.metric('candor_allowance_rejected_total{resource="passes"}') == 2
