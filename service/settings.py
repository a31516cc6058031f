"""The settings, read once from the environment: every variable begins with CANDOR_.

An unknown CANDOR_ variable or a bad value stops the start with a sentence: a typing mistake never
runs in silence.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

from service.errors import SettingsError
from service.workers.host import MOST_WORKERS, cores

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
Runtime = Literal["onnxruntime", "openvino"]  # of a CPU
Precision = Literal["float32", "bfloat16", "int8"]
LogFormat = Literal["text", "json"]

PREFIX = "CANDOR_"
EMBEDDED_BUNDLE = Path(__file__).parent / "model"
EMBEDDED: Mapping[str, Path] = {  # the bundles of this repository, by name
    "cifar10": EMBEDDED_BUNDLE,
    "imagenet": Path(__file__).parent / "imagenet",
}
GPU = Path("/dev/nvidia0")
INT8 = "predict.int8.onnx"  # in a bundle, or in each of a folder of versions
MOST_CLASSES = 1_000_000
NAMED_COUNTS = {"all": MOST_CLASSES, "none": 0}
# When predictions are explained (service.explain.policy, a room further up, reads it).
_KIND = r"(always|unsure|unfamiliar|sampled:(0(\.[0-9]+)?|1(\.0+)?))"
CONDITION = re.compile(rf"^(none|{_KIND}(, ?{_KIND})*)$")
MODEL_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
ORIGIN = re.compile(r"https?://[^/\s]+")


def _setting(default: Any, read: Callable[[str], Any], help_text: str) -> Any:
    return field(default=default, metadata={"read": read, "help": help_text})


def _integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text) if text.strip().isdecimal() else -1
        if not low <= value <= high:
            raise ValueError(f"a whole number from {low:,} to {high:,}")
        return value

    return read


def _classes(text: str) -> int:
    if text in NAMED_COUNTS:
        return NAMED_COUNTS[text]
    try:
        return _integer(0, MOST_CLASSES)(text)
    except ValueError as error:
        raise ValueError(f"all, none or {error}") from None


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:  # NaN is not
            raise ValueError(f"a number from {low} to {high}")
        return value

    return read


def _one_of(*values: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in values:
            raise ValueError(f"one of {', '.join(values)}")
        return text

    return read


def _truth(text: str) -> bool:
    return _one_of("true", "false")(text) == "true"


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("an address that begins with http:// or https://")
    return text.rstrip("/")


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("not empty")
    return text.strip()


def _file(text: str) -> Path:
    return Path(_text(text)).expanduser()


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or any(re.search(r"\s", name) for name in names):
        raise ValueError("names with commas between them")
    return names


def _origins(text: str) -> tuple[str, ...]:
    names = _names(text)
    if not all(name == "*" or ORIGIN.fullmatch(name) for name in names):
        raise ValueError("origins with commas between them, such as https://example.com, or *")
    return names


def _policy(text: str) -> str:
    if not CONDITION.fullmatch(text):
        raise ValueError(
            "none, or some of always, unsure, unfamiliar and sampled:SHARE with commas between "
            "them, such as unsure,sampled:0.01"
        )
    return text


def _folder(text: str) -> Path:
    path = Path(_text(text)).expanduser()
    if not path.is_dir():
        raise ValueError("a folder that exists")
    return path


def _bundle(text: str) -> Path:
    if text.strip() in EMBEDDED:
        return EMBEDDED[text.strip()]
    try:
        return _folder(text)
    except ValueError as error:
        raise ValueError(
            f"{error}, an archive, an address or one of {', '.join(EMBEDDED)}"
        ) from None


def _models(text: str) -> Path | Mapping[str, Path]:
    names = [name.strip() for name in text.split(",")]
    if all(name in EMBEDDED for name in names):
        return {name: EMBEDDED[name] for name in names}
    try:
        return _folder(text)
    except ValueError as error:
        raise ValueError(f"{error}, or some of {', '.join(EMBEDDED)}") from None


def _model_name(text: str) -> str:
    if not MODEL_NAME.fullmatch(text):
        raise ValueError("at most 100 letters, digits, - and _ of ASCII, a letter or digit first")
    return text


def _sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError("64 hex digits in lower case")
    return text


def _link(text: str) -> str:
    if text and not text.startswith(("https://", "http://")):
        raise ValueError("an address that begins with https:// or http://")
    return text


@dataclass(frozen=True)
class Settings:
    """The choices of an operator; sizes in bytes and pixels, times in seconds, ports as numbers."""

    bundle: Path = _setting(
        EMBEDDED_BUNDLE,
        _bundle,
        "the bundle to serve: a folder, an archive, s3://…, gs://…, hf://…, oci://… or https://…, "
        "or an embedded one: cifar10, the default, or imagenet",
    )
    bundle_digest: str | None = _setting(
        None, _sha256, "sha256 of the bundle's manifest, 64 hex digits; any other is not served"
    )
    model_name: str | None = _setting(
        None,
        _model_name,
        "name of the model in answers, paths and metrics; by default the bundle's",
    )
    models: Path | Mapping[str, Path] | None = _setting(
        None,
        _models,
        "further models below /models/NAME: a folder with a folder for each, or embedded ones by "
        "name: imagenet; none by default",
    )
    model_memory: int = _setting(
        0,
        _integer(0, 2**40),
        "bytes that the models of a worker may take beside the first one; the least recently used "
        "ones leave; 0: a quarter of the limit of memory",
    )
    reload_seconds: float = _setting(
        0.0,
        _number(0.0, 86_400.0),
        "seconds between two looks whether a folder of models names another version; 0: never",
    )
    device: Device = _setting(
        "auto",
        _one_of(*get_args(Device)),
        "auto, cpu, cuda or tensorrt; auto takes CUDA where a session opens on it",
    )
    reference: Path | None = _setting(
        None, _folder, "folder of the training images, of which /reference shows the nearest"
    )
    engine: Literal["auto"] | Runtime = _setting(
        "auto",
        _one_of("auto", *get_args(Runtime)),
        "of a CPU: auto, onnxruntime or openvino; auto measures where OpenVINO is installed",
    )
    precision: Literal["auto"] | Precision = _setting(
        "auto",
        _one_of("auto", *get_args(Precision)),
        "on a CPU: auto, float32, bfloat16 or int8; auto measures what the bundle allows",
    )
    host: str = _setting("127.0.0.1", _text, "address to listen on")
    port: int = _setting(3000, _integer(1, 65_535), "port to listen on")
    admin_port: int = _setting(
        0,
        _integer(0, 65_535),
        "port of their own for metrics and the routes of administrators; 0: they share `port`",
    )
    grpc_port: int = _setting(
        0, _integer(0, 65_535), "port of the Open Inference Protocol over gRPC; 0: it is off"
    )
    keys: Path | None = _setting(
        None, _file, "file with a line a key: name, scopes, sha256; no keys by default"
    )
    open: bool = _setting(False, _truth, "true lets other machines in without keys")
    hosts: tuple[str, ...] | None = _setting(
        None,
        _names,
        "names that Host may have; by default localhost on loopback, any elsewhere",
    )
    allow_origins: tuple[str, ...] = _setting(
        (), _origins, "origins of pages that may call: https://example.com; none by default"
    )
    explain: str = _setting(
        "none",
        _policy,
        "predictions that an explanation comes along with: none, always, unsure, unfamiliar, "
        "sampled:0.01",
    )
    threads: int = _setting(0, _integer(0, 1_024), "threads of one inference; 0 takes every core")
    workers: int = _setting(
        0,
        _integer(0, MOST_WORKERS),
        "worker processes; 0 starts one a core, or one if a GPU may compute",
    )
    max_body_bytes: int = _setting(10 * 2**20, _integer(1, 2**30), "largest request body, in bytes")
    max_pixels: int = _setting(
        0,
        _integer(0, 10**9),
        "largest image, width times height; 0: what decode_memory allows, at most 50 million",
    )
    decode_memory: int = _setting(
        0,
        _integer(0, 2**40),
        "bytes that a worker's images may take at once; 0: 40 % of what the model leaves",
    )
    body_memory: int = _setting(
        0,
        _integer(0, 2**40),
        "bytes of bodies that a worker may hold at once; 0: 15 % of what the model leaves",
    )
    # The largest batch with the defaults of any method fits, 64 × 1,026 of KernelSHAP, and so does
    # every question about one image, 20,660 at most. 64 of those would take minutes.
    max_passes: int = _setting(
        140_000,
        _integer(1, 10**9),
        "most forward passes of a request: of its explanation, times its images",
    )
    passes_per_second: int = _setting(
        0,
        _integer(0, 10**9),
        "forward passes that a caller may take a second, ten seconds' worth at once; 0: no limit",
    )
    megapixels_per_second: int = _setting(
        0,
        _integer(0, 10**9),
        "megapixels that a caller may send a second, ten seconds' worth at once; 0: no limit",
    )
    max_connections: int = _setting(
        0,
        _integer(0, 1_000_000),
        "most connections of a worker; 0 takes what its limit of open files allows",
    )
    max_connections_per_address: int = _setting(
        0, _integer(0, 1_000_000), "most connections of a worker from one address; 0 is no limit"
    )
    connection_seconds: int = _setting(
        300,
        _integer(0, 86_400),
        "greatest age of a connection, 10 percent more or less; 0 is no limit",
    )
    grafana_url: str = _setting(
        "", _link, "address of your Grafana dashboards, for the page to link; none by default"
    )
    drain_seconds: int = _setting(
        30, _integer(1, 3_600), "seconds that requests in flight have after SIGTERM"
    )
    metric_classes: int = _setting(
        100,
        _classes,
        "most classes that metrics count one by one, all or none; a model of more has one count",
    )
    availability_objective: float = _setting(
        0.999,
        _number(0.0, 0.99999),
        "share of requests that should be answered, by which alerts judge this service",
    )
    latency_objective: float = _setting(
        0.99,
        _number(0.0, 0.99999),
        "share of predictions that should be answered within latency_objective_seconds",
    )
    latency_objective_seconds: float = _setting(
        0.25, _number(0.001, 60.0), "seconds after which an answer counts as slow"
    )
    log_format: LogFormat = _setting("text", _one_of(*get_args(LogFormat)), "text or json")
    access_log: bool = _setting(False, _truth, "true logs a line for every request")
    otlp_endpoint: str | None = _setting(
        None,
        _address,
        "address for traces (OTLP over HTTP): http://collector:4318; none by default",
    )
    trace_labels: bool = _setting(
        False, _truth, "true: spans and lines of the access log name the predicted classes"
    )

    def __post_init__(self) -> None:
        """Checks the settings that depend on one another."""
        if self.admin_port == self.port:
            raise SettingsError(
                f"CANDOR_ADMIN_PORT is {self.port}, the port of everything else: "
                "name another one, or unset it"
            )
        if self.grpc_port and self.grpc_port in (self.port, self.admin_port):
            raise SettingsError(
                f"CANDOR_GRPC_PORT is {self.grpc_port}, a port of HTTP: "
                "name another one, or unset it"
            )
        if self.engine == "openvino" and self.device in ("cuda", "tensorrt"):
            raise SettingsError(
                f"CANDOR_ENGINE is 'openvino', for CPUs alone, and CANDOR_DEVICE is {self.device}: "
                "unset one of them"
            )
        if self.engine == "onnxruntime" and self.precision == "bfloat16":
            raise SettingsError(
                "CANDOR_PRECISION is 'bfloat16', which ONNX Runtime lacks on CPUs: "
                "unset CANDOR_ENGINE, or CANDOR_PRECISION"
            )

    @property
    def served_hosts(self) -> tuple[str, ...]:
        """The names that a request may call the service by; "*" for any."""
        if self.hosts is not None:
            return self.hosts
        return ("localhost", "127.0.0.1", "[::1]") if is_loopback(self.host) else ("*",)

    @property
    def worker_count(self) -> int:
        """The number of worker processes."""
        if self.workers:
            return self.workers
        # The interpreter lock lets a process use little more than one core. On a GPU each needs
        # memory of its own.
        return min(cores(), MOST_WORKERS) if self.wanted_device == "cpu" else 1

    @property
    def knows_bundle(self) -> bool:
        """True of a bundle that needs no trial: an embedded one, or one that is pinned."""
        known = {folder.resolve() for folder in EMBEDDED.values()}
        return self.bundle_digest is not None or self.bundle.resolve() in known

    @property
    def wants_openvino(self) -> bool:
        """True if what is asked for is OpenVINO's alone."""
        return self.engine == "openvino" or self.precision == "bfloat16"

    @property
    def compares(self) -> bool:
        """True if OpenVINO is asked for, or if it or int8 may be the faster one here."""
        if self.wants_openvino:
            return True
        if self.wanted_device != "cpu":
            return False
        if self.engine == "auto" and find_spec("openvino") is not None:
            return True
        found = (self.bundle.glob(f"{folder}{INT8}") for folder in ("", "*/"))
        return self.precision == "auto" and any(chain(*found))

    @property
    def fixed_precision(self) -> Precision | None:
        """The precision of a CPU, unless a measurement decides."""
        return None if self.precision == "auto" else self.precision

    @property
    def wanted_device(self) -> Device:
        """The device that should compute: for `auto`, CUDA where there is a GPU."""
        if self.device != "auto":
            return self.device
        if self.engine == "openvino":
            return "cpu"
        return "cuda" if GPU.exists() else "cpu"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """The settings of `environment`.

        Raises:
            SettingsError: a CANDOR_ variable is unknown, or has a bad value.
        """
        known = {PREFIX + f.name.upper(): f for f in fields(cls)}
        given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        values = {}
        for name, text in given.items():
            if name not in known:
                raise SettingsError(_unknown(name, list(known)))
            try:
                values[known[name].name] = known[name].metadata["read"](text)
            except ValueError as error:
                raise SettingsError(
                    f"{name} is {text!r}; it must be {error}: correct it or unset it"
                ) from None
        return cls(**values)


def is_loopback(host: str) -> bool:
    """True if no other machine reaches the address `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unknown(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"the variables are {', '.join(known)}"
    return f"{name} is no setting of Candor: {remedy}"


def describe() -> str:
    """The text of `--help`: a line for each setting with its variable, meaning and default."""
    return "\n".join(
        f"{PREFIX}{f.name.upper():<15} {f.metadata['help']}"
        + ("" if f.default in (None, "", (), EMBEDDED_BUNDLE) else f" (default {f.default})")
        for f in fields(Settings)
    )
