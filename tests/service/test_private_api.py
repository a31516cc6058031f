"""The code uses names of libraries that are private or undocumented: each is listed here.

A release may change them without notice. Then a test fails with a sentence that names the library,
the attribute and our file. Versions in pyproject.toml are capped to what was tested.
"""

import asyncio
import inspect
import re
import tomllib
import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FRONT = "service/api/models/front.py"
PROTOCOL, OVERLOAD = "service/workers/protocol.py", "service/api/overload.py"
LISTENER, APP, BODY = "service/workers/listener.py", "service/api/app.py", "service/api/body.py"
EXPOSITION = "service/telemetry/multiprocess.py"
SERVICE = "service/api/bento/service.py"
CONFIGURATION = "service/api/bento/configuration.py"
ARGUMENTS = "service/api/bento/arguments.py"
TESTED = {
    "uvicorn": "0.54.0",
    "starlette": "1.10.0",
    "prometheus-client": "0.26.0",
    "bentoml": "1.4.39",
    "torch": "2.15.0",
    "onnxruntime-gpu": "1.31.1",
}
CAPPED = {"uvicorn": "==0.54.*", "prometheus-client": "==0.26.*", "bentoml": "==1.4.39"}


class Use(NamedTuple):
    """A name of a library, and the file of ours that uses it."""

    library: str
    name: str
    file: str


# Attributes of a connection and of its current cycle, as uvicorn sets them.
CONNECTION = [
    "app_state",
    "cycle",
    "flow",
    "headers",
    "loop",
    "parser",
    "pipeline",
    "scope",
    "server_state",
    "timeout_keep_alive",
    "timeout_keep_alive_handler",
    "timeout_keep_alive_task",
    "transport",
    "url",
    "shutdown",
    "_should_upgrade",
    "_unset_keepalive_if_required",
]
CYCLE = [
    "disconnected",
    "keep_alive",
    "message_event",
    "more_body",
    "response_complete",
    "response_started",
    "scope",
]
ATTRIBUTES = [
    *(Use("uvicorn", f"HttpToolsProtocol.{name}", PROTOCOL) for name in CONNECTION),
    *(Use("uvicorn", f"RequestResponseCycle.{name}", PROTOCOL) for name in CYCLE),
    Use("uvicorn", "HttpToolsProtocol.client", "service/workers/connections.py"),
    Use("uvicorn", "FlowControl.resume_reading", PROTOCOL),
    Use("uvicorn", "ServerState.default_headers", PROTOCOL),
    Use("uvicorn", "ServerState.total_requests", PROTOCOL),
    Use("starlette", "Route.endpoint", APP),
    Use("starlette", "Route.methods", FRONT),
    Use("starlette", "Route.path", APP),
    Use("starlette", "Response.raw_headers", OVERLOAD),
    Use("bentoml", "Service.to_asgi", SERVICE),
    Use("bentoml", "Service.config", CONFIGURATION),
    Use("bentoml", "Service.name", CONFIGURATION),
    Use("bentoml", "server_context.worker_index", "service/app.py"),
    Use("bentoml", "IODescriptor.media_type", ARGUMENTS),
]
# Modules and functions, by the text of their source: to import them would import torch and onnx.
SOURCES = [
    (
        Use("torch", "_is_avx512_bf16_supported", "training/fit/fabric.py"),
        "torch",
        "cpu/__init__.py",
    ),
    (Use("torch", "_is_amx_tile_supported", "training/fit/fabric.py"), "torch", "cpu/__init__.py"),
    (
        Use("onnxruntime-gpu", "convert_float_to_float16", "training/export/float16.py"),
        "onnxruntime",
        "transformers/float16.py",
    ),
    (
        Use("onnxruntime-gpu", "DEFAULT_OP_BLOCK_LIST", "training/export/float16.py"),
        "onnxruntime",
        "transformers/float16.py",
    ),
    (
        Use("onnxruntime-gpu", "_model_bytes", "service/runtime/providers.py"),
        "onnxruntime",
        "capi/onnxruntime_inference_collection.py",
    ),
    (
        Use("onnxruntime-gpu", "quant_pre_process", "training/export/int8.py"),
        "onnxruntime",
        "quantization/shape_inference.py",
    ),
]


def missing(use, change="is missing"):
    """The sentence of a failure."""
    try:
        installed = version(use.library)
    except PackageNotFoundError:
        installed = "not installed"
    return (
        f"{use.library} {installed}: {use.name} {change}, and {use.file} uses it; it was tested "
        f"with {use.library} {TESTED[use.library]}: adapt the file, or cap the version"
    )


class Transport(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self):
        super().__init__()
        self.written = []

    def write(self, data):
        self.written.append(data)

    def is_closing(self):
        return False

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


async def respond(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"whole"})


def exchange():
    """A connection of uvicorn's own after one request, and its transport."""
    from uvicorn import Config
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    from uvicorn.server import ServerState

    async def run():
        config = Config(respond, log_config=None)
        config.load()
        loop = asyncio.get_running_loop()
        connection = HttpToolsProtocol(config, ServerState(), {"key": "value"}, loop)
        transport = Transport()
        connection.connection_made(transport)
        connection.data_received(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(0.01)
        connection.timeout_keep_alive_task.cancel()
        return connection, transport

    return asyncio.run(run())


def owners():
    """An object that has the attributes, by the name of its class."""
    from starlette.responses import Response
    from starlette.routing import Route

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of BentoML's own imports
        import bentoml

        connection, _ = exchange()
        return {
            "HttpToolsProtocol": connection,
            "RequestResponseCycle": connection.cycle,
            "FlowControl": connection.flow,
            "ServerState": connection.server_state,
            "Route": Route("/", respond),
            "Response": Response(),
            "Service": bentoml.Service(name="one"),
            "server_context": bentoml.server_context,
            "IODescriptor": bentoml.IODescriptor,
        }


@pytest.fixture(scope="module")
def owned():
    return owners()


@pytest.mark.parametrize("use", ATTRIBUTES, ids=lambda use: use.name)
def test_an_attribute_is_still_there(use, owned):
    owner, _, attribute = use.name.partition(".")
    assert hasattr(owned[owner], attribute), missing(use)


@pytest.mark.parametrize("use", [*ATTRIBUTES, *(use for use, *_ in SOURCES)], ids=lambda u: u.name)
def test_a_listed_name_is_one_that_the_file_uses(use):
    name = use.name.rpartition(".")[2]
    text = (ROOT / use.file).read_text()
    assert re.search(rf"\b{name}\b", text), f"{use.file} no longer uses {use.name}: take it out"


@pytest.mark.parametrize(("use", "package", "file"), SOURCES, ids=lambda value: str(value)[:40])
def test_a_function_is_still_in_its_module(use, package, file):
    spec = find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    path = Path(spec.origin).parent / file
    assert path.exists(), missing(use, f"is no longer in {package}/{file}")
    pattern = rf"^(def |\s+self\.)?{use.name}\b"
    assert re.search(pattern, path.read_text(), re.MULTILINE), missing(use)


def test_uvicorn_still_makes_a_connection_of_the_same_arguments():
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    parameters = list(inspect.signature(HttpToolsProtocol).parameters)
    use = Use("uvicorn", "HttpToolsProtocol.__init__", PROTOCOL)
    assert parameters == ["config", "server_state", "app_state", "_loop"], missing(
        use, f"takes {parameters}"
    )


def test_uvicorn_still_writes_head_and_body_apart_and_copies_the_servers_state():
    connection, transport = exchange()
    use = Use("uvicorn", "RequestResponseCycle.send", PROTOCOL)
    assert len(transport.written) == 2, missing(use, "no longer writes head and body one by one")
    assert transport.written[0].startswith(b"HTTP/1."), missing(use, "begins otherwise")
    use = Use("uvicorn", "HttpToolsProtocol.app_state", PROTOCOL)
    assert connection.scope["state"] == {"key": "value"}, missing(use, "is no request's state")


def test_uvicorn_still_looks_its_protocol_class_up_by_name():
    from uvicorn.config import HTTP_PROTOCOLS

    use = Use("uvicorn", "config.HTTP_PROTOCOLS", PROTOCOL)
    assert {"auto", "httptools"} <= set(HTTP_PROTOCOLS), missing(use, "lacks auto or httptools")


def test_uvicorn_still_starts_a_server_of_a_socket_through_the_loop():
    from uvicorn.server import Server

    text = inspect.getsource(Server.startup)
    use = Use("uvicorn", "Server.startup", LISTENER)
    assert "loop.create_server(create_protocol, sock=sock, ssl=" in text, missing(use, "differs")
    assert "app_state=self.lifespan.state" in text, missing(use, "passes no lifespan state")


def test_starlettes_router_still_leaves_the_route_in_the_scope():
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route, Router

    async def endpoint(_request):
        return PlainTextResponse("whole")

    async def send(_message):
        pass

    scope = {"type": "http", "path": "/", "method": "GET", "headers": [], "query_string": b""}
    asyncio.run(Router([Route("/", endpoint)])(scope, None, send))
    use = Use("starlette", 'scope["route"]', "service/api/middleware.py")
    assert "route" in scope, missing(use, "is not set")


def test_starlettes_parser_of_forms_still_takes_the_same_arguments():
    from starlette.formparsers import MultiPartParser

    parameters = set(inspect.signature(MultiPartParser).parameters)
    use = Use("starlette", "formparsers.MultiPartParser", BODY)
    expected = {"headers", "stream", "max_files", "max_fields", "max_part_size"}
    assert expected <= parameters, missing(use, f"takes {sorted(parameters)}")


def test_prometheus_clients_files_still_have_their_names_keys_and_reader(tmp_path):
    from prometheus_client.mmap_dict import MmapedDict, mmap_key
    from prometheus_client.utils import floatToGoString

    use = Use("prometheus-client", "mmap_dict.MmapedDict.read_all_values_from_file", EXPOSITION)
    key = mmap_key("name", "name_bucket", ["le"], ["1.0"], "help")
    assert key == '["name", "name_bucket", {"le": "1.0"}, "help"]', missing(use, f"reads {key}")
    file = MmapedDict(str(tmp_path / "counter_1.db"))
    file.write_value(key, 3.0, 0.0)
    entries = list(MmapedDict.read_all_values_from_file(tmp_path / "counter_1.db"))
    file.close()
    assert [entry[:2] for entry in entries] == [(key, 3.0)], missing(use, f"gives {entries}")
    use = Use("prometheus-client", "utils.floatToGoString", EXPOSITION)
    assert (floatToGoString(1.0), floatToGoString(float("inf"))) == ("1.0", "+Inf"), missing(use)


def test_bentomls_configuration_is_still_where_it_was():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bentoml._internal.configuration.containers import BentoMLContainer
        from bentoml._internal.configuration.helpers import get_default_config

    use = Use("bentoml", "configuration.helpers.get_default_config", CONFIGURATION)
    options = get_default_config(version=2)["services"]
    assert {"http", "traffic", "metrics", "ssl"} <= set(options), missing(use, "has other options")
    assert "cors" in options["http"], missing(use, "has no options of CORS")
    use = Use("bentoml", "configuration.containers.BentoMLContainer.config", CONFIGURATION)
    assert hasattr(BentoMLContainer, "config"), missing(use)


def test_bentoml_still_asks_the_service_whether_it_is_ready_and_passes_keyword_arguments():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from _bentoml_impl.server.app import ServiceAppFactory
        from _bentoml_sdk import io_models

    use = Use("bentoml", "__is_ready__", "service/app.py")
    assert "__is_ready__" in inspect.getsource(ServiceAppFactory.readyz), missing(use)
    use = Use("bentoml", "io_models.KWARGS", ARGUMENTS)
    assert io_models.KWARGS == "kwargs", missing(use, f"is {io_models.KWARGS!r}")


def test_versions_are_capped_to_what_was_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = dict(re.match(r"([\w-]+)([^;]*)", line).groups() for line in project["dependencies"])
    for library, cap in CAPPED.items():
        assert required[library].strip() == cap
    assert required["starlette"].strip().endswith(",<2")
    for library in CAPPED | {"starlette": ""}:
        assert version(library) == TESTED[library], f"{library}: run the tests, then raise TESTED"


def test_every_private_name_in_the_code_is_listed():
    listed = {use.name.rpartition(".")[2] for use in (*ATTRIBUTES, *(use for use, *_ in SOURCES))}
    own = {"_attach", "_sessions"}  # of our own classes
    for path in sorted((*(ROOT / "service").rglob("*.py"), *(ROOT / "training").rglob("*.py"))):
        for line in path.read_text().splitlines():
            if "# noqa: SLF001" in line:
                names = set(re.findall(r"\.(_[a-z]\w+)", line)) - own
                assert names <= listed, f"{path.relative_to(ROOT)}: list {names - listed}"
            if re.match(r"\s*from \S+\._|\s*import \S+\._", line):
                assert path.relative_to(ROOT).as_posix() == CONFIGURATION, f"{path}: list {line}"
