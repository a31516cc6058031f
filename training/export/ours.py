"""From a trained network to a bundle: the graphs, their proof, the folder.

The network is exported once, as the *core*: x float32 (N, 3, S, S) normalised → logits float32 (N, K) and features float32
(N, D), pools and norms folded into its convolutions. The bundle's graphs are made from the core and share its weights bit for bit:

    predict.onnx    the core behind its normalisation, from uint8 images
    gradient.onnx   the core and its own reverse pass (training.autodiff)
    cam.onnx        the core and its reverse pass down to the layer of the class activation map
    *.half.onnx     on request, each of the three in half precision (training.half)

A bundle is written twice: first to a scratch folder, where the service's own engine runs it and the parity of every gradient
method is measured; then, if the parity holds, to its place, with the parity in its manifest.
"""

import json
import platform
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from sklearn.metrics import classification_report
from torch import Tensor, nn

from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.image.resize import Input
from service.runtime.engine import Engine
from service.runtime.sessions import self_test_image
from training.autodiff import cam_graph, gradient_graph, prune
from training.data.read import Dataset, Images, drawn_images
from training.export import float16, parity
from training.fit.runs import Run
from training.networks.folding import fold
from training.networks.ours import Network
from training.reliability.familiarity import Reference, attach, features_of
from training.reliability.fitting import fit_reliability

OPSET = 20
IR_VERSION = 10  # the newest that every onnxruntime since 1.18 reads
MEASURED_WITH = ("onnx", "onnxruntime-gpu", "torch", "captum", "numpy")


@dataclass(frozen=True)
class Core:
    """A classifier as an ONNX graph from `x` to `logits`, `features` and `activation`.

    `features` is float32 (N, `width`), what an image looks like to it; the tensor `activation`, float32 (N, C, h, w), is what the class
    activation map weighs. Either may be missing.
    """

    model: ModelProto
    width: int | None
    activation: str | None


class _Tapped(nn.Module):
    """The network with what its images look like and the activation of its CAM layer as further outputs."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self._tapped: dict[str, Tensor] = {}
        for name in (network.cam_layer, network.texture_layer):
            network.get_submodule(name).register_forward_hook(self._keeping(name))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.network.features(x)
        looks = features_of(features, self._tapped[self.network.texture_layer])
        return self.network.head(features), looks, self._tapped[self.network.cam_layer]

    def _keeping(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._tapped[name] = output

        return keep


def export_core(network: Network, size: int) -> Core:
    """The core of a torch network in evaluation mode that takes (N, 3, `size`, `size`)."""
    example = torch.zeros(2, 3, size, size)
    tapped = _Tapped(parity.copy_of(network))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about its own insides
        program = torch.onnx.export(
            tapped,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["logits", "features", "activation"],
            dynamic_shapes={"x": {0: torch.export.Dim("N")}},
            verbose=False,
        )
    assert program is not None
    model = fold(program.model_proto)
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "candor", ""
    prune(model)
    return Core(model, tapped(example)[1].shape[1], "activation")


def graphs(core: Core, spec: Input, *, gradients: bool = True) -> dict[str, bytes]:
    """The bundle's ONNX files; without `gradients` the one for predictions alone.

    Raises:
        DifferentiationError: an operator has no rule.
    """
    made = {contract.PREDICT: predict_graph(core.model, spec)}
    if gradients:
        made[contract.GRADIENT] = gradient_graph(core.model)
    if gradients and core.activation is not None:
        made[contract.CAM] = cam_graph(core.model, core.activation)
    return {name: _content(model) for name, model in made.items()}


def predict_graph(core: ModelProto, spec: Input) -> ModelProto:
    """image uint8 (N, S, S, 3) → logits and features of the core on (pixel / 255 − mean) / std, as `Engine.normalise` computes it."""
    model = onnx.ModelProto()
    model.CopyFrom(core)
    graph = model.graph
    mean, scale = (
        255 * np.asarray(spec.mean, np.float32),
        1 / (255 * np.asarray(spec.std, np.float32)),
    )
    for name, value in (("mean", mean), ("scale", scale)):
        graph.initializer.append(
            numpy_helper.from_array(value.reshape(1, 3, 1, 1), f"input/{name}")
        )
    nodes = [
        helper.make_node("Transpose", ["image"], ["input/planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["input/planes"], ["input/float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["input/float", "input/mean"], ["input/centred"]),
        helper.make_node("Mul", ["input/centred", "input/scale"], ["x"]),
    ]
    behind = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes, *behind])
    graph.input.append(
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", spec.size, spec.size, 3])
    )
    kept = [output for output in graph.output if output.name in ("logits", "features")]
    del graph.output[:]
    graph.output.extend(kept)
    prune(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def half_graphs(core: Core, spec: Input, files: Mapping[str, bytes]) -> dict[str, ModelProto]:
    """The graphs of `files` in half precision, by the name of the float32 file; images are normalised in float32 all the same."""
    made = {contract.PREDICT: predict_graph(float16.halved(core.model), spec)}
    for name in (contract.GRADIENT, contract.CAM):
        if name in files:
            made[name] = float16.halved(onnx.load_model_from_string(files[name]))
    return made


def make_bundle(
    run: Run, dataset: Dataset, folder: Path, name: str, *, halves: bool = False
) -> Bundle:
    """The bundle of `run` in `folder`: trust from the validation images, report from the test images, parity from 64.

    With `halves` it has the graphs in half precision, too.

    Raises:
        DifferentiationError: the network has an operator without a rule.
        ParityError: a method differs from Captum's, or half precision from float32.
    """
    core = export_core(run.network, run.input.size)
    manifest = Manifest(
        name, run.subject.classes, run.input, features=core.width, provenance=_provenance(run)
    )
    manifest, files = fit_reliability(
        manifest, graphs(core, run.input), dataset.validation, dataset.training
    )
    with tempfile.TemporaryDirectory() as scratch:
        engine = Engine(contract.write(Path(scratch) / "draft", manifest, files), "cpu")
        report = _report(engine, dataset.test)
        manifest = replace(
            manifest,
            self_test=_self_test(engine),
            parity=parity.check(
                parity.measure(engine, run.network, dataset.validation.pixels[: parity.IMAGES])
            ),
        )
        if halves:
            manifest, files = _with_halves(
                engine, core, manifest, files, dataset.validation.pixels[: parity.IMAGES]
            )
    files[contract.REPORT] = (json.dumps(report, indent=2) + "\n").encode()
    files[contract.CARD] = _card(run, manifest, report).encode()
    return contract.write(folder, manifest, files)


def make_foreign_bundle(
    core: Core,
    manifest: Manifest,
    folder: Path,
    held_out: Images | None = None,
    *,
    gradients: bool = True,
    halves: bool = False,
) -> Bundle:
    """The bundle of a classifier that came as an ONNX file; its parity is against finite differences, its trust from `held_out`.

    With `halves` it has the graphs in half precision, too.

    Raises:
        DifferentiationError: an operator has no rule; without `gradients` the bundle can be made all the same.
        ParityError: the gradients differ from finite differences, or half precision from float32.
    """
    files = graphs(core, manifest.input, gradients=gradients)
    versions = {package: version(package) for package in ("onnx", "onnxruntime-gpu", "numpy")}
    manifest = replace(
        manifest,
        features=core.width,
        provenance={"versions": versions, "commit": _commit(), **manifest.provenance},
    )
    if held_out is not None:
        manifest, files = fit_reliability(manifest, files, held_out, None)
    with tempfile.TemporaryDirectory() as scratch:
        engine = Engine(contract.write(Path(scratch) / "draft", manifest, files), "cpu")
        batch = drawn_images(parity.DRAWN, manifest.input.size)
        measured = parity.check(parity.slopes(engine, batch)) if gradients else {}
        manifest = replace(manifest, self_test=_self_test(engine), parity=measured)
        if halves:
            manifest, files = _with_halves(engine, core, manifest, files, batch)
    return contract.write(folder, manifest, files)


def _with_halves(
    full: Engine, core: Core, manifest: Manifest, files: dict[str, bytes], batch: np.ndarray
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with the parity of the half-precision graphs on `batch`, and the files with those graphs."""
    made = half_graphs(core, manifest.input, files)
    if contract.REFERENCE in files:
        made[contract.PREDICT] = attach(
            made[contract.PREDICT], Reference.read(files[contract.REFERENCE])
        )
    with tempfile.TemporaryDirectory() as scratch:
        rounded = {name: _content(float16.rounded(model)) for name, model in made.items()}
        near = Engine(
            contract.write(Path(scratch) / "draft", replace(manifest, self_test=None), rounded),
            "cpu",
        )
        measured = float16.prove(full, near, batch, manifest.calibration)
    halves = {contract.HALVES[name]: _content(model) for name, model in made.items()}
    return replace(manifest, parity={**manifest.parity, **measured}), files | halves


def _content(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def _report(engine: Engine, test: Images) -> dict[str, Any]:
    """Sklearn's classification report of predict.onnx itself on the test images, one view."""
    predicted = engine.predict(test.pixels).logits.argmax(1)
    labels = engine.manifest.labels
    told = classification_report(
        test.labels,
        predicted,
        labels=range(len(labels)),
        target_names=list(labels),
        output_dict=True,
        zero_division=0.0,
    )
    files = {contract.PREDICT: engine.manifest.files[contract.PREDICT].sha256}
    return {
        "files": files,
        "test": {
            "pictures": len(test),
            "accuracy": float((predicted == test.labels).mean()),
            "classes": told,
        },
    }


def _self_test(engine: Engine) -> tuple[int, float]:
    logits = engine.predict(self_test_image(engine.manifest.input.size)).logits[0]
    return int(logits.argmax()), float(logits.max())


def _provenance(run: Run) -> Mapping[str, Any]:
    return {
        "data": {"name": run.subject.name, "fingerprint": run.subject.fingerprint},
        "recipe": run.recipe.document(),
        "minutes": round(float(run.report["minutes"]), 1),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in MEASURED_WITH},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the code that exports, if it is in a repository."""
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or None


def _card(run: Run, manifest: Manifest, report: Mapping[str, Any]) -> str:
    test = report["test"]
    return (
        f"# {manifest.name}\n\n"
        f"{run.recipe.network}, trained on {run.subject.name} ({len(manifest.labels)} classes: {', '.join(manifest.labels)}) "
        f"for {run.recipe.epochs} epochs, seed {run.recipe.seed}. On {test['pictures']:,} test images, one view, predict.onnx has "
        f"accuracy {test['accuracy']:.4f} and macro F1 {test['classes']['macro avg']['f1-score']:.4f}. "
        f"Probabilities are calibrated on held-out training images (temperature {manifest.temperature:.3f}).\n\n"
        "It knows these classes only: an image of anything else gets one of them, too.\n"
    )
