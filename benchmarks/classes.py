"""The costs of many classes: start, memory, sizes and times of answers, by the number of classes.

The network is a convolution, a pool and a linear layer, so the classes are all that costs. One
worker, one caller. Times are the worker's processor time a request, the mean of many: other work on
the machine moves them little.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import httpx

from service.workers import host
from support import toys
from support.images import draw, encode
from support.load import table
from support.servers import Server

FEW, MANY = 10, 100  # repetitions of slow and of quick requests
ROWS = 64
IMAGE = encode(draw("red", size=64))
TYPE = {"content-type": "image/png"}
DOCUMENTS = ("/", "/model", "/openapi.json", "/schema.json", "/metrics", "/v2/models/many")
QUERIES = {
    "/predict": "",
    "/predict, top_k=5": "?top_k=5",
    "/explain, Grad-CAM": "?method=grad_cam&map=array",
    "/explain, Integrated Gradients": "?method=integrated_gradients&map=array",
    "/explain, RISE": "?method=rise&map=array",
}


@click.command()
@click.option("--classes", type=int, multiple=True, default=(10, 1000, 21_841), show_default=True)
def main(classes: tuple[int, ...]) -> None:
    """Prints the table as Markdown."""
    columns = [dict(figures(count)) for count in classes]
    rows = [(name, *(column.get(name, "") for column in columns)) for name in columns[0]]
    click.echo(table(("", *(f"{count:,} classes" for count in classes)), rows))


def figures(classes: int) -> Iterator[tuple[str, str]]:
    """Names and figures of a server with so many classes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = toys.many_classes(folder, [f"kind {index}" for index in range(classes)])
        with Server(folder, bundle=bundle, workers=1) as server:
            yield "ready, s", f"{server.seconds_to_ready:.1f}"
            yield "resident MiB", _megabytes(server)
            yield from _requests(server)
            files = (folder / "home" / "prometheus_multiproc_dir").glob("*.db")
            yield "files of metrics, kB", f"{sum(file.stat().st_size for file in files) / 1e3:.0f}"
            yield "resident MiB, at the end", _megabytes(server)


def _megabytes(server: Server) -> str:
    return f"{host.resident_bytes([server.worker()]) / 2**20:.0f}"


def _requests(server: Server) -> Iterator[tuple[str, str]]:
    client, pid = server.client, server.worker()
    for path in DOCUMENTS:
        yield f"GET {path}", _timed(pid, partial(client.get, path), FEW)
    for title, query in QUERIES.items():
        path = title.partition(",")[0] + query
        times = MANY if title.startswith("/predict") else FEW
        yield (
            title,
            _timed(pid, partial(client.post, path, content=IMAGE, headers=TYPE), times),
        )
    form = [("image", IMAGE)] * ROWS
    yield f"/predict, {ROWS} images", _timed(pid, partial(client.post, "/predict", files=form), FEW)
    for outputs in ((), ("label",), ("prediction_set",)):
        for rows in (1, ROWS):
            name = ", ".join(outputs) or "default outputs"
            yield (
                f"V2 infer of {rows}, {name}",
                _timed(pid, partial(_infer, client, rows, outputs), FEW),
            )


def _infer(client: httpx.Client, rows: int, outputs: tuple[str, ...]) -> httpx.Response:
    pixels = {"name": "pixels", "datatype": "UINT8", "shape": [rows, 2, 2, 3]}
    document = {"inputs": [pixels | {"data": [7] * 12 * rows}]}
    if outputs:
        document["outputs"] = [{"name": name} for name in outputs]
    return client.post("/v2/models/many/infer", json=document)


def _timed(pid: int, send: Callable[[], httpx.Response], times: int) -> str:
    """The milliseconds of an answer, and its kilobytes."""
    send().raise_for_status()
    before = _processor_seconds(pid)
    for _ in range(times):
        response = send()
    milliseconds = 1000 * (_processor_seconds(pid) - before) / times
    return f"{milliseconds:,.2f} ms, {len(response.content) / 1000:,.1f} kB"


def _processor_seconds(pid: int) -> float:
    """The processor time of all threads of a process, by the scheduler's clock."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


if __name__ == "__main__":
    main()
