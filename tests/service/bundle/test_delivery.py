"""Bundles from archives and addresses: what is fetched, what is refused, and a real API of S3."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import yaml

from service.bundle import delivery, folder, source
from service.errors import DeliveryError, DigestError, ManifestError, MissingFileError
from support import stores
from support.environments import python_of
from support.proxies import running
from support.servers import ROOT, Server, free_port
from support.toys import linear

NOWHERE = "https://127.0.0.1:9/b.zip"  # nothing listens there


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A small bundle on disk."""
    place = tmp_path_factory.mktemp("made")
    linear(place)
    return folder.load(place / "toy")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def packed(to, files):
    """An archive `to` with the bytes of each name."""
    if to.suffix == ".zip":
        with zipfile.ZipFile(to, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(to, "w:gz" if to.name.lower().endswith("gz") else "w") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return to


def files_of(bundle, prefix=""):
    return {prefix + path.name: path.read_bytes() for path in bundle.folder.iterdir()}


def delivered(named, digest=None):
    environment = {"CANDOR_BUNDLE": str(named)}
    if digest is not None:
        environment["CANDOR_BUNDLE_DIGEST"] = digest
    delivery.deliver(environment)
    return environment["CANDOR_BUNDLE"]


@pytest.mark.parametrize("prefix", ["", "./", "deep/down/"])
@pytest.mark.parametrize("name", ["b.zip", "b.tar", "b.tar.gz", "b.TGZ"])
def test_an_archive_is_read_wherever_the_bundle_lies_in_it(name, prefix, bundle, tmp_path):
    place = delivered(packed(tmp_path / name, files_of(bundle, prefix)))
    assert folder.load(folder.Path(place)).manifest == bundle.manifest
    assert place.endswith(bundle.manifest.digest)


def test_a_folder_stays_where_it_is(bundle):
    assert delivered(bundle.folder) == str(bundle.folder)


def test_what_the_manifest_does_not_name_goes_nowhere(bundle, tmp_path):
    extra = {"../../out": b"1", "/elsewhere/out": b"1", "more.bin": b"1"}
    place = folder.Path(delivered(packed(tmp_path / "b.tar", files_of(bundle) | extra)))
    assert sorted(path.name for path in place.iterdir()) == sorted(files_of(bundle))
    assert not list(tmp_path.rglob("out"))


def changed(bundle, content):
    return files_of(bundle) | {"predict.onnx": content}


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (lambda b: changed(b, b"x" * 10**6), DigestError, r"the manifest says .* bytes"),
        (lambda b: changed(b, b""), DigestError, r"\(0 bytes\)"),
        (
            lambda b: {"manifest.json": files_of(b)["manifest.json"]},
            MissingFileError,
            r"b\.zip has no \w+\.onnx, which its manifest names: deliver every file of the bundle",
        ),
        (lambda _: {"a/readme": b"1"}, ManifestError, "b.zip holds no manifest.json: pack the"),
        (lambda _: {"manifest.json": b"{"}, ManifestError, "JSON"),
    ],
    ids=["longer", "empty", "missing", "none", "damaged"],
)
def test_a_bad_archive_is_a_sentence_and_leaves_nothing(
    files, error, message, bundle, tmp_path, cache
):
    with pytest.raises(error, match=message):
        delivered(packed(tmp_path / "b.zip", files(bundle)))
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://h/b", r"bundles are fetched from s3, gs, hf, oci, https: name one of these, or mo"),
        ("adl://h/b", r"or mount the bundle and name its folder"),
        ("gs://bucket/b", r"not installed \(.*gcsfs.*\): install candor\[gs\]$"),
        ("oci://h/b", r"not installed \(.*oras.*\): install candor\[oci\]$"),
        ("https://user:secret@127.0.0.1:9/b?key=1", r"^https://127.0.0.1:9/b has no manifest.json"),
    ],
)
def test_an_address_that_is_none_is_a_sentence(address, message):
    with pytest.raises((DeliveryError, ManifestError), match=message) as caught:
        delivered(address)
    assert not re.search("secret|key=", str(caught.value))


def test_a_file_that_is_no_archive_is_a_sentence(tmp_path):
    path = tmp_path / "b.zip"
    path.write_bytes(b"no zip")
    with pytest.raises(DeliveryError, match=r"b\.zip cannot be read \(File is not a zip file\)"):
        delivered(path)


def test_another_bundle_than_the_pinned_one_is_not_fetched(bundle, tmp_path, cache):
    with pytest.raises(DigestError, match="CANDOR_BUNDLE_DIGEST is 000"):
        delivered(packed(tmp_path / "b.zip", files_of(bundle)), "0" * 64)
    assert not cache.exists()


def test_a_pinned_bundle_in_the_cache_takes_no_network(bundle, tmp_path):
    place = delivered(packed(tmp_path / "b.zip", files_of(bundle)))
    assert delivered(NOWHERE, bundle.manifest.digest) == place


DAMAGES = {
    "changed": lambda place: (place / "predict.onnx").write_bytes(b"0" * 100),
    "shorter": lambda place: (place / "predict.onnx").write_bytes(b""),
    "missing": lambda place: (place / "predict.onnx").unlink(),
    "renamed": lambda place: (place / "manifest.json").write_bytes(
        (place / "manifest.json").read_bytes().replace(b"toy", b"fox")
    ),
    "manifest": lambda place: (place / "manifest.json").write_bytes(b"{"),
    "emptied": lambda place: [path.unlink() for path in place.iterdir()],
}


@pytest.mark.parametrize("pinned", [False, True], ids=["not pinned", "pinned"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_fetched_anew_and_the_log_says_so(
    damage, pinned, bundle, tmp_path, caplog
):
    archive = packed(tmp_path / "b.zip", files_of(bundle))
    place, digest = folder.Path(delivered(archive)), bundle.manifest.digest
    DAMAGES[damage](place)
    assert delivered(archive, digest if pinned else None) == str(place)
    assert folder.load(place, digest).manifest == bundle.manifest
    (line,) = caplog.messages
    assert line.startswith("the copy in the cache is damaged, and is fetched anew: ")
    assert [path.name for path in place.parent.iterdir()] == [digest]
    caplog.clear()
    assert delivered(archive, digest if pinned else None) == str(place)
    assert not caplog.messages


def test_a_damaged_copy_that_cannot_be_fetched_is_a_sentence(bundle, tmp_path, caplog):
    digest = bundle.manifest.digest
    place = folder.Path(delivered(packed(tmp_path / "b.zip", files_of(bundle))))
    DAMAGES["changed"](place)
    with pytest.raises(DeliveryError, match=r"^https://127.0.0.1:9/b\.zip cannot be read"):
        delivered(NOWHERE, digest)
    assert len(caplog.messages) == 1
    with pytest.raises(DigestError, match="the manifest says"):
        delivered(packed(tmp_path / "d.zip", changed(bundle, b"0" * 100)), digest)
    # It is not served as it is, either.
    with pytest.raises(DigestError, match="was changed or damaged"):
        folder.load(place, digest)


def test_a_manifest_that_another_program_wrote_is_no_damage(bundle, tmp_path, caplog):
    """The digest is of what a manifest says, not of its bytes."""
    document = json.loads((bundle.folder / "manifest.json").read_text())
    document["samples"] = []  # which Candor leaves out
    files = files_of(bundle) | {"manifest.json": json.dumps(document).encode()}
    place = delivered(packed(tmp_path / "b.zip", files))
    assert delivered(NOWHERE, bundle.manifest.digest) == place
    assert not caplog.messages


def test_bentoml_finds_the_folder_of_an_archive(bundle, tmp_path):
    """`bentoml serve` imports service.app in its supervisor, whose workers inherit the variable."""
    archive = packed(tmp_path / "b.zip", files_of(bundle))
    code = "import os, service.app as app; print(app.SETTINGS.bundle, os.environ['CANDOR_BUNDLE'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CANDOR_BUNDLE": str(archive), "BENTOML_HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    place = str(source.place_of(bundle.manifest.digest))
    assert done.stdout.split() == [place, place]


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """The address of a real API of S3, and an environment that finds it."""
    with stores.s3(tmp_path_factory.mktemp("moto") / "log", "models") as found:
        yield found


@pytest.fixture(scope="module")
def uploaded(s3, bundle):
    """The address of the bundle in a bucket, and the environment that finds it."""
    client, environment = s3
    for name, content in files_of(bundle, "toy/").items():
        assert client.put(f"/models/{name}", content=content).status_code == httpx.codes.OK
    return "s3://models/toy", environment


def test_a_bundle_in_s3_is_served_and_checked(uploaded, bundle, tmp_path):
    address, environment = uploaded
    pinned = {"bundle_digest": bundle.manifest.digest, "model_name": "cats"}
    server = Server(tmp_path, bundle=address, workers=1, **pinned)
    server.environment |= environment
    with server:
        model = server.client.get("/model").json()
        assert (model["name"], model["version"]) == ("cats", bundle.manifest.version)
        assert server.client.get("/v2/models/cats").json()["versions"] == [bundle.manifest.version]
        assert server.client.get("/v2/models/toy").status_code == httpx.codes.NOT_FOUND
        assert "the bundle of s3://models/toy: 0.0 MB in" in server.log.read_text()


def test_a_missing_bucket_is_a_sentence(s3, monkeypatch):
    for name, value in s3[1].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ManifestError, match=r"s3://models/none has no manifest\.json"):
        delivered("s3://models/none")


@contextmanager
def google(folder):
    """The address of an API of Google's storage with a bucket `models`, by an emulator."""
    port = free_port()
    command = [python_of("gs"), "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1"]
    options = ["--port", str(port), "--in-memory", "--default-bucket", "models"]
    with running([*command, *options], folder, port):
        yield f"http://127.0.0.1:{port}"


def fetched_behind(client, address, **environment):
    """The words of `deliver` and the bundle, with the packages of `client` behind ours."""
    code = "import sys; sys.path.append(sys.argv[1]); from service.bundle import delivery as d"
    code += "; e = {'CANDOR_BUNDLE': sys.argv[2]}; print(d.deliver(e)); print(e['CANDOR_BUNDLE'])"
    packages = next(python_of(client).parent.parent.glob("lib/*/site-packages"))
    done = subprocess.run(
        [sys.executable, "-c", code, packages, address],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, place = done.stdout.splitlines()
    return said, folder.load(folder.Path(place))


def test_a_bundle_in_googles_storage_is_delivered(bundle, tmp_path):
    with google(tmp_path) as address:
        upload = f"{address}/upload/storage/v1/b/models/o"
        for name, content in files_of(bundle, "mine/").items():
            how = {"uploadType": "media", "name": name}
            assert httpx.post(upload, params=how, content=content).status_code == httpx.codes.OK
        said, found = fetched_behind("gs", "gs://models/mine", STORAGE_EMULATOR_HOST=address)
    assert said.startswith("the bundle of gs://models/mine: 0.0 MB in")
    assert found.manifest == bundle.manifest


HUB = """[basic]
mirrors-path = ["{mirrors}"]
repos-path = "{folder}/repositories"
[accessibility]
offline = true
"""


@contextmanager
def hub(tmp_path, files):
    """The address of an API of Hugging Face's hub, with `files` in the model zoo/cats."""
    repository = tmp_path / "mirrors" / "models" / "zoo" / "cats"
    for name, content in files.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_bytes(content)
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-b", "main"], ["add", "."], [*author, "commit", "-m", "a"]):
        subprocess.run(["git", *command], cwd=repository, check=True, capture_output=True)
    port, configuration = free_port(), tmp_path / "hub.toml"
    configuration.write_text(HUB.format(mirrors=tmp_path / "mirrors", folder=tmp_path))
    options = ["--config", configuration, "--host", "127.0.0.1", "--port", str(port)]
    with running([python_of("hf"), "-m", "olah.server", *options], tmp_path, port):
        yield f"http://127.0.0.1:{port}"


def test_a_bundle_in_hugging_faces_hub_is_delivered(bundle, tmp_path):
    with hub(tmp_path, files_of(bundle, "deep/")) as address:
        said, found = fetched_behind(
            "hf", "hf://zoo/cats@main/deep", HF_ENDPOINT=address, HF_HOME=str(tmp_path)
        )
    assert said.startswith("the bundle of hf://zoo/cats@main/deep: 0.0 MB in")
    assert found.manifest == bundle.manifest


def initialized(uploaded, to):
    """Brings the bundle to the folder `to`, by what the initializer of a KServe pod runs."""
    address, environment = uploaded
    code = f"from kserve_storage import Storage; Storage.download({address!r}, {str(to)!r})"
    subprocess.run(
        [python_of("storage"), "-c", code],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
    )


def built(name):
    """The one resource of a folder of k8s/kserve."""
    kubectl = folder.Path(sys.prefix) / "bin" / "kubectl"
    command = [kubectl, "kustomize", ROOT / "k8s" / "kserve" / name]
    return yaml.safe_load(subprocess.run(command, check=True, capture_output=True).stdout)


def as_kserve_starts_it(digest, models):
    """The settings of the container that KServe makes of the runtime and the model of k8s/."""
    runtime, service = built("runtime"), built("model")
    (container,) = runtime["spec"]["containers"]
    variables = container["env"] + service["spec"]["predictor"]["model"]["env"]
    name = service["metadata"]["name"]
    given = {each["name"]: each["value"].replace("{{.Name}}", name) for each in variables}
    assert given.pop("CANDOR_BUNDLE") == "/mnt/models"
    given |= {"CANDOR_BUNDLE": str(models), "CANDOR_BUNDLE_DIGEST": digest}
    # Beside other servers, and on loopback.
    del given["BENTOML_HOME"], given["CANDOR_HOST"], given["CANDOR_PORT"]
    given["CANDOR_GRPC_PORT"] = str(free_port())
    return {variable.removeprefix("CANDOR_").lower(): value for variable, value in given.items()}


def test_a_model_of_kserve_is_brought_checked_and_served_by_its_name(uploaded, bundle, tmp_path):
    models = tmp_path / "models"
    initialized(uploaded, models)
    settings = as_kserve_starts_it(bundle.manifest.digest, models)
    pixels = np.zeros((1, 8, 8, 3), np.uint8).tolist()
    with Server(tmp_path, **settings) as server:
        ready = server.client.get("/v2/models/candor")
        assert ready.json()["versions"] == [bundle.manifest.version]
        tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": pixels}
        for path, body in (
            ("/v2/models/candor/infer", {"inputs": [tensor]}),
            ("/v1/models/candor:predict", {"instances": pixels}),
        ):
            assert server.client.post(path, json=body).status_code == httpx.codes.OK, path


def test_a_model_of_kserve_with_another_digest_does_not_start(uploaded, tmp_path):
    models = tmp_path / "models"
    initialized(uploaded, models)
    settings = as_kserve_starts_it("0" * 64, models)
    with (
        pytest.raises(AssertionError, match="CANDOR_BUNDLE_DIGEST is 000"),
        Server(tmp_path, **settings),
    ):
        pass
