"""The weights of convolutions, in memory once for all open graphs that have them.

A session of ONNX Runtime has weights of its own, in the layout of its kernels. A bundle has several
graphs of one network, and each is open for one thread and for all. So a graph is optimised once,
its weights are taken out in that layout, float32, and every session of the bundle is handed the
same ones. What a graph adds to those of the graphs before it is one block of memory, large enough
for huge pages. Another bundle with an equal block, as one that was calibrated again, shares it. A
block goes with the last session that has a weight in it.

Weights of matrix products stay with their session, which packs them anew and frees what it packed
from: those handed to it would be in memory once more. github.com/microsoft/onnxruntime/pull/7421
shares packed weights, too, but not in Python.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto

from service.runtime import providers
from service.runtime.providers import Initializers

CONVOLUTIONS = {"Conv", "FusedConv"}  # the operators that read their weights as they are
LEAST_BYTES = 1_024  # smaller ones are not worth a search
ALIGNMENT = 64  # bytes: a line of the cache, and a register of AVX-512

log = logging.getLogger("candor")

Key = tuple[tuple[int, ...], bytes]  # the shape and the digest of a weight

# The memory of the blocks of this process, by the digest of the keys of their weights.
_blocks = WeakValueDictionary[bytes, np.ndarray]()
_lock = threading.Lock()


class Graph(NamedTuple):
    """A graph to open, with its `weights` if it is optimised."""

    content: bytes
    weights: Initializers | None = None


class Weights:
    """The weights of the graphs of one bundle, while they are opened."""

    def __init__(self) -> None:
        self._known: dict[Key, np.ndarray] = {}

    def shared(self, file: str, content: bytes) -> Graph:
        """The graph `content` of a bundle's `file`, optimised for this CPU, with its weights.

        It is `content` itself where it has none to share, where it cannot be optimised, and where a
        system other than Linux has no files in memory. Either gives the same answers to the bit.
        """
        optimised = _optimised(file, content) if hasattr(os, "memfd_create") else None
        if optimised is None:
            return Graph(content)
        weights = self._of(onnx.load_model_from_string(optimised))
        return Graph(optimised, weights) if weights else Graph(content)

    def _of(self, model: ModelProto) -> Initializers:
        """The weights of the convolutions of an optimised `model`, by name."""
        named: dict[str, Key] = {}
        new: dict[Key, bytes] = {}
        for tensor in _shareable(model):
            content = tensor.raw_data  # a copy
            if len(content) < LEAST_BYTES:
                continue
            key = named[tensor.name] = tuple(tensor.dims), hashlib.sha256(content).digest()
            if key not in self._known:
                new[key] = content
        self._known |= _block(new)
        return {
            name: ort.OrtValue.ortvalue_from_numpy(self._known[key]) for name, key in named.items()
        }


def blocks() -> int:
    """The number of blocks in this process."""
    return len(_blocks)


def _optimised(file: str, content: bytes) -> bytes | None:
    """The graph `content` as ONNX Runtime runs it; None if it cannot be opened or written."""
    try:
        with _memory_file() as (descriptor, path):
            providers.open_session(file, content, "cpu", 1, optimised_to=path)
            with open(descriptor, "rb", closefd=False) as written:
                return written.read()
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


def _shareable(model: ModelProto) -> Iterator[TensorProto]:
    """The float32 weights that convolutions alone read."""
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    for tensor in model.graph.initializer:
        read_by = readers.get(tensor.name, set())
        if tensor.data_type == TensorProto.FLOAT and read_by and read_by <= CONVOLUTIONS:
            yield tensor


def _block(contents: Mapping[Key, bytes]) -> dict[Key, np.ndarray]:
    """Arrays float32 of the shapes and `contents` of weights, in one block of memory.

    It is that of an equal block, if this process has one.
    """
    if not contents:
        return {}
    digest = hashlib.sha256(repr([*contents]).encode()).digest()
    with _lock:
        memory = _blocks.get(digest)
        is_new = memory is None
        if memory is None:
            # NumPy asks for huge pages from 4 MiB on.
            size = ALIGNMENT + sum(_aligned(len(content)) for content in contents.values())
            memory = np.empty(size, np.uint8)
        found, start = {}, -memory.ctypes.data % ALIGNMENT
        for key, content in contents.items():
            part = memory[start : start + len(content)]
            if is_new:
                part[:] = np.frombuffer(content, np.uint8)
            found[key] = part.view(np.float32).reshape(key[0])
            start += _aligned(len(content))
        _blocks[digest] = memory
    return found


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
