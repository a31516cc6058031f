"""What CANDOR_BUNDLE may name.

    a folder                          served where it lies
    an archive: .zip, .tar, .tar.gz   read without being unpacked, so that no path in it matters
    s3://… gs://… hf://… https://…    a folder or an archive there, by fsspec and a package of its
                                      scheme, which finds keys and endpoints by itself
    oci://…                           an artifact or image of a registry (`service.bundle.registry`)

What is not a folder is copied into the cache, in a folder named by the digest of the manifest
(`service.bundle.fetch`).
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

from service.settings import PREFIX

BUNDLE, DIGEST = PREFIX + "BUNDLE", PREFIX + "BUNDLE_DIGEST"
# What fsspec calls them, and the compression of the whole.
ARCHIVES = {
    ".zip": ("zip", None),
    ".tar": ("tar", None),
    ".tar.gz": ("tar", "gzip"),
    ".tgz": ("tar", "gzip"),
}


def is_elsewhere(source: str) -> bool:
    """True of an address, and of an archive."""
    return "://" in source or (archive_of(source) is not None and Path(source).is_file())


def archive_of(path: str) -> tuple[str, str | None] | None:
    """The kind of archive that the end of `path` stands for, and its compression."""
    return next((kind for end, kind in ARCHIVES.items() if path.lower().endswith(end)), None)


def shown(source: str) -> str:
    """`source` without the secrets that an address may hold: its user, its query."""
    if "://" not in source:
        return source
    parts = urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def cache() -> Path:
    """The folder of what is kept between starts: candor/ in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "candor"


def place_of(digest: str) -> Path:
    """The folder in the cache for a bundle; `digest` is that of its manifest."""
    return cache() / "bundles" / digest


def in_cache(source: str, place: Path) -> str:
    """A sentence on a bundle that need not be fetched."""
    return f"the bundle of {shown(source)} is in the cache: {place}"
