"""Markdown of the card: paragraphs, tables, and figures with their intervals."""

import textwrap
from collections.abc import Sequence

from training.figures.intervals import wilson_of


def paragraph(text: str) -> str:
    """The text in lines of at most 100 characters, with an empty line behind it."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def figure(value: float, ends: list[float] | None, digits: int = 3) -> str:
    """A figure with its interval, if it has one: "0.949 (0.944–0.954)"."""
    shown = f"{value:.{digits}f}"
    if ends is None:
        return shown
    between = "–" if ends[0] >= 0 else " to "  # a dash beside a minus is hard to read
    return f"{shown} ({ends[0]:.{digits}f}{between}{ends[1]:.{digits}f})"


def percentage(share: float, ends: list[float] | None, digits: int = 0) -> str:
    """A share in per cent with its interval, if it has one: "92% (82%–97%)"."""
    shown = f"{share:.{digits}%}"
    return shown + (f" ({ends[0]:.{digits}%}–{ends[1]:.{digits}%})" if ends else "")


def percentage_of(share: float, count: int) -> str:
    """A share of `count` images in per cent, with Wilson's interval."""
    return percentage(share, wilson_of(share, count))


def interval(ends: list[float]) -> str:
    """The ends of an interval."""
    return f"{ends[0]:.4f}–{ends[1]:.4f}"
