"""The command line names what is wrong, and accepts the names of the release before."""

import pytest
from click.testing import CliRunner

from training.__main__ import FORMER_NAMES, main

FIT = ["fit", "--data", "nowhere", "--out", "nowhere-run"]


@pytest.mark.parametrize(
    ("former", "current"),
    [(former, current) for former, current in FORMER_NAMES.items() if former != "biased"],
)
@pytest.mark.parametrize("written", ["{} -1", "{}=-1"])
def test_a_former_option_still_works_with_a_sentence_on_stderr(former, current, written):
    command = ["audit", "nowhere", "--data", "nowhere"] if former == "--board" else FIT
    done = CliRunner().invoke(main, [*command, *written.format(former).split()])
    assert f"{former} is now {current}" in done.stderr
    assert f"No such option: {former}" not in done.output
    if former != "--board":
        assert f"Invalid value for '{current}': -1" in done.output, "the value arrives"


def test_the_former_command_still_works_with_a_sentence_on_stderr():
    done = CliRunner().invoke(main, ["biased", "--data", "nowhere", "--out", "biased"])
    assert "biased is now plant-bias" in done.stderr
    assert "nowhere does not exist: name a folder of images" in done.stderr
    assert done.stderr.count("is now") == 1, "a folder may be called like a former command"


def test_current_names_need_no_sentence():
    done = CliRunner().invoke(main, [*FIT, "--augmix", "0.5", "--finetune-epochs", "1"])
    assert "is now" not in done.output
    assert "nowhere does not exist: name a folder of images" in done.output


def test_a_run_to_start_from_brings_its_network_and_its_held_out_images():
    done = CliRunner().invoke(main, [*FIT, "--start", "run", "--network", "seed_cnn"])
    assert done.exit_code == 2
    assert "leave out --network, --activation, --held-out and --seed" in done.output


def test_a_bundle_is_made_of_a_run_or_of_a_file_and_not_of_both():
    for sources in ([], ["--run", "run", "--onnx", "net.onnx"]):
        done = CliRunner().invoke(main, ["bundle", "--out", "bundle", *sources])
        assert done.exit_code == 2
        assert "give one of --run and --onnx" in done.output


@pytest.mark.parametrize(
    ("held_out", "sentence"),
    [
        ("12.5", "12.5 is no whole number of images, and no share below 1"),
        ("0", "0.0 is not in the range x>0"),
        ("0.25", "nowhere does not exist"),
        ("300", "nowhere does not exist"),
    ],
)
def test_held_out_is_a_share_or_a_whole_number(held_out, sentence):
    done = CliRunner().invoke(main, [*FIT, "--held-out", held_out])
    assert sentence in done.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--size", "224x"], "'224x' is no size: give the side of a square in pixels, such as 224"),
        (["--size", "224x320x3"], "or height and width, such as 48x192"),
        (["--size", "32x4000"], "32x4000 is not in 16…1024 pixels a side"),
        (["--size", "32x48"], "candor_net sees 32 × 32 pixels, not 32 × 48"),
        (["--size", "64"], "candor_net sees 32 × 32 pixels, not 64"),
        (["--network", "resnet18", "--activation", "relu"], "--activation is of candor_net"),
        (["--network", "resnet18", "--finetune-epochs", "1"], "keeps a running mean"),
        (["--network", "seed_cnn", "--weights", "default"], "no published weights for seed_cnn"),
        (["--network", "resnet18", "--weights", "nowhere.pth"], "cannot be read as weights"),
        (["--network", "resnet18", "--start", "run", "--size", "64"], "also --weights, --size"),
        (["--network", "nowhere:f"], "nowhere:f cannot be imported"),
    ],
)
def test_options_of_networks_and_weights_that_do_not_fit_are_sentences(options, sentence):
    done = CliRunner().invoke(main, [*FIT, *options])
    assert done.exit_code in (1, 2)
    assert sentence in " ".join(done.output.split())
