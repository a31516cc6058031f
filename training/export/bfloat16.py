"""The loss of bfloat16, which OpenVINO computes in on a CPU with AMX or AVX-512 BF16.

It is measured where the bundle is made, on any machine: a `rounded` graph is in float32, and every
tensor in it is rounded to bfloat16. Such a CPU rounds less: it adds in float32, and leaves the last
layers there.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.bundle.manifest import Bfloat16, Parity
from service.runtime.engine import Engine
from training.data.images import Images
from training.data.read import Dataset, check_classes
from training.export import float16
from training.export.int8 import macro_f1
from training.figures.outputs import outputs_of

FLOAT, BFLOAT16 = TensorProto.FLOAT, TensorProto.BFLOAT16
COMPARED = 64  # images whose maps are compared
PREFIX = "bfloat16/"  # of the names in the manifest's parity


def rounded(model: ModelProto) -> ModelProto:
    """`model`, float32, with every weight and every tensor rounded to bfloat16; for measuring."""
    inferred = shape_inference.infer_shapes(model)
    graph = inferred.graph
    floats = {
        info.name
        for info in (*graph.value_info, *graph.output)
        if info.type.tensor_type.elem_type == FLOAT
    }
    for tensor in graph.initializer:
        if tensor.data_type == FLOAT:
            tensor.CopyFrom(_rounded_tensor(tensor))
    nodes = [each for node in graph.node for each in _with_rounding(node, floats)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(inferred, full_check=True)
    return inferred


def add_bfloat16(bundle: Bundle, dataset: Dataset, folder: Path) -> Bundle:
    """`bundle` in `folder` with the figures of bfloat16 on the test images; files stay as they are.

    Raises:
        DataError: the data set has other classes than the bundle.
    """
    check_classes(dataset, bundle.manifest.labels)
    with tempfile.TemporaryDirectory() as scratch:
        usual, other = Engine(bundle, "cpu"), rounded_engine(bundle, Path(scratch))
        figures, parity = measure(usual, other, dataset.test)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    manifest = replace(
        bundle.manifest, bfloat16=figures, parity={**bundle.manifest.parity, **parity}
    )
    return contract.write(folder, manifest, files)


def rounded_engine(bundle: Bundle, scratch: Path) -> Engine:
    """An engine of the rounded graphs of `bundle`, in the folder `scratch`."""
    graphs = {
        name: rounded(onnx.load_model_from_string(bundle.read(name))).SerializeToString()
        for name in (contract.PREDICT, contract.GRADIENT, contract.CAM)
        if bundle.has(name)
    }
    draft = replace(bundle.manifest, self_test=None, int8=None)
    return Engine(contract.write(scratch / "rounded", draft, graphs), "cpu")


def measure(usual: Engine, other: Engine, test: Images) -> tuple[Bfloat16, Mapping[str, Parity]]:
    """The figures of `other` beside `usual` on the images `test`, and the parity of its answers."""
    ours, theirs = (outputs_of(engine, test).logits for engine in (other, usual))
    figures = Bfloat16(
        test_pictures=len(test),
        macro_f1=macro_f1(ours, test),
        macro_f1_float32=macro_f1(theirs, test),
        agreement=float((ours.argmax(1) == theirs.argmax(1)).mean()),
        date=datetime.now(UTC).date().isoformat(),
    )
    count = min(COMPARED, len(test))
    batch, target = test.rows(np.arange(count)), theirs[:count].argmax(1)
    answers = [
        float16.answers_of(engine, batch, target, usual.manifest.calibration)
        for engine in (other, usual)
    ]
    parity = {
        PREFIX + name: float16.compared(values, answers[1][name])
        for name, values in answers[0].items()
    }
    return figures, parity


def _with_rounding(node: NodeProto, floats: set[str]) -> list[NodeProto]:
    """`node`, its constants rounded, and the casts that round its outputs."""
    for attribute in node.attribute:
        if attribute.t.data_type == FLOAT:
            attribute.t.CopyFrom(_rounded_tensor(attribute.t))
    casts = []
    for index, name in enumerate(node.output):
        if name in floats:
            node.output[index] = f"{name}/exact"
            casts.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/b"], to=BFLOAT16))
            casts.append(helper.make_node("Cast", [f"{name}/b"], [name], to=FLOAT))
    return [node, *casts]


def _rounded_tensor(tensor: TensorProto) -> TensorProto:
    """The nearest bfloat16 of each value, to even at a tie, in float32."""
    values = numpy_helper.to_array(tensor)
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    even = bits + 0x7FFF + ((bits >> 16) & 1)
    kept = (even & 0xFFFF0000).astype(np.uint32).view(np.float32).reshape(values.shape)
    # Masks hold infinities.
    return numpy_helper.from_array(np.where(np.isfinite(values), kept, values), tensor.name)
