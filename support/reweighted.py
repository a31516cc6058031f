"""A bundle with the graphs of another, and other weights in its convolutions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from service.bundle import folder as contract
from service.bundle.folder import Bundle

GRAPHS = (contract.PREDICT, contract.GRADIENT, contract.CAM)


def reweighted(bundle: Bundle, folder: Path, factor: float) -> Bundle:
    """Writes `bundle` into `folder`, every kernel of a convolution times `factor`.

    It has the graphs in float32 alone, and no self-test.
    """
    files = {name: _scaled(bundle.read(name), factor) for name in GRAPHS if bundle.has(name)}
    return contract.write(folder, replace(bundle.manifest, self_test=None, int8=None), files)


def _scaled(graph: bytes, factor: float) -> bytes:
    model = onnx.load_model_from_string(graph)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4 and tensor.data_type == onnx.TensorProto.FLOAT:
            kernel = np.frombuffer(tensor.raw_data, np.float32) * np.float32(factor)
            tensor.raw_data = kernel.tobytes()
    return bytes(model.SerializeToString())
