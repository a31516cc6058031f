"""BentoML's configuration of the service: every option is honoured, or stops the start with a
sentence.

It comes from BENTOML_CONFIG, BENTOML_CONFIG_OVERRIDES, BENTOML_CONFIG_OPTIONS and the arguments of
`bentoml.service`. What differs from BentoML's defaults, and from what the service itself asks for,
was set by the operator.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.configuration.helpers import get_default_config
from bentoml.exceptions import BentoMLConfigException

from service.api.access import guard
from service.errors import SettingsError
from service.settings import PREFIX, Settings
from service.workers import home

# BentoML itself heeds these, or BentoCloud; those of `http.cors` are read by `cors` below.
HONOURED = (
    "backlog",
    "http.cors.",
    "http.host",
    "http.port",
    "resources",
    "runner_connection.",  # of callers by `depends`
    "ssl.",
    "traffic.concurrency",
    "traffic.external_queue",
)
REMEDIES = {
    "logging.access.": "set CANDOR_ACCESS_LOG=true for a line a request",
    "metrics.": "GET /metrics has Candor's own metrics",
    "threads": "its APIs need no threads of BentoML",
    "tracing.": "set CANDOR_OTLP_ENDPOINT for traces",
    "traffic.max_concurrency": "its queue bounds what waits, and rejects the rest with 429",
    "traffic.timeout": "a request's deadline_ms bounds its time, and is 10 s if not given",
    "workers": "set CANDOR_WORKERS",
}
CORS = "access_control_"
# Of CANDOR_ALLOW_ORIGINS: what pages may send, and read beside the body.
CORS_ARGUMENTS: Mapping[str, Any] = {
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["authorization", "content-type", "inference-header-content-length"],
    "expose_headers": ["inference-header-content-length", "retry-after", "x-request-id"],
}
CORS_LISTS = ("allow_origins", "allow_methods", "allow_headers", "expose_headers")


def check(service: Any) -> None:
    """Checks the configuration of a BentoML service before it starts; `inject_config` has been
    called.

    Raises:
        BentoMLConfigException: an option is set that nothing heeds, the address is taken, or other
            machines reach it and it has no keys.
    """
    actual = _options(service.name)
    expected = {**_flat(get_default_config(version=2)["services"]), **_flat(service.config)}
    for name, value in actual.items():
        if value != expected.get(name) and not name.startswith(HONOURED):
            raise BentoMLConfigException(_refusal(service.name, name, value))
    if actual["http.cors.enabled"] and not actual[f"http.cors.{CORS}allow_origins"]:
        raise BentoMLConfigException(
            f"services.{service.name}.http.cors.enabled is true, and access_control_allow_origins "
            "is not set: set it to the origins that may read answers"
        )
    if actual["http.cors.enabled"] and Settings.from_environment().allow_origins:
        raise BentoMLConfigException(
            f"services.{service.name}.http.cors.enabled is true, and CANDOR_ALLOW_ORIGINS is set, "
            "too: choose one of them"
        )
    if actual["ssl.enabled"] and (port := Settings.from_environment().grpc_port):
        raise BentoMLConfigException(
            f"services.{service.name}.ssl.enabled is true, and CANDOR_GRPC_PORT is {port}, which "
            "has no TLS: let a proxy end TLS for both, or unset one of them"
        )
    command = click.get_current_context(silent=True)
    if command is not None and "port" in command.params:
        _check_address(service.name, command.params, actual, expected)


def lock_home() -> None:
    """Reserves BENTOML_HOME when `bentoml serve` imports the service.

    Raises:
        HomeError: another server has it.
    """
    # Later is too late: BentoML empties the folder of the metrics before it calls any hook.
    command = click.get_current_context(silent=True)
    if command is not None and command.info_name == "serve":
        home.lock(Path(BentoMLContainer.bentoml_home.get()))


def cors(service_name: str) -> dict[str, Any] | None:
    """The arguments of Starlette's CORSMiddleware; None where CORS is not enabled."""
    options = _options(service_name)
    origins = Settings.from_environment().allow_origins
    if not options["http.cors.enabled"]:
        return {"allow_origins": origins, **CORS_ARGUMENTS} if origins else None
    prefix = f"http.cors.{CORS}"
    given = {
        name.removeprefix(prefix): value
        for name, value in options.items()
        if name.startswith(prefix) and value is not None
    }
    return {
        name: [value] if name in CORS_LISTS and isinstance(value, str) else value
        for name, value in given.items()
    }


def _options(service_name: str) -> dict[str, Any]:
    """The options of the service by their dotted names."""
    return dict(_flat(BentoMLContainer.config.get()["services"][service_name]))


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return dict(_pairs(options, prefix))


def _pairs(options: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _refusal(service_name: str, option: str, value: Any) -> str:
    remedy = next((text for name, text in REMEDIES.items() if option.startswith(name)), None)
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    sentence = f"services.{service_name}.{option} is {shown}, which Candor does not use: remove it"
    return sentence if remedy is None else f"{sentence}; {remedy}"


def _check_address(
    service_name: str,
    command: Mapping[str, Any],
    actual: Mapping[str, Any],
    expected: Mapping[str, Any],
) -> None:
    """Checks that the address of the command line is the configured one, guarded, and free."""
    for name in ("host", "port"):
        option, given = f"http.{name}", command.get(name)
        if given is not None and actual[option] not in (expected[option], given):
            raise BentoMLConfigException(
                f"services.{service_name}.{option} is {actual[option]!r}, and the server is "
                f"started with --{name} {given}: remove the option, or start with the same "
                f"(python -m service: CANDOR_{name.upper()})"
            )
    host, port = (command.get(name) or actual[f"http.{name}"] for name in ("host", "port"))
    _guard(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BentoMLConfigException(
                f"the service cannot listen on {host}, port {port} ({error.strerror}): stop what "
                "listens there, or choose another port (CANDOR_PORT)"
            ) from None


def _guard(host: str) -> None:
    """Checks that the service may listen on `host`, and lets the workers know the names that
    follow from it: their settings may have another host than the command line.
    """
    settings = replace(Settings.from_environment(), host=host)
    try:
        guard.check_exposure(settings)
    except SettingsError as error:
        raise BentoMLConfigException(str(error)) from None
    os.environ[f"{PREFIX}HOSTS"] = ",".join(settings.served_hosts)
