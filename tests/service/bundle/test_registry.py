"""Bundles from a real registry: artifacts by ORAS's own client, images, keys, and what is wrong."""

import base64
import json
import os
import sys
import time
from pathlib import Path

import httpx
import pytest

from service.bundle import delivery, folder
from service.errors import DeliveryError, DigestError, ManifestError
from support import registries, tokens
from support.environments import packages_of
from support.registries import LAYER, tar_of
from support.servers import Server, free_port
from support.toys import linear


@pytest.fixture(scope="module")
def oras():
    """The folder of the package that reads registries."""
    return packages_of("oci")


@pytest.fixture(autouse=True)
def installed(oras, tmp_path, monkeypatch):
    """The extra, an empty cache and no keys."""
    monkeypatch.syspath_prepend(oras)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "oras"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    linear(place)
    return folder.load(place / "toy")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with registries.registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def files_of(bundle, prefix=""):
    return {prefix + path.name: path.read_bytes() for path in bundle.folder.iterdir()}


def delivered(address, digest=None):
    environment = {"CANDOR_BUNDLE": address}
    if digest is not None:
        environment["CANDOR_BUNDLE_DIGEST"] = digest
    delivery.deliver(environment)
    return folder.load(Path(environment["CANDOR_BUNDLE"]), digest)


def pushed(registry, name, paths, where, monkeypatch):
    """The address of an artifact of `paths`, pushed from the folder `where` by ORAS's client."""
    from oras.provider import Registry

    monkeypatch.chdir(where)
    target = f"{registry.host}/{name}"
    client = Registry(registry.host, insecure=True)
    client.push(target=target, files=paths).raise_for_status()
    return f"oci://{target}"


def test_an_artifact_of_files_is_delivered_and_pinned(registry, bundle, monkeypatch):
    names = [path.name for path in bundle.folder.iterdir()]
    address = pushed(registry, "zoo/cats:1", names, bundle.folder, monkeypatch)
    assert delivered(address).manifest == bundle.manifest
    assert delivered(address, bundle.manifest.digest).manifest == bundle.manifest


def test_an_artifact_of_a_folder_is_delivered(registry, bundle, monkeypatch):
    address = pushed(registry, "folder:1", ["toy"], bundle.folder.parent, monkeypatch)
    assert delivered(address).manifest == bundle.manifest


def modelcar(registry, bundle, name, files=None):
    """An image as KServe wants it, the bundle in /models, on a layer without it."""
    base = registry.blob(name, tar_of({"etc/passwd": b"root", "usr/big": b"0" * 9_000}))
    models = registry.blob(name, tar_of(files or files_of(bundle, "models/")))
    return base, registry.image(name, "1", [base, models])


def test_of_an_image_no_layer_is_pulled_that_is_not_needed(registry, bundle):
    base, image = modelcar(registry, bundle, "car")
    registry.file_of(base).unlink()
    address = f"oci://{registry.host}/car"
    assert delivered(f"{address}:1").manifest == bundle.manifest
    assert delivered(f"{address}@{image['digest']}").manifest == bundle.manifest


def test_a_later_layer_covers_an_earlier_one(registry, bundle):
    good, name = files_of(bundle, "models/"), "models/manifest.json"
    old = {**good, name: good[name].replace(b"toy", b"old")}
    layers = [
        registry.blob("layers", tar_of(old, "w"), LAYER.removesuffix("+gzip")),
        registry.blob("layers", tar_of({name: good[name]})),
        registry.blob("layers", b"{}", "application/vnd.in-toto+json"),
    ]
    registry.image("layers", "1", layers)
    assert delivered(f"oci://{registry.host}/layers:1").manifest == bundle.manifest


def test_of_an_index_the_image_is_taken_and_not_its_attestation(registry, bundle):
    attestation = registry.image("index", "a", [registry.blob("index", tar_of({"a": b"1"}))])
    _, image = modelcar(registry, bundle, "index")
    entries = [
        attestation | {"platform": {"os": "unknown", "architecture": "unknown"}},
        image | {"platform": {"os": "linux", "architecture": "arm64"}},
    ]
    registry.manifest("index", "2", registries.INDEX, manifests=entries)
    assert delivered(f"oci://{registry.host}/index:2").manifest == bundle.manifest


def test_what_the_registry_has_damaged_is_a_sentence(registry, bundle, monkeypatch):
    names = [path.name for path in bundle.folder.iterdir()]
    address = pushed(registry, "damaged:1", names, bundle.folder, monkeypatch)
    manifest = registry.client.get(
        "/v2/damaged/manifests/1", headers={"accept": registries.IMAGE}
    ).json()
    titles = [
        layer["annotations"]["org.opencontainers.image.title"] for layer in manifest["layers"]
    ]
    file = registry.file_of(manifest["layers"][titles.index("predict.onnx")])
    content = file.read_bytes()
    for damaged in (content[:-1], content + b"1", b"0" + content[1:]):
        file.write_bytes(damaged)
        with pytest.raises((DigestError, DeliveryError), match=r"damaged there|cannot be read"):
            delivered(address)
    file.write_bytes(content)
    assert delivered(address).manifest == bundle.manifest


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing:1", DeliveryError, "nothing:1 cannot be read .404 Client Error"),
        ("empty:1", ManifestError, "empty:1 holds no manifest.json: push the files of a bundle"),
        ("zstd:1", DeliveryError, "zstd:1 is compressed by Zstandard: push it with gzip"),
        ("", DeliveryError, "names no repository: oci://HOST/REPOSITORY:TAG"),
    ],
)
def test_an_address_without_a_bundle_is_a_sentence(name, error, message, registry):
    registry.image("empty", "1", [registry.blob("empty", tar_of({"a": b"1"}))])
    registry.image("zstd", "1", [registry.blob("zstd", b"\x28\xb5\x2f\xfd0", LAYER[:-4] + "zstd")])
    with pytest.raises(error, match=message):
        delivered(f"oci://{registry.host}/{name}")


def test_a_registry_that_is_gone_is_a_sentence_at_once():
    started = time.monotonic()
    with pytest.raises(DeliveryError, match=r"cannot be read .*refused"):
        delivered(f"oci://127.0.0.1:{free_port()}/cats:1")
    assert time.monotonic() - started < 10


def with_key(folder, host, password, monkeypatch):
    """Writes Docker's configuration with a key for `host`."""
    auth = base64.b64encode(f"{registries.USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


def is_read_with_the_key_alone(registry, folder, bundle, monkeypatch):
    address = f"oci://{registry.host}/private:1"
    monkeypatch.setenv("HOME", str(folder))
    with pytest.raises(DeliveryError, match=r"cannot be read \(401 Client Error"):
        delivered(address)
    with_key(folder, registry.host, "wrong", monkeypatch)
    with pytest.raises(DeliveryError, match=r"cannot be read \(401 Client Error"):
        delivered(address)
    with_key(folder, registry.host, registries.PASSWORD, monkeypatch)
    assert delivered(address).manifest == bundle.manifest


def test_keys_are_those_of_docker(bundle, tmp_path, monkeypatch):
    auth = (registries.USER, registries.PASSWORD)
    with registries.registry(tmp_path, registries.password(tmp_path), auth) as registry:
        modelcar(registry, bundle, "private")
        is_read_with_the_key_alone(registry, tmp_path, bundle, monkeypatch)


class Bearer(httpx.Auth):
    """What pushes to a registry behind a server of tokens."""

    def __init__(self, server):
        self._server = server

    def auth_flow(self, request):
        token = self._server.token(registries.USER, "repository:private:pull,push")
        request.headers["authorization"] = f"Bearer {token}"
        yield request


def test_a_key_is_changed_for_a_token_where_the_registry_wants_one(bundle, tmp_path, monkeypatch):
    with (
        tokens.tokens(tmp_path, {registries.USER: registries.PASSWORD}) as server,
        registries.registry(tmp_path, server.guard, Bearer(server)) as registry,
    ):
        modelcar(registry, bundle, "private")
        is_read_with_the_key_alone(registry, tmp_path, bundle, monkeypatch)
    assert set(server.asked) == {
        ("", "repository:private:pull"),
        (registries.USER, "repository:private:pull"),
    }


def test_a_server_serves_what_a_registry_holds(registry, bundle, oras, tmp_path):
    modelcar(registry, bundle, "served")
    pinned = {"bundle_digest": bundle.manifest.digest}
    server = Server(tmp_path, bundle=f"oci://{registry.host}/served:1", workers=1, **pinned)
    server.environment |= {"PYTHONPATH": os.fspath(oras)}
    with server:
        model = server.client.get("/model").json()
        assert (model["name"], model["version"]) == ("toy", bundle.manifest.version)
        assert server.client.get("/v2/models/toy/ready").status_code == httpx.codes.OK
