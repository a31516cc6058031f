"""The delivery of a bundle, once at the start: CANDOR_BUNDLE then names a folder.

A digest that is pinned and in the cache takes no network.
"""

import os
from collections.abc import MutableMapping

from service.bundle.source import BUNDLE, DIGEST, is_elsewhere, place_of, shown


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
    if digest is not None and (place := place_of(digest)).is_dir():
        said = f"the bundle of {shown(source)} is in the cache: {place}"
    else:
        # 20 MB, which a process that only starts others is spared.
        from service.bundle.fetch import fetch  # noqa: PLC0415

        place, said = fetch(source, digest)
    environment[BUNDLE] = str(place)
    return said
