"""python -m training: fit a network, make a bundle of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

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
@click.option(
    "--data",
    "source",
    required=True,
    help="cifar10 (downloaded), a folder TRAIN/CLASS/*.jpg, or a tar of one.",
)
@click.option(
    "--out",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the run goes.",
)
@click.option(
    "--network",
    type=click.Choice(["candor_net", "seed_cnn"]),
    help="candor_net, or what --start has, if not given.",
)
@click.option(
    "--start",
    "start_folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Begin with the weights of this run, trained on the same data, by its recipe where no option says otherwise.",
)
@click.option("--epochs", type=click.IntRange(1, 1000), help="As the recipe says if not given.")
@click.option(
    "--activation", type=click.Choice(["gelu", "relu"]), help="Of candor_net; gelu if not given."
)
@click.option(
    "--hide",
    type=click.FloatRange(0, 1),
    help="Share of images that get holes of the mean colour; the recipe's if not given.",
)
@click.option(
    "--settle",
    type=click.IntRange(0, 1000),
    help="Epochs of whole images at the end, as the recipe says if not given.",
)
@click.option("--rate", type=click.FloatRange(0, 10), help="Times the recipe's learning rates (1).")
@click.option(
    "--spoil",
    type=click.FloatRange(0, 1),
    help="Share of images mixed by AugMix, and share with noise (0).",
)
@click.option(
    "--adversarial",
    type=click.FloatRange(0, 255),
    help="Attack every image within that radius, in levels of 255 (0).",
)
@click.option(
    "--held-out", type=click.IntRange(1), help="Training images kept for validation (5000)."
)
@click.option("--seed", type=click.IntRange(0, 2**31), help="0, or that of --start, if not given.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option(
    "--resume", is_flag=True, help="Go on from the checkpoint in --out, to the same result."
)
@click.option(
    "--track",
    type=click.Choice(["wandb"]),
    help="Tell Weights & Biases, too, not TensorBoard alone (candor[wandb]).",
)
def fit(
    *,
    source: str,
    folder: Path,
    network: str | None,
    start_folder: Path | None,
    activation: str | None,
    device: str,
    resume: bool,
    track: Literal["wandb"] | None,
    **given: float | None,
) -> None:
    """Trains a network and reports on the test set.

    Several processes: torchrun --nproc-per-node 2 -m training fit … (gloo on CPUs, one process a GPU).
    """
    from training import commands
    from training.data import read
    from training.fit import loop as fitting
    from training.fit import runs, tracking

    if start_folder is not None and (
        network or activation or given["held_out"] is not None or given["seed"] is not None
    ):
        raise click.UsageError(
            "--start brings its network and what it held out: leave out --network, --activation, --held-out and --seed"
        )
    changes = {name: value for name, value in given.items() if value is not None}
    try:
        start = None if start_folder is None else runs.load(start_folder)
        recipe = commands.recipe_for(network, activation, start, changes)
        dataset = read.read(source, recipe.input(), recipe.held_out, recipe.seed)
        if start is not None and start_folder is not None:
            recipe = replace(recipe, start=runs.digest(start_folder))
            read.check_same(dataset, start.subject.fingerprint, start_folder)
        fitting.fit(
            dataset,
            source,
            recipe,
            folder,
            start=start,
            resume=resume,
            accelerator=device,
            track=track,
        )
    except (read.DataError, runs.RunError, tracking.TrackingError) as error:
        raise click.ClickException(str(error)) from None
    except fitting.Stopped as stopped:
        click.echo(str(stopped), err=True)
        raise SystemExit(130) from None


@main.command()
@click.option(
    "--run", "run_folder", type=click.Path(path_type=Path, file_okay=False), help="What `fit` left."
)
@click.option(
    "--out",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the bundle goes.",
)
@click.option(
    "--data",
    "source",
    help="With --run: where the data is now, if it moved; it must be the same data.",
)
@click.option("--name", help="The model's name; the data's or the file's if not given.")
@click.option(
    "--onnx",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Instead of --run: any float32 ONNX classifier.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --onnx: a text file, one label a line.",
)
@click.option(
    "--size",
    type=click.IntRange(1, 4096),
    help="With --onnx: the side of its square input, in pixels.",
)
@click.option(
    "--short-side",
    type=click.IntRange(1, 4096),
    help="With --resize crop: what the shorter side is scaled to; --size if not given.",
)
@click.option(
    "--resize",
    type=click.Choice(["crop", "stretch", "pad"]),
    default="crop",
    show_default=True,
    help="How images get that size.",
)
@click.option(
    "--mean",
    default="0.485,0.456,0.406",
    show_default=True,
    help="Of the channels of pixels in 0…1.",
)
@click.option(
    "--std",
    default="0.229,0.224,0.225",
    show_default=True,
    help="Their standard deviations; 1/255 each for a network that takes 0…255.",
)
@click.option(
    "--input", "input_name", help="The input tensor, where it cannot be found by its shape."
)
@click.option(
    "--output", "output_name", help="The output tensor, where it cannot be found by its shape."
)
@click.option(
    "--cam-layer",
    help="The tensor (N, C, h, w) for class activation maps; the last one with pixels if not given.",
)
@click.option(
    "--without-gradient",
    is_flag=True,
    help="Make the bundle although an operator has no rule: methods that perturb remain.",
)
@click.option(
    "--half",
    is_flag=True,
    help="Add the graphs in half precision, which a GPU runs instead; proven against float32.",
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path, exists=True),
    help="With --onnx: images LABEL/*.jpg that it was not trained on, for temperature, prediction sets and familiarity.",
)
@click.option(
    "--check",
    type=click.Path(path_type=Path, exists=True),
    help="Images whose predictions are compared with the file's own.",
)
def bundle(*, run_folder: Path | None, file: Path | None, **given: Any) -> None:
    """Makes a bundle of a run, or of any ONNX classifier: graphs for prediction and explanation, proven.

    \b
    python -m training bundle --run runs/mine --out my-bundle
    python -m training bundle --onnx resnet18.onnx --labels imagenet.txt --size 224 --short-side 256 --out resnet18

    Refuses to write a bundle whose explanations differ from Captum's, or from finite differences where there is no torch network.
    """
    from service.errors import BundleError
    from training import commands
    from training.autodiff import DifferentiationError
    from training.data.read import DataError
    from training.export.foreign import ForeignError
    from training.export.parity import ParityError
    from training.fit.runs import RunError

    if (run_folder is None) == (file is None):
        raise click.UsageError("give one of --run and --onnx")
    if run_folder is not None and given["calibrate"] is not None:
        raise click.UsageError(
            "--calibrate is for --onnx: a run has images of its own that it held out"
        )
    try:
        if run_folder is not None:
            commands.bundle_run(
                run_folder, given["folder"], given["source"], given["name"], half=given["half"]
            )
        else:
            assert file is not None
            commands.bundle_file(
                file, **{name: value for name, value in given.items() if name != "source"}
            )
    except (
        DataError,
        RunError,
        DifferentiationError,
        ForeignError,
        ParityError,
        BundleError,
        FileExistsError,
    ) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("bundle_folder", metavar="BUNDLE", type=click.Path(path_type=Path, file_okay=False))
def derive(bundle_folder: Path) -> None:
    """Writes gradient.onnx and cam.onnx of BUNDLE where they are missing, from its predict.onnx.

    Needs no torch. Each file must get the digest that the manifest has for it.
    """
    from service.errors import BundleError
    from training.export.derive import DerivationError, complete

    try:
        names = complete(bundle_folder)
    except (BundleError, DerivationError) as error:
        raise click.ClickException(str(error)) from None
    for name in names:
        click.echo(f"{bundle_folder / name} derived from predict.onnx")


@main.command()
@click.argument("bundle_folder", metavar="BUNDLE", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--data",
    "source",
    required=True,
    help="What the bundle was made for: cifar10, a folder, or a tar of one.",
)
@click.option(
    "--out",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the bundle goes.",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Held-out training images to calibrate on.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    default=0,
    show_default=True,
    help="Which images those are.",
)
def quantise(*, bundle_folder: Path, source: str, folder: Path, images: int, seed: int) -> None:
    """Adds predict.int8.onnx to BUNDLE, for predictions on CPUs; explanations stay in float32.

    \b
    python -m training quantise my-bundle --data cifar10 --out my-bundle
    CANDOR_BUNDLE=my-bundle CANDOR_PRECISION=int8 scripts/serve

    Refuses to write a bundle whose int8 graph loses accuracy on the test images or is hardly faster.
    """
    from service.errors import BundleError
    from training import commands
    from training.data.read import DataError
    from training.export.int8 import Int8Error

    try:
        commands.quantise(bundle_folder, source, folder, images, seed)
    except (DataError, Int8Error, BundleError, FileExistsError) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("bundle_folder", metavar="BUNDLE", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--data",
    "source",
    required=True,
    help="What the bundle was made for: cifar10, a folder, or a tar of one.",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the bundle goes; BUNDLE if not given.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    default=0,
    show_default=True,
    help="The same seed, the same report.",
)
@click.option(
    "--compare",
    "other",
    type=click.Path(path_type=Path, file_okay=False),
    help="Another bundle of the same classes, put side by side; measured too, if it has no report on this data with this seed.",
)
@click.option(
    "--board",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for TensorBoard: figures, plots and card.",
)
def audit(
    *,
    bundle_folder: Path,
    source: str,
    folder: Path | None,
    seed: int,
    other: Path | None,
    board: Path | None,
) -> None:
    """Measures BUNDLE on the test images, as it is served, and writes report.json, plots and CARD.md into it.

    Accuracy, calibration, prediction sets, familiarity, bias, spoilt images, attacks, explanations, labels that may be wrong.
    """
    from service.errors import BundleError
    from training import commands
    from training.data.read import DataError

    try:
        commands.audit_bundle(
            bundle_folder,
            source,
            folder or bundle_folder,
            seed,
            other_folder=other,
            board_folder=board,
        )
    except (DataError, BundleError, FileExistsError) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.option(
    "--data",
    "source",
    required=True,
    help="cifar10 (downloaded), a folder TRAIN/CLASS/*.jpg, or a tar of one.",
)
@click.option(
    "--out",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the images go.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="Of each class's training images, those in the colour of their class; 0 for a fair counterpart.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    default=0,
    show_default=True,
    help="Which images get which colour.",
)
def biased(*, source: str, folder: Path, share: float, seed: int) -> None:
    """Makes a training set in which colour goes with class, to see that the audit of a network trained on it says so.

    \b
    python -m training biased --data cifar10 --out data/biased
    python -m training fit --data data/biased --network seed_cnn --out runs/biased

    The images have the size that the networks here take.
    """
    from training import commands
    from training.data.read import DataError

    try:
        commands.plant(source, folder, share, seed)
    except DataError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
