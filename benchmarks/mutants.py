"""Small faults, put into the code one at a time, that its own tests must find.

Coverage counts the lines that tests reach; this counts the faults that they notice. Each mutant
replaces one text of a file, which must occur there exactly once, in a temporary copy of the tree.
Then the tests of that module run until one fails.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import click

ROOT = Path(__file__).parent.parent
LEAST_KILLED = 47
TIMEOUT_SECONDS = 300  # of the tests of one mutant: one that hangs is found, too
COPIED = ("service", "training", "support", "tests", "pyproject.toml")

QUEUE, LANES = "service/schedule/queue.py", "service/schedule/lanes.py"
PREDICTIONS, RULES = "service/predictions.py", "training/autodiff/rules"


class Mutant(NamedTuple):
    """A `fault`, made by replacing the text `old` of `file` by `new`."""

    fault: str
    file: str
    old: str
    new: str


class Module(NamedTuple):
    """The mutants of a part of the code, and the `tests` of that part."""

    tests: tuple[str, ...]
    mutants: tuple[Mutant, ...]


class Outcome(NamedTuple):
    """The test that killed a mutant, or None if all passed."""

    mutant: Mutant
    killer: str | None


SCHEDULER = (
    Mutant(
        "one item too many is accepted",
        QUEUE,
        "+ ahead < self._capacity",
        "+ ahead <= self._capacity",
    ),
    Mutant(
        "a deadline is checked without the backlog",
        QUEUE,
        "return self._backlog_seconds + ticket.cost",
        "return ticket.cost",
    ),
    Mutant(
        "a bad item fails its whole batch",
        LANES,
        "[self._attempt([ticket])[0] for ticket in batch]",
        "[error for _ in batch]",
    ),
    Mutant(
        "the backlog stays when a caller leaves",
        QUEUE,
        "self._waiting.remove(ticket)\n                self._forget([ticket])",
        "self._waiting.remove(ticket)",
    ),
    Mutant(
        "the backlog stays when a deadline passes",
        QUEUE,
        "if len(live) < len(batch):",
        "if not batch:",
    ),
    Mutant(
        "the mean is that of a batch",
        QUEUE,
        "self._mean.add(run_seconds / len(batch))",
        "self._mean.add(run_seconds)",
    ),
    Mutant(
        "a caller who left hangs the rest of its batch",
        QUEUE,
        "if self.future.done():",
        "if not self.future:",
    ),
    Mutant(
        "close() on the loop drops what waits", LANES, "while self.queue.waiting:", "while False:"
    ),
    Mutant(
        "queue and run seconds are swapped",
        QUEUE,
        "Done(result, started - self.joined, run_seconds, rows)",
        "Done(result, run_seconds, started - self.joined, rows)",
    ),
    Mutant(
        "images in flight never fall",
        QUEUE,
        "self._in_flight -= len(tickets)",
        "self._in_flight -= 0",
    ),
    Mutant(
        "images being prepared take no place",
        QUEUE,
        "len(self._waiting) + self._reserved + ahead",
        "len(self._waiting) + ahead",
    ),
    Mutant(
        "prepared images keep their places", QUEUE, "self._reserved -= 1", "self._reserved -= 0"
    ),
    Mutant("Retry-After is 0", QUEUE, "max(1, math.ceil(seconds))", "math.ceil(seconds)"),
    Mutant(
        "the size of a batch is not observed",
        QUEUE,
        "self._metrics.batch_size.observe(len(batch))",
        "_ = self._metrics.batch_size",
    ),
)
OF_PREDICTIONS = (
    Mutant(
        "a class at the threshold is not in the set",
        PREDICTIONS,
        "(probabilities >= thresholds)",
        "(probabilities > thresholds)",
    ),
    Mutant(
        "a set has the order of the labels",
        PREDICTIONS,
        'indices[(-probabilities[indices]).argsort(kind="stable")]',
        "indices",
    ),
    Mutant(
        "every class has the threshold of the first",
        PREDICTIONS,
        "probabilities >= thresholds",
        "probabilities >= thresholds.flat[0]",
    ),
    Mutant(
        "a set may be empty",
        PREDICTIONS,
        "members = np.array([probabilities.argmax()])",
        "pass",
    ),
    Mutant(
        "a score at the threshold is unfamiliar",
        PREDICTIONS,
        "self.score >= self.threshold",
        "self.score > self.threshold",
    ),
    Mutant(
        "familiarity is that of the nearest image",
        PREDICTIONS,
        "row.similarity[-1]",
        "row.similarity[0]",
    ),
    Mutant(
        "the energy lacks the largest logit",
        PREDICTIONS,
        "float(largest + np.log(",
        "float(np.log(",
    ),
    Mutant(
        "one of the nearest images is missing",
        PREDICTIONS,
        "[: options.nearest]",
        "[: options.nearest - 1]",
    ),
    Mutant(
        "a number beats the label of that name",
        PREDICTIONS,
        "manifest.classes_of.get(target, ())",
        "() if target.isdecimal() else manifest.classes_of.get(target, ())",
    ),
)
OF_RULES = (
    Mutant(
        "Div has the wrong sign for b",
        f"{RULES}/elementwise.py",
        'ctx.graph.node("Neg", ctx.graph.node("Mul", over_b, ctx.y))',
        'ctx.graph.node("Mul", over_b, ctx.y)',
    ),
    Mutant(
        "Clip stops g at its bounds",
        f"{RULES}/elementwise.py",
        '("GreaterOrEqual", "LessOrEqual")',
        '("Greater", "Less")',
    ),
    Mutant(
        "Max and Min give g to every equal input",
        f"{RULES}/elementwise.py",
        ' = graph.node("Where", chosen, zero, ',
        '_unused = graph.node("Where", chosen, zero, ',
    ),
    Mutant(
        "Relu passes g at 0",
        f"{RULES}/elementwise.py",
        '"Greater", ctx.y',
        '"GreaterOrEqual", ctx.y',
    ),
    Mutant(
        "HardSigmoid has another alpha",
        f"{RULES}/elementwise.py",
        '"alpha", 0.2',
        '"alpha", 0.25',
    ),
    Mutant(
        "Gelu by tanh has another constant",
        f"{RULES}/elementwise.py",
        "math.pi), 0.044715",
        "math.pi), 0.044175",
    ),
    Mutant(
        "ReduceMax gives g to every equal element",
        f"{RULES}/reduction.py",
        "_keepdims(ctx, ctx.gradient, axes), graph.sum(mask, axes)",
        "_keepdims(ctx, ctx.gradient, axes), graph.constant(1.0)",
    ),
    Mutant(
        "ReduceL2 divides by zero",
        f"{RULES}/reduction.py",
        '"Greater", norm',
        '"GreaterOrEqual", norm',
    ),
    Mutant(
        "Softmax sums over the last axis",
        f"{RULES}/reduction.py",
        "inner = graph.sum(",
        "axis = -1; inner = graph.sum(",
    ),
    Mutant(
        "Gemm leaves alpha out for B",
        f"{RULES}/linear.py",
        'gradients[1] = graph.node("Gemm",',
        'alpha = 1.0; gradients[1] = graph.node("Gemm",',
    ),
    Mutant(
        "SAME_LOWER pads like SAME_UPPER",
        f"{RULES}/convolution.py",
        '1 if automatic == "SAME_LOWER" else 0',
        "0",
    ),
    Mutant(
        "MaxPool gives g to every equal element",
        f"{RULES}/pooling.py",
        'left = graph.node("Sub", left, shares[-1])',
        "pass",
    ),
    Mutant(
        "AveragePool counts its padding by default",
        f"{RULES}/pooling.py",
        '"count_include_pad", 0',
        '"count_include_pad", 1',
    ),
)
OF_BUDGETS = (
    Mutant(
        "a caller beyond its allowance is served",
        "service/schedule/allowance.py",
        "if full_at > latest:",
        "if full_at > latest + 1:",
    ),
    Mutant(
        "an allowance comes back at once",
        "service/schedule/allowance.py",
        "amount / rate, now",
        "0 * amount / rate, now",
    ),
    Mutant(
        "a key's own rate is ignored",
        "service/schedule/allowance.py",
        "if own is None else own",
        "if own is None else self._rates[column]",
    ),
    Mutant(
        "a time moves on although it is too late",
        "service/workers/shared_times.py",
        "if before <= latest and seconds:",
        "if seconds:",
    ),
    Mutant(
        "a full table forgets the latest times",
        "service/workers/shared_times.py",
        "min(candidates)[1]",
        "max(candidates)[1]",
    ),
    Mutant(
        "what runs between two pieces is charged twice",
        "service/schedule/fairness.py",
        "seconds - self._runs.pop().elsewhere_seconds",
        "seconds - 0 * self._runs.pop().elsewhere_seconds",
    ),
    Mutant(
        "a long explanation runs within a long one",
        "service/schedule/fairness.py",
        "most = BRIEF * running.cost",
        "most = running.cost",
    ),
    Mutant(
        "a brief ticket that is late runs",
        "service/schedule/fairness.py",
        "if not self._expired(ticket, now) and not ticket.settled:",
        "if not ticket.settled:",
    ),
    Mutant(
        "no rest follows a brief explanation",
        "service/schedule/pacing.py",
        "others_at = max(self._shared_state.last_prediction, self._interjected_at())",
        "others_at = self._shared_state.last_prediction",
    ),
    Mutant(
        "all callers with unread bytes end",
        "service/workers/connections.py",
        "if excess <= 0:",
        "if excess <= -(10**9):",
    ),
)
APGD, ATTACKS = "training/audit/measures/apgd.py", "training/audit/measures/attacks.py"
OF_ATTACKS = (
    Mutant("the network sees pixels that are cut off, not rounded", APGD, "np.rint(x)", "x"),
    Mutant(
        "an image that another class than the rival breaks is lost",
        APGD,
        "rows[seen.broken | (seen.margin > self.best_margin[rows])]",
        "rows[seen.margin > self.best_margin[rows]]",
    ),
    Mutant(
        "a later start replaces an image that is broken",
        ATTACKS,
        "open_rows = open_rows[_correct(engine, found, labels[open_rows])]",
        "assert len(_correct(engine, found, labels[open_rows])) == len(open_rows)",
    ),
)
MODULES = {
    "scheduler": Module(
        ("tests/service/schedule/test_queue.py", "tests/service/schedule/test_lanes.py"), SCHEDULER
    ),
    "predictions": Module(("tests/service/test_predictions.py",), OF_PREDICTIONS),
    "rules": Module(("tests/training/autodiff/test_rules.py",), OF_RULES),
    "budgets": Module(
        (
            "tests/service/schedule/test_allowance.py",
            "tests/service/schedule/test_fairness.py",
            "tests/service/schedule/test_pacing.py",
            "tests/service/workers/test_shared_times.py",
            "tests/service/workers/test_connections.py",
        ),
        OF_BUDGETS,
    ),
    "attacks": Module(
        (
            "tests/training/audit/measures/test_apgd.py",
            "tests/training/audit/measures/test_attacks.py",
        ),
        OF_ATTACKS,
    ),
}


@click.command()
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(MODULES)),
    help="The mutants of one module; may be repeated.",
)
@click.option(
    "--jobs",
    default=2,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Mutants that are tested at the same time.",
)
def main(only: tuple[str, ...], jobs: int) -> None:
    """Tests every mutant, and prints as Markdown which test killed it.

    Fails if fewer than 47 of the 49 are killed, or with --only if more than two stay alive.
    """
    chosen = {name: MODULES[name] for name in only or MODULES}
    for module in chosen.values():
        for mutant in module.mutants:
            check(mutant)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copies.put(copy_tree(Path(folder) / str(number)))
        tested = {
            name: [
                pool.submit(run, mutant, module.tests, copies)
                for mutant in (unchanged(module), *module.mutants)
            ]
            for name, module in chosen.items()
        }
        results = {
            name: [future.result() for future in futures] for name, futures in tested.items()
        }
    for name, outcomes in results.items():
        if (killer := outcomes.pop(0).killer) is not None:
            raise click.ClickException(
                f"the tests of {name} fail without a mutant ({killer}): mend them first"
            )
    click.echo(table(results))
    alive = sum(outcome.killer is None for outcomes in results.values() for outcome in outcomes)
    if alive > sum(len(module.mutants) for module in MODULES.values()) - LEAST_KILLED:
        sys.exit(1)


def check(mutant: Mutant) -> None:
    """Checks that the text of `mutant` is still in its file.

    Raises:
        ClickException: it occurs there not once.
    """
    times = (ROOT / mutant.file).read_text().count(mutant.old)
    if times != 1:
        raise click.ClickException(
            f"{mutant.old!r} occurs {times} times in {mutant.file}, and the mutant "
            f'"{mutant.fault}" needs it once: bring benchmarks/mutants.py up to date'
        )


def unchanged(module: Module) -> Mutant:
    """A mutant without a fault."""
    return Mutant("none", module.mutants[0].file, "", "")


def copy_tree(folder: Path) -> Path:
    """Copies what tests need to `folder`."""
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def run(mutant: Mutant, tests: Sequence[str], copies: "SimpleQueue[Path]") -> Outcome:
    """Runs `tests` on `mutant`, in one of the `copies`, which is as before afterwards."""
    copy = copies.get()
    file = copy / mutant.file
    text = file.read_text()
    try:
        if mutant.old:
            file.write_text(text.replace(mutant.old, mutant.new))
        killer = first_failure(copy, tests)
    finally:
        file.write_text(text)
        copies.put(copy)
    return Outcome(mutant, killer)


def first_failure(copy: Path, tests: Sequence[str]) -> str | None:
    """The name of the first test that fails in `copy`, or None."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:randomly"]
    # A file that changes twice in a second would otherwise be taken from its stale bytecode.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", *tests],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {TIMEOUT_SECONDS} s"
    if done.returncode == 0:
        return None
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED tests/", "ERROR tests/")):
            return line.partition(" - ")[0].partition(" ")[2].rpartition("::")[2]
    return f"pytest ended with {done.returncode}"


def table(results: dict[str, list[Outcome]]) -> str:
    """The outcomes as Markdown: one line a mutant, then one a module."""
    lines = ["| module | mutant | killed by |", "| --- | --- | --- |"]
    for name, outcomes in results.items():
        lines += [
            f"| {name} | {mutant.fault} | {killer or '**alive**'} |" for mutant, killer in outcomes
        ]
    lines += ["", "| module | mutants | killed |", "| --- | --- | --- |"]
    for name, outcomes in results.items():
        killed = sum(outcome.killer is not None for outcome in outcomes)
        lines.append(f"| {name} | {len(outcomes)} | {killed} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
