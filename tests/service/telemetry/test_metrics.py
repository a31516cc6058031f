"""Metrics are bounded, are the sum over all workers, and cost little to read."""

import os
import random
import re
import signal
import socket
import string
import subprocess
import sys
import time

import pytest
from prometheus_client.mmap_dict import MmapedDict

from service.bundle.manifest import Manifest
from service.errors import SettingsError
from service.image.resize import Input
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.multiprocess import Exposition
from service.workers import host
from support.images import draw, encode
from support.servers import ROOT, Server

WORK = """
import sys
from service.bundle.manifest import Manifest
from service.image.resize import Input
from service.telemetry.metrics import Metrics
metrics = Metrics()
zoo = metrics.of_model(Manifest("zoo", ("cat", "dog"), Input(8, (0.0,) * 3, (1.0,) * 3)))
for number in range(int(sys.argv[1])):
    zoo.predictions[0].inc()
    metrics.request_seconds.labels("/a").observe(0.003)
    metrics.requests.labels('/odd"', "200").inc()
metrics.queue_depth.labels("predict").set(3)
metrics.workers.set(2)
sys.stdout.write("done\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def worker(folder, count):
    """A process that has counted, and lives until its input ends."""
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(count)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "done\n"
    return process


def series(text):
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }


def test_the_many_classes_of_a_model_are_one_series_unless_they_are_asked_for():
    for most, names in ((2, {"*"}), (3, {"cat", "dog", "eel"})):
        counted = Metrics(most_classes=most)
        zoo = counted.of_model(
            Manifest("zoo", ("cat", "dog", "eel"), Input(8, (0.0,) * 3, (1.0,) * 3))
        )
        for index in (0, 1, 1, 2):
            zoo.predictions[index].inc()
        found = {
            name: value
            for name, value in series(counted.text().decode()).items()
            if name.startswith("candor_predictions_total")
        }
        assert set(found) == {
            f'candor_predictions_total{{label="{name}",model="zoo"}}' for name in names
        }
        assert sum(found.values()) == 4


@pytest.mark.parametrize(("given", "count"), [("all", 3), ("none", 1), ("2", 1), ("3", 3)])
def test_the_labels_of_classes_are_as_the_setting_says(given, count):
    most = Settings.from_environment({"CANDOR_METRIC_CLASSES": given}).metric_classes
    metrics = Metrics(most_classes=most)
    metrics.of_model(Manifest("zoo", ("cat", "dog", "eel"), Input(8, (0.0,) * 3, (1.0,) * 3)))
    text = metrics.text().decode()
    assert text.count("\ncandor_predictions_total{") == count


@pytest.mark.parametrize("given", ["some", "-1", "1.5", ""])
def test_another_number_of_classes_is_no_setting(given):
    with pytest.raises(SettingsError, match="it must be all, none or a whole number from 0 to"):
        Settings.from_environment({"CANDOR_METRIC_CLASSES": given})


def test_counts_are_summed_over_all_processes_and_gauges_over_live_ones(tmp_path):
    exposition = Exposition(tmp_path)
    first, second = worker(tmp_path, 2), worker(tmp_path, 5)
    try:
        both = series(exposition.text())
        assert exposition.processes() == {first.pid, second.pid}
        assert both['candor_queue_depth{lane="predict"}'] == 6
        assert both["candor_workers"] == 2
        first.communicate("")
        after = series(exposition.text())
    finally:
        first.kill()
        second.kill()
        first.communicate()
        second.communicate()
    assert after['candor_queue_depth{lane="predict"}'] == 3
    for found in (both, after):
        assert found['candor_predictions_total{label="cat",model="zoo"}'] == 7
        assert (
            found['candor_predictions_total{label="dog",model="zoo"}']
            == found['candor_unfamiliar_total{model="zoo"}']
            == 0
        )
        assert found['candor_requests_total{code="200",route="/odd\\""}'] == 7
        buckets = {
            bound: found[f'candor_request_duration_seconds_bucket{{route="/a",le="{bound}"}}']
            for bound in ("0.0025", "0.005", "+Inf")
        }
        assert buckets == {"0.0025": 0, "0.005": 7, "+Inf": 7}
        assert found['candor_request_duration_seconds_count{route="/a"}'] == 7
        assert found['candor_request_duration_seconds_sum{route="/a"}'] == pytest.approx(0.021)


def test_the_text_is_that_of_prometheus_clients_own_collector(tmp_path):
    process = worker(tmp_path, 3)
    try:
        ours = Exposition(tmp_path).text()
        code = (
            "from prometheus_client import CollectorRegistry, generate_latest\n"
            "from prometheus_client.multiprocess import MultiProcessCollector\n"
            "registry = CollectorRegistry(); MultiProcessCollector(registry)\n"
            "print(generate_latest(registry).decode(), end='')"
        )
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        theirs = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    finally:
        process.communicate("")

    def ordered(text):
        """Labels in one order: theirs has `le` among the others."""
        parsed = {
            (name, tuple(sorted(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)))): float(value)
            for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE)
        }
        return parsed, {line for line in text.splitlines() if line.startswith("# TYPE")}

    assert ordered(ours) == ordered(theirs)


def test_a_lone_process_has_the_same_names(monkeypatch):
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    names = set(re.findall(r"^# TYPE (\w+)", Metrics().text().decode(), re.MULTILINE))
    assert {
        "candor_requests_total",
        "candor_memory_bytes",
        "candor_cpu_seconds_total",
        "candor_unfamiliar_total",
    } <= names


def test_random_paths_and_methods_leave_the_number_of_series_unchanged(server):
    from support import arrivals

    chance = random.Random(5)
    methods = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND")
    prefixes = (
        "/",
        "/",
        "/predict/",
        "/v2/models/",
        "/v1/models/",
        "/model/",
        "/metrics/",
        "/explain?x=",
    )

    def request():
        path = chance.choice(prefixes) + "".join(
            chance.choices(string.ascii_letters + string.digits, k=chance.randint(1, 20))
        )
        line = f"{chance.choice(methods)} {path} HTTP/1.1"
        return f"{line}\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()

    answers = []
    arrivals.run(
        arrivals.closed_loop(server.port, [request() for _ in range(500)], 16, answers.append)
    )
    before = series(server.client.get("/metrics").text).keys()
    arrivals.run(
        arrivals.closed_loop(server.port, [request() for _ in range(2_000)], 16, answers.append)
    )
    for number in range(100):  # whose answers have no body, which the loop above waits for
        server.client.head(f"/{number}")
    after = series(server.client.get("/metrics").text).keys()
    assert len(answers) == 2_500
    assert {answer.status for answer in answers} <= {200, 400, 404, 405}
    assert after == before


def test_scrapes_and_probes_are_not_counted(server):
    def seen():
        return {
            name: value
            for name, value in series(server.client.get("/metrics").text).items()
            if "requests" in name
        }

    before = seen()
    for path in ("/livez", "/readyz", "/metrics", "/v2/health/ready"):
        server.client.get(path)
    assert seen() == before
    assert before["candor_requests_in_flight"] == 0


def test_several_workers_count_together_and_a_killed_one_loses_its_requests(tmp_path):
    image, png = encode(draw()), {"content-type": "image/png", "connection": "close"}
    with Server(tmp_path, workers=2) as server:
        server.wait_for_processes(2)
        for _ in range(40):
            assert server.client.post("/predict", content=image, headers=png).status_code == 200
        time.sleep(0.2)  # an answer is counted when it has left, and another process may be asked
        for _ in range(5):  # whichever answers
            found = series(server.client.get("/metrics", headers={"connection": "close"}).text)
            assert found['candor_requests_total{code="200",route="/predict"}'] == 40
            assert (
                sum(
                    value
                    for name, value in found.items()
                    if name.startswith("candor_predictions_total")
                )
                == 40
            )
            assert (found["candor_ready"], found["candor_workers"]) == (2, 2)
            labels = 'precision="float32",provider="CPUExecutionProvider",wanted="cpu"'
            assert found[f"candor_device_info{{{labels}}}"] == 1
            assert 100e6 < found["candor_memory_bytes"] < found["candor_memory_limit_bytes"]
            assert found["candor_cpu_seconds_total"] > 1
            assert found["candor_requests_lost_total"] == 0
            assert found["candor_metrics_unreadable_files"] == 0
        with socket.create_connection(("127.0.0.1", server.port)) as caller:
            head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"
            caller.sendall(head + b"content-length: 100\r\n\r\n")
            while server.metric("candor_requests_in_flight") != 1:
                time.sleep(0.05)
            pid = next(
                int(path.stem.rpartition("_")[2])
                for path in (tmp_path / "home/prometheus_multiproc_dir").glob("gauge_livesum_*.db")
                if b"candor_requests_in_flight" in path.read_bytes() and in_flight(path)
            )
            os.kill(pid, signal.SIGKILL)
            while server.metric("candor_requests_lost_total") != 1:
                time.sleep(0.05)
            assert server.metric("candor_requests_in_flight") == 0


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/", {"memory.max": "536870912"}, 2**29),
        ("0::/pod/candor", {"pod/memory.max": "1073741824", "pod/candor/memory.max": "max"}, 2**30),
        (
            "4:cpu:/x\n3:memory:/pod\n0::/x",
            {"memory/pod/memory.limit_in_bytes": "268435456"},
            2**28,
        ),
        ("3:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 2**33),
        ("0::/nowhere", {}, 2**33),
    ],
)
def test_the_limit_of_memory_is_that_of_the_control_group_or_of_the_machine(
    groups, files, limit, tmp_path
):
    assert host.memory_limit_bytes(*control_groups(tmp_path, groups, files)) == limit


MAY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, MAY),
        ("0::/", {"cpu.max": "100100 100000"}, min(2, MAY)),
        ("0::/", {"cpu.max": "99900000 100000"}, MAY),
        ("0::/pod/candor", {"pod/cpu.max": "100000 100000", "pod/candor/cpu.max": "max 100000"}, 1),
        (
            "2:cpu,cpuacct:/pod\n0::/x",
            {"cpu/pod/cpu.cfs_quota_us": "25000", "cpu/pod/cpu.cfs_period_us": "50000"},
            1,
        ),
        ("2:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, MAY),
        ("0::/nowhere", {}, MAY),
    ],
)
def test_a_quota_of_time_is_as_many_cores_as_it_is_worth(groups, files, cores, tmp_path):
    assert host.cores(*control_groups(tmp_path, groups, files)) == cores


def control_groups(folder, groups, files):
    """The folders /proc and /sys/fs/cgroup as Linux shows them to a process in `groups`."""
    shown = {"proc/self/cgroup": groups, "proc/meminfo": "MemTotal: 8388608 kB\n"} | {
        f"fs/{n}": t for n, t in files.items()
    }
    for name, text in shown.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "proc", folder / "fs"


def test_a_process_that_has_ended_takes_nothing():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert host.resident_bytes([ended.pid]) == host.cpu_seconds([ended.pid]) == 0
    assert host.resident_bytes([os.getpid()]) > 10e6
    assert host.cpu_seconds([os.getpid()]) > 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.db", b"x"),
        ("notes_5.db", b"x"),
        ("counter_99999.db", (400).to_bytes(4, "little") + b"\xff" * 4096),
        (
            "counter_99998.db",
            (200).to_bytes(4, "little") + bytes(4) + b"\x05\0\0\0[1, 2" + bytes(300),
        ),
        ("counter_x.db", b"x"),
    ],
)
def test_an_odd_file_costs_itself_alone(tmp_path, name, content, caplog):
    (tmp_path / name).write_bytes(content)
    process, exposition = worker(tmp_path, 2), Exposition(tmp_path)
    try:
        for _ in range(2):
            found = series(exposition.text())
        assert exposition.processes() == {process.pid}
    finally:
        process.communicate("")
    assert found['candor_predictions_total{label="cat",model="zoo"}'] == 2
    assert exposition.unreadable == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"The metrics leave out {tmp_path / name}: the file cannot be read"
    ]
    (tmp_path / name).unlink()
    assert exposition.unreadable == 0


def test_odd_things_that_are_no_files_cost_nothing(tmp_path):
    os.mkfifo(tmp_path / "counter_1.db")
    (tmp_path / "counter_2.db").mkdir()
    (tmp_path / "counter_3.db").symlink_to(tmp_path / "missing")
    assert Exposition(tmp_path).text() == ""


def in_flight(path):
    values = MmapedDict.read_all_values_from_file(path)
    return any(value for key, value, _, _ in values if "candor_requests_in_flight" in key)
