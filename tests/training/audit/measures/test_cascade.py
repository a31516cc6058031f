"""The cascade asks every method, of networks that are shuffled independently."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle.folder import load
from service.explain import available
from service.runtime.engine import Engine
from support import toys
from training.audit.measures import cascade


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return load(toys.many_classes(tmp_path_factory.mktemp("many"), "abc"))


@pytest.fixture(scope="module")
def figures(bundle):
    pixels = np.stack([toys.image(seed) for seed in range(3)])
    return cascade.figures(bundle, Engine(bundle, "cpu", 1), pixels, seed=0)


def test_every_method_of_the_bundle_is_in_it(bundle, figures):
    names = {method.name for method in available(bundle.manifest)}
    assert len(names) >= 12
    assert set(figures["cascade"]) == set(figures["unrelated"]) == names
    for by_depth in figures["cascade"].values():
        assert list(by_depth) == ["0.25", "0.5", "1.0"]
        assert all(-1 <= value <= 1 for value in by_depth.values())


def test_maps_of_methods_without_a_sign_are_alike_whatever_they_show(figures):
    unrelated = figures["unrelated"]
    assert unrelated["saliency"]["median"] > 0.5 > unrelated["input_x_gradient"]["median"]


def test_unrelated_maps_are_all_pairs_of_different_images():
    maps = np.eye(3, dtype=np.float32)[:, None]
    assert cascade.unrelated(maps, maps) == {"pictures": 3, "median": 0.0, "high": 0.0}
    same = np.ones((4, 2, 2), np.float32)
    assert cascade.unrelated(same, same) == {
        "pictures": 4,
        "median": pytest.approx(1),
        "high": pytest.approx(1),
    }


def test_tensors_of_one_size_are_shuffled_independently_and_alike_in_all_graphs():
    values = np.arange(50, dtype=np.float32).reshape(5, 10)

    def shuffled(*names):
        tensors = [numpy_helper.from_array(values, name) for name in names]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
        graph = helper.make_graph([], "g", inputs, [], tensors)
        seeds = {"a": [0, 0, 0], "b": [0, 0, 1]}
        model = onnx.load_model_from_string(cascade._shuffled(helper.make_model(graph), seeds))
        return [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]

    first, second, kept = shuffled("a", "b", "c")
    assert (first != second).any()
    assert (kept == values).all()
    assert (np.sort(first, axis=None) == values.ravel()).all()
    assert (shuffled("forward/a")[0] == first).all()


def test_intervals_of_the_cosines_hold_them_and_no_image_is_beside_itself(figures):
    for name, by_depth in figures["cascade"].items():
        for depth, value in by_depth.items():
            low, high = figures["cascade_intervals"][name][depth]
            assert low - 1e-9 <= value <= high + 1e-9
    maps = np.eye(8, dtype=np.float32)[:, None]
    ends = cascade.unrelated_intervals(maps, maps, seed=0)
    assert ends == {"median": [0.0, 0.0], "high": [0.0, 0.0]}, "1 would be an image beside itself"
