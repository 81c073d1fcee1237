"""Alerts and dashboard: the expressions parse, and name only metrics that are exported.

Training's metrics are the gauges of training/monitoring.py and the service's are listed in
metrics_of_service.json, which integration tests read from a live Ray; those of Ray itself are read
from one in tests/cluster. tests/newcomer reads all of them from one run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import yaml

from leuk_ray.training.monitoring import GAUGES, PREFIX
from tests.support.readme_blocks import parse_leuk_ray

MONITORING = Path(__file__).parents[3] / "cluster" / "monitoring"
TESTS = Path(__file__).parents[2]
OF_RAY = set(json.loads((TESTS / "support" / "metrics_of_ray.json").read_text()))
OF_SERVICE = set(json.loads((TESTS / "support" / "metrics_of_service.json").read_text()))


def alerts() -> list[dict]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in alerts())
    board = json.loads((MONITORING / "grafana.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"].replace("$run", ".*")


def metrics_in(expression: str) -> set[str]:
    parsed = promql_parser.parse(expression).prettify()
    return set(re.findall(r"\bray_\w+", parsed))


def test_expressions_parse_and_name_what_is_exported():
    ours = {f"ray_{PREFIX}{name}" for name in GAUGES} | OF_SERVICE
    named = set().union(*(metrics_in(expression) for expression in expressions()))
    assert named - ours - OF_RAY == set()
    assert ours <= named, "each of ours is shown somewhere"


def test_the_service_exports_no_metric_that_is_not_listed():
    source = (TESTS.parent / "leuk_ray" / "serving" / "monitoring.py").read_text()
    defined = set(re.findall(r'"(leuk_ray_\w+)"', source))
    assert len(defined) == 10
    listed = {re.sub("^ray_|_(total|bucket|sum|count)$", "", name) for name in OF_SERVICE}
    assert listed == defined


@pytest.mark.parametrize("wrong", ["sum(rate(x[5m])", "sum by run (x)", "rate(x[5 minutes])"])
def test_an_expression_that_is_wrong_is_caught(wrong: str):
    with pytest.raises(ValueError, match=r"."):
        metrics_in(wrong)


def test_alerts_say_when_what_and_what_to_do():
    for rule in alerts():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())


def test_prometheus_reads_the_alerts_and_the_label_that_the_pods_carry():
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    assert set(config) == {"global", "rule_files", "scrape_configs"}
    assert all((MONITORING / name).exists() for name in config["rule_files"])
    cluster = (MONITORING.parent / "kuberay" / "base" / "raycluster.yaml").read_text()
    assert "leuk-ray/pod: ray" in cluster  # Prometheus writes / and - as _
    assert "leuk_ray_pod" in (MONITORING / "prometheus.yaml").read_text()


def test_the_dashboard_opens_with_what_it_is():
    board = json.loads((MONITORING / "grafana.json").read_text())
    assert next(iter(board)) == "description"
    assert all(word in board["description"] for word in ("What:", "Run:", "Change:"))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_compose_names_what_is_there_and_keeps_all_but_the_service_inside():
    """Not run with Docker here: what it mounts exists, its command parses, its ports are closed."""
    compose = yaml.safe_load((MONITORING.parent / "compose.yaml").read_text())
    services, volumes = compose["services"], compose["volumes"]
    assert services.keys() == {"service", "prometheus", "grafana"}
    for service in services.values():
        assert re.fullmatch(r"\S+:v?\d[\w.-]*", service["image"]), "a version"
        for mount in service["volumes"]:
            source = mount.rsplit(":", 2 if mount.endswith(":ro") else 1)[0]
            if source.startswith("./"):
                assert (MONITORING.parent / source).is_file(), source
                assert mount.endswith(":ro")
            elif not source.startswith("${SERVED"):
                assert source in volumes, source
    words = services["service"]["command"]
    taken = parse_leuk_ray(words[1:])
    assert (taken["host"], str(taken["trace"])) == ("0.0.0.0", "/served/trace")
    mounts = services["service"]["volumes"]
    mounted = {mount.removesuffix(":ro").rsplit(":", 1)[1] for mount in mounts}
    assert {str(taken[name]) for name in ("source", "api_keys", "trace")} <= mounted
    assert services["service"]["read_only"]
    opened = [port for service in services.values() for port in service.get("ports", [])]
    assert opened == ["8000:8000", "127.0.0.1:3000:3000"]
    prometheus = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    (files,) = prometheus["scrape_configs"][1]["file_sd_configs"]
    assert files["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
    assert "ray:/tmp/ray:ro" in services["prometheus"]["volumes"]
    source = yaml.safe_load((MONITORING / "grafana-datasource.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://service:9090"
    assert services["prometheus"]["network_mode"] == "service:service"
