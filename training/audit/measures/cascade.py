"""What maps depend on: the cosine of a method's maps with those of shuffled weights, and others.

The cascade shuffles the weights of the network from its head backwards (Adebayo et al., "Sanity
Checks for Saliency Maps", arXiv 1810.03292). A map that stays the same explains something other
than the network. Beside it stand maps of unrelated images and classes, by the network as it is: how
alike maps of the method are whatever they show.

Each method of the bundle has a quarter of its steps and samples, which are not doubled: a cosine
of few samples is nearer to 0. The same seed draws the samples of both maps.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from jaxtyping import Float32, Float64
from onnx import ModelProto, numpy_helper

from service.bundle import folder as contract
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.explain import Question, Target, ask, available
from service.explain.maps.sampling import cosine
from service.explain.question import quartered
from service.image.resize import InputPixels
from service.runtime.engine import Engine
from training.autodiff import FORWARD
from training.data import ClassIndices, Pixels
from training.data.images import in_threads
from training.figures.intervals import bootstrap

DEPTHS = (0.25, 0.5, 1.0)  # shares of the weights, from the head on
DRAWS = 2  # networks of a depth, shuffled independently
HIGH = 95  # percentile of the cosines of unrelated maps

Maps = Float32[np.ndarray, "rows H W"]


def figures(bundle: Bundle, engine: Engine, pixels: Pixels, seed: int) -> Mapping[str, Any]:
    """`cascade` and `unrelated` of the maps of `pixels`, by method.

    `cascade`: by depth, the mean cosine with the maps of shuffled weights. `unrelated`: the median
    and the 95th percentile of the cosines of an image's map for its predicted class with another
    image's for its next class, if there are two images.
    """
    methods = available(engine.manifest)
    questions = {each.name: _cheap(ask(engine.manifest, each.name, None, {})) for each in methods}
    ranked = engine.predict(pixels).logits.argsort(1)
    targets, rivals = ranked[:, -1], ranked[:, -2]
    plain = {name: _maps(engine, pixels, targets, each) for name, each in questions.items()}
    cosines: dict[str, dict[str, float]] = {name: {} for name in plain}
    intervals: dict[str, dict[str, list[float]]] = {name: {} for name in plain}
    for depth in DEPTHS:
        draws = [_broken(bundle, depth, [seed, draw]) for draw in range(DRAWS)]
        for name, question in questions.items():
            broken = [_maps(each, pixels, targets, question) for each in draws]
            # the same images with each draw: the mean of an image is what is drawn again
            by_image = np.mean([_cosines(plain[name], maps) for maps in broken], axis=0)
            cosines[name][str(depth)] = float(by_image.mean())
            intervals[name][str(depth)] = _mean_interval(by_image, seed)
    found = {"cascade": cosines, "cascade_intervals": intervals}
    if len(pixels) < 2:  # noqa: PLR2004
        return {**found, "unrelated": {}, "unrelated_intervals": {}}
    others = {name: _maps(engine, pixels, rivals, each) for name, each in questions.items()}
    return {
        **found,
        "unrelated": {name: unrelated(maps, others[name]) for name, maps in plain.items()},
        "unrelated_intervals": {
            name: unrelated_intervals(maps, others[name], seed) for name, maps in plain.items()
        },
    }


def unrelated(maps: Maps, others: Maps) -> Mapping[str, Any]:
    """The median and the HIGH percentile of the cosines of `maps` with `others` of other images."""
    found = [cosine(maps[a], others[b]) for a, b in permutations(range(len(maps)), 2)]
    return {
        "pictures": len(maps),
        "median": float(np.median(found)),
        "high": float(np.percentile(found, HIGH)),
    }


def unrelated_intervals(maps: Maps, others: Maps, seed: int) -> Mapping[str, list[float]]:
    """The intervals of `unrelated`, over images that are drawn again with all their pairs."""
    every = np.array([[cosine(own, other) for other in others] for own in maps])

    def of(rows: ClassIndices, percentile: float) -> float:
        first, second = np.meshgrid(rows, rows)
        # an image beside itself is no pair, drawn twice or not; some draws have no other
        pairs = every[first, second][first != second]
        return float(np.percentile(pairs if len(pairs) else every, percentile))

    return {
        name: bootstrap(partial(of, percentile=at), len(maps), seed)
        for name, at in (("median", 50.0), ("high", float(HIGH)))
    }


def _cheap(question: Question) -> Question:
    return replace(question, parameters={**question.parameters, **quartered(question.parameters)})


def _maps(engine: Engine, pixels: Pixels, targets: ClassIndices, question: Question) -> Maps:
    """The maps of the images for the classes `targets`, an image a core."""
    alone = engine.on_one_core()

    def of_image(row: tuple[InputPixels, int]) -> Float32[np.ndarray, "H W"]:
        image, index = row
        found = question.method.compute(alone, image, Target(index), None, **question.parameters)
        return np.asarray(found.map, np.float32)

    return np.stack(list(in_threads(of_image, list(zip(pixels, targets.tolist(), strict=True)))))


def _cosines(first: Maps, second: Maps) -> Float64[np.ndarray, " rows"]:
    return np.array([cosine(*pair) for pair in zip(first, second, strict=True)], np.float64)


def _mean_interval(values: Float64[np.ndarray, " rows"], seed: int) -> list[float]:
    return bootstrap(lambda rows: float(values[rows].mean()), len(values), seed)


def _broken(bundle: Bundle, depth: float, seed: Sequence[int]) -> Engine:
    """The engine of `bundle` with the last `depth` of its weights shuffled, each by itself."""
    files = {
        name: bundle.read(name)
        for name in (contract.PREDICT, *contract.DERIVED)
        if bundle.has(name)
    }
    order = _weight_names(onnx.load_model_from_string(files[contract.PREDICT]))
    first = len(order) - max(1, round(len(order) * depth))
    # every graph of the bundle holds the same weights: those of a name are shuffled alike in all
    seeds = {name: [*seed, place] for place, name in enumerate(order) if place >= first}
    graphs = {
        name: _shuffled(onnx.load_model_from_string(content), seeds)
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


def _shuffled(model: ModelProto, seeds: Mapping[str, Sequence[int]]) -> bytes:
    """`model` with the tensors of `seeds` shuffled, each by a seed of its own."""
    for tensor in model.graph.initializer:
        seed = seeds.get(tensor.name.removeprefix(FORWARD))
        if seed is not None:
            values = numpy_helper.to_array(tensor).copy()
            np.random.default_rng(seed).shuffle(flat := values.ravel())
            tensor.CopyFrom(numpy_helper.from_array(flat.reshape(values.shape), tensor.name))
    return bytes(model.SerializeToString(deterministic=True))
