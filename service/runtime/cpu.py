"""The graphs of one bundle, open on a CPU: for one thread, and for all of them together.

One thread wastes nothing while all cores have work; all of them answer a lone request sooner.
Beside other workers the graphs of explanations are open once, and a batch is shared out among the
cores; lrp.onnx is so everywhere, for it is of the largest networks and serves one method. A batch
of gradients is shared out in a lone process, too, which is faster (docs/benchmarks.md). All share
the weights of convolutions (`service.runtime.weights`).
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from typing import NamedTuple

import numpy as np

from service.bundle import folder
from service.errors import BundleError
from service.runtime import openvino, providers
from service.runtime.choice import Choice
from service.runtime.graphs import EXPLAINING, Feeds, Names, Program, wanted
from service.runtime.weights import Graph, Weights

Contents = dict[str, tuple[str, bytes]]  # the file and the bytes of each graph
Opener = Callable[[str, bytes, int], Program]  # of a file and its bytes, for so many threads
# Of a file and its bytes: for one thread, and what opens it for so many.
Preparer = Callable[[str, bytes], tuple[Program, Callable[[int], Program]]]

log = logging.getLogger("candor")


class Sharing(NamedTuple):
    """Which batches are shared out among the threads. Of the graphs in `always` every batch is; of
    those in `batches` one that has a row for each thread, and all threads together run a smaller.
    """

    always: frozenset[str]
    batches: frozenset[str] = frozenset()


def open_on_cpu(
    contents: Contents, threads: int, choice: Choice, *, alone: bool
) -> tuple[dict[str, Program], dict[str, Program]]:
    """The graphs open for one thread, and for all `threads`; `contents` is emptied.

    Each file goes once it is open: those of a large network take as much memory as its sessions.

    Raises:
        BundleError: a graph cannot be opened.
    """
    prepare, sharing = _preparer(choice), _sharing(choice, alone=alone)
    one_core: dict[str, Program] = {}
    all_cores = one_core if threads == 1 else {}
    while contents:
        file, content = contents[next(iter(contents))]
        # QUICK is predict.onnx, unless it is int8.
        graphs = [graph for graph, (name, _) in contents.items() if name == file]
        for graph in graphs:
            del contents[graph]
        one, open_for = prepare(file, content)
        del content
        one_core |= dict.fromkeys(graphs, one)
        if threads > 1:
            if sharing.always.issuperset(graphs):
                every = shared_out(one, threads)
            else:
                every = open_for(threads)
                if sharing.batches.issuperset(graphs):
                    every = shared_out(one, threads, every)
            all_cores |= dict.fromkeys(graphs, every)
        del open_for
    return one_core, all_cores


def first_and_further(
    file: str, graph: Graph, content: bytes
) -> tuple[Program, Callable[[int], Program]]:
    """`graph` of a bundle's `file` open for one thread, and what opens it for several.

    Where ONNX Runtime cannot open what it has optimised, it is the graph `content` of the file.

    Raises:
        BundleError: ONNX Runtime cannot open that either.
    """
    try:
        one = _cpu_program(file, graph, 1)
    except BundleError as error:
        if graph.weights is None:
            raise
        log.warning("%s: it is opened with weights of its own", error)
        graph = Graph(content)
        one = _cpu_program(file, graph, 1)
    return one, partial(_cpu_program, file, graph)


def opener(choice: Choice) -> Opener:
    """What opens a graph on a CPU by `choice`."""

    def open_program(file: str, content: bytes, threads: int) -> Program:
        if choice.of(file).runtime == "onnxruntime":
            return _cpu_program(file, Graph(content), threads)
        return openvino.open_program(file, content, threads, choice.precision_of(file))

    return open_program


def shared_out(program: Program, threads: int, together: Program | None = None) -> Program:
    """`program` of one thread, which runs the parts of a batch on so many threads at once.

    A batch of fewer rows than threads would leave some of them idle: it is for `together`, which
    has all threads, if there is one.
    """
    pool = ThreadPoolExecutor(threads, "rows")

    def run(feeds: Feeds, asked: Names = ()) -> dict[str, np.ndarray]:
        rows = len(next(iter(feeds.values())))
        if together is not None and rows < threads:
            return together(feeds, asked)
        if rows == 1:
            return program(feeds, asked)
        parts = min(threads, rows)
        pieces = {name: np.array_split(values, parts) for name, values in feeds.items()}
        fed = [
            dict(zip(pieces, piece, strict=True)) for piece in zip(*pieces.values(), strict=True)
        ]
        outputs = list(pool.map(program, fed, repeat(asked)))
        return {name: np.concatenate([part[name] for part in outputs]) for name in outputs[0]}

    return run


def _sharing(choice: Choice, *, alone: bool) -> Sharing:
    # A program of OpenVINO for one thread runs for one caller at a time.
    ours = {graph for graph in EXPLAINING if choice.of(graph).runtime == "onnxruntime"}
    # Each time that a graph is open it takes memory, and beside other workers an explanation never
    # has all cores for long.
    if not alone:
        return Sharing(frozenset({folder.LRP, *ours}))
    return Sharing(frozenset({folder.LRP}), frozenset(ours & {folder.GRADIENT}))


def _preparer(choice: Choice) -> Preparer:
    """What opens a graph on a CPU by `choice`, for one thread and then for several."""
    open_program, shared = opener(choice), Weights().shared

    def prepare(file: str, content: bytes) -> tuple[Program, Callable[[int], Program]]:
        if choice.of(file).runtime == "onnxruntime":
            return first_and_further(file, shared(file, content), content)
        return open_program(file, content, 1), partial(open_program, file, content)

    return prepare


def _cpu_program(file: str, graph: Graph, threads: int) -> Program:
    session = providers.open_session(file, graph.content, "cpu", threads, weights=graph.weights)
    outputs = [output.name for output in session.get_outputs()]

    def run(feeds: Feeds, asked: Names = ()) -> dict[str, np.ndarray]:
        names = wanted(outputs, asked)
        return dict(zip(names, session.run(names, feeds), strict=True))

    return run
