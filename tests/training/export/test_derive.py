"""Graphs for explanations come from predict.onnx, to the digests in the manifest, without torch."""

import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.bundle import folder as contract
from service.bundle.manifest import MANIFEST
from service.settings import EMBEDDED
from support.servers import ROOT
from training.export.core import derived
from training.export.derive import DerivationError, complete

DERIVED = (contract.GRADIENT, contract.CAM)  # of a CNN
# The command in a process in which neither torch nor ONNX Runtime can be imported.
COMMAND = """
import sys
sys.modules["torch"] = sys.modules["onnxruntime"] = None
sys.argv[0] = "training"
from training.__main__ import main
main()
"""


@pytest.fixture
def partial(embedded, tmp_path):
    """The embedded bundle as git holds it: without the derived graphs."""
    folder = tmp_path / "bundle"
    shutil.copytree(embedded.folder, folder)
    for name in DERIVED:
        (folder / name).unlink()
    return folder


def derive(folder):
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "derive", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_process_without_torch_derives_the_files_that_git_does_not_hold(partial, embedded):
    with pytest.raises(contract.MissingFileError, match="python -m training derive"):
        contract.load(partial)
    done = derive(partial)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        str(partial / name) for name in DERIVED
    ]
    assert contract.load(partial).manifest == embedded.manifest


def test_a_complete_bundle_is_left_alone_in_silence(embedded):
    before = [(embedded.folder / name).stat().st_mtime_ns for name in DERIVED]
    done = derive(embedded.folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    after = [(embedded.folder / name).stat().st_mtime_ns for name in DERIVED]
    assert after == before


@pytest.mark.parametrize("folder", EMBEDDED.values(), ids=EMBEDDED)
def test_git_holds_the_weights_once(folder):
    tracked = subprocess.run(
        ["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("no git repository")
    names = {line.rpartition("/")[2] for line in tracked.stdout.splitlines()}
    assert contract.PREDICT in names
    assert not names.intersection(DERIVED)


def test_a_file_of_another_bundle_is_replaced(partial, embedded):
    for name in DERIVED:
        shutil.copy(partial / contract.PREDICT, partial / name)
    assert complete(partial) == list(DERIVED)
    assert contract.load(partial).manifest == embedded.manifest
    assert not [path.name for path in partial.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", DERIVED)
def test_a_changed_weight_changes_the_derived_graphs(name, embedded):
    predict = embedded.read(contract.PREDICT)
    model = onnx.load_model_from_string(predict)
    tensor = next(t for t in model.graph.initializer if t.name == "network.head.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0] = np.nextafter(values[0, 0], np.float32(1))
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert derived(predict, (name,)) == {name: embedded.read(name)}
    assert derived(model.SerializeToString(), (name,)) != {name: embedded.read(name)}


def test_another_digest_is_a_sentence_that_names_the_version_of_onnx(partial, embedded):
    digest = embedded.manifest.files[contract.CAM].sha256
    manifest = (partial / MANIFEST).read_text().replace(digest, "0" * 64)
    (partial / MANIFEST).write_text(manifest)
    done = derive(partial)
    assert done.returncode == 1
    assert f"with onnx {onnx.__version__}" in done.stderr
    assert "the manifest has 000000000000…" in done.stderr
    assert "install the onnx that made the bundle (1.23.2)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (partial / contract.CAM).exists()


def test_a_damaged_predict_graph_derives_nothing(partial):
    with (partial / contract.PREDICT).open("ab") as file:
        file.write(b"x")
    with pytest.raises(contract.DigestError, match=r"predict\.onnx has sha256"):
        complete(partial)
    assert not (partial / contract.GRADIENT).exists()


def test_a_folder_without_a_manifest_is_a_sentence(tmp_path):
    with pytest.raises(DerivationError, match="is no bundle"):
        complete(tmp_path)
