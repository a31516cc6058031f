"""An int8 graph is written with its figures if it is worth serving; else there is an error."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from service.bundle import folder as contract
from service.bundle.manifest import Int8
from service.runtime.engine import Engine
from support.servers import ROOT
from training.__main__ import main
from training.data.images import Images, drawn_images
from training.data.read import Dataset
from training.export import int8
from training.export.int8 import Int8Error, add_int8, check, quantised
from training.reliability.familiarity import detach

GOOD = Int8(
    (1, 0.5), 100, 10, 0.9, 0.901, 0.301, 0.3, 0.98, {"1": 2.8, "16": 2.9}, "a CPU", "2026-11-24"
)


@pytest.fixture(scope="module")
def source(engine):
    """Drawn images with the class that float32 gives them; those for testing are the surest."""
    pixels = drawn_images(200, 32)
    logits = engine.predict(pixels).logits
    drawn = Images(pixels, logits.argmax(1))
    first, second = np.sort(logits, axis=1)[:, :-3:-1].T
    return Dataset(
        "drawn",
        engine.manifest.labels,
        drawn,
        drawn,
        drawn.take(np.argsort(second - first)[:20]),
        "",
    )


@pytest.fixture(scope="module")
def made(embedded, source, tmp_path_factory):
    return add_int8(embedded, source, tmp_path_factory.mktemp("int8") / "b")


def test_other_files_stay_and_the_new_one_is_a_quarter_as_large(made, embedded):
    old, new = (
        {name: file for name, file in b.manifest.files.items() if name != contract.INT8}
        for b in (embedded, made)
    )
    assert new == old
    assert 0.2 < made.manifest.files[contract.INT8].length / old[contract.PREDICT].length < 0.3


def test_the_figures_are_in_the_manifest(made):
    figures = made.manifest.int8
    assert contract.load(made.folder).manifest.int8 == figures
    assert (figures.calibration_pictures, figures.test_pictures) == (200, 20)
    assert figures.macro_f1_float32 - figures.macro_f1 <= 0.003
    assert min(figures.speed_ratio.values()) >= 1.5


def test_the_first_layer_and_the_head_stay_in_float32(made):
    graph = onnx.load_model_from_string(made.read(contract.INT8)).graph
    weights = {entry.name: entry.data_type for entry in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert [node.input[1] in weights for node in convolutions] == [True] + 7 * [False]
    (head,) = (node for node in graph.node if node.op_type == "Gemm")
    assert weights[head.input[1]] == onnx.TensorProto.FLOAT


def test_its_grad_cams_are_compared(made):
    assert 0.99 < made.manifest.int8.cam_cosine < 1


def test_rare_values_do_not_widen_the_ranges(embedded, source, monkeypatch):
    model = detach(onnx.load_model_from_string(embedded.read(contract.PREDICT)))
    few = source.validation.take(np.arange(40))

    def widths():
        graph = onnx.load_model_from_string(quantised(model.SerializeToString(), few)).graph
        values = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
        return np.array(
            [values[node.input[1]] for node in graph.node if node.op_type == "QuantizeLinear"]
        )

    usual = widths()
    monkeypatch.setattr(int8, "PERCENTILE", 100.0)
    whole = widths()
    assert (usual <= whole * 1.001).all()
    assert (usual < 0.9 * whole).any()


def test_nodes_need_no_names(embedded, source):
    model = onnx.load_model_from_string(embedded.read(contract.PREDICT))
    for node in model.graph.node:
        node.name = ""
    graph = onnx.load_model_from_string(
        quantised(detach(model).SerializeToString(), source.validation)
    ).graph
    integers = [entry for entry in graph.initializer if entry.data_type == onnx.TensorProto.INT8]
    assert sum(len(entry.dims) == 4 for entry in integers) == 7


def test_the_written_graph_can_be_served(made, source):
    engine = Engine(made, "cpu", precision="int8")
    same = engine.predict_quick(source.test.pixels).logits.argmax(1) == source.test.labels
    assert same.mean() == made.manifest.int8.agreement


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        (
            {"macro_f1": 0.89},
            r"macro F1 in int8 is 1\.10 points lower than in float32 \(limit 0\.3\).*--images",
        ),
        (
            {"log_loss": 0.4},
            r"log loss in int8 is 0\.1000 nats higher than in float32 \(limit 0\.01\)",
        ),
        (
            {"speed_ratio": {"1": 1.2, "16": 3.0}},
            r"1\.20 times as fast as float32 on one core \(limit 1\.5\).*float32",
        ),
    ],
)
def test_a_figure_beyond_its_limit_is_an_error(figures, message):
    check(GOOD)
    with pytest.raises(Int8Error, match=message):
        check(replace(GOOD, **figures))


def test_a_calibration_on_black_images_loses_too_much(embedded, source, tmp_path):
    black = replace(
        source, validation=Images(np.zeros((10, 32, 32, 3), np.uint8), np.zeros(10, np.int64))
    )
    with pytest.raises(Int8Error, match=r"in int8 is .* (points lower|nats higher)"):
        add_int8(embedded, black, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_data_of_other_classes_is_an_error_of_the_command(drawn, tmp_path):
    paths = [ROOT / "service" / "model", "--data", drawn, "--out", tmp_path / "b"]
    done = CliRunner().invoke(main, ["quantise", *map(str, paths), "--images", "30"])
    assert done.exit_code == 1
    assert "discs has the classes blue, green, red, the bundle airplane" in done.output
    assert isinstance(done.exception, SystemExit), done.exception
