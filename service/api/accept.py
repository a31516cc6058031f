"""The Accept header: which of the types on offer a caller prefers (RFC 9110, 12.5.1)."""

from collections.abc import Iterator, Sequence

from service.errors import NotAcceptable, short

ANY = "*/*"
MOST_ENTRIES = 64  # of a header, beyond which they are not read


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
        yield name or ANY, _weight(weights[0]) if weights else 1.0


def _weight(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 1.0
