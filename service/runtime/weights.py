"""The weights of convolutions, in memory once for all open graphs of this process that have them.

A session of ONNX Runtime has weights of its own, in the layout of its kernels. A bundle has several
graphs of one network, and each is open for one thread and for all. So a graph is optimised once,
its weights are taken out in that layout, float32, and each session is handed those that were found
before: in another session, in another graph, or in another bundle. A weight goes with the last
session that has it.

Weights of matrix products stay with their session, which packs them anew and frees what it packed
from: those handed to it would be in memory once more. github.com/microsoft/onnxruntime/pull/7421
shares packed weights, too, but not in Python.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto

from service.runtime import providers
from service.runtime.providers import Weights

CONVOLUTIONS = {"Conv", "FusedConv"}  # the operators that read their weights as they are
LEAST_BYTES = 1_024  # smaller ones are not worth a search
ALIGNMENT = 64  # bytes: a line of the cache, and a register of AVX-512

log = logging.getLogger("candor")

Key = tuple[tuple[int, ...], bytes]  # the shape, and the digest of the bytes


class Graph(NamedTuple):
    """A graph to open, with its `weights` if it is optimised."""

    content: bytes
    weights: Weights | None = None


def shared(file: str, content: bytes) -> Graph:
    """The graph `content` of a bundle's `file`, optimised for this CPU, with weights to share.

    It is `content` itself where there are none, or where a system other than Linux has no files in
    memory. Either gives the same answers to the bit.

    Raises:
        BundleError: ONNX Runtime cannot open it.
    """
    if not hasattr(os, "memfd_create"):
        return Graph(content)
    optimised = _optimised(file, content)
    if optimised is None:
        return Graph(content)
    weights = POOL.weights_of(onnx.load_model_from_string(optimised))
    return Graph(optimised, weights) if weights else Graph(content)


class Pool:
    """Arrays that open sessions read, by their contents; safe for threads."""

    def __init__(self) -> None:
        self._known = WeakValueDictionary[Key, ort.OrtValue]()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def weights_of(self, model: ModelProto) -> Weights:
        """The weights of the convolutions of an optimised `model`, by name."""
        return {tensor.name: self._value(tensor) for tensor in _shareable(model)}

    def _value(self, tensor: TensorProto) -> ort.OrtValue:
        key = tuple(tensor.dims), hashlib.sha256(tensor.raw_data).digest()
        with self._lock:
            # A local reference: the session that had it may be closed at any time.
            value = self._known.get(key)
            if value is None:
                array = _aligned(tensor.raw_data).reshape(tensor.dims)
                value = self._known[key] = ort.OrtValue.ortvalue_from_numpy(array)
            return value


POOL = Pool()  # of this process


def _optimised(file: str, content: bytes) -> bytes | None:
    """The graph `content` as ONNX Runtime runs it; None if it cannot be written."""
    try:
        with _memory_file() as (descriptor, path):
            providers.open_session(file, content, "cpu", 1, optimised_to=path)
            return _read(descriptor)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has no common class of its errors
        log.info("the weights of %s are not shared: %s", file, error)
        return None


@contextmanager
def _memory_file() -> Iterator[tuple[int, str]]:
    """A file in memory, which is empty and has no name: its descriptor and its path."""
    descriptor = os.memfd_create("graph")
    try:
        yield descriptor, f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()


def _shareable(model: ModelProto) -> Iterator[TensorProto]:
    """The larger float32 weights that convolutions alone read, first their kernels."""
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    for tensor in model.graph.initializer:
        is_read = readers.get(tensor.name, set())
        large = len(tensor.raw_data) >= LEAST_BYTES
        if large and tensor.data_type == TensorProto.FLOAT and is_read and is_read <= CONVOLUTIONS:
            yield tensor


def _aligned(content: bytes) -> np.ndarray:
    """The float32 `content` (N,) as an array of its own."""
    memory = np.empty(len(content) + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    array = memory[start : start + len(content)].view(np.float32)
    array[:] = np.frombuffer(content, np.float32)
    return array
