"""Every option of BentoML's configuration is honoured, or stops the start with a sentence."""

import json
import re
import subprocess
import sys

import httpx
import pytest

from support.images import draw, encode
from support.servers import ROOT, Server, environment

PNG = {"content-type": "image/png"}
IMAGE = encode(draw(size=32))
ORIGIN = "https://example.com"
# Imports once, and checks the configuration of each environment that it reads in a child.
CHECK = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
from service.api.bento import configuration
from service.app import Candor
for line in sys.stdin:
    if os.fork():
        os.wait()
        continue
    os.environ |= json.loads(line)
    Candor.inject_config()
    try:
        configuration.check(Candor)
        print(json.dumps(configuration.cors("candor")), flush=True)
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]), flush=True)
    os._exit(0)
"""
REJECTED = {
    "traffic.timeout=5": "is 5, which Candor does not use: remove it; a request's deadline_ms",
    "traffic.max_concurrency=4": "is 4, which Candor does not use: remove it; its queue bounds",
    "metrics.enabled=true": "is true, which Candor does not use: remove it; GET /metrics has",
    "metrics.namespace=mine": "is 'mine', which Candor does not use: remove it; GET /metrics",
    "logging.access.enabled=true": "is true, which Candor does not use: remove it; set CANDOR_ACC",
    "tracing.exporter_type=otlp": "is 'otlp', which Candor does not use: remove it; set CANDOR_OT",
    "workers=7": "is 7, which Candor does not use: remove it; set CANDOR_WORKERS",
    "threads=4": "is 4, which Candor does not use: remove it; its APIs need no threads",
    "monitoring.enabled=false": "is false, which Candor does not use: remove it",
    "http.response.trace_id=true": "is true, which Candor does not use: remove it",
    "http.cors.enabled=true": "is true, and access_control_allow_origins is not set: set it",
    "batching.max_batch_size=4": "is 4, which Candor does not use: remove it",
}


def options(*pairs):
    return " ".join(f"services.candor.{pair}" for pair in pairs)


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A function: the arguments of CORS, or the kind and the text of the error."""
    home = tmp_path_factory.mktemp("home")
    with subprocess.Popen(
        [sys.executable, "-c", CHECK],
        cwd=ROOT,
        env=environment(home, workers=1),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def check(**variables):
            print(json.dumps(variables), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield check


def test_what_the_service_asks_for_itself_is_honoured(checked):
    assert checked() is None


@pytest.mark.parametrize("option", REJECTED)
def test_an_option_that_nothing_heeds_is_rejected_with_a_remedy(option, checked):
    kind, sentence = checked(BENTOML_CONFIG_OPTIONS=options(option))
    assert kind == "BentoMLConfigException"
    assert sentence.startswith(f"services.candor.{option.partition('=')[0]} {REJECTED[option]}")


@pytest.mark.parametrize(
    "option",
    [
        "metrics.enabled=false",
        "backlog=512",
        "ssl.enabled=true",
        "resources.cpu=2",
        "http.port=4000",
        "runner_connection.max_requests=50",
        "traffic.concurrency=8",
    ],
)
def test_an_option_that_bentoml_heeds_is_accepted(option, checked):
    assert checked(BENTOML_CONFIG_OPTIONS=options(option)) is None


def test_options_in_json_and_for_all_services_count_too(checked):
    overrides = {"services": {"traffic": {"timeout": 7}}}
    _, sentence = checked(BENTOML_CONFIG_OVERRIDES=json.dumps(overrides))
    assert sentence.startswith("services.candor.traffic.timeout is 7")


def test_cors_has_the_arguments_of_starlettes_middleware(checked):
    arguments = checked(
        BENTOML_CONFIG_OPTIONS=options(
            "http.cors.enabled=true",
            f"http.cors.access_control_allow_origins={ORIGIN}",
            "http.cors.access_control_allow_methods=POST",
            "http.cors.access_control_max_age=600",
        ),
    )
    assert arguments == {"allow_origins": [ORIGIN], "allow_methods": ["POST"], "max_age": 600}


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("traffic.max_concurrency=4", "services.candor.traffic.max_concurrency is 4"),
        ("http.port=4000", "services.candor.http.port is 4000, and the server is started with --p"),
    ],
)
def test_a_rejected_option_stops_the_start_with_one_sentence(option, sentence, tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "service", "serve"],
        cwd=ROOT,
        env=environment(tmp_path) | {"BENTOML_CONFIG_OPTIONS": options(option)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 1
    (line,) = [line for line in run.stderr.splitlines() if "Error" in line]
    assert sentence in line
    assert "Traceback" not in run.stderr


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server whose answers pages of another origin may read, by BentoML's configuration."""
    server = Server(tmp_path_factory.mktemp("cors"), workers=1)
    server.environment["BENTOML_CONFIG_OPTIONS"] = options(
        "http.cors.enabled=true",
        f"http.cors.access_control_allow_origins={ORIGIN}",
        "http.cors.access_control_allow_methods=[GET,POST]",
    )
    with server:
        yield server


@pytest.mark.parametrize("path", ["/predict", "/explain?method=grad_cam", "/v1/models", "/nothing"])
def test_answers_have_the_headers_of_cors(path, shared):
    verb = "POST" if "pr" in path or "ex" in path else "GET"
    response = shared.client.request(verb, path, content=IMAGE, headers=PNG | {"origin": ORIGIN})
    assert response.headers["access-control-allow-origin"] == ORIGIN
    other = {"origin": "https://other.example"}
    response = shared.client.request(verb, path, content=IMAGE, headers=PNG | other)
    assert "access-control-allow-origin" not in response.headers


def test_a_preflight_request_is_answered(shared):
    asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
    response = shared.client.options("/predict", headers=asked)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in response.headers["access-control-allow-methods"]
    refused = shared.client.options("/predict", headers=asked | {"origin": "https://o.example"})
    assert refused.status_code == 400


def test_without_cors_a_preflight_request_is_no_method(server):
    asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
    response = httpx.options(f"{server.url}/predict", headers=asked)
    assert response.status_code == 405
    assert not re.search("access-control", " ".join(response.headers))
