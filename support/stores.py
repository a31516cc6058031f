"""A real API of S3 on this machine: moto's server."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from support.environments import python_of
from support.servers import free_port

KEYS = {
    "AWS_ACCESS_KEY_ID": "k",
    "AWS_SECRET_ACCESS_KEY": "s",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_REGION": "eu-west-1",
}


@contextmanager
def s3(log: Path, bucket: str) -> Iterator[tuple[httpx.Client, dict[str, str]]]:
    """A client of the API with an empty `bucket`, and the environment that finds it."""
    port = free_port()
    command = [str(python_of("moto")), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=sink) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=address, transport=httpx.HTTPTransport(retries=9)) as client:
                assert client.put(f"/{bucket}").status_code == httpx.codes.OK
                yield client, KEYS | {"AWS_ENDPOINT_URL": address}
        finally:
            process.terminate()
