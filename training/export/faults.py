"""Failures of the libraries that read, run and rewrite a foreign file, as sentences."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from training.export.ends import ForeignError

# Remedies.
FREE_BATCH = "export it again with a free batch (dynamic_axes or dynamic_shapes of the first axis)"
STANDARD = "export the network in float32, with the operators of ONNX alone"

LONGEST = 240  # characters of a library's own words
# What ONNX Runtime writes before its reason: code, file, line and function.
PREAMBLE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+:\d+ .*?\) |^\S+Error: ")
UNKNOWN_OPERATOR = re.compile(r"(?:Fatal error: )?(\S+?)\(-?\d+\) is not a registered function/op")
FAILED_NODE = re.compile(r"running (\w+) node\. Name:'([^']*)' Status Message: (.*)", re.DOTALL)


@contextmanager
def worded(step: str, remedy: str, *own: type[Exception]) -> Iterator[None]:
    """Turns every exception inside into a ForeignError, but for those that are sentences already.

    Those are ForeignError and `own`. onnx, onnx_ir, onnxscript, protobuf and ONNX Runtime share no
    base class, and their C++ parts raise RuntimeError and ValueError.

    Raises:
        ForeignError: `step` failed, for the library's reason, and `remedy` may help.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (ForeignError, *own)):
            raise
        raise ForeignError(f"{step}: {reason(error)}; {remedy}") from error


def reason(error: BaseException) -> str:
    """The cause of `error` in one line, with the name of the node where the library gives one."""
    while error.__cause__ is not None:  # onnx_ir wraps the first cause in one for each level
        error = error.__cause__
    text = str(error).strip() or type(error).__name__
    if unknown := UNKNOWN_OPERATOR.search(text):
        return f"{unknown[1]} is no operator of ONNX Runtime, which serves the bundle"
    if failed := FAILED_NODE.search(text):
        operator, node, words = failed.groups()
        return f"{operator} (node {node}) failed: {_short(words)}"
    return _short(text)


def _short(text: str) -> str:
    """The last line of `text` that says something, without places in a library's source."""
    lines = [line.strip() for line in PREAMBLE.sub("", text).splitlines() if line.strip()]
    line = PREAMBLE.sub("", lines[-1]) if lines else text
    return line[:LONGEST].rstrip(" .")
