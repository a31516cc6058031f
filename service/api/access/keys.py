"""The keys of callers: a file with a line a key, `name scopes sha256hex [passes=N] [megapixels=N]`.

The two numbers are the key's own allowance a second, in the place of the settings'; 0 is no limit.
A key is 256 random bits, so that its SHA-256 is all that a server has to know: the file holds no
secret. It is read again when it changes; lines of the same name let an old key and a new one
overlap.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from service.errors import SettingsError
from service.schedule.allowance import Rates

FORM = "name scopes sha256hex [passes=N] [megapixels=N]"
SCOPES = ("predict", "explain", "metrics", "admin")
PREFIX = "candor_"  # lets scanners for leaked secrets find a key
RANDOM_BYTES = 32
NAME, DIGEST = re.compile(r"[\w.-]{1,64}", re.ASCII), re.compile(r"[0-9a-f]{64}")
ALLOWANCE = re.compile(r"(passes=[0-9]{1,9})? ?(megapixels=[0-9]{1,9})?")
NAME_FORM = "1 to 64 letters, digits, dots, hyphens and underscores"
MAX_BYTES = 2**20
LOOK_SECONDS = 1.0  # between two looks at the file
# A file that changed so lately may change again without another time of its own.
SETTLED_SECONDS = 2.0
FORBIDDEN = 0o027  # the group may read, as Kubernetes has it (fsGroup), but not write

log = logging.getLogger("candor")


class Key(NamedTuple):
    """The line of a key; `rates` are its own allowance, where the line has one."""

    name: str
    scopes: frozenset[str]
    digest: str
    rates: Rates = Rates()


class Keys:
    """The keys in the file at `path`, as it is now.

    Raises:
        SettingsError: at the start, the file cannot be used. Later such a file is logged, and the
            keys stay as they were.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: dict[str, Key] = {}
        self._version: tuple[int, ...] | None = None
        self._complaint = ""
        self._look_at = 0.0
        self._read()

    def find(self, secret: bytes) -> Key | None:
        """The key that `secret` is, or None."""
        if time.monotonic() >= self._look_at:
            self._look()
        digest = hashlib.sha256(secret).hexdigest()
        key = self._keys.get(digest)
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None

    def _look(self) -> None:
        try:
            self._read()
        except SettingsError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("%s; the keys stay as they were", error)
        else:
            self._complaint = ""

    def _read(self) -> None:
        """Reads the file if it has changed."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        try:
            status = self._path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            if version == self._version:
                return
            _check_file(self._path, status)
            text = self._path.read_text("ascii")
        except (OSError, UnicodeError) as error:
            raise SettingsError(
                f"CANDOR_KEYS is {self._path}, which cannot be read ({error}): "
                "name a file with a line a key"
            ) from None
        self._keys = dict(_parsed(self._path, text))
        self._version = version if time.time() - status.st_mtime > SETTLED_SECONDS else None


def make(
    name: str,
    scopes: tuple[str, ...],
    passes: int | None = None,
    megapixels: int | None = None,
) -> tuple[str, str]:
    """A new key, and its line for the file.

    Raises:
        SettingsError: the name is not usable in the file.
    """
    if not NAME.fullmatch(name):
        raise SettingsError(f"{name!r} cannot name a key: use {NAME_FORM}")
    secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    given = {"passes": passes, "megapixels": megapixels}
    allowance = (f"{rate}={value}" for rate, value in given.items() if value is not None)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return secret, " ".join((name, ",".join(scopes), digest, *allowance))


def _check_file(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        raise SettingsError(
            f"CANDOR_KEYS is {path}, which is no file of at most {MAX_BYTES:,} bytes: "
            "name a file with a line a key"
        )
    if mode & FORBIDDEN:
        raise SettingsError(
            f"CANDOR_KEYS is {path}, and its mode {mode:04o} lets others read it or its group "
            "write it: chmod 0600 (a Kubernetes secret: defaultMode: 0440)"
        )
    if status.st_uid not in (0, os.geteuid()):
        raise SettingsError(
            f"CANDOR_KEYS is {path}, which belongs to user {status.st_uid}: "
            f"it must belong to root or to user {os.geteuid()}, as which the service runs"
        )


def _parsed(path: Path, text: str) -> Iterator[tuple[str, Key]]:
    """The keys of `text` by their digests; there is at least one."""
    digests = set[str]()
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.partition("#")[0].split()
        if not parts:
            continue
        problem = _problem(parts, digests)
        if problem:
            # The line is not shown: it may be the key itself.
            raise SettingsError(
                f"CANDOR_KEYS: line {number} of {path} {problem}: write `{FORM}`, "
                "as `python -m service key NAME --scope predict` prints it"
            )
        name, scopes, digest, *allowance = parts
        digests.add(digest)
        rates = {rate: int(value) for rate, _, value in (one.partition("=") for one in allowance)}
        yield digest, Key(name, frozenset(scopes.split(",")), digest, Rates(**rates))
    if not digests:
        raise SettingsError(
            f"CANDOR_KEYS: {path} has no key: "
            "`python -m service key NAME --scope predict` makes one"
        )


def _problem(parts: list[str], digests: set[str]) -> str:
    """What is wrong with the parts of a line; empty if nothing is."""
    if len(parts) < 3:  # noqa: PLR2004 - name, scopes, digest
        return f"has {len(parts)} parts instead of at least 3"
    name, scopes, digest, *allowance = parts
    if not NAME.fullmatch(name):
        return f"has no name of {NAME_FORM}"
    if not set(scopes.split(",")) <= set(SCOPES):
        return f"has a scope that is none of {', '.join(SCOPES)}"
    if not DIGEST.fullmatch(digest):
        return "has no SHA-256 of 64 lower-case hexadecimal digits"
    if digest in digests:
        return "has the digest of an earlier line"
    known = ALLOWANCE.fullmatch(" ".join(allowance))
    return "" if known else "has something else behind the digest than passes=N and megapixels=N"
