"""python -m service: serve a bundle, or predict and explain images without a server."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from service.api.access.keys import SCOPES
from service.errors import CandorError
from service.settings import Settings, describe

SETTINGS_HELP = "\b\nSettings come from the environment:\n" + describe()
PATH = click.Path(path_type=Path, exists=True, dir_okay=False)
FILE = click.argument("file", type=PATH)


class Place(click.Path):
    """A path, or as a string an address in an object store."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads an argument."""
        return value if "://" in str(value) else super().convert(value, param, ctx)


class Command(click.Group):
    """A group of commands that end with one sentence on our own errors, not with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except (CandorError, OSError) as error:
            raise click.ClickException(str(error)) from None


@click.group(
    cls=Command,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=SETTINGS_HELP,
)
def main() -> None:
    """Serves image classifiers that explain themselves.

    \b
    python -m service why model.onnx cat.jpg
        say what an ONNX classifier sees in an image, and draw why
    python -m service serve
        serve the embedded model on http://127.0.0.1:3000
    python -m service key camera --scope predict
        make a key, and the line for the file of keys
    python -m service predict cat.jpg
        print the three most probable classes as JSON
    python -m service predict images --out results.parquet
        write the predictions of all images in a folder to a table
    python -m service explain cat.jpg --method grad_cam --out map.png
        draw which regions speak for the predicted class
    """


ON_FILE = (
    click.option("--labels", type=PATH, help="Of an ONNX file: the classes, a text file or JSON."),
    click.option(
        "--size", help="Of an ONNX file that leaves it open: N or HxW, pixels. Default: the file's."
    ),
    click.option(
        "--resize",
        type=click.Choice(["crop", "stretch", "pad"]),
        default="crop",
        show_default=True,
        help="Of an ONNX file: how images are brought to its size.",
    ),
    click.option(
        "--mean", help="Of an ONNX file: 0.485,0.456,0.406, of pixels in 0…1. Default: a guess."
    ),
    click.option("--std", help="Of an ONNX file: 0.229,0.224,0.225. Default: a guess."),
    click.option(
        "--colour",
        type=click.Choice(["as-sent", "srgb"]),
        default="as-sent",
        show_default=True,
        help="Of an ONNX file: whether colour profiles (ICC) are applied, as in its training.",
    ),
)


def _on_file(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that makes a bundle of an ONNX file."""
    for option in reversed(ON_FILE):
        command = option(command)
    return command


@main.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@FILE
@click.option("--method", help="Attribution method. Default: the cheapest that the model has.")
@click.option("--target", help="Label or index to explain; by default the predicted class.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The overlay to write, a .png file. Default: FILE with .why.png, here.",
)
@_on_file
def why(
    model: Path, file: Path, method: str | None, target: str | None, out: Path | None, **wishes: Any
) -> None:
    """Says in four lines what a model sees in an image, and draws why.

    MODEL is an ONNX classifier, or the folder of a bundle; FILE is the image. A bundle of the ONNX
    file is made at the first use and kept in the cache.
    """
    from service.local import open_model

    found = open_model(_bundle(model, wishes)).explain(file, method, target)
    for line in found.lines():
        click.echo(line)
    click.echo(f"drawn in {found.save(out or Path(f'{file.stem}.why.png'))}")


def _bundle(model: Path, wishes: dict[str, Any]) -> Path:
    """The folder of the bundle that `model` is, or that is made of it."""
    if model.is_dir():
        return model
    # Before NumPy is loaded: the proof of a new bundle has a thread on each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # The package training is installed with this one, and not part of the service's image.
    try:
        from training.export import cache
        from training.export.ends import ForeignError
        from training.export.parity import ParityError
    except ImportError as error:
        raise click.ClickException(
            f"to read {model} takes the whole package, and {error.name} is missing: install "
            "candor, or give the folder of a bundle"
        ) from None
    try:
        return cache.bundle_of(model, cache.wishes(**wishes), partial(click.echo, err=True))
    except (ForeignError, ParityError) as error:
        raise click.ClickException(str(error)) from None


@main.command(epilog=SETTINGS_HELP)
@click.argument("model", type=click.Path(path_type=Path, exists=True), required=False)
@_on_file
def serve(model: Path | None, **wishes: Any) -> None:
    """Serves a model over HTTP until SIGTERM or SIGINT.

    MODEL is an ONNX classifier, or the folder of a bundle; by default the bundle is that of
    CANDOR_BUNDLE. Requests that have begun are answered before it ends.
    """
    from service.api.access import guard
    from service.bundle import delivery, source
    from service.bundle.folder import check_int8, load
    from service.repository import catalogue
    from service.workers import home

    if model is not None:
        os.environ[source.BUNDLE] = str(_bundle(model, wishes))
    # Checked before the server starts: a bad bundle is a sentence here, and a traceback there.
    if fetched := delivery.deliver():
        click.echo(fetched, err=True)
    settings = Settings.from_environment()
    guard.check_exposure(settings)
    bundle = load(catalogue.current_of(settings.bundle), settings.bundle_digest)
    if settings.explain != "none":  # the registry of methods takes a while to import
        from service.explain import policy

        policy.of_setting(settings.explain, bundle.manifest)
    if settings.precision == "int8":
        check_int8(bundle, settings.device)
    if not os.environ.get(home.NAME):
        os.environ[home.NAME] = str(home.private(settings.port))
    home.lock(Path(os.environ[home.NAME]))
    # NumPy's threads would spin on the cores that predictions need, after each product of matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    command = [sys.executable, "-m", "bentoml", "serve", "service.app:Candor"]
    options = ["--working-dir", str(Path(__file__).parent.parent)]
    options += ["--host", settings.host, "--port", str(settings.port)]
    # Replaces this process, so that signals reach the server itself.
    os.execv(sys.executable, [*command, *options])  # noqa: S606


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def digest(folder: Path) -> None:
    """Prints the digest of a bundle, for CANDOR_BUNDLE_DIGEST.

    FOLDER is the bundle. Every file is verified first.
    """
    from service.bundle.folder import load

    click.echo(load(folder).manifest.digest)


@main.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(SCOPES),
    help="What the key opens; may be given several times.",
)
@click.option(
    "--passes",
    type=click.IntRange(0),
    help="Forward passes a second that it allows, instead of the setting's; 0: no limit.",
)
@click.option(
    "--megapixels",
    type=click.IntRange(0),
    help="Megapixels a second that it allows, instead of the setting's; 0: no limit.",
)
def key(name: str, scopes: tuple[str, ...], passes: int | None, megapixels: int | None) -> None:
    """Makes a key for the caller NAME.

    Prints the key, which is stored nowhere, and below it the line for the file in CANDOR_KEYS.
    """
    from service.api.access import keys

    for line in keys.make(name, scopes, passes, megapixels):
        click.echo(line)


@main.command()
@click.argument("path", type=Place(path_type=Path, exists=True))
@click.option(
    "--top-k",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Number of classes.",
)
@click.option(
    "--out",
    type=Place(path_type=Path, dir_okay=False),
    help="Folder: the table to write, a Parquet file; a path or an address.",
)
@click.option("--overwrite", is_flag=True, help="Folder: replace the table if it exists.")
@click.option(
    "--shard",
    default="1/1",
    show_default=True,
    help="Folder: this share of the files only; 3/8 is every eighth file from the third.",
)
@click.option(
    "--explain", "method", metavar="METHOD", help="Folder: explain every prediction by METHOD."
)
@click.option("--target", help="Folder: label or index to explain; by default the predicted class.")
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="Folder: a parameter of METHOD: --set steps=64.",
)
@click.option(
    "--quality",
    default="basic",
    show_default=True,
    help="Folder: measures of the maps; full ones take about 170 forward passes an image.",
)
@click.option(
    "--maps",
    type=Place(path_type=Path, file_okay=False),
    help="Folder: the folder to write the maps to, as .npy files; a path or an address.",
)
@click.pass_context
def predict(
    ctx: click.Context,
    /,
    path: Path | str,
    top_k: int,
    out: Path | str | None,
    **folder_options: Any,
) -> None:
    """Predicts the classes of an image, or of all images in a folder.

    PATH is an image, a folder, or the address of a folder: s3://bucket/images. The most probable
    classes of an image are printed as JSON; the predictions of a folder are written to a table;
    where its folders are called like classes, the accuracy and the worst mistakes are printed, too.
    A run of a folder that was stopped or killed continues when it is started again.
    """
    from service.local import open_model

    if isinstance(path, str) or path.is_dir():
        from service.bulk.command import predict_folder

        parameters = _parameters(folder_options.pop("given"))
        predict_folder(path, top_k, out, parameters=parameters, **folder_options)
        return
    for parameter in ctx.command.params:
        given = ctx.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        if given and parameter.name in ("out", *folder_options):
            raise click.UsageError(
                f"{parameter.opts[0]} is for a folder, and {path} is a file: "
                "leave it out, or use `explain`"
            )
    _print(open_model().predict(path, top_k).document())


def _check_suffix(_ctx: click.Context, _option: click.Parameter, out: Path) -> Path:
    if out.suffix not in (".png", ".npy"):
        raise click.BadParameter(
            f"{out} ends neither in .png (the overlay) nor in .npy (the raw map)"
        )
    return out


@main.command()
@FILE
@click.option(
    "--method",
    default="grad_cam",
    show_default=True,
    help="Attribution method; an unknown one lists the methods.",
)
@click.option("--target", help="Label or index to explain; by default the predicted class.")
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the method: --set steps=64.",
)
@click.option(
    "--mask",
    type=PATH,
    help="Segments of the image: a PNG file of its size, each value a segment.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_check_suffix,
    help="The file to write: an overlay (.png) or the raw map (.npy).",
)
@click.option(
    "--legend/--no-legend",
    default=True,
    show_default=True,
    help="Magnify a small image, and draw a legend below the overlay.",
)
def explain(
    file: Path,
    method: str,
    target: str | None,
    given: tuple[str, ...],
    mask: Path | None,
    out: Path,
    *,
    legend: bool,
) -> None:
    """Draws which parts of an image speak for a class.

    FILE is the image. Its prediction and the measures of the explanation are printed as JSON.
    """
    from service.local import open_model

    drawn = mask.read_bytes() if mask is not None else None
    found = open_model().explain(file, method, target, _parameters(given), mask=drawn)
    if out.suffix == ".png" and not legend:
        out.write_bytes(found.overlay())
    else:
        found.save(out)
    _print(found.document())


def _parameters(given: Sequence[str]) -> dict[str, str]:
    """The parameters of a method, of NAME=VALUE each."""
    return dict(entry.partition("=")[::2] for entry in given)


def _print(answer: dict[str, Any]) -> None:
    click.echo(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
