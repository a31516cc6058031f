"""A model that is no better than guessing: than always giving the largest class of the test images.

Drawing a class at random is right more seldom than that, so one comparison covers both. The lower
end of the accuracy's 95 % interval must exceed the share of the largest class.
"""

from training.figures.accuracy import Figures, class_figures


def guessing(figures: Figures) -> str | None:
    """A sentence about a model that is no better than guessing; None if it is better.

    `figures` are those of `training.figures.accuracy`, or of a release that had no intervals: these
    are not judged.
    """
    if "accuracy_interval" not in figures:
        return None
    low, high = figures["accuracy_interval"]
    largest, share = _largest(figures)
    if low > share:
        return None
    return (
        f"no better than guessing: accuracy {figures['accuracy']:.3f} ({low:.3f}–{high:.3f}) on "
        f"{figures['pictures']:,} test images, and always answering {largest} would have "
        f"{share:.3f}"
    )


def _largest(figures: Figures) -> tuple[str, float]:
    """The class with most test images, and its share of them."""
    support = {name: entry["support"] for name, entry in class_figures(figures).items()}
    largest = max(support, key=lambda name: support[name])
    return largest, support[largest] / figures["pictures"]
