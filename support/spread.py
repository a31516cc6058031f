"""The examples of docs/bulk.md, each on a cluster of its engine on this machine.

    python -m support.spread ENGINE FOLDER OUT [--nodes 1] [--killed]

runs in an environment that has ENGINE (ray, pyspark, dask), on two nodes with a worker each, and
prints the seconds that the example took, by the clock and of processors. One node takes half of the
processor time. With --killed a worker kills itself once (support.killed).
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.servers import ROOT, descendants

ENGINES = ("ray", "pyspark", "dask")
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "140",  # a machine may be crowded
    "RAY_worker_niceness": "0",  # by default 15: beside other work its processes stand still
    "RAY_prestart_worker_first_driver": "0",  # processes that would be idle
}


def example(engine: str) -> str:
    """The one example in docs/bulk.md that imports `engine`."""
    text = (ROOT / "docs" / "bulk.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    imports = re.compile(rf"^(import|from) {engine}\b", re.MULTILINE)
    (found,) = [block for block in blocks if imports.search(block)]
    return str(found)


@contextmanager
def ray(nodes: int) -> Iterator[dict[str, str]]:
    """Ray with a raylet a node."""
    scratch = tempfile.mkdtemp(prefix="ray-")  # else each run leaves its logs in /tmp/ray
    os.environ.update(RAY, RAY_TMPDIR=scratch)
    import ray as engine  # noqa: PLC0415 - of the environment
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    for _ in range(1, nodes):
        cluster.add_node(**node)
    engine.init(address=cluster.address, log_to_driver=False, logging_level="warning")
    try:
        assert sum(one["Alive"] for one in engine.nodes()) == nodes
        yield {}
    finally:
        engine.shutdown()
        cluster.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def pyspark(nodes: int) -> Iterator[dict[str, str]]:
    """Spark: a JVM for all, or one for each of two executors beside the driver's."""
    from pyspark.sql import SparkSession  # noqa: PLC0415 - of the environment

    os.environ["PYSPARK_PYTHON"] = sys.executable
    # A task may fail four times, as on a cluster.
    master = "local[1,4]" if nodes == 1 else f"local-cluster[{nodes},1,1024]"
    builder = SparkSession.builder.master(master)
    for name, value in (
        ("spark.ui.enabled", "false"),
        ("spark.driver.bindAddress", "127.0.0.1"),
        ("spark.driver.host", "127.0.0.1"),
        ("spark.executor.memory", "512m"),
        # The quick compiler alone: a run is over before the other one pays.
        ("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1"),
        ("spark.executor.extraJavaOptions", "-XX:TieredStopAtLevel=1"),
    ):
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    try:
        yield {}
    finally:
        spark.stop()


@contextmanager
def dask(nodes: int) -> Iterator[dict[str, str]]:
    """Dask with a worker process a node, under a nanny."""
    from dask.distributed import LocalCluster  # noqa: PLC0415 - of the environment

    with LocalCluster(
        n_workers=nodes, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield {"tcp://scheduler:8786": cluster.scheduler_address}


def _processor_seconds() -> float:
    """What this process, those below it, and those of them that ended have used (Linux).

    A raylet does not wait for its workers: the time of those that ended is lost.
    """
    ticks = 0
    for pid in (os.getpid(), *descendants(os.getpid())):
        with suppress(OSError):  # it may end meanwhile
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Runs the example of an engine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--killed", action="store_true")
    arguments = parser.parse_args()
    text = example(arguments.engine)
    names = {'"/data/pictures': f'"{arguments.folder}', '"/data/results': f'"{arguments.out}'}
    names |= {'"file:/data/pictures': f'"file:{arguments.folder}'}
    if arguments.killed:
        names["from service.bulk.arrow import"] = "from support.killed import"
    with globals()[arguments.engine](arguments.nodes) as more:
        for before, after in (names | more).items():
            text = text.replace(before, after)
        started, used = time.perf_counter(), _processor_seconds()
        exec(compile(text, f"the example of {arguments.engine}", "exec"), {"__name__": "example"})  # noqa: S102
        seconds = time.perf_counter() - started
        print(f"{seconds:.2f} {_processor_seconds() - used:.2f}")


if __name__ == "__main__":
    main()
