"""scripts/packages installs what is missing as root or by sudo, and says in words what to do otherwise."""

import os
import shutil
import subprocess

import pytest

from support.servers import ROOT


def run(folder, *names, **programs):
    """scripts/packages in a system that has nothing but bash and `programs`, which say what they are called with."""
    for name, text in programs.items():
        (folder / name.replace("_", "-")).write_text(f"#!{shutil.which('bash')}\n{text}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    command = [shutil.which("bash"), ROOT / "scripts" / "packages", *names]
    environment = {"PATH": str(folder), "HOME": os.environ.get("HOME", "")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_nothing_is_done_where_nothing_is_missing(tmp_path):
    done = run(tmp_path, "prometheus", promtool="", apt_get="exit 1", id="echo 0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("user", "prefix"), [("0", ""), ("1000", "sudo ")])
def test_what_is_missing_is_installed_as_root_or_by_sudo(user, prefix, tmp_path):
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


def test_the_list_of_packages_is_fetched_where_it_is_old(tmp_path):
    log = tmp_path / "log"
    fails_once = f'echo "$1" >>{log}; [ "$1" = update ] || [ -e {tmp_path}/updated ] && : >{tmp_path}/updated'
    assert run(tmp_path, "wrk", id="echo 0", apt_get=fails_once).returncode == 0
    assert log.read_text().split() == ["install", "update", "install"]


def test_who_is_neither_root_nor_has_sudo_is_told_what_to_ask_for(tmp_path):
    done = run(tmp_path, "prometheus", id="echo 1000", apt_get="exit 1")
    assert done.returncode == 1
    assert (
        "prometheus is missing, and installing takes root or sudo: have an administrator run 'apt-get install prometheus'"
        in done.stderr
    )


def test_on_another_system_one_is_told_that_it_has_its_own_way(tmp_path):
    done = run(tmp_path, "prometheus")
    assert done.returncode == 1
    assert (
        "prometheus is missing, and this system has no apt-get: install it in its own way"
        in done.stderr
    )
