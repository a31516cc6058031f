"""python -m service: serve a bundle, or ask it about an image without a server."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from service.errors import CandorError, Stopped
from service.settings import Settings, describe

if TYPE_CHECKING:
    from service.bulk.run import Run
    from service.runtime.engine import Engine
    from service.schedule.pipeline import Sent

SETTINGS_HELP = "\b\nSettings come from the environment:\n" + describe()
PATH = click.Path(path_type=Path, exists=True, dir_okay=False)
FILE = click.argument("file", type=PATH)
STOPPED = 130  # the exit status of a command that was interrupted


class Command(click.Group):
    """Our own errors end a command with one sentence, not with a trace."""

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
    python -m service serve                                   the embedded model on http://127.0.0.1:3000
    python -m service predict cat.jpg                         its three most probable classes, as JSON
    python -m service predict images --out results.parquet  those of a whole folder, as a table
    python -m service explain cat.jpg --method grad_cam --out map.png
    """


@main.command(epilog=SETTINGS_HELP)
def serve() -> None:
    """Serves the bundle until SIGTERM or SIGINT, finishing what it has begun."""
    from service.bundle.folder import check_int8, load

    settings = Settings.from_environment()
    bundle = load(settings.bundle)
    if settings.precision == "int8":
        check_int8(bundle, settings.device)
    home = Path(tempfile.gettempdir()) / f"candor-{os.getuid()}-{settings.port}"
    os.environ.setdefault(
        "BENTOML_HOME", str(home)
    )  # two servers that shared one would erase each other's metrics
    os.environ["BENTOML_DO_NOT_TRACK"] = "true"
    root = Path(__file__).parent.parent
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        "service.app:Candor",
        "--working-dir",
        str(root),
    ]
    os.execv(sys.executable, [*command, "--host", settings.host, "--port", str(settings.port)])  # noqa: S606 - signals reach it


@main.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--top-k",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="How many classes to name.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="DIR: the table to write, a Parquet file.",
)
@click.option("--overwrite", is_flag=True, help="DIR: replace the table if it is there.")
@click.option(
    "--shard",
    default="1/1",
    show_default=True,
    help="DIR: only such a share of the files: 3/8 is every eighth from the third.",
)
@click.option("--explain", "method", help="DIR: explain every prediction by this method.")
@click.option("--target", help="DIR: label or index to explain; the predicted class if not given.")
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="DIR: a parameter of the method: --set steps=64.",
)
@click.option(
    "--quality",
    default="basic",
    show_default=True,
    help="DIR: which measures of the maps: basic, or full, which are dear.",
)
@click.option(
    "--maps",
    type=click.Path(path_type=Path, file_okay=False),
    help="DIR: a folder to write the maps to, as .npy files.",
)
@click.pass_context
def predict(ctx: click.Context, /, path: Path, top_k: int, out: Path | None, **asked: Any) -> None:
    """Prints the most probable classes of the image PATH as JSON, or writes those of all images in the folder PATH to a table.

    A run of a folder that was stopped, or killed, goes on when it is started again.
    """
    from service import predictions
    from service.api import responses

    if path.is_dir():
        _predict_folder(path, top_k, out, **asked)
        return
    for name in asked if out is None else ("out", *asked):
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{name} is asked of a folder, and {path} is a file: leave it out, or use `explain`"
            )
    engine, sent = _opened(path)
    wanted = predictions.PredictionOptions(predictions.check_top_k(top_k, engine.manifest))
    found = predictions.predict(
        engine.predict(sent.fitted[None]).rows()[0], engine.manifest, wanted
    )
    click.echo(
        json.dumps(
            {"model": responses.model(engine.manifest), **responses.prediction(found, sent)},
            indent=2,
        )
    )


def _predict_folder(
    folder: Path,
    top_k: int,
    out: Path | None,
    *,
    overwrite: bool,
    shard: str,
    method: str | None,
    target: str | None,
    given: tuple[str, ...],
    quality: str,
    maps: Path | None,
) -> None:
    from service.bulk import run as bulk_run
    from service.bundle.folder import load
    from service.explain import ask
    from service.predictions import check_top_k
    from service.runtime.engine import Engine
    from service.workers import host

    if out is None:
        raise click.UsageError(f"{folder} is a folder: name the table to write with --out")
    if out.exists() and not overwrite:
        raise click.UsageError(f"{out} is there: give --overwrite to replace it, or another --out")
    if method is None and (target or given or maps or quality != "basic"):
        raise click.UsageError(
            "--target, --set, --quality and --maps say how to explain: give --explain METHOD, too"
        )
    settings = Settings.from_environment()
    bundle = load(settings.bundle)
    parameters = dict(entry.partition("=")[::2] for entry in given)
    question = ask(bundle.manifest, method, target, parameters, quality) if method else None
    job = bulk_run.Job(
        folder,
        out,
        question,
        maps,
        bulk_run.Shard.parse(shard),
        check_top_k(top_k, bundle.manifest),
    )
    workers = settings.threads or host.cores()
    run = bulk_run.Run(
        Engine(bundle, settings.device, settings.threads), job, settings.max_pixels, workers
    )
    _show(run, out)


def _show(run: "Run", out: Path) -> None:
    """Works with a progress bar."""
    try:
        with click.progressbar(
            length=run.total, label="Predicting", show_pos=True, file=sys.stderr
        ) as bar:
            bar.update(run.done)
            for files in run.work():
                bar.update(files)
    except Stopped as stopped:
        click.echo(str(stopped), err=True)
        sys.exit(STOPPED)
    errors = run.finish()
    click.echo(f"{out}: {run.total:,} files, {errors:,} of them with an error")


@main.command()
@FILE
@click.option(
    "--method",
    default="grad_cam",
    show_default=True,
    help="How to explain; an unknown one lists what there is.",
)
@click.option("--target", help="Label or index to explain; the predicted class if not given.")
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
    help="The image's segments as a PNG file of its size, each value a segment.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The overlay (.png) or the raw map (.npy).",
)
@click.option(
    "--legend/--no-legend",
    default=True,
    show_default=True,
    help="Whether a legend is drawn below the overlay; with it, a small image is magnified.",
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
    """Explains what the model sees in the image FILE, and prints the explanation as JSON."""
    from service import predictions
    from service.api import responses
    from service.explain import ask, check_masked, render
    from service.explain import explain as attribute
    from service.explain.legend import legend_of
    from service.schedule.pipeline import draw_overlay, question_on_mask

    if out.suffix not in (".png", ".npy"):
        raise click.BadParameter(
            f"{out} ends neither in .png (the overlay) nor in .npy (the raw map)",
            param_hint="--out",
        )
    parameters = dict(entry.partition("=")[::2] for entry in given)
    engine, sent = _opened(file)
    question = ask(engine.manifest, method, target, parameters)
    if mask is not None:
        check_masked(method, parameters)
        question = question_on_mask(sent, mask.read_bytes(), question, engine.manifest.input)
    found = predictions.predict(engine.predict(sent.fitted[None]).rows()[0], engine.manifest)
    attribution = attribute(engine, sent.fitted, question, found.logits)
    assert sent.ground is not None
    if out.suffix == ".npy":
        out.write_bytes(responses.npy(attribution))
    elif legend:
        told = legend_of(attribution, engine.manifest, found.logits)
        out.write_bytes(
            draw_overlay(engine, render.magnified(sent.ground), sent, attribution, told)
        )
    else:
        out.write_bytes(draw_overlay(engine, sent.ground, sent, attribution))
    answer = responses.explanation(attribution, engine.manifest, None, array=False)
    click.echo(
        json.dumps(
            {
                "model": responses.model(engine.manifest),
                **responses.prediction(found, sent),
                "explanation": answer,
            },
            indent=2,
        )
    )


def _opened(file: Path) -> "tuple[Engine, Sent]":
    """The engine of the bundle in the settings, and the image in `file`."""
    from service.bundle.folder import load
    from service.runtime.engine import Engine
    from service.schedule.pipeline import fit_image

    settings = Settings.from_environment()
    bundle = load(settings.bundle)
    sent = fit_image(file.read_bytes(), bundle.manifest.input, settings.max_pixels, keep=True)
    return Engine(bundle, settings.device, settings.threads), sent


if __name__ == "__main__":
    main()
