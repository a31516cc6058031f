"""Runs every pod of k8s/ by podman and prints what held: scripts/pods.

Each part builds its manifests by kustomize and gives the pods to `support.podman`, which says what
it changes in them.
"""

import asyncio
import base64
import hashlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import grpc
import httpx
import pyarrow.parquet as pq
import yaml  # type: ignore[import-untyped] # one of the tests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support import podman, proxies
from support.images import draw, encode
from support.pod_checks import (
    IMAGE,
    JPEG,
    explains,
    explains_by_every_method,
    has_a_limit_that_kills,
    has_no_rights,
    knows_its_memory,
    metric,
    predicts,
    stops,
    survives_large_images_and_slow_bodies,
    writes_json,
)
from support.podman import Pod, Resource
from support.provenance import machine, today
from support.rollout import call
from support.servers import ROOT

K8S = ROOT / "k8s"
OVERLAYS = ("cpu", "full", "canary", "shadow", "explain-pool")
CHECKS = (
    has_no_rights,
    knows_its_memory,
    predicts,
    explains,
    survives_large_images_and_slow_bodies,
    has_a_limit_that_kills,
    stops,
    writes_json,
)
KEY = "candor_" + "a" * 43
IMAGES = 40  # of the folder that the Job predicts
MOST_SECONDS = 900


class Table:
    """The rows of the report, printed as they come: pod, check, what was seen, seconds."""

    def __init__(self) -> None:
        self.failures = 0
        self._began = time.monotonic()
        print("| pod | check | seen | s |\n| --- | --- | --- | --- |")

    def row(self, pod: str, check: str, work: Callable[[], str]) -> bool:
        """Runs `work` and prints its row; False if it failed."""
        began = time.monotonic()
        try:
            assert began - self._began < MOST_SECONDS, f"not run: {MOST_SECONDS} s are over"
            seen, held = work(), True
        except Exception as error:  # noqa: BLE001 - whatever fails is a row of the table
            words = " ".join(str(error).split())[:600]
            seen, held = f"**FAILED** {type(error).__name__}: {words}", False
            self.failures += 1
        print(f"| {pod} | {check} | {seen} | {time.monotonic() - began:.1f} |", flush=True)
        return held

    @contextmanager
    def pod(self, pod: Pod, place: str) -> Iterator[Pod | None]:
        """Runs a pod, with a row for its start; None if it did not get ready."""
        with ExitStack() as stack:
            started = self.row(place, "starts", lambda: self._start(stack, pod))
            yield pod if started else None

    @staticmethod
    def _start(stack: ExitStack, pod: Pod) -> str:
        stack.enter_context(pod)
        return f"ready after {pod.seconds_to_ready:.1f} s"


def name_of(check: Callable[[Pod], str]) -> str:
    """A check's name, as words."""
    return check.__name__.replace("_", " ").strip()


def build(folder: str, **changes: Any) -> list[Resource]:
    """A kustomization of k8s/; with `changes` one with these fields on top of it."""
    if not changes:
        return podman.kustomize(K8S / folder)
    with tempfile.TemporaryDirectory(dir=K8S.parent / "dist") as name:
        above = {"resources": [f"../../k8s/{folder}"], **changes}
        (Path(name) / "kustomization.yaml").write_text(yaml.safe_dump(above))
        return podman.kustomize(Path(name))


def checked(table: Table, pod: Pod, place: str, checks: Sequence[Callable[[Pod], str]]) -> None:
    """Runs a pod through the checks."""
    with table.pod(pod, place) as running:
        for check in checks if running else ():
            table.row(place, name_of(check), lambda check=check: check(pod))  # type: ignore[misc]


def overlays(table: Table) -> None:
    """Every Deployment of every overlay; those of one overlay run side by side. The images and
    settings are the same, so every method is asked of the first one alone.
    """
    for overlay in OVERLAYS:
        resources = build(f"overlays/{overlay}")
        owners = podman.of_kind(resources, "Deployment")
        with ExitStack() as stack:
            pods = [Pod(resources, owner, 10 + n) for n, owner in enumerate(owners)]
            places = [f"{overlay}: {owner['metadata']['name']}" for owner in owners]
            running = [
                stack.enter_context(table.pod(pod, place))
                for pod, place in zip(pods, places, strict=True)
            ]
            for pod, place in zip(running, places, strict=True):
                once = (explains_by_every_method,) if overlay == OVERLAYS[0] else ()
                for check in (*once, *CHECKS) if pod else ():
                    table.row(place, name_of(check), lambda c=check, p=pod: c(p))  # type: ignore[misc]


def components(table: Table) -> None:
    """The base with a component that changes its pod."""
    alone = [f"../../k8s/components/{name}" for name in ("keys", "grpc", "bundle-volume")]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "candor-keys"}}
    line = f"anyone predict,metrics {hashlib.sha256(KEY.encode()).hexdigest()}\n"
    keys = {**secret, "data": {"keys": base64.b64encode(line.encode()).decode()}}
    folder = podman.new_volume("candor-bundle")
    shutil.copytree(ROOT / "service" / "imagenet", folder / "bundle")
    for number, (component, check) in enumerate(
        zip(alone, (_wants_a_key, _speaks_grpc, _has_another_bundle), strict=True), 80
    ):
        resources = [*build("base", components=[component]), keys]
        (owner,) = podman.of_kind(resources, "Deployment")
        place = f"base + {Path(component).name}"
        checked(table, Pod(resources, owner, number), place, (has_no_rights, check))


def _wants_a_key(pod: Pod) -> str:
    key = {"authorization": f"Bearer {KEY}"}
    codes = [
        pod.client.post(path, content=IMAGE, headers={**JPEG, **headers}).status_code
        for path, headers in (("/predict", {}), ("/predict", key), ("/explain", key))
    ]
    assert codes == [401, 200, 403], codes
    return "401 without a key, 200 with one, 403 beyond its scope"


def _speaks_grpc(pod: Pod) -> str:
    with grpc.insecure_channel(f"{pod.address}:9000") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    return "SERVING at port 9000"


def _has_another_bundle(pod: Pod) -> str:
    name = pod.client.get("/model").json()["name"]
    assert name == "imagenet", name
    return predicts(pod)


def sick(table: Table) -> None:
    """A pod whose device fails: not ready, then ended, then started again and well."""
    resources = build("overlays/cpu")
    (owner,) = podman.of_kind(resources, "Deployment")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        pod = Pod(
            resources,
            owner,
            20,
            {"PYTHONPATH": "/sick", "SICK_DEVICE": "/fault/fault"},
            {"/sick": ROOT / "support" / "sick_device", "/fault": folder},
        )
        with table.pod(pod, "cpu, a sick device") as running:
            if running:
                table.row("cpu, a sick device", "is replaced", lambda: _falls_ill(pod, folder))


def _falls_ill(pod: Pod, folder: Path) -> str:
    predicts(pod)
    first = pod.state()["Pid"]
    fault = folder / "fault"
    fault.touch()
    began = time.monotonic()
    codes: Counter[int] = Counter()
    while pod.probe("readiness"):
        codes[pod.client.post("/predict", content=IMAGE, headers=JPEG).status_code] += 1
        assert time.monotonic() - began < 10, "it stays ready"
    unready = time.monotonic() - began
    assert set(codes) == {503}, codes
    while pod.state()["Pid"] in (first, 0):
        assert time.monotonic() - began < 60, "it is not ended and started again"
        time.sleep(0.2)
    again = time.monotonic() - began
    fault.unlink()
    while not pod.probe("readiness"):
        assert time.monotonic() - began < 120, "it does not get well"
        time.sleep(0.2)
    predicts(pod)
    return f"{codes[503]} × 503, unready in {unready:.1f} s, started again in {again:.1f} s, well"


def models(table: Table) -> None:
    """Two models in one namespace: each behind the Service of its name, by the labels of pods."""
    settings = {"cats": "cifar10", "dogs": "imagenet"}
    with ExitStack() as stack:
        pods, services = dict[str, Pod](), list[Resource]()
        for number, (name, bundle) in enumerate(settings.items(), 30):
            literals = [f"CANDOR_MODEL_NAME={name}"]
            literals += ["CANDOR_BUNDLE=imagenet"] * (bundle == "imagenet")
            generated = {"name": "candor-settings", "behavior": "merge", "literals": literals}
            resources = build(
                "overlays/cpu",
                namePrefix=f"{name}-",
                namespace="candor",
                configMapGenerator=[generated],
            )
            (owner,) = podman.of_kind(resources, "Deployment")
            pod = stack.enter_context(table.pod(Pod(resources, owner, number), f"models: {name}"))
            if pod is None:
                return
            pods[name] = pod
            services += podman.of_kind(resources, "Service")
        table.row("models", "each answers to its own name alone", lambda: _apart(pods, services))


def _apart(pods: dict[str, Pod], services: list[Resource]) -> str:
    shown = list[str]()
    for service in services:
        name = service["metadata"]["name"].removesuffix("-candor")
        chosen = podman.selected(service["spec"]["selector"])
        assert chosen == [pods[name].name], f"the Service {name} leads to {chosen}"
        places = [f"{pod.address}:3000" for pod in pods.values() if pod.name in chosen]
        with tempfile.TemporaryDirectory() as folder, proxies.haproxy(Path(folder), places) as port:
            found = Counter[str]()
            for _ in range(50):
                answer = _proxied(port, "/predict")
                found[answer.json()["model"]["name"]] += 1
            assert set(found) == {name}, found
            for other in pods:
                code = httpx.get(f"http://127.0.0.1:{port}/v2/models/{other}").status_code
                assert code == (200 if other == name else 404), (name, other, code)
        shown.append(f"Service {service['metadata']['name']}: {found[name]} of 50 by {name}")
    return "; ".join(shown)


def _proxied(port: int, path: str) -> httpx.Response:
    """The answer of a proxy that has just begun to check its servers."""
    end = time.monotonic() + 10
    while True:
        answer = httpx.post(f"http://127.0.0.1:{port}{path}", content=IMAGE, headers=JPEG)
        if answer.status_code == httpx.codes.OK or time.monotonic() > end:
            assert answer.status_code == httpx.codes.OK, answer.text
            return answer
        time.sleep(0.2)


def rollout(table: Table) -> None:
    """A rolling update of two pods behind HAProxy, under 16 callers with keep-alive."""
    objective = "CANDOR_LATENCY_OBJECTIVE_SECONDS"
    changed = {"name": "candor-settings", "behavior": "merge", "literals": [f"{objective}=0.5"]}
    old, new = (
        build("overlays/cpu"),
        build("overlays/cpu", namespace="candor", configMapGenerator=[changed]),
    )
    pods = [
        Pod(resources, podman.of_kind(resources, "Deployment")[0], number)
        for number, resources in ((40, old), (41, old), (42, new), (43, new))
    ]
    table.row("rollout: 2 pods by 2", "fails no request", lambda: asyncio.run(_replace(pods)))


async def _replace(pods: list[Pod]) -> str:
    """Replaces the first two pods by the last two as the Deployment's strategy has it: one more
    at first (maxSurge 1), then one less, never fewer than two that are ready.
    """
    statuses, done = list[int | str](), asyncio.Event()
    places = [f"{pod.address}:3000" for pod in pods]
    small = encode(draw(size=64))
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for pod in pods[:2]:
            stack.enter_context(pod)
        port = stack.enter_context(proxies.haproxy(Path(folder), places))
        await asyncio.sleep(4)  # until the proxy has found that the new pods are not there yet
        await asyncio.to_thread(_proxied, port, "/predict")
        pauses = [0.02, 0.04, 0.1, 0.7] * 4
        address = ("127.0.0.1", port)
        callers = [
            asyncio.create_task(call(address, small, pause, statuses, done)) for pause in pauses
        ]
        for number in range(2):
            await asyncio.to_thread(stack.enter_context, pods[2 + number])
            await asyncio.sleep(3)  # until the proxy has seen it, as minReadySeconds or a Service
            assert await asyncio.to_thread(pods[number].stop) == 0
        await asyncio.sleep(2)
        done.set()
        await asyncio.gather(*callers)
        for pod in pods[2:]:
            assert metric(pod, "candor_latency_objective_seconds") == 0.5
    assert set(statuses) == {200}, Counter(statuses)
    return f"{len(statuses)} requests, all 200, both old pods ended with status 0"


def jobs(table: Table) -> None:
    """A shard of the bulk Job."""
    resources = build("bulk")
    (owner,) = podman.of_kind(resources, "Job")
    folders = {name: podman.new_volume(name) for name in ("pictures", "results")}
    for number in range(IMAGES):
        (folders["pictures"] / f"{number}.png").write_bytes(encode(draw(seed=number)))
    shutil.chown(folders["results"], 1034, 1034)  # a kubelet does so for fsGroup
    pod = Pod(resources, owner, 50, {"JOB_COMPLETION_INDEX": "0"})

    def predicted() -> str:
        status = pod.wait(120)
        assert status == 0, pod.log()[-2000:]
        rows = pq.read_table(folders["results"] / "1-of-8.parquet").num_rows
        assert 0 < rows < IMAGES, rows
        return f"status 0, {rows} rows of {IMAGES} images"

    with table.pod(pod, "bulk: shard 1 of 8") as running:
        if running:
            table.row("bulk: shard 1 of 8", "writes its table", predicted)


def kserve(table: Table) -> None:
    """The predictor of the InferenceService, as the pod that KServe would make of it."""
    resources = build("kserve")
    (owner,) = podman.of_kind(resources, "InferenceService")
    checked(table, Pod(resources, owner, 60), "kserve: predictor", CHECKS)


def gpu(table: Table) -> None:
    """The overlay for GPUs on a machine without one: it must not start."""
    resources = build("overlays/gpu")
    (owner,) = podman.of_kind(resources, "Deployment")
    pod = Pod(resources, owner, 70)

    def fails() -> str:
        said = "it serves"
        try:
            with pod:
                pass
        except AssertionError as error:
            said = str(error)
        assert "CUDAExecutionProvider" in said, said
        return "ends and says why; nothing else of it can run here"

    table.row("gpu: candor", "does not start without a GPU", fails)


PARTS: dict[str, Callable[[Table], None]] = {
    part.__name__: part for part in (overlays, components, sick, models, rollout, jobs, kserve, gpu)
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
def main(parts: tuple[str, ...]) -> None:
    """Run the pods of k8s/ and print what held."""
    reason = podman.why_not()
    if reason:
        raise click.ClickException(f"no pod can run here: {reason}")
    began = time.monotonic()
    podman.build_image()
    print(f"`scripts/pods {' '.join(parts)}` · {machine()} · {today()}", file=sys.stdout)
    print(f"image: {podman.image_size()}, made in {time.monotonic() - began:.0f} s\n")
    table = Table()
    for part in parts or PARTS:
        PARTS[part](table)
    print(f"\n{table.failures} failed; {time.monotonic() - began:.0f} s")
    sys.exit(bool(table.failures))


if __name__ == "__main__":
    main()
