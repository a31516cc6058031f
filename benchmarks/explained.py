"""A map with every answer, or with every unsure one, beside answers without, from the same server
in interleaved rounds.

wrk makes the load: a closed loop of some connections, all with the same mix of a sure and an unsure
image. The first row asks for predictions alone; the ratios of the others are to it, round by round,
and their medians are printed.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import click
import httpx

from service.bundle import folder as contract
from service.settings import EMBEDDED, Precision
from support import load
from support.images import draw, encode
from support.load import Reading, Request, Server, Wrk, driven, table

PLAIN = "/predict"
ASKED = (
    PLAIN,
    "/predict?explain=grad_cam&map=array",
    "/predict?explain=grad_cam&map=overlay",
)
WHEN_UNSURE = "/predict?when=unsure&map=array"  # where the bundle has prediction sets
DRAWN = 1000  # images, among which there must be an unsure one
WARM_SECONDS = 2
SIDES = {"cifar10": 32, "imagenet": 224}

Mix = Sequence[tuple[Request, float]]
Rounds = Mapping[str, Sequence[tuple[Reading, float]]]


@click.command()
@click.option("--model", default="cifar10", type=click.Choice(sorted(SIDES)), show_default=True)
@click.option(
    "--precision",
    default="auto",
    type=click.Choice(["auto", *get_args(Precision)]),
    show_default=True,
    help="CANDOR_PRECISION.",
)
@click.option("--connections", default=16, show_default=True, type=click.IntRange(1, 256))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 50))
@click.option("--seconds", default=4.0, show_default=True, type=click.FloatRange(1, 60))
@click.option(
    "--unsure",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of unsure images, where the bundle has prediction sets.",
)
@click.argument("paths", nargs=-1)
def main(
    *,
    model: str,
    precision: str,
    connections: int,
    rounds: int,
    seconds: float,
    unsure: float,
    paths: tuple[str, ...],
) -> None:
    """Prints a table of PATHS with their queries, beside /predict."""
    load.stop_on_sigterm()
    click.echo(f"{model}, precision {precision}, {connections} connections, {rounds} rounds\n")
    bundle, side = EMBEDDED[model], SIDES[model]
    has_sets = contract.load(bundle).manifest.prediction_sets is not None
    usual = (*ASKED[1:], WHEN_UNSURE) if has_sets else ASKED[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm = load.image(PLAIN, image(side, 0))
        with load.candor_running(folder, bundle, warm, precision=precision) as server:
            images = drawn(server, side, unsure if has_sets else 0.0)
            asked = {
                path: [(load.image(path, body), share) for body, share in images]
                for path in (PLAIN, *(paths or usual))
            }
            found = measured(Wrk(folder), server, asked, connections, rounds, seconds)
    click.echo(shown(found))


def image(side: int, seed: int) -> bytes:
    """A drawn image, as a JPEG file."""
    return encode(draw("red", side, seed), "JPEG", quality=90)


def drawn(server: Server, side: int, unsure: float) -> list[tuple[bytes, float]]:
    """The first drawn image that the service is sure of and the first that it is unsure of, in the
    precision that it serves, with their shares; any one alone if none is to be `unsure`.
    """
    if not unsure:
        return [(image(side, 0), 1.0)]
    found: dict[bool, bytes] = {}
    for seed in range(DRAWN):
        body = image(side, seed)
        answer = httpx.post(f"http://{load.HOST}:{server.port}{PLAIN}", content=body).json()
        found.setdefault(answer["prediction_set"]["size"] != 1, body)
        if len(found) > 1:
            return [(found[False], 1 - unsure), (found[True], unsure)]
    raise click.ClickException(f"of {DRAWN} drawn images none is {'un' * (True not in found)}sure")


def measured(
    wrk: Wrk,
    server: Server,
    asked: Mapping[str, Mix],
    connections: int,
    rounds: int,
    seconds: float,
) -> Rounds:
    """The readings of each path, and the processor seconds a request, round by round."""
    found: dict[str, list[tuple[Reading, float]]] = {path: [] for path in asked}
    for mix in asked.values():
        wrk.drive(server.port, mix, connections, WARM_SECONDS)
    for _ in range(rounds):
        for path, mix in asked.items():
            found[path].append(driven(wrk, server, mix, connections, seconds))
    return found


def shown(found: Rounds) -> str:
    """A row for each path: medians, and ratios to the first."""
    plain = next(iter(found.values()))
    rows = []
    for path, rounds in found.items():
        readings = [reading for reading, _ in rounds]
        median = load.median(readings)
        pairs = list(zip(rounds, plain, strict=True))
        rate = statistics.median(own.rate / first.rate for (own, _), (first, _) in pairs)
        p99 = statistics.median(own.p99 / first.p99 for (own, _), (first, _) in pairs)
        cost = statistics.median(seconds / first for (_, seconds), (_, first) in pairs)
        rows.append(
            [
                f"`{path}`",
                f"{rate:.2f}",
                f"{p99:.2f}",
                f"{cost:.2f}",
                f"{median.rate:.0f}",
                f"{median.p50:.1f}",
                f"{median.p99:.1f}",
                str(median.errors),
            ]
        )
    ratios = ("answers/s, ratio", "p99, ratio", "processor time, ratio")
    return table(["asked", *ratios, "answers/s", "p50 ms", "p99 ms", "errors"], rows)


if __name__ == "__main__":
    main()
