"""The bento holds the service without training, and serves from an empty BENTOML_HOME."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.images import draw, encode
from support.servers import ROOT, Server, environment, free_port


@pytest.fixture(scope="module")
def bento(tmp_path_factory):
    """The folder of the bento that `scripts/build bento` makes."""
    home = tmp_path_factory.mktemp("build")
    done = subprocess.run(
        [ROOT / "scripts" / "build", "bento"],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(re.search(r"^candor:\w+ in (.+)$", done.stdout, re.MULTILINE)[1])


def test_its_requirements_hold_no_training_framework(bento):
    names = set(
        re.findall(
            r"^([\w.-]+)==",
            (bento / "env" / "python" / "requirements.txt").read_text(),
            re.MULTILINE,
        )
    )
    assert {"bentoml", "onnxruntime", "pillow"} <= names
    assert not {"torch", "torchvision", "captum", "scikit-learn", "pytest"} & names
    assert "onnxruntime-gpu" not in names, "267 MB of kernels that a CPU cannot use"


def test_all_requirements_know_a_package_by_the_same_hashes():
    block = re.compile(r"^([\w.-]+==\S+).*\\\n((?: +--hash=.*\n)+)", re.MULTILINE)
    known = {}
    for path in sorted((ROOT / "requirements").rglob("*.txt")):
        for package, hashes in block.findall(path.read_text()):
            found = set(re.findall(r"sha256:\w{64}", hashes))
            assert found == known.setdefault(package, found), f"{path.name}: {package}"
    assert "numpy" in {package.partition("==")[0] for package in known}


def test_it_holds_the_service_and_its_model_alone(bento):
    held = {
        path.relative_to(bento / "src").parts[0]
        for path in (bento / "src").rglob("*")
        if path.is_file()
    }
    assert held <= {"service", "README.md", "LICENSE", "NOTICE", "bentofile.yaml"}
    for model in ("model", "imagenet"):
        assert (bento / "src" / "service" / model / "predict.onnx").exists()


def test_its_image_has_our_settings(bento):
    lines = (bento / "env" / "docker" / "Dockerfile").read_text().splitlines()
    for setting in (
        "CANDOR_HOST=0.0.0.0",
        "CANDOR_OPEN=true",
        "CANDOR_WORKERS=1",
        "BENTOML_DO_NOT_TRACK=true",
    ):
        name = setting.partition("=")[0]
        assert {f"ARG {setting}", f"ENV {name}=${name}"} <= set(lines)
    # BentoML's own: a worker that dies ends the container (k8s/base does not repeat it).
    assert "ENV BENTOML_CONTAINERIZED=true" in lines


def test_it_serves_from_an_empty_home(bento, tmp_path):
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        bento,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with Server(tmp_path, command=command, port=port) as server:
        response = server.client.post(
            "/predict?explain=grad_cam",
            content=encode(draw()),
            headers={"content-type": "image/png"},
        )
        assert response.status_code == 200, response.text
    assert server.process.returncode == 0
