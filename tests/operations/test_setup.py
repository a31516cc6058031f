"""scripts/setup completes an environment, and starts over after an interruption.

A script stands in for Python, so that nothing is downloaded. scripts/bare tests a real system.
"""

import shutil
import subprocess

import pytest

from support.servers import ROOT

PYTHON = """#!/usr/bin/env bash
echo "$*" >>{log}
case "$*" in
  --version) echo "Python 3.11.9" ;;
  "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  "-m uv --version") [ -e .venv/uv ] ;;
  "-m pip "*) touch .venv/uv ;;
  "-m uv pip install"*) {install} ;;
esac
"""


class Checkout:
    """A folder with scripts/setup, the requirements and a stand-in for Python."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "log"
        self.environment = folder / ".venv"
        self.marker, self.stamp = (
            self.environment / name for name in ("installing", "installed-all")
        )
        for name in ("scripts", "requirements"):
            shutil.copytree(ROOT / name, folder / name)

    def setup(self, *arguments, python=PYTHON, install="echo Downloading torch"):
        program = self.folder / "python"
        program.write_text(python.replace("{log}", str(self.log)).replace("{install}", install))
        program.chmod(0o755)
        return subprocess.run(
            [self.folder / "scripts" / "setup", *arguments],
            env={"PATH": "/usr/bin:/bin", "PYTHON": str(program)},
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self):
        lines = self.log.read_text().splitlines()
        self.log.unlink()
        return lines


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_the_first_call_installs_with_words_and_the_next_one_only_derives_graphs(checkout):
    done = checkout.setup()
    assert done.returncode == 0, done.stderr
    assert "making .venv with Python 3.11.9" in done.stderr
    assert "installing requirements/dev.txt\nDownloading torch\n" in done.stderr
    assert any("--require-hashes -r requirements/dev.txt" in call for call in checkout.calls())
    assert checkout.stamp.exists()
    assert not checkout.marker.exists()
    for part in ((), ("service",)):
        done = checkout.setup(*part)
        assert (done.returncode, done.stderr) == (0, "")
        assert checkout.calls() == ["-m training derive service/model service/imagenet"]


def test_other_requirements_are_installed_into_the_same_environment(checkout):
    checkout.setup()
    checkout.calls()
    (checkout.folder / "requirements" / "dev.txt").write_text("other")
    assert checkout.setup().returncode == 0
    assert not any("-m venv" in call for call in checkout.calls())


def test_after_an_interrupted_installation_it_starts_over(checkout):
    assert checkout.setup(install="exit 1").returncode == 1
    assert checkout.marker.exists()
    (checkout.environment / "half").touch()
    done = checkout.setup()
    assert done.returncode == 0, done.stderr
    assert "the last call was interrupted: starting over" in done.stderr
    assert checkout.stamp.exists()
    assert not checkout.marker.exists()
    assert not (checkout.environment / "half").exists()


def test_an_environment_without_an_installer_is_made_again(checkout):
    """As `python3 -m venv` leaves it where Debian's python3-venv is missing."""
    (checkout.environment / "bin").mkdir(parents=True)
    (checkout.environment / "bin" / "python").symlink_to("/bin/false")
    assert checkout.setup().returncode == 0
    assert checkout.stamp.exists()


def test_an_old_python_is_named_with_the_remedy(checkout):
    old = '#!/usr/bin/env bash\n[ "$1" = --version ] && echo "Python 3.9.2"\n'
    done = checkout.setup(python=old)
    assert done.returncode == 1
    assert "Candor needs Python 3.11 or newer, and " in done.stderr
    assert "is Python 3.9.2: install python3.11 or newer, or set PYTHON to one" in done.stderr


def test_an_unknown_part_is_rejected(checkout):
    done = checkout.setup("servcie")
    assert (done.returncode, done.stderr) == (
        2,
        "scripts/setup: unknown part 'servcie'; give 'service' or nothing\n",
    )
