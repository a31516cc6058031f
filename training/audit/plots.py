"""Plots of the report, PNG: reliability, confusion, accuracy by severity and by attack radius."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl

# draws without a display
mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from training.figures.accuracy import class_figures

SIDE, DPI = 4.5, 110  # inches, dots an inch
# Okabe and Ito's colours, which colour-blind readers distinguish
INK, ACCENT, SECOND = "#333333", "#0072b2", "#d55e00"

Report = Mapping[str, Any]


def plots(report: Report) -> dict[str, bytes]:
    """The plots as PNG, by file name."""
    drawings = {
        "reliability.png": _reliability,
        "corruptions.png": _corruptions,
    }
    if report["test"]["confusion"]:
        drawings["confusion.png"] = _confusion
    if "attacks" in report:
        drawings["attacks.png"] = _attacks
    return {name: _png(draw, report) for name, draw in drawings.items()}


def _png(draw: Callable[[Axes, Report], None], report: Report) -> bytes:
    figure, axes = plt.subplots(figsize=(SIDE, SIDE), dpi=DPI, layout="constrained")
    draw(axes, report)
    buffer = io.BytesIO()
    # matplotlib writes its version otherwise, and the digest would change with it
    figure.savefig(buffer, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def _reliability(axes: Axes, report: Report) -> None:
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    for key, colour, label in (
        ("reliability_before", SECOND, "softmax of the logits"),
        ("reliability", ACCENT, "as served"),
    ):
        bins = report["calibration"][key]
        axes.plot(
            [b["confidence"] for b in bins],
            [b["accuracy"] for b in bins],
            "o-",
            color=colour,
            label=label,
            markersize=4,
        )
    axes.set(
        xlabel="confidence",
        ylabel="accuracy",
        title="Reliability",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes.legend()


def _confusion(axes: Axes, report: Report) -> None:
    matrix = report["test"]["confusion"]
    shares = [[value / max(sum(row), 1) for value in row] for row in matrix]
    axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    names = list(class_figures(report["test"]))
    axes.set(xlabel="predicted", ylabel="truth", title="Confusion, share of the row")
    # more names than that would overlap
    if len(names) <= 20:  # noqa: PLR2004
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axes.set_yticks(range(len(names)), names)


def _corruptions(axes: Axes, report: Report) -> None:
    section = report["corruptions"]
    kinds = list(section["accuracy"].values())
    for values in kinds:
        axes.plot(range(6), [section["clean"], *values], color=ACCENT, alpha=0.35, linewidth=1)
    mean = [sum(values[level] for values in kinds) / len(kinds) for level in range(5)]
    axes.plot(range(6), [section["clean"], *mean], "o-", color=INK, label="mean of 15 kinds")
    axes.set(xlabel="severity", ylabel="accuracy", title="Corrupted images", ylim=(0, 1))
    axes.legend()


def _attacks(axes: Axes, report: Report) -> None:
    attacks = report["attacks"]
    radii = [0, *attacks["radius_levels"]]
    colours = SECOND, ACCENT, INK
    for (name, by_radius), colour in zip(attacks["accuracy"].items(), colours, strict=False):
        label = name.replace("_", " ")
        axes.plot(radii, [attacks["clean"], *by_radius.values()], "o-", color=colour, label=label)
    axes.set(xlabel="radius, grey levels of 255", ylabel="accuracy", title="Attacks", ylim=(0, 1))
    axes.legend()
