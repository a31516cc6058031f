"""Attempts to exhaust the memory of a server with requests that it must take or reject."""

import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import httpx

from support.large_images import KINDS, made

BODY_BYTES = 10 * 2**20  # the largest body by default
LARGE = 7_071  # the side of 50 million pixels
HEAD = (
    "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    f"Content-Length: {BODY_BYTES}\r\n\r\n"
).encode()
ANSWER_SECONDS = 2  # for a body that is rejected


@cache
def large_image(kind: str) -> bytes:
    """A small file of 50 million pixels; `kind` is one of KINDS."""
    return made(kind, LARGE)


@cache
def fitting_image(kind: str, limit_bytes: float, share: float = 0.7) -> bytes:
    """A file of this kind that takes `share` of the memory for images; one may have 0.75."""
    return made(kind, int((share * limit_bytes / KINDS[kind]) ** 0.5))


def send_large_images(url: str, limit_bytes: float, callers: int = 8) -> Counter[int]:
    """Has so many callers send an image of each kind that is too large, and one that just fits
    into `limit_bytes`, all at once; the statuses of the answers.
    """
    files = [fitting_image(kind, limit_bytes) for kind in KINDS] + [*map(large_image, KINDS)]

    def send(body: bytes) -> int:
        kind = {"content-type": "application/octet-stream"}
        answer = httpx.post(
            f"{url}/predict?deadline_ms=60000", content=body, headers=kind, timeout=90
        )
        return answer.status_code

    with ThreadPoolExecutor(callers) as pool:
        return Counter(pool.map(send, files))


@contextmanager
def bodies_held_open(address: tuple[str, int], count: int = 60) -> Iterator[Counter[bytes]]:
    """Has so many callers send all of a large body but its last byte, and wait.

    Gives the first twelve bytes of each answer; nothing where there is none yet.
    """
    connections = [socket.create_connection(address) for _ in range(count)]

    def send(connection: socket.socket) -> bytes:
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.sendall(HEAD + b"\xff\xd8\xff" + bytes(BODY_BYTES - 4))
            return connection.recv(12)
        except OSError:
            return b""  # it waits for the rest of the body

    try:
        with ThreadPoolExecutor(count) as pool:
            yield Counter(pool.map(send, connections))
    finally:
        for connection in connections:
            connection.close()
