"""A bundle from elsewhere is served or is one sentence, in seconds, whatever it holds."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.bundle.folder import REFERENCE, load
from service.bundle.reference import Reference
from service.errors import BundleError, DigestError, ManifestError
from service.runtime import trial
from service.settings import EMBEDDED_BUNDLE
from support.servers import ROOT, environment, free_port


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(EMBEDDED_BUNDLE, tmp_path / "bundle")


def rewrite(folder, change=lambda _document: None, **files):
    """Changes the manifest, and files with their digests, as any author can."""
    document = json.loads((folder / "manifest.json").read_text())
    for name, content in files.items():
        (folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        document["files"][name] = {"sha256": digest, "length": len(content)}
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder


def setting(path, value):
    def change(document):
        *parents, last = path.split("/")
        for name in parents:
            document = document[name]
        document[last] = value

    return change


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc/passwd", "x\0y", "a" * 300, "\ud800"])
def test_odd_names_of_files_are_rejected(name, folder):
    change = setting("files", {name: {"sha256": "0" * 64, "length": 1}})
    with pytest.raises(ManifestError, match="must be the name of a file"):
        load(rewrite(folder, change))


CASES = [
    ("name", {"x": 1}),
    ("labels", "ab"),
    ("provenance", "<img src=x>"),
    ("features", "x"),
    ("features", 2**40),
    ("temperature", float("nan")),
    ("temperature", True),
    ("temperature", float("inf")),
    ("entropy_power", "0"),
    ("class_temperatures", [float("nan")]),
    ("class_temperatures", 0.5),
    ("input/size", 32.5),
    ("input/mean", [0.5, 0.5, float("nan")]),
    ("self_test", [0, float("inf")]),
    ("parity", []),
    ("parity", {"saliency": {"against": 1, "pictures": 1}}),
    ("files/CARD.md", {"sha256": "0" * 63, "length": 1}),
    ("files/CARD.md", {"sha256": "0" * 64, "length": -1}),
    ("files/CARD.md", {"sha256": "0" * 64, "length": 2**40}),
    ("files/CARD.md", {"sha256": 5, "length": 1}),
    ("files", []),
    ("title", [1]),
    ("description", "en"),
    ("samples", 1),
    ("samples", [{"file": 5, "title": {"en": "x"}, "attribution": ""}]),
    ("samples", [{"file": "../x.webp", "title": {"en": "x"}, "attribution": ""}]),
    ("familiarity/pictures", "many"),
    ("familiarity/evidence", ["neighbours"]),
    ("prediction_sets/marginal", {"0.90": "high"}),
    ("distribution/confidence/edges", ["a", "b"]),
    ("distribution", 7),
    ("map_distribution", {"pictures": 60}),
    ("input", None),
]
# Without the types that the tests check at run time.
PARSE = """
import json, sys
from service.bundle.manifest import Manifest
from service.errors import BundleError
for line in sys.stdin:
    try:
        Manifest.parse(line.encode())
        print(json.dumps("no error"))
    except BundleError as error:
        print(json.dumps(str(error)))
"""


def test_fields_of_another_type_are_rejected():
    given = (EMBEDDED_BUNDLE / "manifest.json").read_text()
    documents = [json.loads(given) for _ in (None, *CASES)]
    for document, (path, value) in zip(documents[1:], CASES, strict=True):
        setting(path, value)(document)
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        cwd=ROOT,
        input="\n".join(map(json.dumps, documents)),
        capture_output=True,
        text=True,
        check=True,
    )
    first, *errors = map(json.loads, done.stdout.splitlines())
    assert first == "no error"
    for error in errors:
        assert error != "no error"
        assert len(error.splitlines()) == 1


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "\ud800", ""])
def test_odd_manifests_are_rejected(text, folder):
    (folder / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(BundleError, match="is no manifest"):
        load(folder)


@pytest.mark.parametrize("name", ["CARD.md", "manifest.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_rejected(name, kind, folder):
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=r"is no file|cannot be read"):
        load(folder)


def test_a_report_that_is_nested_too_deeply_is_rejected(folder):
    rewrite(folder, **{"report.json": b"[" * 100_000})
    with pytest.raises(BundleError, match="is no report"):
        load(folder)


ROWS = {"features": np.zeros((2, 3), np.int8), "labels": np.zeros(2, np.int64)}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"labels": np.zeros(100_000_000, np.int64)}, "the limit is"),
        ({"labels": np.zeros(3, np.int64)}, "different numbers of rows"),
        ({"labels": np.full(2, 10)}, "label 10 is none of 10"),
        ({"labels": np.full(2, -1)}, "label -1 is none of 10"),
        ({"labels": np.zeros((2, 1), np.int64)}, "labels is int64"),
        ({"names": np.array([b"a", b"b"])}, "names is"),
        ({"names": np.array([None, {}])}, "names is object"),
    ],
)
def test_odd_reference_images_are_rejected(arrays, reason, folder):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{**ROWS, "names": np.array(["a", "b"]), **arrays})
    bundle = load(rewrite(folder, **{REFERENCE: buffer.getvalue()}))
    with pytest.raises(BundleError, match=reason):
        Reference.of(bundle, None)


def test_reference_images_that_are_no_archive_are_rejected(folder):
    bundle = load(rewrite(folder, **{REFERENCE: b"PK"}))
    with pytest.raises(BundleError, match="has no reference images"):
        Reference.of(bundle, None)


def predict_graph(nodes, constants):
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 32, 32, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "odd", [image], [logits], constants)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def huge_constant():
    one = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=one),
        helper.make_node("ReduceSum", ["ones"], ["logits"]),
    ]
    return predict_graph(
        nodes, [helper.make_tensor("shape", TensorProto.INT64, [2], [50_000, 50_000])]
    )


def outer_sum():
    """40 GB of two constants of 400 kB, without any odd operator."""
    nodes = [
        helper.make_node("Add", ["row", "column"], ["sums"]),
        helper.make_node("ReduceSum", ["sums"], ["logits"]),
    ]
    ones = np.ones(100_000, np.float32)
    return predict_graph(
        nodes,
        [
            onnx.numpy_helper.from_array(ones[None], "row"),
            onnx.numpy_helper.from_array(ones[:, None], "column"),
        ],
    )


def endless_loop():
    def value(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["on2"]), helper.make_node("Sin", ["a"], ["a2"])],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("on", TensorProto.BOOL, []),
            value("a", TensorProto.FLOAT, [1, 10]),
        ],
        [value("on2", TensorProto.BOOL, []), value("a2", TensorProto.FLOAT, [1, 10])],
    )
    constants = [
        helper.make_tensor("turns", TensorProto.INT64, [], [2**62]),
        helper.make_tensor("start", TensorProto.BOOL, [], [True]),
        helper.make_tensor("first", TensorProto.FLOAT, [1, 10], [0.0] * 10),
    ]
    loop = helper.make_node("Loop", ["turns", "start", "first"], ["logits"], body=body)
    return predict_graph([loop], constants)


def without_the_rest(document):
    document["files"] = {
        name: digest for name, digest in document["files"].items() if name == "predict.onnx"
    }
    for name in ("self_test", "features", "familiarity", "distribution", "samples"):
        document.pop(name, None)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (huge_constant, "predict.onnx|cannot be run"),
        (outer_sum, "predict.onnx|cannot be run"),
        (lambda: b"x", "cannot open predict.onnx"),
    ],
)
def test_a_graph_that_cannot_be_run_is_rejected_before_it_is_served(graph, reason, folder):
    rewrite(folder, without_the_rest, **{"predict.onnx": graph()})
    with pytest.raises(BundleError, match=reason) as caught:
        trial.check(folder, "auto")
    assert len(str(caught.value).splitlines()) == 1


def test_a_graph_without_end_is_rejected_before_it_is_served(folder, monkeypatch):
    monkeypatch.setattr(trial, "SECONDS", 3)  # of which the imports take one
    rewrite(folder, without_the_rest, **{"predict.onnx": endless_loop()})
    with pytest.raises(BundleError, match="did not run within 3 s") as caught:
        trial.check(folder, "auto")
    assert len(str(caught.value).splitlines()) == 1


def test_the_embedded_graphs_pass_the_trial(folder):
    trial.check(folder, "auto")


@pytest.mark.parametrize(
    ("command", "graph", "reason"),
    [
        (["bentoml", "serve", "service.app:Candor"], endless_loop, "did not run within"),
        (["service", "serve"], lambda: b"x", "cannot open predict.onnx"),
    ],
    ids=["bentoml", "candor"],
)
def test_a_start_with_a_graph_that_fails_its_trial_ends_with_one_sentence(
    command, graph, reason, folder, tmp_path
):
    rewrite(folder, without_the_rest, **{"predict.onnx": graph()})
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment(
            tmp_path / "home", bundle=folder, device="cpu", port=free_port(), open="true"
        ),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode != 0
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pinned_bundle_is_the_only_one_that_loads(folder):
    pinned = load(folder).manifest.digest
    assert load(folder, pinned).manifest.version == pinned[:12]
    rewrite(folder, **{"CARD.md": b"# Audited by the board: 99.9 %"})
    with pytest.raises(DigestError, match=f"has the digest .*CANDOR_BUNDLE_DIGEST is {pinned}"):
        load(folder, pinned)


def test_the_command_prints_the_digest_to_pin(folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "service", "digest", folder],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == load(folder).manifest.digest
