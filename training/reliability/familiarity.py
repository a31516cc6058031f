"""Familiarity: how much an image is like the training images, found inside predict.onnx.

Two vectors describe an image. Its penultimate features, of length 1, represent the thing. The
standard deviations of an early layer's channels, of length TEXTURE, represent the texture: they
detect inputs that a network is sure about although they are no photographs.

These features of a sample of training images, the same number of each class, are kept in 8 bits as
the reference. The score of an image is the cosine of its features and those of its NEAREST-th
nearest reference image (Sun, Ming, Zhu, Li, "Out-of-Distribution Detection with Deep Nearest
Neighbors", ICML 2022, arXiv 2204.06507). For a network with unknown features it is the energy
log Σ exp(logits) (Liu et al., NeurIPS 2020, arXiv 2010.03759).

5 % of the held-out images lie below the threshold. A score carries no information about the
correctness of the prediction.
"""

import io
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from jaxtyping import Float, Float32, Float64, Int8, Int64
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from service.bundle.manifest import Familiarity
from service.predictions import energy
from service.runtime.graphs import Outputs
from training.autodiff import prune
from training.data.images import Images
from training.data.split import draw_each

NEAREST = 10
# of the reference: every prediction reads all of it, in float32, four bytes for each of its bytes
MOST_ROWS, MOST_BYTES = 2000, 2**19
FAMILIAR_SHARE = 0.95
TEXTURE = 3.0  # chosen among 1, 2, 3 and 4 by the kinds of images that the audit measures
LEAST_VARIANCE = 1e-12  # gives a direction to the texture of an image that has none
PREFIX = "familiarity/"
FEATURES, OUTPUTS = "features", ("similarity", "neighbour")


def features_of(
    features: Float[Tensor, "rows features"], early: Float[Tensor, "rows channels height width"]
) -> Float[Tensor, "rows all_features"]:
    """The description of images for the search: (N, D) features and (N, C, h, w) → (N, D + C)."""
    variance = (early - early.mean((2, 3), keepdim=True)).square().mean((2, 3))
    texture = (variance + LEAST_VARIANCE).sqrt()
    return torch.cat(
        [functional.normalize(features), TEXTURE * functional.normalize(texture)], dim=1
    )


@dataclass(frozen=True)
class Reference:
    """The reference images: features int8 (R, D), labels int64 (R,) and names (R,).

    Each row of features is scaled to its own largest value.
    """

    features: Int8[np.ndarray, "rows features"]
    labels: Int64[np.ndarray, " rows"]
    names: np.ndarray

    @classmethod
    def of(
        cls,
        features: Float32[np.ndarray, "rows features"],
        labels: Int64[np.ndarray, " rows"],
        names: np.ndarray,
    ) -> "Reference":
        """The reference with these features, rounded to 8 bits."""
        # a cosine does not depend on the length of a vector, so a scale of its own costs nothing
        largest = np.abs(features).max(1, keepdims=True)
        return cls(
            np.rint(features / np.maximum(largest, 1e-12) * 127).astype(np.int8), labels, names
        )

    def content(self) -> bytes:
        """The bytes of reference.npz."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, allow_pickle=False, features=self.features, labels=self.labels, names=self.names
        )
        return buffer.getvalue()

    @classmethod
    def read(cls, content: bytes) -> "Reference":
        """The reference in the bytes of reference.npz."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return cls(arrays["features"], arrays["labels"], arrays["names"])


def sample(training: Images, width: int, seed: int) -> Int64[np.ndarray, " rows"]:
    """The positions of the training images that become the reference.

    Every class has the same number of them. `width` is the number of features of an image.
    """
    classes = len(np.unique(training.labels))
    each = max(1, min(MOST_ROWS, MOST_BYTES // width) // classes)
    return draw_each(training.labels, each, seed)


def attach(predict: ModelProto, reference: Reference) -> ModelProto:
    """A copy of `predict`, which has the output `features`, with a search of `reference`.

    The new outputs are `similarity` float32 (N, k) and `neighbour` int64 (N, k), nearest first. The
    search is part of the graph, so it runs in the batch of the prediction.
    """
    model = ModelProto()
    model.CopyFrom(predict)
    rows = min(NEAREST, len(reference.labels))
    constants = {
        "reference": np.ascontiguousarray(reference.features.T),
        "first": np.array([0], np.int64),
        "last": np.array([1], np.int64),
        "rows": np.array([rows], np.int64),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(value, PREFIX + name) for name, value in constants.items()
    )
    model.graph.node.extend(
        [
            # 8 bits in the file: ONNX Runtime folds these three nodes when it loads the graph
            _node("Cast", ["reference"], ["float"], to=TensorProto.FLOAT),
            _node("ReduceL2", ["float", "first"], ["lengths"]),
            _node("Div", ["float", "lengths"], ["directions"]),
            _node("ReduceL2", [FEATURES, "last"], ["length"]),
            _node("Div", [FEATURES, "length"], ["direction"]),
            _node("MatMul", ["direction", "directions"], ["cosines"]),
            _node("TopK", ["cosines", "rows"], list(OUTPUTS), axis=1),
        ]
    )
    for name, kind in zip(OUTPUTS, (TensorProto.FLOAT, TensorProto.INT64), strict=True):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, ["N", rows]))
    onnx.checker.check_model(model, full_check=True)
    return model


def detach(predict: ModelProto) -> ModelProto:
    """A copy of `predict` without the search, for code that rewrites the network."""
    model = ModelProto()
    model.CopyFrom(predict)
    kept = [output for output in model.graph.output if output.name not in OUTPUTS]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    prune(model)
    return model


def scores(outputs: Outputs) -> Float64[np.ndarray, " rows"]:
    """The score of each image: by nearest reference images, or by energy where there are none."""
    if outputs.similarity is None:
        return _energies(outputs.logits)
    return outputs.similarity[:, -1].astype(np.float64)


def fit_familiarity(
    similarity: Float32[np.ndarray, "rows neighbours"], references: int
) -> Familiarity:
    """The familiarity of held-out images with these similarities to `references` images."""
    return Familiarity(
        "neighbours",
        _threshold(similarity[:, -1]),
        len(similarity),
        similarity.shape[1],
        references,
    )


def fit_energy(logits: Float32[np.ndarray, "rows classes"]) -> Familiarity:
    """The familiarity by energy, from the logits of held-out images."""
    return Familiarity("energy", _threshold(_energies(logits)), len(logits))


def _energies(logits: Float32[np.ndarray, "rows classes"]) -> Float64[np.ndarray, " rows"]:
    return np.array([energy(row) for row in logits], np.float64)


def _threshold(scores: np.ndarray) -> float:
    """The score that FAMILIAR_SHARE of the scores reach."""
    return float(np.sort(scores)[int(len(scores) * (1 - FAMILIAR_SHARE))])


def _node(
    operator: str, inputs: list[str], outputs: list[str], **attributes: int
) -> onnx.NodeProto:
    """A node of the search: its tensors get PREFIX, except the network's features and OUTPUTS."""
    read, written = (
        [name if name in (FEATURES, *OUTPUTS) else PREFIX + name for name in names]
        for names in (inputs, outputs)
    )
    node = helper.make_node(operator, read, written, name=f"{PREFIX}{operator} {outputs[0]}")
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return node
