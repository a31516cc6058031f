"""Open graphs share the weights of convolutions, and answer as if each had its own."""

import gc
import os
import subprocess
import sys
import weakref
from contextlib import contextmanager

import numpy as np
import onnxruntime as ort
import pytest

from service.bundle import folder
from service.errors import BundleError
from service.runtime.choice import Choice
from service.runtime.cpu import first_and_further, opener
from service.runtime.engine import Engine
from service.runtime.sessions import self_test_image
from service.runtime.weights import Graph, Weights, blocks
from support.reweighted import reweighted
from support.servers import ROOT
from support.toys import core_of, weights_of

MEBIBYTES = 45  # for a further bundle of the embedded network; 27 were measured
LEAST_SHARE = 0.95  # of them that come back


@contextmanager
def no_collector():
    """Frees by the count of references alone."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def feeds(graph, rows):
    rng = np.random.default_rng(rows)
    if graph == folder.PREDICT:
        return {"image": rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)}
    x = rng.standard_normal((rows, 3, 32, 32)).astype(np.float32)
    return {"x": x, "target": np.arange(rows) % 10}


@pytest.mark.parametrize("graph", [folder.PREDICT, folder.GRADIENT, folder.CAM])
def test_answers_are_those_of_a_graph_with_weights_of_its_own(graph, embedded):
    content = embedded.read(graph)
    shared = Weights().shared(graph, content)
    assert shared.weights
    one, further = first_and_further(graph, shared, content)
    for threads, program in ((1, one), (2, further(2))):
        alone = opener(Choice())(graph, content, threads)
        for rows in (1, 3, 16):
            ours, theirs = (run(feeds(graph, rows), ()) for run in (program, alone))
            assert ours.keys() == theirs.keys()
            for name in ours:
                assert ours[name].tobytes() == theirs[name].tobytes(), (threads, rows, name)


def test_the_graphs_of_a_network_have_its_weights_once(embedded):
    weights = Weights()
    predict, cam, gradient = (
        {value.data_ptr() for value in weights.shared(graph, embedded.read(graph)).weights.values()}
        for graph in (folder.PREDICT, folder.CAM, folder.GRADIENT)
    )
    assert predict == cam
    # and those of the way back, where kernels are flipped
    assert predict < gradient
    assert not any(address % 64 for address in gradient)


def test_weights_go_with_the_last_engine_that_has_them(embedded, tmp_path):
    other = reweighted(embedded, tmp_path / "other", 1.001)
    with no_collector():
        before = blocks()
        first = Engine(other, "cpu", 2)
        assert blocks() == before + 2  # of the way forth, and of the way back
        second = Engine(other, "cpu", 1)
        assert blocks() == before + 2
        answer = second.predict(self_test_image(32)).logits
        head = weakref.ref(first._sessions.head)
        del first
        assert head() is None
        assert blocks() == before + 2
        np.testing.assert_array_equal(second.predict(self_test_image(32)).logits, answer)
        del second
        assert blocks() == before


def test_matrices_that_are_packed_stay_with_their_session(embedded):
    shared = Weights().shared(folder.PREDICT, embedded.read(folder.PREDICT))
    assert {len(value.shape()) for value in shared.weights.values()} == {1, 4}


def test_a_graph_without_convolutions_is_opened_as_it_is():
    nodes = [
        ("Flatten", ["x"], ["flat"]),
        ("Gemm", ["flat", "W"], ["logits"], {"transB": 1}),
    ]
    content = core_of(nodes, {"W": weights_of()}, 2).model.SerializeToString()
    assert Weights().shared(folder.PREDICT, content) == Graph(content)


def test_a_system_without_files_in_memory_opens_graphs_as_they_are(embedded, monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    content = embedded.read(folder.CAM)
    assert Weights().shared(folder.CAM, content) == Graph(content)


def test_what_cannot_be_opened_optimised_is_opened_as_it_is(embedded, caplog):
    content = embedded.read(folder.CAM)
    broken = Graph(b"no graph", Weights().shared(folder.CAM, content).weights)
    one, further = first_and_further(folder.CAM, broken, content)
    assert "cannot open cam.onnx" in caplog.text
    given = feeds(folder.CAM, 2)
    for program in (one, further(2)):
        assert program(given, ())["cam"].shape == (2, 1, 4, 4)
    with pytest.raises(BundleError, match=r"cannot open cam\.onnx"):
        first_and_further(folder.CAM, broken, b"none either")


def test_files_in_memory_are_closed(embedded):
    def opened():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - it names more than files

    before = opened()
    for content in (embedded.read(folder.CAM), b"no graph"):
        Weights().shared(folder.CAM, content)
    assert opened() == before


def test_onnx_runtime_makes_no_copy_of_a_weight_that_it_is_handed(embedded):
    """A session reads the array itself: what is written there changes the answer."""
    content = embedded.read(folder.CAM)
    shared = Weights().shared(folder.CAM, content)
    own = {
        name: ort.OrtValue.ortvalue_from_numpy(value.numpy().copy())
        for name, value in shared.weights.items()
    }
    program, _ = first_and_further(folder.CAM, Graph(shared.content, own), content)
    before = program(feeds(folder.CAM, 1), ())["logits"]
    largest = max(own.values(), key=lambda value: value.tensor_size_in_bytes())
    largest.update_inplace(np.zeros(largest.shape(), np.float32))
    assert not np.array_equal(program(feeds(folder.CAM, 1), ())["logits"], before)


def test_a_further_bundle_is_small_and_its_memory_comes_back():
    command = [sys.executable, "-m", "benchmarks.bundles", "--count", "2", "--swaps", "2"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    cells = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    change = {row[0]: float(row[2]) for row in cells if row[0].startswith(("bundle", "swap"))}
    assert 10 < change["bundle 2"] <= MEBIBYTES, done.stdout
    assert -change["bundle 2 let go"] >= LEAST_SHARE * change["bundle 2"], done.stdout
    for swap in ("swap 1", "swap 2"):
        assert change[f"{swap}, both"] <= MEBIBYTES, done.stdout
        left = -change[f"{swap}, the new one"]
        assert left >= LEAST_SHARE * change[f"{swap}, both"], done.stdout
