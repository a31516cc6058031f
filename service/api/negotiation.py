"""Content negotiation (RFC 9110): the type that a caller prefers, and compressed bodies.

Bodies of requests may be compressed, within the limit of bodies; large answers of tensors are.
"""

import asyncio
import zlib
from collections.abc import Iterator, Sequence

from starlette.responses import Response

from service.errors import MalformedRequest, NotAcceptable, UnsupportedFormat, short

ANY = "*/*"
MOST_ENTRIES = 64  # of a header, beyond which they are not read
# How zlib reads each; that of deflate is zlib's own form, which clients send under the name.
WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ALIASES = {"x-gzip": "gzip", "": "identity"}  # RFC 9110, 8.4.1.3; and a header left empty
LEAST_BYTES = 4_096  # of an answer: a smaller one fits a packet or two as it is
LEVEL = 1  # the fastest: maps as base64 shrink by a quarter at any


def preferred(header: str, offered: Sequence[str]) -> str:
    """The type of `offered` with the greatest weight; of equal ones the first in `header`.

    A weight is that of the entry that names a type most closely: `image/png;q=0, */*` takes all
    but PNG.

    Raises:
        NotAcceptable: the header takes none of them.
    """
    if header == ANY:
        return offered[0]
    entries = list(_entries(header))
    found = [(match, kind) for kind in offered if (match := _match(kind, entries))]
    best = max(found, key=lambda each: each[0], default=None)
    if best is None:
        raise NotAcceptable(f"Accept is {short(header)}; this route offers {', '.join(offered)}")
    return best[1]


def prefers(header: str, kind: str, other: str) -> bool:
    """True if a caller with this Accept header would rather have `kind` than `other`."""
    try:
        return preferred(header or ANY, (other, kind)) == kind
    except NotAcceptable:
        return False


def encoding_of(header: str) -> str | None:
    """The encoding of an answer to a caller with this Accept-Encoding header: that of WINDOWS
    with the greatest weight, None if it takes none of them.
    """
    weights = {name: _weight_of(name, header) for name in WINDOWS}
    best = max(weights, key=lambda name: weights[name])
    return best if weights[best] > 0 else None


def takes_gzip(header: str) -> bool:
    """True if a caller with this Accept-Encoding header takes gzip."""
    return _weight_of("gzip", header) > 0


def _weight_of(encoding: str, header: str) -> float:
    """The weight of an encoding, or else that of all others, `*`; 0 if the header names neither."""
    weights = dict(_entries(header)) if header else {}
    return weights.get(encoding, weights.get(ANY, 0.0))


def _match(kind: str, entries: list[tuple[str, float]]) -> tuple[float, int] | None:
    """The weight of `kind` and how early it stands in the header; None if it is not taken."""
    ranges = (kind, kind.partition("/")[0] + "/*", ANY)
    closest = next((r for r in ranges if any(name == r for name, _ in entries)), None)
    if closest is None:
        return None
    place, weight = next((i, q) for i, (name, q) in enumerate(entries) if name == closest)
    return (weight, -place) if weight > 0 else None


def _entries(header: str) -> Iterator[tuple[str, float]]:
    for entry in header.split(",")[:MOST_ENTRIES]:
        name, *parameters = (part.strip().lower() for part in entry.split(";"))
        weights = [part[2:] for part in parameters if part.startswith("q=")]
        # Java's own client sends a bare "*".
        yield ANY if name in ("", "*") else name, _weight(weights[0]) if weights else 1.0


def _weight(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 1.0


def check_encoding(encoding: str) -> None:
    """Checks the Content-Encoding of a request.

    Raises:
        UnsupportedFormat: it is neither that of WINDOWS nor identity.
    """
    if encoding not in (*WINDOWS, "identity"):
        raise UnsupportedFormat(
            f"Content-Encoding {short(encoding)} is not supported; "
            f"{', '.join(WINDOWS)} are: send the body as it is"
        )


def unpack(body: bytes, encoding: str, max_bytes: int) -> bytes | None:
    """The unpacked body; None if it has more than `max_bytes`.

    Raises:
        MalformedRequest: the bytes are damaged, cut off, or followed by others.
    """
    window = WINDOWS[encoding]
    if encoding == "deflate" and not _has_zlib_header(body):
        window = -window
    unpacker = zlib.decompressobj(window)
    try:
        unpacked = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise MalformedRequest(
            f"the body of {len(body):,} bytes is not {encoding} ({error}): send it whole"
        ) from None
    if len(unpacked) > max_bytes:
        return None
    if not unpacker.eof or unpacker.unused_data:
        raise MalformedRequest(
            f"the body of {len(body):,} bytes is {encoding} that is cut off, or has more behind "
            "its end: send it whole"
        )
    return unpacked


def _has_zlib_header(body: bytes) -> bool:
    """False of bare deflate, which some clients send (RFC 1950, 2.2)."""
    return body[:1] != b"" and body[0] & 15 == zlib.DEFLATED and int.from_bytes(body[:2]) % 31 == 0


async def compressed(answer: Response, accepted: str) -> Response:
    """`answer`, compressed if it is large and a caller of that Accept-Encoding takes it so."""
    if len(answer.body) < LEAST_BYTES or (encoding := encoding_of(accepted)) is None:
        return answer
    body = bytes(answer.body)
    answer.body = await asyncio.to_thread(_packed, body, encoding)
    answer.headers["content-length"] = str(len(answer.body))
    answer.headers["content-encoding"] = encoding
    answer.headers["vary"] = "Accept-Encoding"
    return answer


def _packed(body: bytes, encoding: str) -> bytes:
    packer = zlib.compressobj(LEVEL, wbits=WINDOWS[encoding])
    return packer.compress(body) + packer.flush()
