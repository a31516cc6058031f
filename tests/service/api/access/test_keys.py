"""The file of keys: what is a line, which files are refused, and how it is read again."""

import hashlib
import logging
import os

import pytest
from click.testing import CliRunner

from service.__main__ import main
from service.api.access import keys
from service.api.access.keys import SCOPES, Keys, make
from service.errors import SettingsError
from service.schedule.allowance import Rates

DIGEST = hashlib.sha256(b"secret").hexdigest()


@pytest.fixture
def file(tmp_path):
    """Writes the file of keys."""
    path = tmp_path / "keys"

    def write(*lines, mode=0o600):
        new = path.with_suffix(".new")
        new.write_text("\n".join(lines))
        new.chmod(mode)
        new.replace(path)
        return path

    return write


@pytest.fixture
def looking(monkeypatch):
    """Looks at the file at every request."""
    monkeypatch.setattr(keys, "LOOK_SECONDS", 0.0)


def test_a_made_key_is_found_by_its_line_and_no_other_key_is(file):
    secret, line = make("camera", ("predict", "explain"))
    found = Keys(file("# the camera at the door", "", f"{line}  # until May")).find(secret.encode())
    assert (found.name, found.scopes) == ("camera", {"predict", "explain"})
    assert Keys(file(line)).find(secret.encode()[:-1]) is None
    assert Keys(file(line)).find(b"") is None
    assert Keys(file(line)).find(found.digest.encode()) is None


def test_keys_are_256_random_bits():
    made = {make("a", ("predict",))[0] for _ in range(100)}
    assert len(made) == 100
    assert all(len(secret) == len("candor_") + 43 for secret in made)


@pytest.mark.parametrize(
    ("given", "rates"),
    [
        ((), Rates()),
        (("--passes", "500"), Rates(passes=500)),
        (("--megapixels", "0"), Rates(megapixels=0)),
        (("--passes", "500", "--megapixels", "20"), Rates(500, 20)),
    ],
)
def test_a_key_may_have_an_allowance_of_its_own(given, rates, file):
    done = CliRunner().invoke(main, ["key", "ops", "--scope", "predict", *given])
    secret, line = done.output.splitlines()
    assert Keys(file(line)).find(secret.encode()).rates == rates


def test_the_command_prints_the_key_and_its_line(file):
    done = CliRunner().invoke(main, ["key", "ops", "--scope", "metrics", "--scope", "admin"])
    secret, line = done.output.splitlines()
    assert line.startswith("ops metrics,admin ")
    assert Keys(file(line)).find(secret.encode()).scopes == {"metrics", "admin"}


@pytest.mark.parametrize("arguments", [["a b"], ["a#"], [""], ["ä"]])
def test_the_command_refuses_a_name_that_the_file_cannot_hold(arguments):
    done = CliRunner().invoke(main, ["key", *arguments, "--scope", "predict"])
    assert done.exit_code == 1
    assert "cannot name a key: use 1 to 64 letters" in done.output


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["# nothing"], "has no key: `python -m service key"),
        (["a predict"], "line 1 of .* has 2 parts instead of at least 3"),
        (["", f"a/b predict {DIGEST}"], "line 2 of .* has no name of 1 to 64"),
        ([f"a predict,fly {DIGEST}"], f"has a scope that is none of {', '.join(SCOPES)}"),
        ([f"a predict {DIGEST.upper()}"], "has no SHA-256 of 64 lower-case"),
        ([f"a predict {DIGEST} fast"], "has something else behind the digest than passes=N"),
        ([f"a predict {DIGEST} passes=1 passes=2"], "has something else behind the digest"),
        ([f"a predict {DIGEST} passes=-1"], "has something else behind the digest"),
        (["a predict candor_the-key-itself"], "has no SHA-256 of 64 lower-case"),
        ([f"a predict {DIGEST}", f"b explain {DIGEST}"], "has the digest of an earlier line"),
        (["ä"], "cannot be read"),
    ],
)
def test_a_bad_line_is_named_and_not_shown(lines, sentence, file):
    with pytest.raises(SettingsError, match=sentence) as caught:
        Keys(file(*lines))
    assert "the-key-itself" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o601])
def test_a_file_that_others_may_read_is_refused(mode, file):
    with pytest.raises(SettingsError, match=rf"its mode {mode:04o} lets others read it"):
        Keys(file(f"a predict {DIGEST}", mode=mode))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_a_file_that_its_group_may_read_is_taken(mode, file):
    assert Keys(file(f"a predict {DIGEST}", mode=mode)).find(b"secret").name == "a"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_is_refused(file):
    path = file(f"a predict {DIGEST}")
    os.chown(path, 1234, -1)
    with pytest.raises(SettingsError, match="which belongs to user 1234"):
        Keys(path)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "huge"])
def test_what_is_no_small_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "keys"
    if kind == "folder":
        path.mkdir(mode=0o700)
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "huge":
        path.touch(0o600)
        os.truncate(path, 2**20 + 1)
    with pytest.raises(SettingsError, match="name a file with a line a key"):
        Keys(path)


@pytest.mark.usefixtures("looking")
def test_a_changed_file_is_read_again(file):
    (first, one), (second, two) = make("a", ("predict",)), make("a", ("predict",))
    held = Keys(file(one))
    assert (bool(held.find(first.encode())), held.find(second.encode())) == (True, None)
    file(one, two)
    assert held.find(first.encode())
    assert held.find(second.encode())
    file(two)
    assert held.find(first.encode()) is None
    assert held.find(second.encode())


@pytest.mark.usefixtures("looking")
def test_a_changed_secret_of_kubernetes_is_read_again(tmp_path):
    def project(number, line):
        """Changes the volume as a kubelet does: a folder a version, and a link to the latest."""
        (tmp_path / f"..{number}").mkdir()
        held = tmp_path / f"..{number}" / "keys"
        held.write_text(line)
        held.chmod(0o440)
        (tmp_path / "..data_tmp").symlink_to(f"..{number}")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    (first, one), (second, two) = make("a", ("predict",)), make("a", ("predict",))
    project(1, one)
    (tmp_path / "keys").symlink_to("..data/keys")
    held = Keys(tmp_path / "keys")
    assert (bool(held.find(first.encode())), held.find(second.encode())) == (True, None)
    project(2, two)
    assert (held.find(first.encode()), bool(held.find(second.encode()))) == (None, True)


@pytest.mark.usefixtures("looking")
def test_a_bad_change_keeps_the_keys_and_is_logged_once(file, caplog):
    path = file(f"a predict {DIGEST}")
    held = Keys(path)
    with caplog.at_level(logging.WARNING, "candor"):
        for change in (lambda: file("a predict"), lambda: file(""), path.unlink):
            change()
            assert [held.find(b"secret").name for _ in range(3)] == ["a"] * 3
    assert [record.getMessage().rsplit("; ", 1)[1] for record in caplog.records] == [
        "the keys stay as they were"
    ] * 3
    file(f"b predict {DIGEST}")
    assert held.find(b"secret").name == "b"
