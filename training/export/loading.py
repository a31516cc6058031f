"""The graph of an ONNX file, loaded, in the spelling that all that follows expects.

What a file may write otherwise, without meaning anything else, is put right:

    the domain ai.onnx                  is that of ONNX, ""
    sparse initialisers                 become dense
    weights in Constant nodes           become initialisers (paddle2onnx writes them so)
    nodes of the same name              lose it: names of nodes mean nothing
    nodes before those that they read   are moved behind them
    an IR version of any age            is that of a bundle

What is no network is refused: nothing at all, no node, no output, an opset that nobody knows yet.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import (
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    defs,
    helper,
    numpy_helper,
)

from training.autodiff import opset_of
from training.autodiff.model import sort
from training.export.core import IR_VERSION
from training.export.ends import ForeignError
from training.export.faults import reason

ONNX = "ai.onnx"
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
WEIGHTS_RANK = 2  # of a linear layer
# How files begin that are often taken for an ONNX file.
OTHERS = {
    b"PK\x03\x04": "an archive, as torch.save writes it, or a zip: export the network as ONNX",
    b"\x80": "a pickle of Python: export the network as ONNX",
    b"\x89HDF": "HDF5, as Keras writes it: convert it to ONNX with tf2onnx",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with git lfs pull",
    b"<": "a page of HTML or XML: download the file itself",
}


def load(path: Path) -> ModelProto:
    """The graph of the file `path`, with its weights.

    Raises:
        ForeignError: it is no ONNX file, has no network, or lacks a file of weights.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # noqa: BLE001 - onnx and protobuf raise many types on damaged bytes
        missing = re.search(r"tensor name: (.*?)\) should be stored in (.*?),", str(error))
        if missing:
            raise ForeignError(
                f"{missing[2]} is missing, in which {path} keeps its weights ({missing[1]}): "
                "put it there, or export the network into one file"
            ) from None
        raise ForeignError(f"{path} is no ONNX file ({_kind(path) or reason(error)})") from None
    _check(model, path)
    _rename_domain(model)
    _fill(model)
    _adopt_weights(model)
    _forget_names(model.graph.node)
    sort(model)
    model.ir_version = IR_VERSION
    return model


def _kind(path: Path) -> str | None:
    """What the file is instead, as far as its first bytes say it."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError:
        return None
    return next((kind for begin, kind in OTHERS.items() if start.startswith(begin)), None)


def _check(model: ModelProto, path: Path) -> None:
    if not model.graph.node:
        size = path.stat().st_size
        raise ForeignError(
            f"{path} has no network, only {size:,} bytes: export it again"
            if size
            else f"{path} is empty: export the network again"
        )
    if not model.graph.output:
        raise ForeignError(f"the graph of {path} has no output: export the network again")
    opset, newest = opset_of(model), defs.onnx_opset_version()
    if not 0 < opset <= newest:
        raise ForeignError(
            f"{path} says that it has opset {opset or 'none'}, and the newest here is {newest}: "
            "export the network in an opset from 7 to 21"
        )


def _rename_domain(model: ModelProto) -> None:
    for entry in model.opset_import:
        if entry.domain == ONNX:
            entry.domain = ""
    for node in model.graph.node:
        if node.domain == ONNX:
            node.domain = ""


def _fill(model: ModelProto) -> None:
    """Makes sparse weights dense, in place."""
    for sparse in model.graph.sparse_initializer:
        model.graph.initializer.append(_dense(sparse))
    del model.graph.sparse_initializer[:]
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "sparse_value":
            dense = _dense(node.attribute[0].sparse_tensor)
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", dense))


def _adopt_weights(model: ModelProto) -> None:
    """Makes constants that may be weights, in place, initialisers; smaller ones stay nodes."""
    nodes = []
    for node in model.graph.node:
        value = node.attribute[0].t if node.op_type == "Constant" else None
        if value is not None and value.data_type in FLOATS and len(value.dims) >= WEIGHTS_RANK:
            weights = model.graph.initializer.add()
            weights.CopyFrom(value)
            weights.name = node.output[0]
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _dense(sparse: SparseTensorProto) -> TensorProto:
    values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if places.ndim == 1:
        dense.reshape(-1)[places] = values
    else:
        dense[tuple(places.T)] = values
    return numpy_helper.from_array(dense, sparse.values.name)


def _forget_names(nodes: Sequence[NodeProto]) -> None:
    counts = Counter(node.name for node in nodes)
    for node in nodes:
        if counts[node.name] > 1:
            node.name = ""
