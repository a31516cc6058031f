"""The commands of `python -m training`: each reads its input, calls the rooms, prints results."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from tqdm import tqdm

from service.bundle import folder as contract
from service.bundle.folder import CARD, INT8, Bundle
from service.image.resize import scaled
from training import audit
from training.audit import board, comparison, schema
from training.audit.card import card
from training.audit.plots import plots
from training.data import DataError, planted, read, subset, table
from training.data.read import Dataset
from training.export import bfloat16, int8
from training.export.bundle import make_bundle
from training.export.recalibrated import recalibrate
from training.file_command import print_summary, print_version
from training.fit import defaults, loop, runs
from training.fit.recipes import RECIPES, Recipe
from training.fit.runs import Run, RunError
from training.fit.tracking import Track
from training.networks import catalogue
from training.networks import weights as published
from training.networks.weights import Weights, WeightsError


class Start(NamedTuple):
    """The run that a training starts from, and its folder."""

    folder: Path
    run: Run


def recipe_for(
    network: str | None,
    start_folder: Path | None,
    weights: Weights | None,
    changes: Mapping[str, Any],
) -> tuple[Recipe, Start | None]:
    """The recipe of `network`, or of the run to start from, with `changes`; and that run.

    Raises:
        NetworkError: there is no such network, or it does not fit the size of the images.
        WeightsError: `weights` are those of another network.
    """
    if start_folder is not None:
        start = Start(start_folder, runs.load(start_folder))
        # part of the recipe, so that --resume rejects a start from other weights
        return replace(start.run.recipe, **changes, start=runs.digest(start_folder)), start
    recipe = replace(defaults.recipe_of(network or "candor_net"), **changes)
    # faults of the network come before the data are read
    built = recipe.network_for(2)
    if weights is not None:
        published.load(built, weights)
        any_size = catalogue.runs_on(built, scaled(recipe.size, lambda side: side // 2))
        begun = defaults.from_weights(recipe, weights.provenance, any_size=any_size)
        return replace(begun, **changes), None
    if recipe.network not in catalogue.OURS:
        click.echo(
            f"{recipe.network} begins with random weights, which asks for many images: "
            "--weights default begins with published ones",
            err=True,
        )
    return recipe, None


def weights_for(network: str | None, given: str | None) -> Weights | None:
    """The published weights that `--weights` names for `network`; None for random ones.

    Raises:
        WeightsError: they cannot be read or downloaded.
    """
    if given in (None, "none"):
        return None
    if network is None or network in catalogue.OURS:
        raise WeightsError(
            f"there are no published weights for {network or 'candor_net'}: choose another "
            "--network, or begin with a run of your own by --start"
        )
    return published.default(network) if given == "default" else published.read(Path(given))


def train(
    source: str,
    folder: Path,
    recipe: Recipe,
    start: Start | None,
    *,
    changes: Mapping[str, Any],
    weights: Weights | None,
    strict: bool,
    resume: bool,
    device: str,
    track: Track | None,
) -> None:
    """Trains a network, and describes the data before the first step.

    What `changes` leave open of batch, epochs and augmentation follows from the data.
    """
    dataset = read.read(source, recipe.input(), recipe.held_out, recipe.seed, strict=strict)
    if start is None:
        recipe = replace(defaults.for_data(recipe, len(dataset.training)), **changes)
    if os.environ.get("RANK", "0") == "0":
        _describe(dataset, recipe, folder)
    if start is not None:
        # of other data, images held out here could be images that the first run was trained on
        read.check_same(dataset, start.run.subject.fingerprint, start.folder)
    loop.train(
        dataset,
        source,
        recipe,
        folder,
        start=None if start is None else start.run,
        published=weights,
        resume=resume,
        accelerator=device,
        track=track,
    )


def _describe(dataset: Dataset, recipe: Recipe, folder: Path) -> None:
    """Prints the data and the length of the training, and lists skipped files in `folder`."""
    # stdout is for the report of the test images
    click.echo(table.describe_dataset(dataset), err=True)
    click.echo(
        f"{recipe.epochs + recipe.finetune_epochs} epochs in batches of {recipe.batch}", err=True
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / runs.SKIPPED).write_text(
        "".join(f"{item.name}: {item.reason}\n" for item in dataset.skipped)
    )
    if dataset.skipped:
        click.echo(f"every skipped file is in {folder / runs.SKIPPED}", err=True)


def bundle_run(
    run_folder: Path,
    folder: Path,
    source: str | None,
    name: str | None,
    *,
    half: bool,
    anyway: bool,
    pictures: bool,
) -> None:
    """Exports a run; one that is no better than guessing only `anyway`.

    Raises:
        RunError: the run is no better than guessing, or `run_folder` holds none.
    """
    run = runs.load(run_folder)
    if run.guessing is not None and not anyway:
        raise RunError(
            f"{run_folder} is {run.guessing}: train on more images or for more epochs, or add "
            "--anyway for a bundle that says so"
        )
    dataset = read.read(
        source or run.subject.source, run.input, run.recipe.held_out, run.recipe.seed
    )
    # reliability is fitted on the validation images: the network must not have learnt from them
    read.check_same(dataset, run.subject.fingerprint, run_folder)
    name = name or dataset.name
    bundle = make_bundle(run, dataset, folder, name, halves=half, with_pictures=pictures)
    print_summary(bundle)
    click.echo(bundle.read(CARD).decode())


def audit_bundle(
    bundle_folder: Path,
    source: str,
    folder: Path,
    seed: int,
    minutes: float,
    *,
    other_folder: Path | None,
    board_folder: Path | None,
    strangers: Sequence[Path] = (),
) -> None:
    """Measures a bundle; writes report, plots and card, to `folder` with the rest of the bundle."""
    # both bundles and both data sets are read first: an error there comes before the long audit
    bundle = contract.load(bundle_folder)
    other = None if other_folder is None else contract.load(other_folder)
    dataset = _data_for(bundle, source, seed)
    other_dataset = None if other is None else _data_for(other, source, seed)
    strange = {
        read.name_of(path): read.read_strangers(path, bundle.manifest.input) for path in strangers
    }
    if len(strange) < len(strangers):
        raise DataError("two --strangers have one name, and the report has a row by name: rename")
    report = audit.audit(bundle, dataset, seed, _run_sections, minutes, strange)
    if other is not None and other_dataset is not None:
        other_report = comparison.report_of(
            other, other_dataset.fingerprint, seed, minutes
        ) or audit.audit(other, other_dataset, seed, _run_sections, minutes)
        both = (
            comparison.answers_of(bundle, dataset.test),
            comparison.answers_of(other, other_dataset.test),
        )
        pairs = comparison.paired(*both, dataset.test.labels, seed)
        report["comparison"] = comparison.comparison(report, other_report, other, pairs)
    schema.check(report)
    # plots of an earlier audit are left out: this one may have fewer
    files = {name: bundle.read(name) for name in bundle.manifest.files if not name.endswith(".png")}
    files[contract.REPORT] = (json.dumps(report, indent=1) + "\n").encode()
    files[CARD] = card(bundle.manifest, report).encode()
    manifest = replace(bundle.manifest, unrelated=audit.unrelated(report))
    audited = contract.write(folder, manifest, files | plots(report))
    if board_folder is not None:
        board.show(board_folder, audited, report)
    click.echo(audited.read(CARD).decode())
    print_version(audited)


def _data_for(bundle: Bundle, source: str, seed: int) -> Dataset:
    """The images of `source`, resized for `bundle`.

    Raises:
        DataError: the images or the classes do not go with the bundle.
    """
    read.check_head(bundle.manifest)
    dataset = read.read(source, bundle.manifest.input, seed=seed)
    read.check_classes(dataset, bundle.manifest.labels)
    return dataset


def _run_sections(sections: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """The results of the sections; a progress bar names the one that runs."""
    results = {}
    with tqdm(total=len(sections), unit="section", disable=None) as bar:
        for name, section in sections.items():
            bar.set_description(name)
            results[name] = section()
            bar.update()
    return results


def plant(source: str, folder: Path, share: float, seed: int) -> None:
    """Writes the images of a source with a colour for each class."""
    splits, classes = read.read_splits(source, RECIPES["seed_cnn"].input())
    planted.write(folder, splits, classes, share, seed)
    counts = ", ".join(
        f"{len(images):,} in {split}" for split, images in sorted(splits.items(), reverse=True)
    )
    click.echo(
        f"{folder}: {counts}; {share:.0%} of the training images of each class in its colour"
    )


def draw(source: Path, folder: Path, each: int, classes: list[str], seed: int) -> None:
    """Writes `each` images of every class for training, and the others for the test.

    Raises:
        DataError: the source is missing, or they cannot be drawn.
    """
    written = subset.write(read.find(source), folder, each, classes, seed)
    click.echo(f"{folder}: {written.training:,} training images and {written.test:,} test images")
    if written.skipped:
        click.echo(read.describe(written.skipped))


def calibrate(bundle_folder: Path, source: str, folder: Path) -> None:
    """Calibrates a bundle again."""
    calibrated, without_int8 = recalibrate(contract.load(bundle_folder), source, folder)
    if without_int8:
        click.echo(f"{INT8} is left out: nobody knows what it loses on other data", err=True)
    if calibrated.has(contract.REPORT):
        click.echo("report and card are of the calibration before: audit the bundle", err=True)
    print_version(calibrated)


def measure_bfloat16(bundle_folder: Path, source: str, folder: Path, seed: int) -> None:
    """Adds the figures of bfloat16 to a bundle."""
    bundle = contract.load(bundle_folder)
    read.check_head(bundle.manifest)
    dataset = read.read(source, bundle.manifest.input, seed=seed)
    measured = bfloat16.add_bfloat16(bundle, dataset, folder)
    result = measured.manifest.bfloat16
    assert result is not None
    click.echo(
        f"macro F1 {result.macro_f1:.4f}, in float32 {result.macro_f1_float32:.4f}, "
        f"over {result.test_pictures:,} test images; same class for {result.agreement:.2%}"
    )
    for name, parity in measured.manifest.parity.items():
        if name.startswith(bfloat16.PREFIX):
            click.echo(f"{name}: cosine {parity.cosine:.5f}, median of {parity.pictures} images")
    print_version(measured)


def quantise(bundle_folder: Path, source: str, folder: Path, images: int, seed: int) -> None:
    """Adds the int8 graph to a bundle."""
    bundle = contract.load(bundle_folder)
    read.check_head(bundle.manifest)
    # the same images as `fit` holds out; a small data set has fewer than `images` of them
    dataset = read.read(source, bundle.manifest.input, seed=seed)
    chosen = np.random.default_rng(seed).permutation(len(dataset.validation))[:images]
    dataset = replace(dataset, validation=dataset.validation.take(np.sort(chosen)))
    quantised = int8.add_int8(bundle, dataset, folder)
    result = quantised.manifest.int8
    assert result is not None
    speed = ", ".join(f"{ratio:.2f} (batch {rows})" for rows, ratio in result.speed_ratio.items())
    click.echo(
        f"macro F1 {result.macro_f1:.4f}, in float32 {result.macro_f1_float32:.4f}, "
        f"over {result.test_pictures:,} test images"
    )
    click.echo(
        f"log loss {result.log_loss:.4f}, in float32 {result.log_loss_float32:.4f}; "
        f"same class for {result.agreement:.2%}"
    )
    click.echo(f"times as fast on one core of {result.machine}: {speed}")
    print_version(quantised)
