"""OpenVINO, an extra: graphs opened on a CPU in float32, in bfloat16 or with 8-bit integers inside.

`import openvino` reports its use to its keeper over the network, and writes into the home folder,
unless the package openvino_telemetry is missing. `core` imports it as if it were. Nothing is
cached on disk, because `CACHE_DIR` stays unset.
"""

import logging
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from queue import LifoQueue
from typing import Any

import numpy as np

from service.bundle import folder
from service.errors import BundleError
from service.runtime.graphs import Feeds, Names, Program, wanted
from service.settings import Precision

PROVIDER = "OpenVINO"
TELEMETRY = "openvino_telemetry"
# The graphs of int8 hold their integers; what is left of them runs in float32.
HINTS = {"float32": "f32", "int8": "f32", "bfloat16": "bf16"}
# The callers that a file serves side by side, 1 of each other: a prediction need not wait for an
# explanation that predicts, too. One more takes 9 MB and its activations at 224 × 224.
CALLERS = {folder.PREDICT: 2, folder.INT8: 2}
OFTEN = (1, 4, 8, 16)  # rows that predictions come in
# The rows that a file is compiled for when they first come, for each caller. It takes 0.1 to 0.3 s
# and memory; then they run up to 1.3 times as fast as a graph for any number of rows (decision 9).
FIXED_ROWS = {folder.PREDICT: OFTEN, folder.INT8: OFTEN, folder.GRADIENT: (2, 4, 16)}

log = logging.getLogger("candor")


def installed() -> bool:
    """True if OpenVINO can be imported."""
    return find_spec("openvino") is not None


def has_bfloat16() -> bool:
    """True if this CPU multiplies in bfloat16: AMX, or AVX-512 BF16."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_program(file: str, content: bytes, threads: int, precision: Precision) -> Program:
    """Opens the graph `content` of a bundle's `file` for runs of so many `threads`.

    Rows may vary from run to run.

    Raises:
        BundleError: OpenVINO cannot open the graph.
    """
    options = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "EXECUTION_MODE_HINT": "PERFORMANCE" if precision == "bfloat16" else "ACCURACY",
        "INFERENCE_NUM_THREADS": threads,
        # With one stream a run is on the caller's thread: to wake another takes longer than most
        # operators, and far longer on a busy machine.
        "NUM_STREAMS": 1,
        # Every worker would pin its threads to the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        model = in_steps(core().read_model(content))
        # To compile renames: a tensor then has the names of those that became one with it, too.
        names = [output.get_any_name() for output in model.outputs]
        fixed = FIXED_ROWS.get(file, ())
        callers = [Requests(model, options, fixed) for _ in range(CALLERS.get(file, 1))]
    except Exception as error:
        raise BundleError(f"OpenVINO cannot open {file}: {_reason(error)}") from error
    return _program(callers, names)


def in_steps(model: Any) -> Any:
    """`model`, an `openvino.Model`, with steps in place of each HardSigmoid.

    OpenVINO runs that operator by its reference code, in float32 and in another layout: it reorders
    the tensors before and after it.
    """
    from openvino import opset13  # noqa: PLC0415 - an extra

    for node in model.get_ops():
        if node.get_type_name() == "HardSigmoid":
            x, alpha, beta = (node.input_value(index) for index in range(3))
            line = opset13.add(opset13.multiply(x, alpha), beta)
            node.output(0).replace(opset13.clamp(line, 0.0, 1.0).output(0))
    return model


class Requests:
    """A graph open for one caller at a time: for any number of rows, and for each `fixed` one."""

    def __init__(
        self, model: Any, options: Mapping[str, object], fixed: Collection[int] = ()
    ) -> None:
        self._model, self._options, self._fixed = model, options, fixed
        self._any_rows = self._compiled(model)
        self._of_rows: dict[int, Any] = {}

    def of(self, rows: int) -> Any:
        """The `openvino.InferRequest` for so many `rows`."""
        if rows not in self._fixed:
            return self._any_rows
        if rows not in self._of_rows:
            self._of_rows[rows] = self._compiled_for(rows)
        return self._of_rows[rows]

    def _compiled_for(self, rows: int) -> Any:
        model = self._model.clone()
        shapes = {port: [rows, *list(port.get_partial_shape())[1:]] for port in model.inputs}
        try:
            model.reshape(shapes)
            return self._compiled(model)
        except RuntimeError as error:  # OpenVINO has no class of its own
            log.debug("not compiled for %d rows: %s", rows, _reason(error))
            return self._any_rows

    def _compiled(self, model: Any) -> Any:
        return core().compile_model(model, "CPU", self._options).create_infer_request()


def _program(callers: Iterable[Requests], names: Sequence[str]) -> Program:
    idle = LifoQueue[Requests]()
    for caller in callers:
        idle.put(caller)

    def run(feeds: Feeds, asked: Names = ()) -> dict[str, np.ndarray]:
        # A request holds the tensors of one run: no two threads may share it.
        caller = idle.get()
        try:
            request = caller.of(len(next(iter(feeds.values()))))
            plain = {name: np.ascontiguousarray(values) for name, values in feeds.items()}
            request.infer(plain, share_inputs=True)
            # Copies: the next run overwrites the tensors.
            return {
                name: np.array(request.get_output_tensor(names.index(name)).data)
                for name in wanted(names, asked)
            }
        finally:
            idle.put(caller)

    return run


@cache
def core() -> Any:
    """The `openvino.Core` of this process, imported without a report to its keeper."""
    known = sys.modules.get(TELEMETRY)
    if known is None:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment] # an import of it fails
    try:
        from openvino import Core  # noqa: PLC0415 - an extra, of 0.7 s and 40 MB
    finally:
        if known is None:
            del sys.modules[TELEMETRY]
    return Core()


def _reason(error: Exception) -> str:
    """The line of OpenVINO's message that names the fault, among those that name its files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line.removeprefix("-- ") for line in lines if line.startswith("-- ")]
    said = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (named or said or [type(error).__name__])[0]
