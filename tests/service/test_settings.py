import os
from dataclasses import FrozenInstanceError

import pytest

from service.errors import SettingsError
from service.settings import EMBEDDED, EMBEDDED_BUNDLE, Settings, describe


def test_an_empty_environment_gives_the_documented_defaults():
    settings = Settings.from_environment({"PATH": "/bin"})
    assert (settings.host, settings.port, settings.device) == ("127.0.0.1", 3000, "auto")
    assert (settings.max_body_bytes, settings.max_pixels) == (10 * 2**20, 0)
    assert settings.bundle == EMBEDDED_BUNDLE


def test_each_variable_sets_its_field(tmp_path):
    settings = Settings.from_environment(
        {"CANDOR_PORT": "8080", "CANDOR_DEVICE": "cpu", "CANDOR_BUNDLE": str(tmp_path)}
    )
    assert (settings.port, settings.device, settings.bundle) == (8080, "cpu", tmp_path)


def test_an_unknown_variable_stops_the_start_and_names_the_nearest():
    with pytest.raises(SettingsError, match=r"CANDOR_PROT is no setting.*did you mean CANDOR_PORT"):
        Settings.from_environment({"CANDOR_PROT": "3000"})


@pytest.mark.parametrize(
    ("variable", "value", "limit"),
    [
        ("CANDOR_PORT", "http", "1 to 65,535"),
        ("CANDOR_PORT", "70000", "1 to 65,535"),
        ("CANDOR_DEVICE", "gpu", "auto, cpu, cuda, tensorrt"),
        ("CANDOR_BUNDLE", "/no/such/folder", "a folder that exists"),
        ("CANDOR_MAX_PIXELS", "-1", "from 0 to"),
        ("CANDOR_HOST", " ", "not empty"),
        ("CANDOR_LATENCY_OBJECTIVE", "99 %", "a number from 0.0 to 0.99999"),
        ("CANDOR_AVAILABILITY_OBJECTIVE", "1", "a number from 0.0 to 0.99999"),
        ("CANDOR_LATENCY_OBJECTIVE_SECONDS", "nan", "a number from 0.001 to 60.0"),
    ],
)
def test_a_bad_value_is_named_with_its_limit(variable, value, limit):
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({variable: value})
    assert variable in str(caught.value)
    assert repr(value) in str(caught.value)
    assert limit in str(caught.value)


def test_settings_cannot_be_changed_after_the_start():
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1


def test_the_help_names_every_variable():
    assert [line.split()[0] for line in describe().splitlines()] == [
        "CANDOR_" + name.upper() for name in Settings.__dataclass_fields__
    ]


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="the system has no affinity of processes to cores"
)
def test_there_is_a_worker_for_each_core_that_the_process_may_use():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert Settings(device="cpu").worker_count == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert Settings(device="cpu").worker_count == len(allowed)


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_bundle_is_named_without_a_path(name):
    settings = Settings.from_environment({"CANDOR_BUNDLE": name})
    assert settings.bundle == EMBEDDED[name]
    assert (settings.bundle / "manifest.json").exists()


def test_a_bundle_that_is_nowhere_is_answered_with_the_embedded_names():
    known = "a folder that exists, an archive, an address or one of cifar10, imagenet"
    with pytest.raises(SettingsError, match=known):
        Settings.from_environment({"CANDOR_BUNDLE": "imagnet"})
