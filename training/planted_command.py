"""The work of `planted`: draws planted images, trains a network on them, measures every method.

FOLDER/run, FOLDER/bundle   the training, and what is served; a bundle that is there is kept
FOLDER/planted.json         the figures (`training.audit.measures.pointing.figures`)
FOLDER/planted.md           the same as a table
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from service.bundle import folder as contract
from service.runtime.engine import Engine
from training.audit.measures import pointing
from training.data import DataError, patches, read
from training.export.bundle import make_bundle
from training.file_command import print_version
from training.fit import loop
from training.fit.recipes import RECIPES

TEST = 3  # draws images that are in no part of the training
RUN, BUNDLE, JSON, TABLE = "run", "bundle", "planted.json", "planted.md"
# A narrow candor_net knows the colours after an epoch. The cells of its layers see 5, 11 and 23
# pixels: with more convolutions a cell of the last would see the whole image, and its place say
# little. Holes would hide the patch, and leave a label without a cause.
RECIPE = replace(
    RECIPES["candor_net"],
    options={"widths": (32, 64, 64), "depths": (1, 1, 1)},
    epochs=5,
    finetune_epochs=1,
    batch=250,
    ghost_batch=250,
    holes=0.0,
    precision="32-true",
)


def planted(folder: Path, bundle_folder: Path | None, images: int, seed: int) -> None:
    """Measures every method on so many planted images, which no network was trained on.

    By the bundle in `bundle_folder`, else by that of `folder`, which is made if it is missing.

    Raises:
        BundleError: `bundle_folder` holds no bundle.
        DataError: the bundle is of other classes.
    """
    own = folder / BUNDLE
    if bundle_folder is None and not own.exists():
        dataset = read.read(read.PLANTED, RECIPE.input(), seed=seed)
        run = loop.train(dataset, read.PLANTED, replace(RECIPE, seed=seed), folder / RUN)
        make_bundle(run, dataset, own, dataset.name)
    bundle = contract.load(bundle_folder or own)
    read.check_head(bundle.manifest)
    if bundle.manifest.labels != patches.CLASSES:
        raise DataError(
            f"{bundle.folder} is no bundle of planted images: its labels are not those of "
            f"--data {read.PLANTED}, {', '.join(patches.CLASSES)}"
        )
    test = patches.draw(images, [seed, TEST], bundle.manifest.input.size)
    asked = pointing.questions(bundle.manifest)
    with tqdm(total=images, unit="image", disable=None) as bar:
        found = pointing.figures(Engine(bundle, "cpu"), test, asked, seed, bar.update)
    found = {"bundle": bundle.manifest.version, "seed": seed, **found}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON).write_text(json.dumps(found, indent=1) + "\n")
    (folder / TABLE).write_text(table(found))
    click.echo(table(found))
    print_version(bundle)


def table(found: Mapping[str, Any]) -> str:
    """The figures as a table in Markdown, the best pointing first."""
    count, accuracy, share = (found[name] for name in ("pictures", "accuracy", "patch_share"))
    lines = [
        f"{count:,} planted images, of which the network knows {accuracy:.1%}.",
        f"A map of chance gets {share:.3f} in each column.",
        "",
        "| map | forward passes | pointing | energy | precision |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = sorted(found["maps"].items(), key=lambda row: -row[1]["pointing"])
    for name, each in rows:
        method, _, choice = name.partition(", ")
        passes = f"{each['forward_passes']:,}" if each["forward_passes"] else "none"
        called = f"`{method}`, {choice}" if choice else f"`{method}`"
        cells = " | ".join(_with_interval(each, column) for column in pointing.Scores._fields)
        lines.append(f"| {called if each['forward_passes'] else method} | {passes} | {cells} |")
    return "\n".join(lines) + "\n"


def _with_interval(each: Mapping[str, Any], column: str) -> str:
    low, high = each[f"{column}_interval"]
    return f"{each[column]:.3f} ({low:.3f}–{high:.3f})"
