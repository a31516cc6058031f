"""The delivery of a bundle, once at the start: CANDOR_BUNDLE then names a folder.

A bundle that is pinned, and whole in the cache, takes no network. One that is damaged there is
fetched anew.
"""

import hashlib
import json
import os
from collections.abc import MutableMapping
from pathlib import Path

from service.bundle.source import BUNDLE, DIGEST, in_cache, is_elsewhere, place_of


def deliver(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Makes CANDOR_BUNDLE in `environment` name a folder, for this process and those it starts.

    A sentence says what was fetched; None if it was a folder already.

    Raises:
        DeliveryError: the archive or the address cannot be read.
        BundleError: what is there is no bundle, or not the pinned one.
    """
    source, digest = environment.get(BUNDLE, "").strip(), environment.get(DIGEST)
    if not is_elsewhere(source):
        return None
    if digest is not None and _is_as_written(place := place_of(digest), digest):
        said = in_cache(source, place)
    else:
        # 33 MB, which a process that only starts others is spared.
        from service.bundle.fetch import fetch  # noqa: PLC0415

        place, said = fetch(source, digest)
    environment[BUNDLE] = str(place)
    return said


def _is_as_written(place: Path, digest: str) -> bool:
    """True if the copy at `place` is, byte by byte, one that Candor wrote for this `digest`.

    False says nothing: a manifest may have been written in another way (`fetch` looks closely).
    """
    try:
        document = json.loads((place / "manifest.json").read_bytes())
        # As `Manifest.canonical`; its module takes NumPy.
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest() == digest and all(
            _sha256(place / name) == entry["sha256"] for name, entry in document["files"].items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
