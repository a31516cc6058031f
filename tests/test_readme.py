"""The commands in the documents work as written, but for the port and the size of a training."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from support.servers import ROOT, Server, environment

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = "\n".join(path.read_text() for path in DOCUMENTS)
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)


def blocks(word):
    found = [block for block in BLOCKS if word in block]
    assert found, word
    return found


def size(path):
    with Image.open(path) as image:
        return image.size


def shell(script, tmp_path, **settings):
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=environment(tmp_path, **settings),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def shown(key):
    """The first value of `key` in the explained answer that docs/trust.md shows, as text."""
    (answer,) = re.findall(r"```\n(\{.*?)```", TEXT, re.DOTALL)
    return re.search(rf'"{key}": (\[.*?\]|[^,}}]+)', answer)[1].strip('"')


def first(value, key):
    """The first value of `key` in nested JSON, in its order."""
    if isinstance(value, dict):
        found = [value[key]] if key in value else [first(part, key) for part in value.values()]
        return next((part for part in found if part is not None), None)
    return None


def is_shown_in_readme(answer):
    """The first JSON block of README is `answer`, rounded, but for the times."""
    text = re.search(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    shown = json.loads(text)
    assert shown.keys() == answer.keys()
    assert shown.pop("timing_ms").keys() <= answer.pop("timing_ms").keys()
    assert shown == rounded(answer)


def rounded(value):
    """`value` with every float in it rounded to three digits."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value


def test_every_block_is_known_to_these_tests():
    for block in BLOCKS:
        assert any(
            word in block
            for word in (
                "scripts/serve",
                "scripts/test",
                "scripts/monitor",
                "curl",
                "service explain",
                "training fit",
                "service key",  # tests/operations/test_kubernetes.py
            )
        ), block


def test_the_commands_of_the_blocks_exist():
    for name in re.findall(r"\bscripts/(\w+)", "".join(BLOCKS)):
        assert (ROOT / "scripts" / name).stat().st_mode & 0o100, name


def test_scripts_serve_serves_and_the_curl_blocks_answer(tmp_path):
    with Server(tmp_path, command=["scripts/serve"]) as server:
        models = server.client.get("/models").json()["models"]
        states = {model["name"]: model["state"] for model in models}
        assert states == {"cifar10": "READY", "imagenet": "AVAILABLE"}
        metrics = server.client.get("/metrics").text
        assert 'candor_model_loads_total{model="cifar10"' in metrics
        assert 'model="imagenet"' not in metrics, "it waits for its first request"
        for block in blocks("curl"):
            script = block.replace("http://127.0.0.1:3000", server.url)
            script = re.sub(r"-o (\w+\.png)", rf"-o {tmp_path}/\1", script)
            done = shell(script, tmp_path)
            assert done.returncode == 0, done.stderr
            if "top_k=1" in block:
                is_shown_in_readme(json.loads(done.stdout))
            if "explain=grad_cam" in block:
                answer = json.loads(done.stdout)
                for number in (
                    "probability",
                    "temperature",
                    "score",
                    "threshold",
                    "scale",
                    "limit",
                    "class_cosine",
                ):
                    assert float(shown(number)) == pytest.approx(first(answer, number), abs=2e-3), (
                        number
                    )
                for name in ("version", "label", "method", "format"):
                    assert shown(name) == first(answer, name)
                assert json.loads(shown("labels")) == answer["prediction_set"]["labels"]
    assert server.process.returncode == 0
    assert size(tmp_path / "overlay.png") == size(ROOT / "docs/images/red-ball.jpg")


def test_the_explanation_without_a_server(tmp_path):
    (block,) = blocks("service explain")
    done = shell(
        block.replace("--out map.png", f"--out {tmp_path}/map.png").replace(
            ".venv/bin/python", sys.executable
        ),
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    width, height = size(ROOT / "docs/images/red-ball.jpg")
    assert size(tmp_path / "map.png") > (width, height), "the legend is below the image"


def test_training_a_bundle_and_serving_it(drawn_folder, tmp_path):
    (block,) = blocks("training fit")
    training, serving = block.partition("CANDOR_BUNDLE=")[::2]
    smaller = f"--data {drawn_folder} --held-out 30 --epochs 2"
    training = (
        training.replace("--data cifar10", smaller)
        .replace("--network candor_net", "--network seed_cnn")
        .replace("runs/", f"{tmp_path}/")
    )
    done = shell(
        training.replace(".venv/bin/python", sys.executable).replace("scripts/setup\n", ""),
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"runs/mine-bundle scripts/serve\n", serving)
    with Server(tmp_path, bundle=tmp_path / "mine-bundle", workers=1) as server:
        assert server.client.get("/model").json()["labels"] == ["blue", "green", "red"]


@pytest.fixture
def drawn_folder(tmp_path):
    from support import images

    folder = tmp_path / "discs"
    images.folder(folder)
    return folder


def test_no_document_or_program_names_a_path_of_a_machine():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    texts = [
        ROOT / name
        for name in listed
        if Path(name).suffix in (".py", ".md", ".yaml", ".toml", ".txt", ".json", "")
    ]
    for path in texts:
        if path.exists() and path != Path(__file__):
            assert not re.search(
                r"(?<![\w.])/(home|root|work|Users)/", path.read_text(errors="ignore")
            ), path
