"""A map with every answer, beside answers without one, from the same server in interleaved rounds.

wrk makes the load: a closed loop of some connections. The first row asks for predictions alone; the
ratios of the others are to it, round by round, and their medians are printed.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from service.settings import EMBEDDED
from support import load
from support.images import draw, encode
from support.load import Reading, Request, Wrk, driven, table

PLAIN = "/predict"
ASKED = (
    PLAIN,
    "/predict?explain=grad_cam&map=array",
    "/predict?explain=grad_cam&map=overlay",
)
WARM_SECONDS = 2
SIDES = {"cifar10": 32, "imagenet": 224}

Rounds = Mapping[str, Sequence[tuple[Reading, float]]]


@click.command()
@click.option("--model", default="cifar10", type=click.Choice(sorted(SIDES)), show_default=True)
@click.option("--connections", default=16, show_default=True, type=click.IntRange(1, 256))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 50))
@click.option("--seconds", default=4.0, show_default=True, type=click.FloatRange(1, 60))
@click.argument("paths", nargs=-1)
def main(model: str, connections: int, rounds: int, seconds: float, paths: tuple[str, ...]) -> None:
    """Prints a table of PATHS with their queries, beside /predict."""
    load.stop_on_sigterm()
    click.echo(f"{model}, {connections} connections, {rounds} rounds\n")
    side = SIDES[model]
    body = encode(draw("red", side), "JPEG", quality=90)
    asked = {path: load.image(path, body) for path in (PLAIN, *(paths or ASKED[1:]))}
    click.echo(shown(measured(EMBEDDED[model], asked, connections, rounds, seconds)))


def measured(
    bundle: Path, asked: Mapping[str, Request], connections: int, rounds: int, seconds: float
) -> Rounds:
    """The readings of each path, and the processor seconds a request, round by round."""
    found: dict[str, list[tuple[Reading, float]]] = {path: [] for path in asked}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wrk = Wrk(folder)
        with load.candor_running(folder, bundle, asked[PLAIN]) as server:
            for request in asked.values():
                wrk.drive(server.port, [(request, 1)], connections, WARM_SECONDS)
            for _ in range(rounds):
                for path, request in asked.items():
                    mix = [(request, 1.0)]
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
