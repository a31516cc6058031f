"""The graph finds the nearest reference images as a search by hand does; scores rank images."""

import io

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from pytorch_ood.detector import KNN, EnergyBased
from scipy.special import logsumexp

from service.predictions import energy
from training.data.images import Images
from training.reliability.familiarity import (
    FAMILIAR_SHARE,
    NEAREST,
    Reference,
    attach,
    detach,
    fit_energy,
    fit_familiarity,
    sample,
)

WIDTH = 16


@pytest.fixture
def reference():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, WIDTH)).astype(np.float32)
    return features, Reference.of(features, np.arange(100) % 3, np.arange(100).astype(np.str_))


def network():
    """A network whose features are its image."""
    nodes = [
        helper.make_node("Identity", ["image"], ["features"]),
        helper.make_node("ReduceSum", ["features"], ["logits"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH])
        for name in ("image", "features")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1]), ends[1]]
    graph = helper.make_graph(nodes, "network", ends[:1], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model, x):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {"image": x}),
            strict=True,
        )
    )


def test_the_graph_finds_what_a_search_by_hand_finds(reference):
    features, kept = reference
    x = np.random.default_rng(1).normal(size=(7, WIDTH)).astype(np.float32)
    outputs = run(attach(network(), kept), x)
    cosines = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (
        features / np.linalg.norm(features, axis=1, keepdims=True)
    ).T
    expected = np.sort(cosines, axis=1)[:, ::-1][:, :NEAREST]
    assert outputs["similarity"].shape == outputs["neighbour"].shape == (7, NEAREST)
    assert np.abs(outputs["similarity"] - expected).max() < 0.01, "features are kept in 8 bits"
    assert (outputs["neighbour"][:, 0] == cosines.argmax(1)).mean() > 0.8


def test_a_reference_image_is_its_own_nearest(reference):
    features, kept = reference
    outputs = run(attach(network(), kept), features)
    assert outputs["neighbour"][:, 0].tolist() == list(range(100))
    assert outputs["similarity"][:, 0].min() > 0.9999


def test_detaching_removes_the_attached_search(reference):
    model = network()
    again = detach(attach(model, reference[1]))
    assert [node.op_type for node in again.graph.node] == [
        node.op_type for node in model.graph.node
    ]
    assert not again.graph.initializer
    onnx.checker.check_model(again, full_check=True)


def test_a_reference_is_read_as_it_was_written_without_pickle(reference):
    kept = reference[1]
    content = kept.content()
    again = Reference.read(content)
    assert all(
        np.array_equal(getattr(again, name), getattr(kept, name))
        for name in ("features", "labels", "names")
    )
    assert all(
        array.dtype != object for array in np.load(io.BytesIO(content), allow_pickle=False).values()
    )


def test_every_class_has_as_many_reference_images():
    labels = np.repeat(np.arange(4), 3000)
    training = Images(np.zeros((len(labels), 1, 1, 3), np.uint8), labels)
    chosen = sample(training, 256, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [500] * 4
    assert len(set(chosen.tolist())) == 2000
    assert len(sample(training, 2048, seed=0)) == 256, "wide features have fewer"


def test_the_threshold_leaves_one_held_out_image_in_twenty_below():
    scores = np.random.default_rng(0).permutation(1000).astype(np.float32)
    known = fit_familiarity(np.stack([scores + 5, scores], axis=1), references=3)
    assert (scores >= known.threshold).mean() == FAMILIAR_SHARE
    logits = np.random.default_rng(0).normal(size=(1000, 10)).astype(np.float32)
    assert (logsumexp(logits, axis=1) >= fit_energy(logits).threshold).mean() == pytest.approx(
        FAMILIAR_SHARE, abs=0.002
    )


def test_the_energy_is_the_logarithm_of_the_sum():
    logits = np.array([1000.0, 1001.0, -5.0], np.float32)
    assert energy(logits) == pytest.approx(logsumexp(logits.astype(np.float64)))


def test_scores_rank_images_as_pytorch_ood_does(reference):
    features, kept = reference
    x = np.random.default_rng(2).normal(size=(50, WIDTH)).astype(np.float32)
    outputs = run(attach(network(), kept), x)
    detector = KNN(None, k=NEAREST).fit_features(
        torch.from_numpy(features), torch.from_numpy(np.arange(100) % 3)
    )
    distances = detector.predict_features(torch.from_numpy(x)).numpy()
    assert np.abs(np.sqrt(2 - 2 * outputs["similarity"][:, -1]) - distances).max() < 0.02, (
        "features are kept in 8 bits"
    )
    logits = np.random.default_rng(3).normal(size=(20, 7)).astype(np.float32)
    assert np.allclose(
        [energy(row) for row in logits],
        -EnergyBased.score(torch.from_numpy(logits)).numpy(),
        atol=1e-5,
    )
