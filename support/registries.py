"""A real registry of containers, Debian's docker-registry (Distribution 2.8), and what to push.

`Registry.blob` and `Registry.image` push as every builder does, by the two requests of the
Distribution Specification.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from support.proxies import program, running
from support.servers import free_port

CONFIGURATION = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""
# The line is as `htpasswd -nbB camera secret` writes it.
USER, PASSWORD = "camera", "secret"
LINE = "camera:$2b$05$AlxhStNel8p4fMheoI/ozu3nzSlP5DYEN/rXSvOh4YdCiDXGs/ziq\n"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"

Descriptor = dict[str, Any]


@dataclass(frozen=True)
class Registry:
    """A registry that listens on `host` and keeps its files below `root`."""

    host: str
    root: Path
    client: httpx.Client

    def blob(self, repository: str, content: bytes, kind: str = LAYER) -> Descriptor:
        """Pushes `content`; what a manifest says of it."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        begun = self.client.post(f"/v2/{repository}/blobs/uploads/").raise_for_status()
        place = httpx.URL(begun.headers["location"]).copy_merge_params({"digest": digest})
        self.client.put(place, content=content).raise_for_status()
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def image(self, repository: str, tag: str, layers: Sequence[Descriptor]) -> Descriptor:
        """Pushes an image of pushed `layers`; what an index says of it."""
        config = self.blob(repository, b'{"architecture": "amd64", "os": "linux"}', CONFIG)
        return self.manifest(repository, tag, IMAGE, config=config, layers=list(layers))

    def manifest(self, repository: str, tag: str, kind: str, **fields: Any) -> Descriptor:
        """Pushes a manifest or an index of `fields`."""
        document = {"schemaVersion": 2, "mediaType": kind, **fields}
        content = json.dumps(document).encode()
        headers = {"content-type": kind}
        path = f"/v2/{repository}/manifests/{tag}"
        self.client.put(path, content=content, headers=headers).raise_for_status()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def file_of(self, blob: Descriptor) -> Path:
        """The file in which the registry keeps a blob."""
        digest = str(blob["digest"]).partition(":")[2]
        return self.root / "docker/registry/v2/blobs/sha256" / digest[:2] / digest / "data"


def password(folder: Path) -> str:
    """The configuration of a registry that USER alone may enter, by PASSWORD."""
    (folder / "htpasswd").write_text(LINE)
    return f"auth: {{htpasswd: {{realm: candor, path: {folder / 'htpasswd'}}}}}"


@contextmanager
def registry(
    folder: Path, guard: str = "", auth: httpx.Auth | tuple[str, str] | None = None
) -> Iterator[Registry]:
    """Runs a registry with the part `guard` of its configuration, by which `auth` may push."""
    port, configuration = free_port(), folder / "registry.yml"
    root = folder / "registry"
    configuration.write_text(CONFIGURATION.format(root=root, port=port, auth=guard))
    command: list[str | Path] = [program("docker-registry", "docker-registry"), "serve"]
    with (
        running([*command, configuration], folder, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=auth) as client,
    ):
        yield Registry(f"127.0.0.1:{port}", root, client)


def tar_of(files: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    """An archive with the bytes of each name."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
