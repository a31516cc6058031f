"""The working tree beside a commit in interleaved rounds: fails where a reading is worse.

Each round starts three services, each alone in its start: of the working tree, of the commit, and
of the commit again. Then each reading is taken of one after the other. The commit beside itself
gives the margin, so a noisy machine fails no change; it only sees less. The order changes with the
round.
"""

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from benchmarks import history
from benchmarks.history import Entry
from support import load, trees
from support.load import Request, Server, Wrk
from support.ratios import Comparison, Verdict, compare
from support.servers import environment
from support.trees import WORKING, Tree

NEW, OLD, AGAIN = SIDES = ("working tree", "commit", "commit again")
# With normal noise 2 in 1,000 readings of the same tree are called worse; of 3 rounds 20 would be.
LEAST_ROUNDS = 5
WARM_SECONDS, STARTING_SECONDS = 1, 8  # of each side in a round, for the estimate
BODY = load.jpeg("32×32")
PREDICT = load.image("/predict", BODY)
EXPLAINED = load.image("/predict?explain=grad_cam&map=array", BODY)
METHOD = "integrated_gradients"
LOADS = (("/predict", PREDICT, 1), ("/predict", PREDICT, 16), ("with Grad-CAM", EXPLAINED, 16))
# Run in the folder of a tree, with the image as its input: prints maps/s.
MAPS = """
import sys, time
from service import open_model
body, method, seconds = sys.stdin.buffer.read(), sys.argv[1], float(sys.argv[2])
model = open_model()
model.explain(body, method)
started, count = time.perf_counter(), 0
while time.perf_counter() - started < seconds:
    model.explain(body, method)
    count += 1
print(count / (time.perf_counter() - started))
"""
MORE_IS_BETTER = ("requests/s", "maps/s")  # the ends of such names

Readings = Mapping[str, float]


@dataclass(frozen=True)
class Plan:
    """The trees by side, the load, and the seconds of a reading."""

    sides: Mapping[str, Tree]
    loads: Sequence[tuple[str, Request, int]]
    seconds: float
    folder: Path
    wrk: Wrk


@click.command()
@click.argument("commit", required=False)
@click.option("--rounds", default=6, show_default=True, type=click.IntRange(LEAST_ROUNDS, 50))
@click.option(
    "--seconds",
    default=3.0,
    show_default=True,
    type=click.FloatRange(1, 60),
    help="Of one reading of one side.",
)
@click.option(
    "--margin",
    default=0.03,
    show_default=True,
    type=click.FloatRange(0.001, 1),
    help="A loss of so little passes; noise makes the margin wider.",
)
@click.option("--record", is_flag=True, help=f"Appends the readings to {history.NAME}.")
def main(
    commit: str | None,
    rounds: int,
    seconds: float,
    margin: float,
    record: bool,  # noqa: FBT001 - click's
) -> None:
    """Compares the working tree with COMMIT, and fails where it is worse.

    COMMIT is by default the one where the branch left main; on main it is HEAD if files have
    changed, else the commit before.
    """
    load.stop_on_sigterm()
    # What is compiled at every start would be a part of the starts.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    name = trees.commit_of(commit) if commit else trees.parent()
    if record and (changed := history.changed()):
        raise click.UsageError(f"--record names a commit, and {changed[0]} has changed: commit it")
    click.echo(f"beside {name}, about {_minutes(rounds, seconds):.0f} minutes", err=True)
    with trees.checked_out(name) as tree, tempfile.TemporaryDirectory() as folder:
        trees.derive(WORKING)
        sides = {NEW: WORKING, OLD: tree, AGAIN: tree}
        plan = Plan(sides, LOADS, seconds, Path(folder), Wrk(Path(folder)))
        found = measured(plan, rounds)
    compared = {key: _compared(readings, key, margin) for key, readings in found.items()}
    medians = {side: {key: median(found[key][side]) for key in found} for side in SIDES}
    click.echo(f"beside {name}\n\n{table(medians, compared)}\n\n{words(compared)}")
    if record:
        history.append(Entry.of(name, medians[NEW], compared))
    sys.exit(any(one.verdict == Verdict.WORSE for one in compared.values()))


def measured(plan: Plan, rounds: int) -> Mapping[str, Mapping[str, list[float]]]:
    """The readings by name and side, one for each round.

    A round before them compiles the code of each, and shows what the commit does not have.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    of_all = set.intersection(*(set(each) for each in a_round(plan, 0).values()))
    for number in range(1, rounds + 1):
        click.echo(f"round {number} of {rounds}", err=True)
        for side, readings in a_round(plan, number).items():
            for key in readings:
                if key in of_all:
                    found[key][side].append(readings[key])
    return found


def a_round(plan: Plan, number: int) -> Mapping[str, Readings]:
    """All readings of each side, in an order that changes with the round."""
    first = number % len(SIDES)
    order = SIDES[first:] + SIDES[:first]
    found: dict[str, dict[str, float]] = {side: {} for side in order}
    with ExitStack() as stack:
        servers = {}
        for side in order:
            folder = Path(tempfile.mkdtemp(dir=plan.folder))
            starting = load.candor_running(folder, None, PREDICT, plan.sides[side])
            servers[side] = stack.enter_context(starting)
            found[side]["start, s"] = servers[side].seconds_to_ready
        for load_of in plan.loads:
            for side in order:
                found[side] |= under_load(plan, side, servers[side], *load_of)
        for side in order:
            found[side]["memory of a worker, MiB"] = max(load.resident_mib(servers[side]))
    for side in order:
        found[side] |= in_process(plan, side)
    return found


def under_load(
    plan: Plan, side: str, server: Server, name: str, request: Request, connections: int
) -> Readings:
    """The readings of one load; none where the commit does not have what is asked.

    Raises:
        ClickException: An answer was an error.
    """
    status, answer = load.ask(server.port, request.path, request.body, request.headers)
    if side != NEW and (status != 200 or ("explain" in request.path and b'"map"' not in answer)):
        return {}
    plan.wrk.drive(server.port, [(request, 1)], connections, WARM_SECONDS)
    reading, cost = load.driven(plan.wrk, server, [(request, 1)], connections, plan.seconds)
    if reading.errors:
        failed = f"{reading.errors} of {reading.requests} answers of the {side}"
        raise click.ClickException(f"{failed} to {request.path} were errors")
    title = f"{name}, {connections} connection{'s' * (connections > 1)}: "
    figures = {
        "requests/s": reading.rate,
        "p50, ms": reading.p50,
        "p99, ms": reading.p99,
        "processor time, ms": 1000 * cost,
    }
    return {title + unit: figure for unit, figure in figures.items()}


def in_process(plan: Plan, side: str) -> Readings:
    """Maps/s of one thread without a server; none if the commit cannot."""
    tree = plan.sides[side]
    command = [tree.python, "-c", MAPS, METHOD, str(plan.seconds)]
    settings = environment(plan.folder / "home", threads=1, device="cpu")
    done = subprocess.run(
        command, cwd=tree.folder, env=settings, input=BODY, capture_output=True, check=False
    )
    if done.returncode and side == NEW:
        raise click.ClickException(f"{METHOD} in a process: {done.stderr.decode()}")
    return {} if done.returncode else {f"{METHOD} in a process: maps/s": float(done.stdout)}


def table(medians: Mapping[str, Readings], compared: Mapping[str, Comparison]) -> str:
    """A row for each reading, its ratio first."""
    header = ("", "tree / commit", "95 % interval", "margin", "", NEW, OLD)
    rows = [
        (
            key,
            f"{one.ratio.median:.3f}",
            f"{one.ratio.low:.3f} to {one.ratio.high:.3f}",
            f"{one.margin:.1%}",
            one.verdict,
            *(f"{medians[side][key]:.4g}" for side in (NEW, OLD)),
        )
        for key, one in compared.items()
    ]
    return load.table(header, rows)


def words(compared: Mapping[str, Comparison]) -> str:
    """The losses, and the smallest one that this run could have seen of every reading."""
    worse = [key for key, one in compared.items() if one.verdict == Verdict.WORSE]
    widest = max(compared.values(), key=lambda one: one.margin).margin
    seen = f"The noise of this run hides losses of up to {widest:.1%}."
    return f"Worse: {'; '.join(worse)}. {seen}" if worse else f"Nothing is worse. {seen}"


def _compared(readings: Mapping[str, Sequence[float]], key: str, least_margin: float) -> Comparison:
    better = key.endswith(MORE_IS_BETTER)
    values = (readings[side] for side in SIDES)
    return compare(*values, more_is_better=better, least_margin=least_margin)


def _minutes(rounds: int, seconds: float) -> float:
    each = STARTING_SECONDS + (len(LOADS) + 1) * (seconds + WARM_SECONDS)
    return (rounds + 1) * len(SIDES) * each / 60


if __name__ == "__main__":
    main()
