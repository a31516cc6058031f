"""The examples of docs/bulk.md, each on a cluster of its engine on this machine.

    python -m support.spread ENGINE FOLDER OUT [--killed]

runs in an environment that has ENGINE (ray, pyspark, dask), on two nodes of a core, and prints the
seconds that the example took. With --killed a worker kills itself once (support.killed).
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENGINES = ("ray", "pyspark", "dask")
NODES = 2
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "140",  # a machine may be crowded
    "RAY_worker_niceness": "0",  # by default 15: beside other work its processes stand still
}


def example(engine: str) -> str:
    """The one example in docs/bulk.md that imports `engine`."""
    text = (ROOT / "docs" / "bulk.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    imports = re.compile(rf"^(import|from) {engine}\b", re.MULTILINE)
    (found,) = [block for block in blocks if imports.search(block)]
    return str(found)


@contextmanager
def ray() -> Iterator[dict[str, str]]:
    """Ray with two raylets."""
    os.environ.update(RAY)
    import ray as engine  # noqa: PLC0415 - of the environment
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    node = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    cluster.add_node(**node)
    engine.init(address=cluster.address, log_to_driver=False, logging_level="warning")
    try:
        assert sum(one["Alive"] for one in engine.nodes()) == NODES
        yield {}
    finally:
        engine.shutdown()
        cluster.shutdown()


@contextmanager
def pyspark() -> Iterator[dict[str, str]]:
    """Spark with two executors, each a JVM with Python processes of its own."""
    from pyspark.sql import SparkSession  # noqa: PLC0415 - of the environment

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(f"local-cluster[{NODES},1,1024]")
    for name, value in (
        ("spark.ui.enabled", "false"),
        ("spark.driver.bindAddress", "127.0.0.1"),
        ("spark.driver.host", "127.0.0.1"),
        ("spark.executor.memory", "512m"),
    ):
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    try:
        yield {}
    finally:
        spark.stop()


@contextmanager
def dask() -> Iterator[dict[str, str]]:
    """Dask with two worker processes, each under a nanny."""
    from dask.distributed import LocalCluster  # noqa: PLC0415 - of the environment

    with LocalCluster(
        n_workers=NODES, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield {"tcp://scheduler:8786": cluster.scheduler_address}


def main() -> None:
    """Runs the example of an engine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--killed", action="store_true")
    arguments = parser.parse_args()
    text = example(arguments.engine)
    names = {'"/data/pictures': f'"{arguments.folder}', '"/data/results': f'"{arguments.out}'}
    names |= {'"file:/data/pictures': f'"file:{arguments.folder}'}
    if arguments.killed:
        names["from service.bulk.arrow import"] = "from support.killed import"
    with globals()[arguments.engine]() as more:
        for before, after in (names | more).items():
            text = text.replace(before, after)
        started = time.perf_counter()
        exec(compile(text, f"the example of {arguments.engine}", "exec"), {"__name__": "example"})  # noqa: S102
        print(f"{time.perf_counter() - started:.2f}")


if __name__ == "__main__":
    main()
