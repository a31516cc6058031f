"""scripts/packages installs missing packages as root or by sudo, and otherwise names the remedy."""

import os
import shutil
import subprocess

import pytest

from support.servers import ROOT


def run(folder, *names, **programs):
    """Runs scripts/packages in a system with bash and `programs` alone."""
    for name, text in programs.items():
        (folder / name.replace("_", "-")).write_text(f"#!{shutil.which('bash')}\n{text}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    command = [shutil.which("bash"), ROOT / "scripts" / "packages", *names]
    environment = {"PATH": str(folder), "HOME": os.environ.get("HOME", "")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_without_a_missing_package_nothing_happens(tmp_path):
    done = run(tmp_path, "prometheus", promtool="", apt_get="exit 1", id="echo 0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("user", "prefix"), [("0", ""), ("1000", "sudo ")])
def test_missing_packages_are_installed_as_root_or_by_sudo(user, prefix, tmp_path):
    log = tmp_path / "log"
    programs = {
        "id": f"echo {user}",
        "apt_get": f'echo "apt-get $*" >>{log}',
        "sudo": f'echo -n "sudo " >>{log}; "$@"',
    }
    done = run(tmp_path, "prometheus", "bubblewrap", "wrk", wrk="", **programs)
    assert done.returncode == 0, done.stderr
    (line,) = log.read_text().splitlines()
    assert line.startswith(f"{prefix}apt-get install ")
    assert line.endswith(" prometheus bubblewrap")


def test_an_old_list_of_packages_is_fetched_again_and_interrupted_work_finished(tmp_path):
    log = tmp_path / "log"
    updated = tmp_path / "updated"
    programs = {
        "apt_get": f'echo "$1" >>{log}; [ "$1" = update ] || [ -e {updated} ] && : >{updated}',
        "dpkg": f'echo "dpkg $1" >>{log}',
    }
    assert run(tmp_path, "wrk", id="echo 0", **programs).returncode == 0
    assert log.read_text().splitlines() == ["install", "dpkg --configure", "update", "install"]


def test_a_package_that_apt_cannot_install_is_named_with_a_remedy(tmp_path):
    apt = 'echo "E: no candidate" >&2; [ "$1" = update ]'
    done = run(tmp_path, "chromium", id="echo 0", apt_get=apt, dpkg="")
    assert done.returncode == 1
    assert "E: no candidate\nscripts/packages: apt-get cannot install chromium" in done.stderr
    assert "'snap install chromium'" in done.stderr


def test_without_root_and_sudo_it_names_what_an_administrator_has_to_run(tmp_path):
    done = run(tmp_path, "prometheus", id="echo 1000", apt_get="exit 1")
    assert done.returncode == 1
    assert (
        "prometheus is missing, and installing it needs root or sudo:"
        " have an administrator run 'apt-get install prometheus'" in done.stderr
    )


def test_on_a_system_without_apt_it_refers_to_that_systems_way(tmp_path):
    done = run(tmp_path, "prometheus")
    assert done.returncode == 1
    assert (
        "prometheus is missing, and this system has no apt-get: install it in this system's way"
        in done.stderr
    )
