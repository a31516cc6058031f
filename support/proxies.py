"""Real proxies for tests, with the settings that docs/operations.md recommends, and a relay that
cuts requests into packets.
"""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.servers import ROOT, free_port

START_SECONDS, STOP_SECONDS = 10, 10
PAUSE_SECONDS = 0.05  # between two packets
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
BLOCKS = dict(
    re.findall(
        r"```(nginx|haproxy)\n(.*?)```",
        (ROOT / "docs" / "operations.md").read_text(),
        re.DOTALL,
    )
)
WEBSOCKETS = """proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection "upgrade";"""
# Temporary files of nginx stay in the folder it is started in.
NGINX = """daemon off; pid nginx.pid; user {user}; worker_processes 1; error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
{block}
}}
"""


def cut_nowhere(request: bytes) -> list[bytes]:
    """The request in one packet."""
    return [request]


def cut_after_head(request: bytes) -> list[bytes]:
    """The head in a packet of its own."""
    end = request.index(b"\r\n\r\n") + 4
    return [request[:end], request[end:]]


@contextmanager
def nginx(folder: Path, backend: int, *, buffering: str = "on") -> Iterator[int]:
    """nginx before the server on port `backend`, as it is set up where WebSockets are served, too;
    the port on which it listens. `buffering`: it sends a body when it has it wholly.
    """
    program, port = _program("nginx", "nginx-light"), free_port()
    names = {
        "10.0.0.1:3000": f"127.0.0.1:{backend}",
        "listen 80;": f"listen 127.0.0.1:{port}; proxy_request_buffering {buffering};",
        'proxy_set_header Connection "";': WEBSOCKETS,
    }
    block = _replaced(BLOCKS["nginx"], names)
    user = pwd.getpwuid(os.getuid()).pw_name
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(user=user, block=block))
    with _running([program, "-p", folder, "-e", "stderr", "-c", configuration], folder, port):
        yield port


@contextmanager
def haproxy(folder: Path, backends: Sequence[str]) -> Iterator[int]:
    """HAProxy before the servers at `backends`, HOST:PORT each; the port on which it listens."""
    program, port = _program("haproxy", "haproxy"), free_port()
    servers = [f"    server number-{n} {backend}\n" for n, backend in enumerate(backends)]
    names = {
        "    server one 10.0.0.1:3000\n    server two 10.0.0.2:3000\n": "".join(servers),
        "bind :80": f"bind 127.0.0.1:{port}",
    }
    configuration = folder / "haproxy.cfg"
    configuration.write_text(_replaced(BLOCKS["haproxy"], names))
    with _running([program, "-db", "-f", configuration], folder, port):
        yield port


@contextmanager
def relay(backend: int, cut: Callable[[bytes], list[bytes]]) -> Iterator[int]:
    """Passes on each request when it has come wholly, in the packets that `cut` makes of it, and
    its answer; the port on which the relay listens.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, backend, cut), daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, backend: int, cut: Callable[[bytes], list[bytes]]) -> None:
    with suppress(OSError):  # the listener is closed
        while True:
            caller, _ = listener.accept()
            threading.Thread(target=_pass_on, args=(caller, backend, cut), daemon=True).start()


def _pass_on(caller: socket.socket, backend: int, cut: Callable[[bytes], list[bytes]]) -> None:
    with suppress(OSError), caller, socket.create_connection(("127.0.0.1", backend)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while request := _message(caller):
            for number, packet in enumerate(cut(request)):
                time.sleep(PAUSE_SECONDS if number else 0)
                server.sendall(packet)
            caller.sendall(_message(server))


def _message(source: socket.socket) -> bytes:
    """The next request or answer with Content-Length; empty at the end."""
    received = b""
    while data := source.recv(65_536):
        received += data
        head, end, body = received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if end and len(body) >= int(length[1] if length else 0):
            break
    return received


def _program(name: str, package: str) -> str:
    # Debian has them where only root's PATH leads.
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed: scripts/packages {package}")
    return program


def _replaced(block: str, names: dict[str, str]) -> str:
    for name, own in names.items():
        assert name in block, f"docs/operations.md has no {name!r}"
        block = block.replace(name, own)
    return block


@contextmanager
def _running(command: list[str | Path], folder: Path, port: int) -> Iterator[None]:
    """Runs a proxy until the block ends."""
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=folder, stdout=sink, stderr=sink)
    try:
        _wait_for(port, process, log)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"{process.args!r} does not listen:\n{log.read_text()}")
        time.sleep(0.02)
