"""Bundles from archives and addresses: what is fetched, what is refused, and a real API of S3."""

import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile

import httpx
import pytest

from service.bundle import delivery, folder, source
from service.errors import DeliveryError, DigestError, ManifestError
from support import stores
from support.environments import python_of
from support.servers import ROOT, Server
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
        (lambda _: {"a/readme": b"1"}, ManifestError, "b.zip holds no manifest.json: pack the"),
        (lambda _: {"manifest.json": b"{"}, ManifestError, "JSON"),
    ],
    ids=["longer", "empty", "none", "damaged"],
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
        ("ftp://h/b", r"bundles are fetched from s3, gs, hf, https: name one of these, or mount"),
        ("gs://bucket/b", r"not installed \(.*gcsfs.*\): install candor\[gs\]$"),
        ("oci://h/b", r"or mount the bundle and name its folder"),
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


def test_the_storage_package_of_kserve_brings_a_bundle(uploaded, bundle, tmp_path):
    """The initializer of a KServe pod runs this, and Candor serves the folder."""
    address, environment = uploaded
    code = f"from kserve_storage import Storage; Storage.download({address!r}, {str(tmp_path)!r})"
    subprocess.run(
        [python_of("storage"), "-c", code],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
    )
    assert folder.load(tmp_path, bundle.manifest.digest).manifest == bundle.manifest
