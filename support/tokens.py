"""A server of tokens, as most registries of containers have one before them.

A registry that wants a token names this server; a client shows it a name and a password and gets a
token for a while, which the registry checks by a certificate (Distribution's token authentication).
"""

import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SERVICE, ISSUER = "registry", "tokens"
SECONDS = 300
GUARD = """auth: {{token: {{realm: "http://127.0.0.1:{port}/token", service: {service},
  issuer: {issuer}, rootcertbundle: {certificate}}}}}"""
CERTIFICATE = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens")


@dataclass
class Tokens:
    """A running server: the part of a registry's configuration that names it, and the scopes that
    it was asked for, with or without a name.
    """

    guard: str
    certificate: Path
    key: Path
    asked: list[tuple[str, str]] = field(default_factory=list)

    def token(self, name: str, scope: str) -> str:
        """A token for one scope, as repository:NAME:pull,push."""
        kind, repository, actions = scope.split(":")
        now = int(time.time())
        access = {"type": kind, "name": repository, "actions": actions.split(",")}
        pem = self.certificate.read_text().split("-----")[2]
        head = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(pem.split())]}
        about = {"iss": ISSUER, "sub": name, "aud": SERVICE, "jti": str(now), "access": [access]}
        claims = about | {"exp": now + SECONDS, "nbf": now - SECONDS, "iat": now}
        signed = b".".join(_text(json.dumps(part).encode()) for part in (head, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", str(self.key)]
        done = subprocess.run(command, input=signed, capture_output=True, check=True)
        return b".".join((signed, _text(done.stdout))).decode()


@contextmanager
def tokens(folder: Path, names: dict[str, str]) -> Iterator[Tokens]:
    """Runs a server that gives tokens to `names` with their passwords, and to no others."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", *CERTIFICATE, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, capture_output=True, check=True)
    found = Tokens("", certificate, key)
    allowed = {base64.b64encode(f"{a}:{b}".encode()).decode(): a for a, b in names.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (scope,) = parse_qs(urlsplit(self.path).query)["scope"]
            name = allowed.get(self.headers.get("Authorization", "").removeprefix("Basic "), "")
            found.asked.append((name, scope))
            self.send_response(200 if name else 401)
            content = json.dumps({"token": found.token(name, scope)} if name else {}).encode()
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_address[1]
        found.guard = GUARD.format(
            port=port, service=SERVICE, issuer=ISSUER, certificate=certificate
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


def _text(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")
