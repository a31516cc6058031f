"""New versions and many models under load: what callers see, and what memory it takes.

`swaps`: 16 connections ask while one version takes the place of another, again and again. `many`: a
server of more models than it has memory for, asked by a Zipf law. The generator shares the
cores with the server.
"""

import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import click

from service.bundle.folder import load
from service.settings import EMBEDDED_BUNDLE
from service.workers.host import resident_bytes
from support.callers import Callers, Seen
from support.images import draw, encode
from support.load import table
from support.reweighted import reweighted
from support.servers import Server
from support.versions import make_version, point

CONNECTIONS, WORKERS, SEED = 16, 2, 0
IMAGE = encode(draw("red", size=32))
SECTIONS = ("swaps", "many")
ZIPF = 1.0  # the exponent


@click.command()
@click.argument("sections", nargs=-1, type=click.Choice(SECTIONS))
@click.option("--swaps", default=50, show_default=True, type=click.IntRange(1, 200))
@click.option("--models", default=20, show_default=True, type=click.IntRange(2, 100))
@click.option("--memory", default=230, show_default=True, help="Of the models, in MiB.")
@click.option("--seconds", default=60.0, show_default=True, help="Of the load on many models.")
def main(sections: Sequence[str], swaps: int, models: int, memory: int, seconds: float) -> None:
    """Prints the tables."""
    with tempfile.TemporaryDirectory() as name:
        if "swaps" in (sections or SECTIONS):
            _swaps(Path(name) / "swaps", swaps)
        if "many" in (sections or SECTIONS):
            _many(Path(name) / "many", models, memory, seconds)


def _swaps(folder: Path, swaps: int) -> None:
    versions = [
        make_version(folder / "model" / str(number), temperature=1.0 + number)
        for number in range(2)
    ]
    point(folder / "model", "0")
    with (
        Server(folder, bundle=folder / "model", model_name="cats", workers=WORKERS) as server,
        Callers(server.port, CONNECTIONS, IMAGE, lambda: "/predict") as callers,
    ):
        server.wait_for_processes(WORKERS)
        time.sleep(3)
        started = time.monotonic()
        time.sleep(10)
        workers = server.workers()
        calm, memory = callers.since(started), _resident(workers)
        began = time.monotonic()
        for number in range(1, swaps + 1):
            point(folder / "model", str(number % 2))
            answer = server.client.post("/v2/repository/models/cats/load", timeout=300)
            assert answer.status_code == 200, answer.text
        taken = time.monotonic() - began
        during = callers.since(began)
        time.sleep(35)  # free memory goes back to the system every 30 s
        after = _resident(workers)
    ours = {seen.version: seen.probability for seen in calm + during}
    mixed = [seen for seen in during if seen.probability != ours[seen.version]]
    click.echo(f"\n{swaps} swaps in {taken:.0f} s, {CONNECTIONS} connections, {WORKERS} workers\n")
    header = ("", "answers/s", "p50 ms", "p99 ms", "failed", "of a mixture")
    rows = [
        ("before", *_row(calm), 0),
        ("during", *_row(during), len(mixed)),
        ("ratio", *_ratios(calm, during), "", ""),
    ]
    click.echo(table(header, rows))
    click.echo(
        f"\n- Resident memory: {memory:.0f} MiB before, {after:.0f} after "
        f"({after / memory:.3f} of it); versions seen: {len(set(ours) & set(versions))} of 2."
    )


def _many(folder: Path, models: int, memory: int, seconds: float) -> None:
    first = load(EMBEDDED_BUNDLE)
    expected = {}
    for number in range(models):
        made = reweighted(first, folder / "models" / f"m{number}", 1 + number / 1_000)
        expected[f"m{number}"] = made.manifest.version
    rank = random.Random(SEED)  # noqa: S311 - a law of load
    names = list(expected)
    bounds = list(accumulate(1 / (1 + number) ** ZIPF for number in range(models)))

    def path() -> str:
        return f"/models/{rank.choices(names, cum_weights=bounds)[0]}/predict"

    room = memory * 2**20
    with Server(folder, models=folder / "models", workers=1, model_memory=room) as s:
        workers = s.workers()
        before = _resident(workers)
        for name in reversed(names):  # each has its trial
            assert s.client.post(f"/models/{name}/predict", content=IMAGE).status_code == 200
        with Callers(s.port, CONNECTIONS, IMAGE, path) as callers:
            peak, ended = before, time.monotonic() + seconds
            while time.monotonic() < ended:
                time.sleep(0.5)
                peak = max(peak, _resident(workers))
        loads = {
            outcome: sum(
                float(line.split()[-1])
                for line in s.client.get("/metrics").text.splitlines()
                if line.startswith("candor_model_loads_total") and f'outcome="{outcome}"' in line
            )
            for outcome in ("loaded", "evicted", "failed")
        }
        in_memory = s.metric("candor_models_in_memory")
    wrong = [x for x in callers.seen if x.status == 200 and expected[x.model] != x.version]
    statuses = Counter(seen.status for seen in callers.seen)
    click.echo(f"\n{models} models in {memory} MiB, Zipf {ZIPF}, {seconds:.0f} s, one worker\n")
    header = ("answers", "by status", "wrong", "p50 ms", "p99 ms", "loaded", "evicted", "failed")
    _, p50, p99, _ = _row(callers.seen)
    shown = json.dumps(dict(statuses)).replace('"', "")
    row = (len(callers.seen), shown, len(wrong), p50, p99, *(int(n) for n in loads.values()))
    click.echo(table(header, [row]))
    click.echo(
        f"\n- Resident memory: {before:.0f} MiB before, {peak:.0f} at most; in memory at the end: "
        f"{in_memory:.0f}, the default one among them."
    )


def _resident(workers: Sequence[int]) -> float:
    """The MiB of the workers, of these process ids."""
    return resident_bytes(workers) / 2**20


def _row(seen: Sequence[Seen]) -> tuple[str, str, str, int]:
    good = [each.seconds for each in seen if each.status == 200]
    span = max(each.at + each.seconds for each in seen) - min(each.at for each in seen)
    ends = statistics.quantiles(good, n=100)
    failed = len(seen) - len(good)
    return f"{len(good) / span:.0f}", f"{1000 * ends[49]:.1f}", f"{1000 * ends[98]:.1f}", failed


def _ratios(before: Sequence[Seen], after: Sequence[Seen]) -> tuple[str, ...]:
    pairs = zip(_row(before)[:3], _row(after)[:3], strict=True)
    return tuple(f"{float(new) / float(old):.2f}" for old, new in pairs)


if __name__ == "__main__":
    main()
