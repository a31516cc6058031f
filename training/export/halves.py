"""The graphs of a bundle in half precision, proven against those in float32."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
from jaxtyping import UInt8
from numpy import ndarray
from onnx import ModelProto

from service.bundle import folder as contract
from service.bundle.manifest import Manifest
from service.image.resize import Input
from service.runtime.engine import Engine
from training.export import float16
from training.export.core import Core, content, predict_graph
from training.reliability.familiarity import Reference, attach


def half_graphs(core: Core, spec: Input, files: Mapping[str, bytes]) -> dict[str, ModelProto]:
    """The graphs of `files` in half precision, by the name of the float32 file."""
    # Images are normalised in float32 all the same: a half has too few bits for pixel − mean.
    halves = {contract.PREDICT: predict_graph(float16.halved(core.model), spec)}
    for name in (contract.GRADIENT, contract.CAM):
        if name in files:
            halves[name] = float16.halved(onnx.load_model_from_string(files[name]))
    return halves


def with_halves(
    engine: Engine,
    core: Core,
    manifest: Manifest,
    files: dict[str, bytes],
    batch: UInt8[ndarray, "rows H W 3"],
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with the parity of graphs in half precision, and the files with them."""
    halves = half_graphs(core, manifest.input, files)
    if contract.REFERENCE in files:
        reference = Reference.read(files[contract.REFERENCE])
        halves[contract.PREDICT] = attach(halves[contract.PREDICT], reference)
    rounded = {name: content(float16.rounded(model)) for name, model in halves.items()}
    # An engine does not start if the self-test fails; `float16.prove` names that failure better.
    draft = replace(manifest, self_test=None)
    with tempfile.TemporaryDirectory() as scratch:
        half_engine = Engine(contract.write(Path(scratch) / "draft", draft, rounded), "cpu")
        measured = float16.prove(engine, half_engine, batch, manifest.calibration)
    new = {contract.HALVES[name]: content(model) for name, model in halves.items()}
    return replace(manifest, parity={**manifest.parity, **measured}), files | new
