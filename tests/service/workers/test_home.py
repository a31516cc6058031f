"""The folder of a server's files is private, and of one server alone."""

import os
import subprocess
import sys

import pytest

from service.errors import HomeError
from service.workers import home
from support.servers import ROOT, Server, environment, free_port

ROUTE = 'candor_requests_total{code="200",route="/methods"}'


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A folder that stands for /tmp."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"candor-{os.getuid()}-3000"


def mode(path):
    return path.stat().st_mode & 0o777


def test_the_folder_is_made_for_its_user_alone(temporary):
    assert home.private(3000) == temporary
    assert mode(temporary) == 0o700


def test_a_folder_of_ours_that_others_may_read_is_closed_to_them(temporary):
    temporary.mkdir(mode=0o755)
    assert mode(home.private(3000)) == 0o700


def test_a_folder_that_others_may_write_to_is_not_used(temporary):
    temporary.mkdir()
    temporary.chmod(0o777)
    with pytest.raises(HomeError, match=r"others may write to .*mode 777\): remove it, or set BEN"):
        home.private(3000)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_is_not_used(temporary):
    temporary.mkdir(mode=0o700)
    os.chown(temporary, 1234, 1234)
    with pytest.raises(
        HomeError, match="is not a folder of user 0: remove it, or set BENTOML_HOME"
    ):
        home.private(3000)


def test_a_link_is_not_followed(temporary, tmp_path):
    temporary.symlink_to(tmp_path)
    with pytest.raises(HomeError, match="is not a folder of user"):
        home.private(3000)


def test_a_second_server_in_one_home_is_a_sentence_until_the_first_has_ended(tmp_path):
    port = free_port()
    bentoml = ["-m", "bentoml", "serve", "service.app:Candor", "--host", "127.0.0.1", "--port"]
    with Server(tmp_path, workers=1) as first:
        first.client.get("/methods")
        for command in (["-m", "service", "serve"], [*bentoml, str(port)]):
            second = subprocess.run(
                [sys.executable, *command],
                cwd=ROOT,
                env=environment(tmp_path / "home", port=port, device="cpu"),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert second.returncode != 0
            assert f"is in use by the server of process {first.process.pid}" in second.stderr
            assert "Traceback" not in second.stderr
            assert first.metric(ROUTE) == 1, "it costs the first nothing"
    with Server(tmp_path, workers=1) as next_one:
        assert next_one.client.get("/methods").status_code == 200
