"""Host, cross-site requests, CORS, and the headers of answers, on real servers."""

import socket

import pytest

from service.api.access.sites import Sites
from support.requests import GOOD
from support.servers import Server

ORIGIN = "https://example.com"
PNG = {"content-type": "image/png"}
CROSS = {**PNG, "sec-fetch-site": "cross-site"}


@pytest.fixture(scope="module")
def allowing(tmp_path_factory):
    """A server with a name, which pages of one origin may call."""
    folder = tmp_path_factory.mktemp("allowing")
    with Server(folder, workers=1, hosts="candor.example", allow_origins=ORIGIN) as running:
        yield running


def status_of(server, *hosts, version="1.1"):
    """The status of GET /methods with these Host headers."""
    lines = [f"GET /methods HTTP/{version}", *(f"Host: {host}" for host in hosts), "", ""]
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode())
        return int(connection.recv(1_000).split()[1])


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:3000"])
def test_a_server_on_loopback_answers_to_its_names(host, server):
    assert status_of(server, host) == 200


@pytest.mark.parametrize(
    "hosts",
    [
        ["evil.example"],
        ["localhost.evil.example"],
        ["10.0.0.1"],
        ["[::2]"],
        [""],
        ["local host"],
        ["localhost:3000/x"],
        ["a" * 300],
        ["localhost", "localhost"],
        [],
    ],
)
def test_other_names_two_and_none_are_malformed(hosts, server):
    assert status_of(server, *hosts) == 400


def test_http_1_0_needs_no_host(server):
    assert status_of(server, version="1.0") == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("candor.example", 200), ("Candor.example:443", 200), ("127.0.0.1", 200), ("localhost", 400)],
)
def test_the_names_are_a_setting_and_the_address_is_always_one(host, status, allowing):
    assert status_of(allowing, host) == status


@pytest.mark.parametrize("path", ["/docs/", "/predict/", "/v2/"])
def test_no_answer_leads_to_another_host(path, server):
    answer = server.client.get(path)
    assert answer.status_code == 404
    assert "location" not in answer.headers


def test_a_slash_too_many_leads_no_image_away_from_https(server):
    behind_tls = {"x-forwarded-proto": "https", "content-type": "image/png"}
    answer = server.client.post("/predict/", content=GOOD, headers=behind_tls)
    assert (answer.status_code, "location" in answer.headers) == (404, False)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", None])
def test_a_post_of_another_site_is_forbidden(origin, server):
    headers = CROSS | ({"origin": origin} if origin else {})
    answer = server.client.post("/predict", content=GOOD, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
def test_a_post_of_the_same_site_is_answered(site, server):
    headers = {**PNG, "sec-fetch-site": site}
    assert server.client.post("/predict", content=GOOD, headers=headers).status_code == 200


def test_an_allowed_origin_may_send_and_read(allowing):
    answer = allowing.client.post("/predict", content=GOOD, headers={**CROSS, "origin": ORIGIN})
    assert answer.status_code == 200, answer.text
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    asked = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    assert allowing.client.options("/predict", headers=asked).status_code == 200
    asked["origin"] = "https://evil.example"
    assert allowing.client.options("/predict", headers=asked).status_code == 400


def test_another_origin_may_not_even_where_one_is_allowed(allowing):
    headers = {**CROSS, "origin": "https://evil.example"}
    answer = allowing.client.post("/predict", content=GOOD, headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/model", "/metrics", "/v2", "/livez", "/schema.json", "/nothing"]
)
def test_answers_are_kept_by_no_cache_and_run_as_no_script(path, server):
    headers = server.client.get(path).headers
    assert headers.get_list("cache-control") == ["no-store"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/docs", "/web/app.js"])
def test_files_of_the_page_keep_their_rule_of_caching(path, server):
    headers = server.client.get(path).headers
    assert headers.get_list("cache-control") == ["no-cache"]
    assert headers["x-content-type-options"] == "nosniff"


def test_an_ipv6_address_is_a_name_too():
    scope = {"server": ("fd00::1", 3000), "http_version": "1.1", "method": "GET"}
    sites = Sites(("localhost",))
    assert sites.error(scope, {b"host": b"[fd00::1]:3000"}) is None
    assert sites.error(scope, {b"host": b"[fd00::2]:3000"}) is not None
    mapped = scope | {"server": ("::ffff:10.0.0.1", 3000)}
    assert sites.error(mapped, {b"host": b"10.0.0.1"}) is None
