"""python -m training: fit a network, make a bundle of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Makes bundles: folders of ONNX graphs that `python -m service serve` serves and explains.

    \b
    python -m training fit --data cifar10 --out runs/mine           train candor_net on CIFAR-10
    python -m training bundle --run runs/mine --out my-bundle       export it, with its explanations
    CANDOR_BUNDLE=my-bundle scripts/serve                           serve it
    """


@main.command()
@click.option("--data", "source", required=True, help="cifar10 (downloaded), a folder TRAIN/CLASS/*.jpg, or a tar of one.")
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where the run goes.")
@click.option("--network", type=click.Choice(["candor_net", "seed_cnn"]), default="candor_net", show_default=True)
@click.option("--epochs", type=click.IntRange(1, 1000), help="As the recipe says (10) if not given.")
@click.option("--activation", type=click.Choice(["gelu", "relu"]), help="Of candor_net; gelu if not given.")
@click.option("--held-out", type=click.IntRange(1), help="Training pictures kept for validation (5000).")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out, to the same result.")
def fit(
    *,
    source: str,
    folder: Path,
    network: str,
    epochs: int | None,
    activation: str | None,
    held_out: int | None,
    seed: int,
    device: str,
    resume: bool,
) -> None:
    """Trains a network and reports on the test set.

    Several processes: torchrun --nproc-per-node 2 -m training fit … (gloo on CPUs, one process a GPU).
    """
    from training import data, runs
    from training import fit as fitting
    from training.recipes import RECIPES

    options = {"activation": activation} if activation else None
    given: dict[str, Any] = {"epochs": epochs, "held_out": held_out, "seed": seed, "options": options}
    recipe = replace(RECIPES[network], **{name: value for name, value in given.items() if value is not None})
    try:
        dataset = data.read(source, recipe.input(), recipe.held_out, recipe.seed)
        fitting.fit(dataset, source, recipe, folder, resume=resume, accelerator=device)
    except (data.DataError, runs.RunError) as error:
        raise click.ClickException(str(error)) from None
    except fitting.Stopped as stopped:
        click.echo(str(stopped), err=True)
        raise SystemExit(130) from None


@main.command()
@click.option("--run", "run_folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="What `fit` left.")
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where the bundle goes.")
@click.option("--data", "source", help="Where the data is now, if it moved; it must be the same data.")
@click.option("--name", help="The model's name; the data's if not given.")
def bundle(*, run_folder: Path, folder: Path, source: str | None, name: str | None) -> None:
    """Exports a run: ONNX graphs for prediction and explanation, with their parity against Captum.

    Refuses to write a bundle whose explanations differ from Captum's.
    """
    from service.errors import BundleError
    from training import data, export, runs
    from training.autodiff import DifferentiationError
    from training.parity import ParityError

    try:
        run = runs.load(run_folder)
        dataset = data.read(source or run.subject.source, run.input, run.recipe.held_out, run.recipe.seed)
        data.check_same(dataset, run.subject.fingerprint, run_folder)
        made = export.make_bundle(run, dataset, folder, name or dataset.name)
    except (data.DataError, runs.RunError, DifferentiationError, ParityError, BundleError, FileExistsError) as error:
        raise click.ClickException(str(error)) from None
    for method, parity in made.manifest.parity.items():
        click.echo(f"{method:<22} differs from Captum by {parity.relative_difference:.1e}, cosine {parity.cosine:.6f}")
    click.echo((folder / "CARD.md").read_text())
    click.echo(f"{folder}: {made.manifest.name} {made.manifest.version}")


if __name__ == "__main__":
    main()
