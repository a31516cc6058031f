"""Is an image like those of the training? Its nearest neighbours among them, found inside predict.onnx.

What an image looks like are its penultimate features, which know the thing, and how much each channel of an early layer varies over the
image, which knows its texture: a network can answer surely what is no image at all. Both have length 1, the second times TEXTURE; the
weight was chosen among 1, 2, 3 and 4 by the kinds of strangers that the audit asks about. These features
of a sample of training images, the same number of each class, are kept in 8 bits as the reference. An image's score is the
cosine of its features and those of its NEIGHBOURS-th nearest reference image (Sun, Ming, Zhu, Li, "Out-of-Distribution Detection with
Deep Nearest Neighbors", ICML 2022, arXiv 2204.06507). The search is two nodes of the graph, so that it runs batched and beside the network.
A network whose features are not known is left with the energy log Σ exp(logits) (Liu et al., NeurIPS 2020, arXiv 2010.03759).

Below the threshold is what 5 % of held-out images are below, too. A score says nothing about whether the prediction is right.
"""

import io
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from jaxtyping import Float, Float32, Float64, Int8, Int64
from onnx import ModelProto, TensorProto, helper, numpy_helper
from scipy.special import logsumexp
from torch import Tensor
from torch.nn import functional

from service.bundle.manifest import Familiarity
from service.runtime.graphs import Outputs
from training.autodiff import prune
from training.data.read import Images

NEIGHBOURS = 10
MOST_ROWS, MOST_BYTES = (
    2000,
    2**19,
)  # of the reference: every prediction reads all of it, four bytes for each of its own
FAMILIAR_SHARE = 0.95
TEXTURE, LEAST_VARIANCE = 3.0, 1e-12
PREFIX = "familiarity/"
FEATURES, OUTPUTS = "features", ("similarity", "neighbour")


def features_of(
    features: Float[Tensor, "rows features"], early: Float[Tensor, "rows channels height width"]
) -> Float[Tensor, "rows looks"]:
    """What images look like, (N, D + C): their penultimate features, and the standard deviations of an early layer's channels."""
    variance = (early - early.mean((2, 3), keepdim=True)).square().mean((2, 3))
    texture = (variance + LEAST_VARIANCE).sqrt()
    return torch.cat(
        [functional.normalize(features), TEXTURE * functional.normalize(texture)], dim=1
    )


@dataclass(frozen=True)
class Reference:
    """Features int8 (R, D), each row scaled to its own largest value; labels int64 (R,) and names (R,) of the images."""

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
        """The reference of float features."""
        largest = np.abs(features).max(1, keepdims=True)
        return cls(
            np.rint(features / np.maximum(largest, 1e-12) * 127).astype(np.int8), labels, names
        )

    def content(self) -> bytes:
        """The file reference.npz."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, allow_pickle=False, features=self.features, labels=self.labels, names=self.names
        )
        return buffer.getvalue()

    @classmethod
    def read(cls, content: bytes) -> "Reference":
        """The reference that the file holds."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return cls(arrays["features"], arrays["labels"], arrays["names"])


def sample(training: Images, width: int, seed: int) -> Int64[np.ndarray, " rows"]:
    """Which training images become the reference, where there are `width` features: as many of each class, in the order of the set."""
    classes = np.unique(training.labels)
    rng, each = (
        np.random.default_rng(seed),
        max(1, min(MOST_ROWS, MOST_BYTES // width) // len(classes)),
    )
    drawn = [rng.permutation(np.flatnonzero(training.labels == label))[:each] for label in classes]
    return np.sort(np.concatenate(drawn))


def attach(predict: ModelProto, reference: Reference) -> ModelProto:
    """`predict`, a predict.onnx with features, with the outputs `similarity` and `neighbour`."""
    model = ModelProto()
    model.CopyFrom(predict)
    rows = min(NEIGHBOURS, len(reference.labels))
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
    """`predict` without the search, for what changes the network inside."""
    model = ModelProto()
    model.CopyFrom(predict)
    kept = [output for output in model.graph.output if output.name not in OUTPUTS]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    prune(model)
    return model


def scores(found: Outputs) -> Float64[np.ndarray, " rows"]:
    """The score of each image: by neighbours where there are any, by energy otherwise."""
    return (
        _energy(found.logits)
        if found.similarity is None
        else found.similarity[:, -1].astype(np.float64)
    )


def fit_familiarity(
    similarity: Float32[np.ndarray, "rows neighbours"], references: int
) -> Familiarity:
    """By neighbours, of the similarities of held-out images."""
    return Familiarity(
        "neighbours",
        _threshold(similarity[:, -1]),
        len(similarity),
        similarity.shape[1],
        references,
    )


def fit_energy(logits: Float32[np.ndarray, "rows classes"]) -> Familiarity:
    """By energy, of the logits of held-out images."""
    return Familiarity("energy", _threshold(_energy(logits)), len(logits))


def _energy(logits: Float32[np.ndarray, "rows classes"]) -> Float64[np.ndarray, " rows"]:
    return np.asarray(logsumexp(logits.astype(np.float64), axis=1))


def _threshold(scores: np.ndarray) -> float:
    """What FAMILIAR_SHARE of the scores are not below."""
    return float(np.sort(scores)[int(len(scores) * (1 - FAMILIAR_SHARE))])


def _node(
    operator: str, inputs: list[str], outputs: list[str], **attributes: int
) -> onnx.NodeProto:
    """A node whose tensors, but for the network's features and the outputs, are of this search alone."""
    read, written = (
        [name if name in (FEATURES, *OUTPUTS) else PREFIX + name for name in names]
        for names in (inputs, outputs)
    )
    node = helper.make_node(operator, read, written, name=f"{PREFIX}{operator} {outputs[0]}")
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return node
