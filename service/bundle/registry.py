"""A bundle in a registry of containers: `oci://HOST/REPOSITORY:TAG`, or `@sha256:…` for the tag.

An artifact has a layer a file, named by its title (`oras push`); an image has layers of tar
archives, in which the bundle may lie anywhere, KServe's /models for example. Layers are looked
through from the last to the first, and no more of them are pulled than it takes to find the files
that are asked for. What comes is as its digest says (OCI Image Specification 1.1, Distribution
Specification 1.1).

A registry on loopback is asked over HTTP, as Docker does, any other over HTTPS. Keys come from
Docker's configuration and its helpers, by oras (Apache-2.0, the ORAS project's).
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from service.bundle import archives
from service.bundle.manifest import MANIFEST
from service.bundle.source import archive_of, shown
from service.errors import DeliveryError, DigestError, ManifestError
from service.settings import is_loopback

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
ACCEPTED = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    *INDEXES,
)
MOST_MANIFEST_BYTES = 2**22  # a registry need not take a larger one
TITLE, UNPACK = "org.opencontainers.image.title", "io.deis.oras.content.unpack"
COMPRESSED = ("tar+gzip", "tar.gzip", "tar+zstd")  # the ends of types of layers
# The beginnings of what is compressed; the archive of Python knows gzip alone.
GZIP, ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
TIMEOUT_SECONDS = 30.0  # to connect, and between two parts of an answer
TO_AUTHENTICATE = (401, 403)

Files = Mapping[str, Callable[[], io.BufferedIOBase]]  # what opens each file of a layer, by name
Layer = Mapping[str, Any]  # an entry of the image's manifest


class Image:
    """The files of an artifact or image, of which a later layer covers an earlier one."""

    def __init__(self, layers: Iterator[Files]) -> None:
        """`layers` come last first."""
        self._seen: list[Files] = []
        self._rest = layers

    def folder(self) -> str | None:
        """The folder of the bundle; None if no layer holds a manifest."""
        found = (archives.folder_of(files) for files in self._layers())
        return next((folder for folder in found if folder is not None), None)

    def open(self, name: str, _mode: str = "rb") -> io.BufferedIOBase:
        """The file `name`, to read.

        Raises:
            FileNotFoundError: no layer holds it.
        """
        for files in self._layers():
            if name in files:
                return files[name]()
        raise FileNotFoundError(name)

    def _layers(self) -> Iterator[Files]:
        yield from tuple(self._seen)
        for files in self._rest:
            self._seen.append(files)
            yield files


class Repository:
    """One repository of a registry, asked for what the address names."""

    def __init__(self, address: str) -> None:
        # oras and requests are an extra.
        import requests  # noqa: PLC0415
        from oras.container import Container  # noqa: PLC0415

        parts = urlsplit(address)
        if not parts.path.strip("/"):
            raise DeliveryError(f"{shown(address)} names no repository: oci://HOST/REPOSITORY:TAG")
        host = parts.netloc.rpartition("@")[2]
        self._plain = is_loopback(parts.hostname or "")
        if not set(host) & set(".:"):  # oras would take it for a part of the repository
            host += ":80" if self._plain else ":443"
        self._named = shown(address)
        self._container = Container(f"{host}{parts.path}")
        self._session = requests.Session()
        self._headers: dict[str, str] = {}

    def layers(self) -> list[Layer]:
        """The layers of the manifest that the address names, or of the first one of an index."""
        reference = self._container.digest
        document = self._manifest(reference or self._container.tag, reference)
        if document.get("mediaType") in INDEXES or "manifests" in document:
            # Builders put attestations beside images, for a platform that is none.
            images = [
                each
                for each in document["manifests"]
                if (each.get("platform") or {}).get("os") != "unknown"
            ]
            if not images:
                raise ManifestError(f"{self._named} is an index without an image: push a bundle")
            document = self._manifest(images[0]["digest"], images[0]["digest"])
        return list(document.get("layers", ()))

    def pull(self, layer: Layer, to: io.BufferedIOBase) -> None:
        """Writes the content of a layer.

        Raises:
            DigestError: it is not as long as the manifest says, or not of that digest.
        """
        digest, left = layer["digest"], int(layer["size"])
        found = _hash_of(digest)
        with self._get(self._container.get_blob_url(digest)) as response:
            for part in response.iter_content(archives.PART):
                left -= len(part)
                found.update(part)
                to.write(part)
                if left < 0:
                    break
        self._check(digest, found.hexdigest() if not left else "another length")
        to.seek(0)

    def _manifest(self, reference: str, digest: str | None) -> dict[str, Any]:
        url = self._container.manifest_url(reference)
        text = b""
        with self._get(url, Accept=", ".join(ACCEPTED)) as response:
            for part in response.iter_content(archives.PART):
                text += part
                if len(text) > MOST_MANIFEST_BYTES:
                    raise ManifestError(
                        f"{self._named} has a manifest of more than {MOST_MANIFEST_BYTES:,} bytes: "
                        "name the artifact or image of a bundle"
                    )
        if digest is not None:
            found = _hash_of(digest)
            found.update(text)
            self._check(digest, found.hexdigest())
        return dict(json.loads(text))

    def _check(self, digest: str, found: str) -> None:
        if digest.partition(":")[2] != found:
            raise DigestError(
                f"{self._named}: the registry sent {found[:12]} for {digest[:19]}…: "
                "it is damaged there, push it again"
            )

    def _get(self, url: str, **headers: str) -> Any:
        """The answer to GET, with a key if the registry asks for one."""
        from oras.auth import get_auth_backend  # noqa: PLC0415

        url = f"{'http' if self._plain else 'https'}://{url}"
        ask = {"stream": True, "timeout": TIMEOUT_SECONDS}
        response = self._session.get(url, headers=self._headers | headers, **ask)
        challenge = response.headers.get("WWW-Authenticate", "")
        if response.status_code in TO_AUTHENTICATE and challenge:
            kind = "basic" if challenge.lower().startswith("basic") else "token"
            keys = get_auth_backend(kind, self._session, self._plain)
            keys.load_configs(self._container, configurations())
            with suppress(AttributeError):  # of oras, without a key; the status below says so
                self._headers, _ = keys.authenticate_request(response, {})
                response.close()
                response = self._session.get(url, headers=self._headers | headers, **ask)
        response.raise_for_status()
        return response


def opened(address: str, scratch: Path) -> tuple[Image, str]:
    """The files of the artifact or image at `address`, and the folder of the bundle in it.

    Layers that are archives are copied to `scratch`.

    Raises:
        ManifestError: it holds no bundle.
        DigestError: the registry sent something else than its own manifest names.
    """
    repository = Repository(address)
    layers = reversed(repository.layers())
    image = Image(
        _files_of(repository, layer, scratch / str(number), shown(address))
        for number, layer in enumerate(layers)
    )
    folder = image.folder()
    if folder is None:
        raise ManifestError(
            f"{shown(address)} holds no {MANIFEST}: push the files of a bundle, or an image of its "
            "folder"
        )
    return image, folder


def _files_of(repository: Repository, layer: Layer, scratch: Path, named: str) -> Files:
    """The files of one layer: one that is named, or those of an archive."""
    notes = layer.get("annotations") or {}
    title, kind = notes.get(TITLE, ""), str(layer.get("mediaType", ""))
    # By its type every named file of `oras push` is a .tar, too, though not a compressed one.
    folder = notes.get(UNPACK) == "true" or kind.endswith(COMPRESSED) or archive_of(title)
    if title and not folder:

        def content() -> io.BufferedIOBase:
            to = io.BytesIO()
            repository.pull(layer, to)
            return to

        return {title: content}
    if not title and "tar" not in kind:
        return {}
    scratch.mkdir()
    packed = scratch / "packed"
    with packed.open("w+b") as to:
        repository.pull(layer, to)
        begin = to.read(len(ZSTANDARD))
    if begin == ZSTANDARD:
        raise DeliveryError(f"{named} is compressed by Zstandard: push it with gzip")
    form = (archive_of(title) or ("tar",))[0]
    compression = "gzip" if begin.startswith(GZIP) else None
    files = archives.in_archive(f"file://{packed}", (form, compression), named, scratch)
    return {name: partial(files.open, name, "rb") for name in files.find("")}


def configurations() -> list[str]:
    """The files of keys that Docker would read, besides that of the user, which oras finds."""
    folder = os.environ.get("DOCKER_CONFIG")
    return [str(Path(folder) / "config.json")] if folder else []


def _hash_of(digest: str) -> Any:
    """The hash function that a digest names, which is one of two (OCI Image Specification)."""
    name = digest.partition(":")[0]
    if name not in ("sha256", "sha512"):
        raise DeliveryError(f"the registry names {digest[:19]}…, neither sha256 nor sha512")
    return hashlib.new(name)
