"""Explanations: how faithful attribution maps are, how far they agree, and what they depend on.

Measured on few images, for the predicted class. `cascade` shuffles the weights of the network from
its head backwards (Adebayo et al., "Sanity Checks for Saliency Maps", arXiv 1810.03292). A map that
stays the same explains something other than the network.
"""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import ModelProto, numpy_helper
from scipy.stats import spearmanr

from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.explain import Attribution, ask, available, explain, quality
from service.explain.maps.sampling import cosine
from service.image.resize import InputPixels
from service.runtime.engine import Engine
from training.autodiff import FORWARD
from training.data import Pixels
from training.data.images import in_threads

METHODS = ("integrated_gradients", "grad_cam", "occlusion")
DEPTHS = (0.25, 0.5, 1.0)
EDGE = 8  # an eighth of a side is border

Maps = Float32[np.ndarray, "rows H W"]


class Explained(NamedTuple):
    """An attribution, and the deletion and insertion areas of its map beside random orders."""

    attribution: Attribution
    areas: Mapping[str, float]


def explanations(
    bundle: Bundle, engine: Engine, pixels: Pixels, cascaded: int, seed: int
) -> Mapping[str, Any]:
    """The figures of each method, and the agreement of each pair of methods.

    `cascaded` of the images are explained again with shuffled weights.
    """
    names = _available(engine)
    by_image = _explained(engine, pixels, names, seed)
    by_method = {name: [each[name] for each in by_image] for name in names}
    maps = {
        name: np.stack([each.attribution.map for each in rows]) for name, rows in by_method.items()
    }
    agreement = {f"{a}, {b}": _agreement(maps[a], maps[b]) for a, b in combinations(names, 2)}
    return {
        "pictures": len(pixels),
        "methods": {name: _method_figures(rows) for name, rows in by_method.items()},
        "agreement": agreement,
        "cascade": cascade(
            bundle,
            pixels[:cascaded],
            {name: [each.attribution for each in rows] for name, rows in by_method.items()},
            seed,
        ),
    }


def _available(engine: Engine) -> list[str]:
    known = {method.name for method in available(engine.manifest)}
    return [name for name in METHODS if name in known]


def _explained(
    engine: Engine, pixels: Pixels, names: Sequence[str], seed: int
) -> list[Mapping[str, Explained]]:
    """The maps of each image by method; its random orders are measured once for all methods."""
    questions = {name: ask(engine.manifest, name, None, {}) for name in names}
    # an image a core: two cores on one image would wait for each other
    alone = engine.on_one_core()

    def of_image(image: InputPixels, logits: np.ndarray) -> Mapping[str, Explained]:
        random = quality.random_areas(alone, image, int(logits.argmax()), seed)
        found = {}
        for name, question in questions.items():
            attribution = explain(alone, image, question, logits)
            own = quality.areas(alone, image, attribution.map, attribution.target.index)
            found[name] = Explained(attribution, quality.beside(own, random))
        return found

    rows = list(zip(pixels, engine.predict(pixels).logits, strict=True))
    return list(in_threads(lambda row: of_image(*row), rows))


def _method_figures(rows: Sequence[Explained]) -> Mapping[str, float]:
    areas, attributions = [each.areas for each in rows], [each.attribution for each in rows]
    figures = {name: float(np.mean([entry[name] for entry in areas])) for name in areas[0]}
    # a median: a completeness gap is large where the logit hardly differs from the baseline's
    for name in sorted({key for each in attributions for key in each.quality}):
        # a map that is nothing has no measures
        found = [each.quality[name] for each in attributions if name in each.quality]
        figures[name] = float(np.median(found))
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
    bundle: Bundle,
    pixels: Pixels,
    plain: Mapping[str, Sequence[Attribution]],
    seed: int,
) -> Mapping[str, Mapping[str, float]]:
    """The mean cosine of the `plain` maps with those of a network with shuffled weights.

    By method and depth, which is the share of the weights, from the head on, that are shuffled.
    Maps after those of `pixels` are left out.
    """
    cosines: dict[str, dict[str, float]] = {name: {} for name in plain}
    for depth in DEPTHS:
        alone = _broken(bundle, depth, seed).on_one_core()
        for name, attributions in plain.items():
            pairs = list(zip(pixels, attributions, strict=False))
            each = in_threads(partial(_cosine, alone), pairs)
            cosines[name][str(depth)] = float(np.mean(list(each)))
    return cosines


def _cosine(engine: Engine, pair: tuple[InputPixels, Attribution]) -> float:
    """The cosine of an image's map with that of `engine`, for the same class."""
    pixels, plain = pair
    question = plain.question
    broken = question.method.compute(engine, pixels, plain.target, None, **question.parameters)
    return cosine(plain.map, broken.map)


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
