"""Contact sheets of every method's map of a few drawn images, and their section of a document."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from PIL import Image

from drawings.shapes import DRAWINGS, Drawing
from service import predictions
from service.bundle import folder as bundle_folder
from service.explain import (
    METHODS,
    Question,
    ask,
    available,
    explain,
    legend,
    masked,
    render,
)
from service.explain.legend import Legend
from service.explain.maps import segments
from service.image import resize
from service.image.resize import Pixels
from service.runtime.engine import Engine
from service.settings import EMBEDDED_BUNDLE

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- scripts/gallery writes from here -->", "<!-- to here -->"
COLUMNS, GAP, QUALITY = 5, 12, 82
OF_MASK = "kernel_shap"  # shown once more with the outline of the object as a mask
PAPER = 255


@click.command()
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Choice(list(DRAWINGS)),
    default=list(DRAWINGS),
    show_default=True,
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(list(METHODS)),
    help="The methods; all of the model's if not given.",
)
@click.option(
    "--bundle",
    "folder",
    type=click.Path(path_type=Path),
    default=EMBEDDED_BUNDLE,
    help="The bundle; the embedded one if not given.",
)
@click.option(
    "--images",
    "into",
    type=click.Path(path_type=Path),
    default=ROOT / "docs" / "images",
    help="The folder of the sheets.",
)
@click.option(
    "--document",
    type=click.Path(path_type=Path),
    default=ROOT / "docs" / "explanations.md",
    help="The document that shows them.",
)
def main(
    images: tuple[str, ...], methods: tuple[str, ...], folder: Path, into: Path, document: Path
) -> None:
    """Writes gallery-IMAGE.webp for each image, and the section between the document's marks."""
    engine = Engine(bundle_folder.load(folder), "cpu")
    chosen = methods or tuple(method.name for method in available(engine.manifest))
    model = f"{engine.manifest.name} {engine.manifest.version}"
    lines = [f"Made by `scripts/gallery` with {model}, every parameter at its default.", ""]
    for name in images:
        path = into / f"gallery-{name}.webp"
        sheet, sentence = contact_sheet(engine, name, DRAWINGS[name](), chosen)
        Image.fromarray(sheet).save(path, quality=QUALITY, method=6)
        link = os.path.relpath(path, document.parent)
        lines += [f"![Maps of the drawn {name} by {len(chosen)} methods]({link})", "", sentence, ""]
        click.echo(f"{path} {path.stat().st_size:,} bytes")
    document.write_text(rewritten(document.read_text(), "\n".join(lines)))


def contact_sheet(
    engine: Engine, name: str, drawing: Drawing, methods: Sequence[str]
) -> tuple[Pixels, str]:
    """The image and its maps on one sheet, and a sentence about it."""
    fitted = resize.to_input(drawing.pixels, engine.manifest.input)
    (row,) = engine.predict(fitted[None]).rows()
    best = predictions.predict(row, engine.manifest).best
    target = name if name in engine.manifest.labels else None
    percent = f"{best.probability:.1%}"
    sentence = f"A drawn {name}, taken for `{best.label}` with {percent}."
    heading = Legend(
        f"The image: {best.label} ({percent})", "", "diverging", 0, "", below=False, above=False
    )
    cells = [legend.below(drawing.pixels, heading)]
    for question, note in questions(engine, drawing, target, methods):
        explanation = explain(engine, fitted, question, row.logits)
        height, width = drawing.pixels.shape[:2]
        box = resize.visible_box(width, height, engine.manifest.input)
        overlay = render.overlay(
            drawing.pixels, explanation.shown, box, question.method.scale, explanation.limit
        )
        caption = legend.legend_of(explanation, engine.manifest, row.logits)
        cells.append(legend.below(overlay, replace(caption, note=note or caption.note)))
    return tiled(cells), sentence


def questions(
    engine: Engine, drawing: Drawing, target: str | None, methods: Sequence[str]
) -> Iterator[tuple[Question, str]]:
    """The questions about an image, each with a note for the legend."""
    for method in methods:
        question = ask(engine.manifest, method, target, {})
        yield question, ""
        if method == OF_MASK:
            labels = resize.mask_to_input(drawing.mask.astype(np.uint16), engine.manifest.input)
            cut = segments.of_labels(labels)
            yield masked(question, cut), f"of a mask with {segments.count(cut)} segments"


def tiled(cells: Sequence[Pixels]) -> Pixels:
    """The cells in rows of five, with a gap around each."""
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    width = max(cell.shape[1] for cell in cells) + GAP
    sheet = np.full(
        (sum(height_of(row) for row in rows) + GAP, min(COLUMNS, len(cells)) * width + GAP, 3),
        PAPER,
        np.uint8,
    )
    top = GAP
    for row in rows:
        for column, cell in enumerate(row):
            left = GAP + column * width
            sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
        top += height_of(row)
    return sheet


def height_of(row: Sequence[Pixels]) -> int:
    """The height of the highest cell, with its gap."""
    return int(max(cell.shape[0] for cell in row)) + GAP


def rewritten(text: str, section: str) -> str:
    """`text` with `section` between the marks.

    Raises:
        ClickException: The marks are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise click.ClickException(
            f"the document has no lines {BEGIN} and {END}: add them where the gallery goes"
        )
    return f"{before}{BEGIN}\n{section}{END}{after}"


if __name__ == "__main__":
    main()
