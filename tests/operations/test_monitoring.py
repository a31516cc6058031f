"""Dashboards and rules hold on a real Prometheus that scrapes a real server."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.api.access.keys import SCOPES, make
from service.telemetry.metrics import REQUEST_SECONDS
from support.images import draw, encode
from support.prometheus import Prometheus
from support.servers import ROOT, Server

MONITORING = ROOT / "k8s" / "monitoring"
RULES = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"]
DASHBOARDS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((MONITORING / "dashboards").glob("*.json"))
}
RUNBOOKS = "https://candor.example/docs/runbooks/"
# Metrics of NVIDIA's exporter, and of kube-state-metrics: there is no GPU and no cluster here.
ELSEWHERE = ("DCGM_", "kube_pod_")
# A server without keys has none.
KEYED = {"candor_key_requests_total": {"key", "code"}}
# Where a new version stands beside the served one: tests/service/repository/test_rollout.py.
OF_ROLLOUTS = {
    "candor_comparisons_total": {"model", "version"},
    "candor_comparison_agreements_total": {"model", "version", "of"},
    "candor_comparison_confidence_total": {"model", "version", "of"},
    "candor_comparison_map_distance_bucket": {"model", "version"},
    "candor_rollouts_ended_total": {"model", "by"},
}
ON_FIRE = ("ALERTS",)  # exists when an alert fires
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")
METRIC = re.compile(r"\b(candor[_:][\w:]+|DCGM_\w+|kube_pod_\w+)\b")
GROUPING = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")
# What every recorded series has, and no more.
IDENTITY = {"job", "namespace", "app_kubernetes_io_instance"}
OF_PROMETHEUS = {*IDENTITY, "instance", "le"}
SHOWN = 'namespace=~"$namespace", app_kubernetes_io_instance=~"$instance"'


def recorded():
    return {
        rule["record"]: rule["expr"]
        for group in RULES["groups"]
        for rule in group["rules"]
        if "record" in rule
    }


def slow():
    """The rules recorded too seldom for a test, each with its expression."""
    return {
        rule["record"]: rule["expr"]
        for group in RULES["groups"]
        if "interval" in group
        for rule in group["rules"]
    }


def alerts():
    return [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]


def panels(board):
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def shown():
    """Every expression of the dashboards, with its place."""
    for name, board in DASHBOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                yield pytest.param(target["expr"], id=f"{name}: {panel['title']} {target['refId']}")


def ruled():
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield pytest.param(
                rule["expr"],
                id=rule.get("record") or f"{rule['alert']} {rule['labels'].get('burn', '')}",
            )


def plain(expression):
    """The expression as Grafana sends it, with slow recordings replaced by their expressions."""
    for name, recording in slow().items():
        expression = expression.replace(f"{name}{{{SHOWN}}}", f"({recording})")
    replaced = {
        "$__rate_interval": "30s",
        '"$namespace"': '".*"',
        '"$instance"': '".*"',
        '"$replica"': '".*"',
    }
    for variable, value in replaced.items():
        expression = expression.replace(variable, value)
    return expression


def labels_of(selector):
    return dict(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', selector))


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A server after every kind of traffic, and the Prometheus that has scraped it."""
    folder = tmp_path_factory.mktemp("watched")
    objectives = {"availability_objective": 0.99, "latency_objective_seconds": 0.005}
    with (
        Server(folder, workers=2, **objectives) as server,
        Prometheus(folder, server.port) as prometheus,
    ):
        server.wait_for_processes(2)
        prometheus.wait_for('up{job="candor"} == 1')
        for turn in range(2):
            traffic(server)
            prometheus.wait_for(f"count_over_time(up[1m]) > {4 * (turn + 1)}")
        yield server, prometheus


def traffic(server):
    image, png = encode(draw()), {"content-type": "image/png"}
    for _ in range(6):
        assert server.client.post("/predict", content=image, headers=png).status_code == 200
        assert (
            server.client.post(
                "/explain?method=integrated_gradients", content=image, headers=png
            ).status_code
            == 200
        )
    assert (
        server.client.post("/explain?method=grad_cam", content=image, headers=png).status_code
        == 200
    )
    assert server.client.post(
        "/explain?method=grad_cam&deadline_ms=1", content=image, headers=png
    ).status_code in (503, 504)
    assert server.client.post("/predict", content=image[:50], headers=png).status_code == 422
    assert server.client.get("/nothing").status_code == 404


@pytest.fixture(scope="module")
def scraped(watched):
    """The labels of each metric in one scrape, each with its values."""
    found = {}
    for line in watched[0].client.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"(\w+)(?:\{(.*)\})?", line).groups()
            for label, value in labels_of(labels or "").items():
                found.setdefault(name, {}).setdefault(label, set()).add(value)
            found.setdefault(name, {})
    for name, labels in {**KEYED, **OF_ROLLOUTS}.items():
        assert name not in found
        found[name] = {label: set() for label in labels}
    return found


@pytest.mark.parametrize("expression", [*shown(), *ruled()])
def test_every_metric_and_label_is_in_a_real_scrape(expression, scraped):
    assert_known(expression, scraped)


def assert_known(expression, scraped):
    selectors = SELECTOR.findall(expression)
    named = {name for name, _ in selectors}
    unmatched = set(METRIC.findall(expression)) - named - {name.removesuffix(":") for name in named}
    assert not unmatched, f"{unmatched} without a selector"
    grouped = {
        label.strip()
        for labels in GROUPING.findall(expression)
        for label in labels.split(",")
        if label.strip()
    }
    known = set(OF_PROMETHEUS)
    for name, selector in selectors:
        if name.startswith(ELSEWHERE) or name in ON_FIRE or name == "up":
            known |= grouped
            continue
        if name in recorded():
            known |= IDENTITY
            assert set(labels_of(selector)) <= IDENTITY, f"{name} has no more than {IDENTITY}"
            continue
        assert name in scraped, f"{name} is in no scrape"
        known |= set(scraped[name])
        for label, value in labels_of(selector).items():
            assert label in OF_PROMETHEUS | set(scraped[name]), f"{name} has no label {label}"
            if label == "le":
                assert value in scraped[name]["le"], f"{name} has no bucket {value}"
    assert grouped <= known, f"{grouped - known} is no label here"


def test_an_unknown_metric_label_or_bucket_is_found(scraped):
    with pytest.raises(AssertionError, match="candor_requests_totals is in no scrape"):
        assert_known('rate(candor_requests_totals{job="candor"}[5m])', scraped)
    with pytest.raises(AssertionError, match="has no label path"):
        assert_known('rate(candor_requests_total{job="candor", path="/"}[5m])', scraped)
    with pytest.raises(AssertionError, match=r"has no bucket 0\.3"):
        assert_known(
            'rate(candor_request_duration_seconds_bucket{job="candor", le="0.3"}[5m])', scraped
        )


def test_every_panel_shows_something(watched):
    _, prometheus = watched
    expressions = [parameter.values[0] for parameter in shown()]
    silent = [
        e
        for e in expressions
        if not any(name in e for name in (*ELSEWHERE, *KEYED, *OF_ROLLOUTS))
        and not prometheus.query(plain(e))
    ]
    assert not silent


def test_a_replica_says_its_objectives_and_counts_what_is_slow(watched):
    server, prometheus = watched
    text = server.client.get("/metrics").text
    for line in (
        'candor_objective{of="availability"} 0.99',
        'candor_objective{of="latency"} 0.99',
        "candor_latency_objective_seconds 0.005",
    ):
        assert f"\n{line}\n" in text
    within = "candor_request_duration_seconds"
    slow = f'{within}_count - ignoring (le) {within}_bucket{{le="0.005"}}'
    assert prometheus.query(f"{slow} > 0")
    assert not prometheus.query(f"candor_requests_slow_total != {slow}")


def test_prometheus_watches_a_server_with_keys(tmp_path):
    secret, line = make("watcher", SCOPES)
    for name, text in (("keys", line), ("key", secret)):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(text)
    with (
        Server(tmp_path, keys=tmp_path / "keys", workers=1) as server,
        Prometheus(tmp_path, server.port, tmp_path / "key") as prometheus,
    ):
        for _ in range(2):
            headers = {"authorization": f"Bearer {secret}"}
            assert server.client.get("/model", headers=headers).status_code == 200
            prometheus.wait_for('sum(candor_key_requests_total{job="candor", key="watcher"}) > 0')
        prometheus.wait_for("count_over_time(up[1m]) > 3")
        for name, labels in KEYED.items():
            (series, *_) = prometheus.query(name)
            assert set(series["metric"]) == {"__name__", "job", "instance", *labels}
        for parameter in shown():
            if any(name in parameter.values[0] for name in KEYED):
                assert prometheus.query(plain(parameter.values[0]))


def test_every_metric_is_on_a_panel_or_in_a_rule():
    declared = set(
        re.findall(r'"(candor_\w+)"', (ROOT / "service" / "telemetry" / "metrics.py").read_text())
    )
    used = {
        re.sub("_(total|bucket|count|sum)$", "", name)
        for parameter in (*shown(), *ruled())
        for name in METRIC.findall(parameter.values[0])
    }
    assert len(declared) > 30
    assert declared - used == set()


def test_every_rule_is_healthy_and_nothing_fires(watched):
    _, prometheus = watched
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(recorded()) + len(alerts())
    assert {rule["health"] for rule in rules if rule["name"] not in slow()} == {"ok"}, [
        rule.get("lastError") for rule in rules
    ]
    assert not [alert for alert in prometheus.get("alerts")["alerts"] if alert["state"] == "firing"]
    for name, expression in recorded().items():
        assert prometheus.query(expression if name in slow() else name), name


def test_promtool_finds_no_fault_in_a_scrape(watched):
    text = watched[0].client.get("/metrics").text
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.fixture(scope="module")
def rules_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rules")
    (folder / "rules.yaml").write_text(yaml.safe_dump(RULES))
    (folder / "rules_test.yaml").write_text((MONITORING / "rules_test.yaml").read_text())
    return folder / "rules.yaml"


def promtool(*arguments):
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_valid(rules_file):
    promtool("check", "rules", rules_file)


def test_the_alerts_fire_when_they_should_and_only_then(rules_file):
    promtool("test", "rules", rules_file.with_name("rules_test.yaml"))


def test_every_expression_of_a_dashboard_is_valid(tmp_path):
    expressions = [parameter.values[0] for parameter in shown()]
    rules = [
        {"record": f"shown:{number}", "expr": plain(expression)}
        for number, expression in enumerate(expressions)
    ]
    (tmp_path / "shown.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "shown", "rules": rules}]})
    )
    promtool("check", "rules", tmp_path / "shown.yaml")


def test_every_rule_tells_namespaces_and_instances_apart():
    for group in RULES["groups"]:
        for rule in group["rules"]:
            name = rule.get("alert", rule.get("record"))
            for labels in GROUPING.findall(rule["expr"]):
                grouped = {label.strip() for label in labels.split(",")}
                assert grouped >= IDENTITY or grouped >= {"namespace", "pod"}, name


def test_every_alert_has_a_description_and_a_runbook():
    for alert in alerts():
        assert {"summary", "description", "runbook_url", "model"} == set(alert["annotations"])
        assert alert["labels"]["severity"] in ("page", "ticket")
        url = alert["annotations"]["runbook_url"]
        assert url.startswith(RUNBOOKS)
        page = ROOT / "docs" / "runbooks" / url.removeprefix(RUNBOOKS)
        assert page.read_text().startswith(f"# {alert['alert']}\n")
    assert {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} == {
        alert["alert"] for alert in alerts()
    }


def test_the_host_of_the_runbooks_is_named_once(tmp_path):
    shutil.copytree(MONITORING, tmp_path / "monitoring")
    named = tmp_path / "monitoring" / "kustomization.yaml"
    named.write_text(named.read_text().replace("=candor.example", "=git.example.com/candor/main"))
    kubectl = Path(sys.prefix) / "bin" / "kubectl"
    command = [kubectl, "kustomize", tmp_path / "monitoring"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    urls = re.findall("runbook_url: (.+)", done.stdout)
    assert len(urls) == len(alerts())
    for url in urls:
        assert url.startswith("https://git.example.com/candor/main/docs/runbooks/Candor")


def test_every_alert_is_tested_firing_and_not_firing():
    tests = yaml.safe_load((MONITORING / "rules_test.yaml").read_text())["tests"]
    asked = [
        (case["expr"], bool(case["exp_samples"]))
        for test in tests
        for case in test["promql_expr_test"]
    ]
    for alert in alerts():
        outcomes = {fires for expression, fires in asked if f'"{alert["alert"]}"' in expression}
        assert outcomes == {True, False}, alert["alert"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_of_a_dashboard_has_a_title_a_description_and_a_unit(name):
    board = DASHBOARDS[name]
    assert board["title"]
    assert board["description"]
    assert not board["editable"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels(board):
        assert len(panel["description"]) > 20, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_fits_any_data_source_and_any_instance(name):
    board = DASHBOARDS[name]
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == (
        "datasource",
        "prometheus",
    )
    for chosen in ("namespace", "instance", "replica"):
        variable = variables[chosen]
        assert (variable["type"], variable["multi"], variable["allValue"], variable["refresh"]) == (
            "query",
            True,
            ".*",
            2,
        )
        assert variable["datasource"]["uid"] == "${datasource}"
    for panel in panels(board):
        assert {
            panel["datasource"]["uid"],
            *(target["datasource"]["uid"] for target in panel["targets"]),
        } == {"${datasource}"}


@pytest.mark.parametrize("expression", [*shown()])
def test_an_expression_selects_the_chosen_instance_and_a_window_that_fits_the_scrapes(expression):
    for name, selector in SELECTOR.findall(expression):
        if name.startswith(ELSEWHERE):
            assert 'namespace=~"$namespace"' in selector, name
            assert '"$instance-[^-]+-[^-]+"' in selector, name
            continue
        assert SHOWN in selector, name
        assert name in recorded() or name in ON_FIRE or ' instance=~"$replica"' in selector, name
        if name.endswith(("_total", "_bucket", "_count", "_sum")):
            assert re.search(
                rf"(rate|increase)\({name}\{{[^}}]*}}\[\$__rate_interval\]\)", expression
            ), name


def test_the_latency_of_predictions_shows_exemplars_of_its_histogram():
    pointed = [
        (panel["title"], METRIC.findall(target["expr"]))
        for board in DASHBOARDS.values()
        for panel in panels(board)
        for target in panel["targets"]
        if target.get("exemplar")
    ]
    assert pointed == [("Latency of predictions", [f"{REQUEST_SECONDS}_bucket"])]


def test_rules_and_panels_hold_whatever_classes_are_counted():
    uses = [parameter.values[0] for parameter in (*shown(), *ruled())]
    selectors = [
        labels_of(selector)
        for expression in uses
        for name, selector in SELECTOR.findall(expression)
        if name == "candor_predictions_total"
    ]
    assert len(selectors) > 2
    assert not [labels for labels in selectors if "label" in labels]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_panels_do_not_overlap(name):
    taken = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_grafana_finds_the_dashboards_and_the_data():
    folder = MONITORING / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards" / "candor.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((folder / "datasources" / "candor.yaml").read_text())["datasources"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards/candor"
    assert (source["type"], source["url"]) == ("prometheus", "$PROMETHEUS_URL")
