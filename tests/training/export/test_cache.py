"""From an ONNX file to its why in one command: a bundle is made once for each file and wish."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from service.__main__ import main
from service.bundle.folder import load
from support.images import draw, encode
from support.servers import ROOT, Server, environment
from training.export.cache import Wishes, bundle_of

SIZE, CLASSES = 24, 4
PNG = {"content-type": "image/png"}
# What the service does not need, and a bare environment does not have.
ABSENT = ("torch", "torchvision", "captum", "scipy", "sklearn", "safetensors", "matplotlib", "tqdm")
MAKING = ("onnxscript", "onnx_ir")  # which take a second to import
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({}))
from service.__main__ import main
main(sys.argv[1:])
"""


def write(path, *, operator="Gelu", seed=0, **attributes):
    """x → Conv → `operator` → mean → logits."""
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node(operator, ["c"], ["o"], **attributes),
        helper.make_node("GlobalAveragePool", ["o"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    kernel = np.random.default_rng(seed).normal(size=(CLASSES, 3, 3, 3)).astype(np.float32)
    ends = (("x", ["N", 3, SIZE, SIZE]), ("y", ["N", CLASSES]))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends]
    graph = helper.make_graph(
        nodes, "g", infos[:1], infos[1:], [numpy_helper.from_array(kernel, "k")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "ball.png"
    path.write_bytes(encode(draw("red", size=40)))
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "candor"


def why(model, image, *arguments):
    return CliRunner().invoke(main, ["why", str(model), str(image), *map(str, arguments)])


def test_the_bundle_is_made_once_and_the_overlay_lies_here(cache, image, tmp_path):
    model = write(tmp_path / "net.onnx")
    first = why(model, image)
    assert first.exit_code == 0, first.output
    assert "makes a bundle" in first.stderr
    assert len(first.stdout.splitlines()) == 5
    assert "drawn in ball.why.png" in first.stdout
    assert (tmp_path / "ball.why.png").read_bytes().startswith(b"\x89PNG")
    second = why(model, image)
    assert second.stderr == ""
    assert second.stdout == first.stdout
    assert len(list(cache.iterdir())) == 1


def test_two_that_make_it_at_once_get_one_bundle(cache, tmp_path):
    model = write(tmp_path / "net.onnx")
    with ThreadPoolExecutor(2) as threads:
        places = list(threads.map(lambda _: bundle_of(model, Wishes(), str), range(2)))
    assert places[0] == places[1]
    assert list(cache.iterdir()) == places[:1]
    assert load(places[0]).manifest.labels == ("0", "1", "2", "3")


def test_another_file_or_wish_has_a_bundle_of_its_own(cache, image, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\n")
    assert why(write(tmp_path / "net.onnx"), image).exit_code == 0
    named = why(tmp_path / "net.onnx", image, "--labels", labels, "--mean", "0.5", "--std", "1/2")
    assert named.stdout.split(",")[0] in ("ant", "bee", "cat", "dog")
    assert why(write(tmp_path / "net.onnx", seed=1), image).exit_code == 0
    assert len(list(cache.iterdir())) == 3


def test_a_file_says_whether_its_training_applied_profiles(cache, image, tmp_path):
    model = write(tmp_path / "net.onnx")
    assert why(model, image).exit_code == 0
    assert why(model, image, "--colour", "srgb").exit_code == 0
    colours = {load(place).manifest.input.colour for place in cache.iterdir()}
    assert colours == {"as-sent", "srgb"}


def test_a_network_without_gradients_is_explained_by_other_methods(cache, image, tmp_path):
    done = why(
        write(tmp_path / "net.onnx", operator="LpNormalization", p=1),
        image,
        "--method",
        "occlusion",
    )
    assert done.exit_code == 0, done.output
    assert "no gradient through LpNormalization" in done.stderr
    assert "(Occlusion)" in done.stdout


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (b"no model", (), "is no ONNX file"),
        (None, ("--size", "big"), "--size is big; give N or HEIGHTxWIDTH"),
        (None, ("--size", "32"), "takes images of 24 × 24 pixels, not of 32 × 32"),
        (None, ("--mean", "red"), "--mean is 'red'; give one number"),
        (None, ("--method", "magic"), "the methods are"),
    ],
)
def test_a_mistake_is_a_sentence(cache, image, tmp_path, content, arguments, words):
    path = write(tmp_path / "net.onnx")
    if content is not None:
        path.write_bytes(content)
    done = why(path, image, *arguments)
    assert done.exit_code == 1
    assert words in done.output
    assert "Traceback" not in done.output


def test_the_requirements_of_the_service_are_enough_and_a_cached_bundle_needs_less(image, tmp_path):
    write(tmp_path / "net.onnx")
    for absent in (ABSENT, (*ABSENT, *MAKING)):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT.format(absent), "why", tmp_path / "net.onnx", image],
            cwd=tmp_path,
            env=environment(tmp_path) | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "drawn in ball.why.png" in done.stdout


def test_a_file_is_served(image, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = [sys.executable, "-m", "service", "serve", write(tmp_path / "net.onnx")]
    with Server(tmp_path, command) as server:
        assert server.client.get("/model").json()["labels"] == ["0", "1", "2", "3"]
        answer = server.client.post(
            "/explain?method=saliency", content=image.read_bytes(), headers=PNG
        )
        assert json.loads(answer.content)["explanation"]["method"] == "saliency"
