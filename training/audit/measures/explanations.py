"""Explanations: how faithful attribution maps are, how far they agree, and what they depend on.

Measured on few images, for the predicted class. `cascade` shuffles the weights of the network from
its head backwards (Adebayo et al., "Sanity Checks for Saliency Maps", arXiv 1810.03292). A map that
stays the same explains something other than the network.
"""

import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import ModelProto, numpy_helper
from scipy.stats import spearmanr

from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.explain import Attribution, ask, available, explain, quality
from service.runtime.engine import Engine
from training.autodiff import FORWARD
from training.data import Pixels

METHODS = ("integrated_gradients", "grad_cam", "occlusion")
DEPTHS = (0.25, 0.5, 1.0)
CASCADED = 16  # images
EDGE = 8  # an eighth of a side is border

Maps = Float32[np.ndarray, "rows H W"]


def explanations(bundle: Bundle, engine: Engine, pixels: Pixels, seed: int) -> Mapping[str, Any]:
    """The figures of each method, and the agreement of each pair of methods."""
    names = _available(engine)
    attributions = {name: _attributions(engine, pixels, name) for name in names}
    maps = {name: np.stack([each.map for each in rows]) for name, rows in attributions.items()}
    agreement = {f"{a}, {b}": _agreement(maps[a], maps[b]) for a, b in combinations(names, 2)}
    methods = {
        name: _method_figures(engine, pixels, rows, seed) for name, rows in attributions.items()
    }
    return {
        "pictures": len(pixels),
        "methods": methods,
        "agreement": agreement,
        "cascade": cascade(bundle, engine, pixels, seed),
    }


def _available(engine: Engine) -> list[str]:
    known = {method.name for method in available(engine.manifest)}
    return [name for name in METHODS if name in known]


def _attributions(engine: Engine, pixels: Pixels, name: str) -> list[Attribution]:
    question = ask(engine.manifest, name, None, {})
    return [
        explain(engine, image, question, row)
        for image, row in zip(pixels, engine.predict(pixels).logits, strict=True)
    ]


def _method_figures(
    engine: Engine, pixels: Pixels, attributions: Sequence[Attribution], seed: int
) -> Mapping[str, float]:
    areas = [
        quality.faithfulness(engine, image, each.map, each.target.index, seed)
        for image, each in zip(pixels, attributions, strict=True)
    ]
    figures = {name: float(np.mean([entry[name] for entry in areas])) for name in areas[0]}
    # a median: a completeness gap is large where the logit hardly differs from the baseline's
    for name in sorted({key for each in attributions for key in each.quality}):
        figures[name] = float(np.median([each.quality[name] for each in attributions]))
    return figures | {
        "deletion_better_than_random": float(
            np.mean([entry["deletion"] < entry["deletion_random"] for entry in areas])
        ),
        "insertion_better_than_random": float(
            np.mean([entry["insertion"] > entry["insertion_random"] for entry in areas])
        ),
        "border_share": float(np.mean([border_share(each.map) for each in attributions])),
    }


def border_share(values: Float32[np.ndarray, "H W"]) -> float:
    """The border's share of the map's absolute mass, divided by its share of the image's area.

    1 for a map that is spread evenly.
    """
    edge = max(1, min(values.shape) // EDGE)
    mass, inside = np.abs(values), np.s_[edge:-edge, edge:-edge]
    area = 1 - mass[inside].size / mass.size
    return float((1 - mass[inside].sum() / mass.sum()) / area) if mass.sum() > 0 else 1.0


def _agreement(first: Maps, second: Maps) -> float:
    """The mean rank correlation of two methods' maps of the same images."""
    # a constant map has no ranks
    pairs = zip(first, second, strict=True)
    return float(
        np.nanmean(
            [
                spearmanr(a.ravel(), b.ravel()).statistic
                for a, b in pairs
                if np.ptp(a) > 0 and np.ptp(b) > 0
            ]
        )
    )


def cascade(
    bundle: Bundle, engine: Engine, pixels: Pixels, seed: int
) -> Mapping[str, Mapping[str, float]]:
    """The mean cosine of the maps with those of a network with shuffled weights.

    By method and depth, which is the share of the weights, from the head on, that are shuffled.
    """
    chosen, names = pixels[:CASCADED], _available(engine)
    targets = engine.predict(chosen).logits
    plain = {name: _explained(engine, chosen, name, targets) for name in names}
    cosines: dict[str, dict[str, float]] = {name: {} for name in names}
    for depth in DEPTHS:
        broken = _broken(bundle, depth, seed)
        for name in names:
            pairs = zip(plain[name], _explained(broken, chosen, name, targets), strict=True)
            cosines[name][str(depth)] = float(np.mean([quality.cosine(a, b) for a, b in pairs]))
    return cosines


def _explained(engine: Engine, pixels: Pixels, name: str, logits: np.ndarray) -> Maps:
    """The maps of `engine` for the classes that the unchanged network predicts."""
    maps = []
    for image, row in zip(pixels, logits, strict=True):
        question = ask(engine.manifest, name, str(int(row.argmax())), {})
        maps.append(explain(engine, image, question, row).map)
    return np.stack(maps)


def _broken(bundle: Bundle, depth: float, seed: int) -> Engine:
    files = {
        name: bundle.read(name)
        for name in (contract.PREDICT, contract.GRADIENT, contract.CAM)
        if bundle.has(name)
    }
    order = _weight_names(onnx.load_model_from_string(files[contract.PREDICT]))
    chosen = set(order[-max(1, round(len(order) * depth)) :])
    graphs = {
        name: _shuffled(onnx.load_model_from_string(content), chosen, seed)
        for name, content in files.items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        # without the self-test, which shuffled weights would not pass
        manifest = Manifest(bundle.manifest.name, bundle.manifest.labels, bundle.manifest.input)
        return Engine(contract.write(Path(scratch) / "broken", manifest, graphs), "cpu")


def _weight_names(model: ModelProto) -> list[str]:
    """The names of the network's matrices and filter banks, in the order of their use."""
    large = {
        tensor.name
        for tensor in model.graph.initializer
        if len(tensor.dims) > 1 and tensor.data_type == onnx.TensorProto.FLOAT
    }
    used = [
        name
        for node in model.graph.node
        for name in node.input
        if name in large and node.op_type in ("Conv", "Gemm", "MatMul")
    ]
    return list(dict.fromkeys(used))


def _shuffled(model: ModelProto, chosen: set[str], seed: int) -> bytes:
    # every graph of the bundle holds the same weights, so one seed shuffles all of them alike
    for tensor in model.graph.initializer:
        if tensor.name.removeprefix(FORWARD) in chosen:
            values = numpy_helper.to_array(tensor).copy()
            np.random.default_rng(seed).shuffle(flat := values.ravel())
            tensor.CopyFrom(numpy_helper.from_array(flat.reshape(values.shape), tensor.name))
    return bytes(model.SerializeToString(deterministic=True))
