"""TensorBoard and Weights & Biases get the same figures, and nothing leaves the machine unasked."""

import json
import os
import struct
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.servers import ROOT

SCALARS = ("loss/train", "rate", "accuracy/validation", "macro F1/test")
IMAGES = {"batch/augmented": 16, "confusion/test (row: truth)": 1}
# as if wandb were not installed
WITHOUT = "import sys; sys.modules['wandb'] = None; from training.__main__ import main; main()"


def fit(drawn, folder, *options, command=("-m", "training"), **variables):
    """Trains a small network for two epochs; the home folder is empty, so no user is logged in."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    arguments = (
        "fit",
        "--data",
        drawn,
        "--out",
        folder / "run",
        "--network",
        "seed_cnn",
        "--epochs",
        "2",
        "--held-out",
        "20",
    )
    return subprocess.run(
        [sys.executable, *command, *arguments, *options],
        cwd=ROOT,
        env=given | {"HOME": str(folder), "CUDA_VISIBLE_DEVICES": ""} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def board(folder):
    """The content of TensorBoard's file: by name (step, number), and the names of the images."""
    events = EventAccumulator(str(folder / "run"))
    events.Reload()
    scalars = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    return scalars, set(events.Tags()["images"])


def records(path):
    """The records of a .wandb file, which is a log in LevelDB's format behind 7 bytes.

    Its blocks of 32 KiB hold parts with 4 bytes of checksum, 2 of length and one of kind: a whole
    record (1), its first (2), a middle (3) or its last part (4).
    """
    content, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # the rest of a block holds no header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def of_wandb(folder):
    """The settings, and the history as it would be sent: the values of each step."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("run/wandb/offline-run-*/*.wandb")
    config, history = {}, []
    for record in map(Record.FromString, records(path)):
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("history"):
            values = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            history.append(values | {"step": record.history.step.num})
    return config, history


def test_both_get_the_same_figures_and_nothing_is_sent(drawn, tmp_path):
    done = fit(drawn, tmp_path, "--track", "wandb", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    scalars, images = board(tmp_path)
    assert set(scalars) == set(SCALARS)
    assert images == set(IMAGES)
    config, history = of_wandb(tmp_path)
    assert (config["network"], config["epochs"], config["held_out"]) == ("seed_cnn", 2, 20)
    for name in SCALARS:
        logged = [(line["step"], line[name]) for line in history if name in line]
        assert logged == [(step, pytest.approx(value)) for step, value in scalars[name]], name
    for name, count in IMAGES.items():
        assert [line[f"{name}/count"] for line in history if f"{name}/count" in line] == [count]


def test_wandb_is_not_needed_without_track(drawn, tmp_path):
    done = fit(drawn, tmp_path, command=("-c", WITHOUT))
    assert done.returncode == 0, done.stderr
    assert set(board(tmp_path)[0]) == set(SCALARS)


def test_a_missing_wandb_is_named_with_the_remedy(drawn, tmp_path):
    done = fit(drawn, tmp_path, "--track", "wandb", command=("-c", WITHOUT))
    assert done.returncode == 1
    assert (
        "wandb is not installed: pip install 'candor[wandb]', or leave --track out" in done.stderr
    )


def test_a_missing_login_is_named_before_the_training(drawn, tmp_path):
    done = fit(drawn, tmp_path, "--track", "wandb")
    assert done.returncode == 1
    assert "Weights & Biases does not start" in done.stderr
    assert "set WANDB_MODE=offline" in done.stderr
    assert "epoch 1" not in done.stderr
