"""A bundle is written, verified and read; a file that breaks the contract is named."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle.folder import CAM, GRADIENT, PREDICT, load, write
from service.bundle.manifest import MANIFEST, Digest, Manifest, Parity
from service.errors import (
    DigestError,
    ExternalDataError,
    ManifestError,
    MissingFileError,
)
from service.image.resize import Input

MANIFEST_OF_TWO = Manifest(
    name="two",
    labels=("cat", "dog"),
    input=Input(size=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), resize="pad", short_side=8),
    temperature=1.5,
    self_test=(1, 0.25),
    parity={"saliency": Parity("captum 0.9.0", 64, 1e-6, 1.0)},
    provenance={"seed": 0, "data": {"fingerprint": "ab"}},
)


def graph() -> onnx.ModelProto:
    """Logits = the image's sum by channel, times a weight of 3 × 2."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["x", "axes"], ["sums"], keepdims=0),
        helper.make_node("MatMul", ["sums", "weight"], ["logits"]),
    ]
    weight = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    constants = [
        numpy_helper.from_array(np.array([1, 2]), "axes"),
        numpy_helper.from_array(weight, "weight"),
    ]
    return helper.make_model(
        helper.make_graph(nodes, "two", [image], [logits], constants),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


@pytest.fixture
def bundle(tmp_path):
    return write(
        tmp_path / "two",
        MANIFEST_OF_TWO,
        {PREDICT: graph().SerializeToString(), "CARD.md": b"# Two\n"},
    )


def test_what_is_written_is_what_is_loaded(bundle):
    again = load(bundle.folder)
    assert again == bundle
    assert replace(again.manifest, files={}) == MANIFEST_OF_TWO
    assert again.read("CARD.md") == b"# Two\n"


def test_the_version_follows_every_file(bundle, tmp_path):
    same = write(
        tmp_path / "same",
        MANIFEST_OF_TWO,
        {"CARD.md": b"# Two\n", PREDICT: graph().SerializeToString()},
    )
    other = write(
        tmp_path / "other",
        MANIFEST_OF_TWO,
        {PREDICT: graph().SerializeToString(), "CARD.md": b"# Three\n"},
    )
    assert same.manifest.version == bundle.manifest.version != other.manifest.version
    assert len(bundle.manifest.version) == 12


def test_a_changed_byte_is_rejected(bundle):
    content = bytearray((bundle.folder / PREDICT).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.folder / PREDICT).write_bytes(content)
    with pytest.raises(
        DigestError, match=r"predict\.onnx has sha256 .* the manifest says .* copy the bundle again"
    ):
        load(bundle.folder)


def test_a_byte_changed_after_loading_is_rejected_when_read(bundle):
    (bundle.folder / "CARD.md").write_bytes(b"# Too\n")
    with pytest.raises(DigestError):
        bundle.read("CARD.md")


def test_a_missing_file_is_named(bundle):
    (bundle.folder / "CARD.md").unlink()
    with pytest.raises(MissingFileError, match=r"CARD\.md is missing"):
        load(bundle.folder)


@pytest.mark.parametrize("name", [GRADIENT, CAM])
def test_a_missing_graph_that_can_be_derived_has_its_own_remedy(name, bundle):
    files = {PREDICT: graph().SerializeToString(), name: graph().SerializeToString()}
    write(bundle.folder, MANIFEST_OF_TWO, files)
    (bundle.folder / name).unlink()
    remedy = f"run scripts/setup, or python -m training derive {bundle.folder}"
    with pytest.raises(MissingFileError, match=f"{name} is missing, .*: {remedy}$"):
        load(bundle.folder)


def test_a_missing_predict_graph_cannot_be_derived(bundle):
    (bundle.folder / PREDICT).unlink()
    with pytest.raises(MissingFileError, match=r"copy the bundle again$"):
        load(bundle.folder)


def test_reading_a_graph_that_the_bundle_lacks_lists_its_files(bundle):
    with pytest.raises(
        MissingFileError, match=r"has no gradient\.onnx; it has CARD\.md, predict\.onnx"
    ):
        bundle.read(GRADIENT)


def make_external(weight: TensorProto) -> None:
    onnx.external_data_helper.set_external_data(weight, location="weights.bin")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL


def external_graph() -> bytes:
    model = graph()
    make_external(model.graph.initializer[1])
    return model.SerializeToString()


def external_constant() -> bytes:
    """The graph with its weight in the attribute of a node in a branch."""
    model = graph()
    weight = model.graph.initializer.pop()
    make_external(weight)
    node = helper.make_node("Constant", [], ["chosen"], value=weight)
    output = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [3, 2])
    branch = helper.make_graph([node], "branch", [], [output])
    choice = helper.make_node(
        "If", ["condition"], ["weight"], then_branch=branch, else_branch=branch
    )
    model.graph.node.insert(0, choice)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    return model.SerializeToString()


@pytest.mark.parametrize(("content", "count"), [(external_graph(), 1), (external_constant(), 2)])
def test_external_tensor_data_is_rejected_when_written(content, count, tmp_path):
    message = rf"keeps {count} tensors outside the file \(weight first\)"
    with pytest.raises(ExternalDataError, match=message):
        write(tmp_path / "two", MANIFEST_OF_TWO, {PREDICT: content})
    assert not (tmp_path / "two").exists()


def test_external_tensor_data_is_rejected_when_loaded(bundle):
    content = external_graph()
    (bundle.folder / PREDICT).write_bytes(content)
    files = dict(bundle.manifest.files) | {PREDICT: Digest.of(content)}
    (bundle.folder / MANIFEST).write_bytes(replace(bundle.manifest, files=files).canonical())
    with pytest.raises(ExternalDataError):
        load(bundle.folder)


def test_a_manifest_without_the_graph_of_predictions_is_rejected(bundle):
    files = {name: d for name, d in bundle.manifest.files.items() if name != PREDICT}
    (bundle.folder / MANIFEST).write_bytes(replace(bundle.manifest, files=files).canonical())
    with pytest.raises(ManifestError, match=r"names no predict\.onnx: export the bundle again"):
        load(bundle.folder)


def test_a_folder_without_manifest_is_no_bundle(tmp_path):
    with pytest.raises(
        ManifestError, match=r"is no bundle \(No such file or directory: manifest\.json\)"
    ):
        load(tmp_path)


def test_writing_replaces_a_bundle_whole(bundle):
    write(bundle.folder, MANIFEST_OF_TWO, {PREDICT: graph().SerializeToString()})
    assert sorted(path.name for path in bundle.folder.iterdir()) == [MANIFEST, PREDICT]
    assert [path.name for path in bundle.folder.parent.iterdir()] == [bundle.folder.name]


def test_writing_never_replaces_a_folder_that_is_no_bundle(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is no bundle"):
        write(tmp_path, MANIFEST_OF_TWO, {PREDICT: graph().SerializeToString()})
    assert (tmp_path / "thesis.txt").exists()
