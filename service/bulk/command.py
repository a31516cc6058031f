"""`python -m service predict FOLDER`: a run with its progress, then accuracy and mistakes."""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import click

from service.bulk import places
from service.bulk.job import Job, Shard
from service.bulk.places import Place, place_of
from service.bulk.run import Run
from service.bulk.truth import Mistake, Verdict, judge
from service.bundle.delivery import deliver
from service.bundle.folder import load
from service.errors import RequestError, Stopped
from service.explain import Question, ask, explain, render
from service.explain.legend import legend_of
from service.explain.question import cheapest_method
from service.image.budget import MAX_PIXELS
from service.predictions import check_top_k
from service.runtime.engine import Engine
from service.schedule.sent import draw_overlay, fit_image
from service.settings import Settings
from service.workers import host

STOPPED = 130  # the exit status of a shell command that SIGINT ended, 128 + 2


def predict_folder(
    folder: str | Path,
    top_k: int,
    out: str | Path | None,
    *,
    overwrite: bool,
    shard: str,
    method: str | None,
    target: str | None,
    parameters: Mapping[str, str],
    quality: str,
    maps: str | Path | None,
) -> None:
    """Writes the table `out`; prints the accuracy and the worst mistakes of folders of classes.

    `folder`, `out` and `maps` are paths, or addresses in an object store.

    Raises:
        UsageError: the options do not go together.
        CandorError: the bundle or the run has a fault.
    """
    if out is None:
        raise click.UsageError(f"{folder} is a folder: name the table to write with --out")
    table = place_of(out)
    if table.exists() and not overwrite:
        raise click.UsageError(f"{out} exists: give --overwrite to replace it, or another --out")
    if method is None and (target or parameters or maps or quality != "basic"):
        raise click.UsageError(
            "--target, --set, --quality and --maps are for explanations: give --explain METHOD, too"
        )
    if fetched := deliver():
        click.echo(fetched, err=True)
    settings = Settings.from_environment()
    bundle = load(settings.bundle, settings.bundle_digest)
    manifest = bundle.manifest
    question = ask(manifest, method, target, parameters, quality) if method else None
    kept = None if maps is None else place_of(maps)
    share, most = Shard.parse(shard), check_top_k(top_k, manifest)
    job = Job(place_of(folder), table, question, kept, share, most)
    engine = Engine(bundle, settings.device, settings.threads)
    pixels = settings.max_pixels or MAX_PIXELS
    run = Run(engine, job, pixels, settings.threads or host.cores(), settings.decode_memory)
    _work(run, table)
    verdict = judge(table, manifest)
    if verdict is not None:
        _report(verdict, job, engine, pixels)


def _work(run: Run, out: Place) -> None:
    """Does the work of `run` behind a progress bar."""
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


def _report(verdict: Verdict, job: Job, engine: Engine, max_pixels: int) -> None:
    """Prints a verdict; the maps of the worst mistakes go to the folder OUT.mistakes."""
    for line in verdict.lines():
        click.echo(line)
    if not verdict.worst:
        click.echo("no mistakes")
        return
    folder = job.out.with_name(f"{job.out.name}.mistakes")
    for old in places.names(folder):
        if re.fullmatch("[0-9]{2}-.*[.]png", old):
            places.remove(folder / old)
    mistakes = verdict.count - verdict.right
    shown = f"the {len(verdict.worst)} surest" if mistakes > len(verdict.worst) else "all"
    click.echo(f"mistakes: {mistakes:,}; {shown}, with a map of the wrong class in {folder}")
    for line in _drawn(verdict.worst, folder, job, engine, max_pixels):
        click.echo(line)


def _drawn(
    mistakes: tuple[Mistake, ...], folder: Place, job: Job, engine: Engine, max_pixels: int
) -> Iterator[str]:
    """Draws each mistake; yields it in words."""
    question = _question(job.question, engine)
    for number, (path, truth, label, probability) in enumerate(mistakes, start=1):
        words = f"  {path}: {label}, {probability:.1%}; it is {truth}"
        if question is None:
            yield words
            continue
        name = f"{number:02}-{_slug(truth)}-as-{_slug(label)}.png"
        try:
            (file,) = places.images(job.folder, [path])
            drawn = _overlay(file.read(), question, engine, max_pixels)
        except (RequestError, OSError) as error:
            yield f"{words} (not drawn: {error})"
            continue
        places.write(folder / name, drawn)
        yield f"{words} ({name})"


def _question(given: Question | None, engine: Engine) -> Question | None:
    """The run's question, about the predicted class; without one, the cheapest there is."""
    if given is not None:
        return replace(given, target=None)
    cheapest = cheapest_method(engine.manifest)
    return ask(engine.manifest, cheapest.name, None, {}, "basic") if cheapest else None


def _overlay(content: bytes, question: Question, engine: Engine, max_pixels: int) -> bytes:
    sent = fit_image(content, engine.manifest.input, max_pixels, keep=True)
    assert sent.ground is not None
    logits = engine.predict(sent.fitted[None]).rows()[0].logits
    attribution = explain(engine, sent.fitted, question, logits)
    below = legend_of(attribution, engine.manifest, logits)
    return draw_overlay(engine, render.magnified(sent.ground), sent, attribution, below)


def _slug(name: str) -> str:
    """A class as a part of a file's name."""
    return re.sub(r"[^\w]+", "-", name).strip("-")[:40] or "class"
