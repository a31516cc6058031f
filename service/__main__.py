"""python -m service: serve a bundle, or ask it about a picture without a server."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.errors import CandorError
from service.settings import Settings, describe

if TYPE_CHECKING:
    from service.engine import Engine
    from service.pipeline import Sent

SETTINGS_HELP = "\b\nSettings come from the environment:\n" + describe()
PATH = click.Path(path_type=Path, exists=True, dir_okay=False)
FILE = click.argument("file", type=PATH)


class Command(click.Group):
    """Our own errors end a command with one sentence, not with a trace."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except CandorError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=SETTINGS_HELP)
def main() -> None:
    """Serves image classifiers that explain themselves.

    \b
    python -m service serve                                   the embedded model on http://127.0.0.1:3000
    python -m service predict cat.jpg                         its three most probable classes, as JSON
    python -m service explain cat.jpg --method grad_cam --out map.png
    """


@main.command(epilog=SETTINGS_HELP)
def serve() -> None:
    """Serves the bundle until SIGTERM or SIGINT, finishing what it has begun."""
    from service.bundle import load

    settings = Settings.from_environment()
    load(settings.bundle)
    home = Path(tempfile.gettempdir()) / f"candor-{os.getuid()}-{settings.port}"
    os.environ.setdefault("BENTOML_HOME", str(home))  # two servers that shared one would erase each other's metrics
    os.environ["BENTOML_DO_NOT_TRACK"] = "true"
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "bentoml", "serve", "service.app:Candor", "--working-dir", str(root)]
    os.execv(sys.executable, [*command, "--host", settings.host, "--port", str(settings.port)])  # noqa: S606 - signals reach it


@main.command()
@FILE
@click.option("--top-k", type=click.IntRange(1), default=3, show_default=True, help="How many classes to name.")
def predict(file: Path, top_k: int) -> None:
    """Prints the most probable classes of the picture FILE as JSON."""
    from service import predictions
    from service.api import answers

    engine, sent = _opened(file)
    chosen = predictions.check_top_k(top_k, engine.manifest)
    found = predictions.predict(engine.predict(sent.fitted[None]).logits[0], engine.manifest, chosen)
    click.echo(json.dumps({"model": answers.model(engine.manifest), **answers.prediction(found, sent)}, indent=2))


@main.command()
@FILE
@click.option("--method", default="grad_cam", show_default=True, help="How to explain; an unknown one lists what there is.")
@click.option("--target", help="Label or index to explain; the predicted class if not given.")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="A parameter of the method: --set steps=64.")
@click.option("--mask", type=PATH, help="The picture's segments as a PNG file of its size, each value a segment.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The overlay (.png) or the raw map (.npy)."
)
@click.option(
    "--legend/--no-legend",
    default=True,
    show_default=True,
    help="Whether a legend is drawn below the overlay; with it, a small picture is magnified.",
)
def explain(
    file: Path, method: str, target: str | None, given: tuple[str, ...], mask: Path | None, out: Path, *, legend: bool
) -> None:
    """Explains what the model sees in the picture FILE, and prints the explanation as JSON."""
    from service import predictions
    from service.api import answers
    from service.explain import ask, check_masked, render
    from service.explain import explain as attribute
    from service.explain.legend import legend_of
    from service.pipeline import cut, draw

    if out.suffix not in (".png", ".npy"):
        raise click.BadParameter(f"{out} ends neither in .png (the overlay) nor in .npy (the raw map)", param_hint="--out")
    parameters = dict(entry.partition("=")[::2] for entry in given)
    engine, sent = _opened(file)
    question = ask(engine.manifest, method, target, parameters)
    if mask is not None:
        check_masked(method, parameters)
        question = cut(sent, mask.read_bytes(), question, engine.manifest.input)
    found = predictions.predict(engine.predict(sent.fitted[None]).logits[0], engine.manifest)
    attribution = attribute(engine, sent.fitted, question, found.logits)
    assert sent.ground is not None
    if out.suffix == ".npy":
        out.write_bytes(answers.npy(attribution))
    elif legend:
        told = legend_of(attribution, engine.manifest, found.logits)
        out.write_bytes(draw(engine, render.magnified(sent.ground), sent, attribution, told))
    else:
        out.write_bytes(draw(engine, sent.ground, sent, attribution))
    answer = answers.explanation(attribution, engine.manifest, None, array=False)
    click.echo(
        json.dumps({"model": answers.model(engine.manifest), **answers.prediction(found, sent), "explanation": answer}, indent=2)
    )


def _opened(file: Path) -> "tuple[Engine, Sent]":
    """The engine of the bundle in the settings, and the picture in `file`."""
    from service.bundle import load
    from service.engine import Engine
    from service.pipeline import receive

    settings = Settings.from_environment()
    bundle = load(settings.bundle)
    sent = receive(file.read_bytes(), bundle.manifest.input, settings.max_pixels, keep=True)
    return Engine(bundle, settings.device, settings.threads), sent


if __name__ == "__main__":
    main()
