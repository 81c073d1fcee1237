"""What lies under cluster/ is what its readers accept: unknown fields are refused, typos caught."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from leuk_ray.serving.haproxy import PREFIX, PROGRAM, Front
from leuk_ray.serving.ray_env import SWITCHES

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
KUBERNETES = "1.34"
OVERLAYS = ["cpu", "gpu"]
RAY_UP = ["aws.yaml", "gcp.yaml", "on-premise.yaml"]
DOCKERFILES = sorted(path.name for path in (CLUSTER / "docker").glob("Dockerfile.*"))


@pytest.fixture(scope="session")
def kubectl() -> str:
    found = os.environ.get("LEUK_RAY_KUBECTL") or shutil.which("kubectl")
    if not found:
        pytest.skip("no kubectl on PATH or in LEUK_RAY_KUBECTL: manifests cannot be rendered")
    said = subprocess.run([found, "version", "--client"], capture_output=True, text=True)
    kustomize = re.search(r"Kustomize Version: v(\d+)", said.stdout)
    if not kustomize or int(kustomize[1]) < 5:
        pytest.skip(f"{found}: too old, its kustomize is {kustomize and kustomize[1]}, not 5")
    return found


@pytest.fixture(scope="session")
def rendered(kubectl: str) -> dict[str, list[dict]]:
    """Overlay -> the objects that `kubectl apply -k` would send."""
    texts = {}
    for overlay in OVERLAYS:
        folder = CLUSTER / "kuberay" / "overlays" / overlay
        done = subprocess.run(
            [kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        texts[overlay] = list(yaml.safe_load_all(done.stdout))
    return texts


@pytest.fixture(scope="session")
def kuberay_schemas() -> dict[str, dict]:
    """Kind -> KubeRay's schema with every object closed that does not say it is open."""
    folder = os.environ.get("LEUK_RAY_KUBERAY_SCHEMAS")
    if not folder:
        pytest.skip("LEUK_RAY_KUBERAY_SCHEMAS is unset: KubeRay's schemas lie elsewhere")
    schemas = {}
    for kind in ("RayCluster", "RayJob", "RayCronJob", "RayService"):
        schema = json.loads((Path(folder) / f"{kind.lower()}.v1.schema.json").read_text())
        schema["properties"]["metadata"] = {"type": "object", "additionalProperties": True}
        schemas[kind] = _closed(schema)
    return schemas


def _closed(schema: Any) -> Any:
    """Kubernetes prunes what a schema does not name; a typo must be an error instead."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    open_ended = closed.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(closed.get("properties"), dict) and closed.get("type") == "object":
        closed.setdefault("additionalProperties", bool(open_ended))
    return closed


def check(item: dict, kuberay_schemas: dict[str, dict]) -> None:
    """Raise a ValidationError for an object that its operator or Kubernetes would not take."""
    if item["apiVersion"] == "ray.io/v1":
        jsonschema.Draft7Validator(kuberay_schemas[item["kind"]]).validate(item)
    else:
        kubernetes_validate.validate(item, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_accepted(overlay: str, rendered, kuberay_schemas):
    kinds = {item["kind"] for item in rendered[overlay]}
    assert kinds >= {
        "RayCluster", "RayJob", "RayCronJob", "RayService", "NetworkPolicy", "PodDisruptionBudget",
        "PersistentVolumeClaim", "StatefulSet", "Namespace",
    }  # fmt: skip
    for item in rendered[overlay]:
        check(item, kuberay_schemas)


TYPOS = {
    "RayCluster": ("spec.headGroupSpec.rayStartParam", {}),
    "RayJob": ("spec.backofLimit", 2),
    "RayCronJob": ("spec.jobTemplate.rayClusterSpec.autoscalerOptions.idleTimeout", 3),
    "RayService": ("spec.upgradeStrategy.clusterUpgradeOptions.stepSize", 20),
    "NetworkPolicy": ("spec.ingres", []),
    "PodDisruptionBudget": ("spec.maxUnavailble", 1),
    "PersistentVolume": ("spec.nfs.sever", "nfs.example.com"),
    "PersistentVolumeClaim": ("spec.accessMode", ["ReadWriteMany"]),
    "StatefulSet": ("spec.template.spec.securityContext.runAsNonroot", True),
    "Service": ("spec.port", []),
    "Namespace": ("metadata.label", {}),
    "Job": ("spec.backofLimit", 0),
}


@pytest.mark.parametrize("kind", TYPOS)
def test_a_typo_in_any_kind_is_refused(kind: str, rendered, kuberay_schemas):
    item = copy.deepcopy(next(item for item in rendered["gpu"] if item["kind"] == kind))
    *path, name = TYPOS[kind][0].split(".")
    place = item
    for part in path:
        place = place[part]
    place[name] = TYPOS[kind][1]
    with pytest.raises(jsonschema.ValidationError, match=name):
        check(item, kuberay_schemas)


def test_no_kind_goes_without_a_planted_typo(rendered):
    assert {item["kind"] for item in rendered["gpu"]} == set(TYPOS)


def pod_specs(value: Any) -> Iterator[dict]:
    """Every pod spec inside an object, wherever it nests."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for part in value.values():
            yield from pod_specs(part)
    elif isinstance(value, list):
        for part in value:
            yield from pod_specs(part)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_is_root_unbounded_or_of_a_floating_image(overlay: str, rendered):
    pods = [pod for item in rendered[overlay] for pod in pod_specs(item)]
    assert len(pods) >= 12
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            limits, requests = (container["resources"][key] for key in ("limits", "requests"))
            assert requests["memory"] == limits["memory"], "memory cannot be overcommitted"
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            ours = r"registry\.example\.com/leuk-ray@sha256:[0-9a-f]{64}"
            assert re.fullmatch(rf"{ours}|redis:[0-9][\w.-]+", container["image"])
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            home = set() if container["name"] == "redis" else {"/home/ray"}
            assert mounts >= {"/tmp"} | home, "what a process writes to"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_jobs_and_service_run_on_the_one_cluster_spec(overlay: str, rendered):
    def without_sizes(spec: dict) -> dict:
        spec = copy.deepcopy(spec)
        for group in spec["workerGroupSpecs"]:
            del group["replicas"], group["minReplicas"]
        return spec

    def without_own(spec: dict) -> dict:
        """Without what the service has for itself: see the next test."""
        spec = without_sizes(spec)
        del spec["authOptions"], spec["gcsFaultToleranceOptions"]
        for template in _templates(spec):
            del template["metadata"], template["spec"]["volumes"]
            for container in template["spec"]["containers"]:
                del container["volumeMounts"], container["envFrom"]
        return spec

    specs = [spec for item in rendered[overlay] for spec in _cluster_specs(item)]
    assert len(specs) == 5
    jobs = [s for i in rendered[overlay] if i["kind"] != "RayService" for s in _cluster_specs(i)]
    for spec in jobs:
        assert without_sizes(spec) == without_sizes(jobs[0])
        assert spec["authOptions"] == {"mode": "token", "secretName": "leuk-ray-auth"}
        assert spec["gcsFaultToleranceOptions"]["redisAddress"] == "leuk-ray-redis:6379"
    for spec in specs:
        assert without_own(spec) == without_own(specs[0])
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def _templates(spec: dict) -> list[dict]:
    return [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_trains_and_what_serves_share_no_secret_and_no_volume(overlay: str, rendered):
    names = re.compile(r'"(?:secretName|claimName|name|redisAddress)": "(leuk-ray-[^"]+)"')

    def has(kinds: set[str]) -> set[str]:
        """Secrets, claims and Redis of the clusters of some kinds."""
        items = [item for item in rendered[overlay] if item["kind"] in kinds]
        return set(names.findall(json.dumps([_cluster_specs(item) for item in items])))

    training, serving = has({"RayCluster", "RayJob", "RayCronJob"}), has({"RayService"})
    assert training == {
        "leuk-ray-auth", "leuk-ray-redis", "leuk-ray-redis:6379", "leuk-ray-s3", "leuk-ray-shared",
    }  # fmt: skip
    assert serving == {
        "leuk-ray-serve-auth", "leuk-ray-serve-redis", "leuk-ray-redis-serve:6379",
        "leuk-ray-serve-s3", "leuk-ray-registry", "leuk-ray-api-keys",
    }  # fmt: skip
    (service,) = (item for item in rendered[overlay] if item["kind"] == "RayService")
    (spec,) = _cluster_specs(service)
    for template in _templates(spec):
        assert template["metadata"]["labels"]["leuk-ray/pod"] == "serve"
        (container,) = template["spec"]["containers"]
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert mounts.keys() == {"/shared/registry", "/shared/keys", "/tmp", "/home/ray"}
        assert mounts["/shared/registry"]["readOnly"]
        assert mounts["/shared/keys"]["readOnly"]
        known = {volume["name"] for volume in template["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= known
    given = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]
    assert (given["bundle"], given["api_keys"]) == ("/shared/registry", "/shared/keys/api-keys")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_lets_another_in_without_a_port_and_tiers_do_not_meet(overlay: str, rendered):
    policies = {_name(i): i["spec"] for i in rendered[overlay] if i["kind"] == "NetworkPolicy"}
    assert policies["leuk-ray-deny"]["podSelector"] == {}
    assert not policies["leuk-ray-deny"].keys() & {"ingress", "egress"}
    tiers = {"leuk-ray-ray": "ray", "leuk-ray-serve": "serve"}
    for name, tier in tiers.items():
        policy = policies[name]
        assert policy["podSelector"]["matchLabels"] == {"leuk-ray/pod": tier}
        for rule in [*policy["ingress"], *policy["egress"]]:
            assert rule["ports"], "every rule names its ports"
            for peer in rule.get("from", rule.get("to", [])):
                pods = peer.get("podSelector", {}).get("matchLabels", {})
                assert pods.get("leuk-ray/pod", tier) == tier
        ranges = [(each["port"], each.get("endPort", each["port"]))
                  for each in policy["ingress"][0]["ports"]]  # fmt: skip
        allowed = {port for first, last in ranges for port in range(first, last + 1)}
        for item in rendered[overlay]:
            for spec in _cluster_specs(item):
                for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                    fixed = group["rayStartParams"]
                    ports = {int(v) for k, v in fixed.items() if k.endswith("-port")}
                    assert len(ports) == 6
                    assert ports <= allowed, "what raycluster.yaml fixes"


def test_replicas_are_reached_by_the_haproxys_of_their_own_pods_alone():
    """Ray has replicas listen where its proxies do: on a cluster, on every interface."""
    from ray.serve._private import constants

    first = constants.RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT
    last = constants.RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT
    text = (CLUSTER / "kuberay" / "base" / "network-policy.yaml").read_text()
    policies = {_name(item): item["spec"] for item in yaml.safe_load_all(text)}
    assert policies["leuk-ray-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    own = {"matchLabels": {"leuk-ray/pod": "serve"}}
    callers = [
        (rule["from"], (each["port"], each.get("endPort", each["port"])))
        for policy in policies.values()
        if policy["podSelector"] == own
        for rule in policy["ingress"]
        for each in rule["ports"]
        if each["port"] <= last and each.get("endPort", each["port"]) >= first
    ]
    assert callers == [([{"podSelector": own}], (first, last))]


def _cluster_specs(item: dict) -> list[dict]:
    spec = item.get("spec", {})
    if item["kind"] == "RayCluster":
        return [spec]
    spec = spec.get("jobTemplate", spec)
    return [spec[key] for key in ("rayClusterSpec", "rayClusterConfig") if key in spec]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_training_job_starts_with_the_nodes_it_needs(overlay: str, rendered):
    job = next(i for i in rendered[overlay] if i["kind"] == "RayJob" and _name(i) == "train")
    words = shlex.split(job["spec"]["entrypoint"])
    workers = int(words[words.index("--workers") + 1])
    have = {"cpu": 0, "nvidia.com/gpu": 0}
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for resource in have:
            have[resource] += group["minReplicas"] * int(limits.get(resource, 0))
    assert have["cpu"] >= workers + 2, "the workers, the driver, and Ray Data"
    assert ("--gpus" in words) == (overlay == "gpu")
    assert have["nvidia.com/gpu"] == (workers if "--gpus" in words else 0)


@pytest.mark.parametrize("name", ["train", "tune"])
def test_a_job_that_is_tried_again_goes_on_where_it_stopped(name: str, rendered):
    job = next(i for i in rendered["gpu"] if i["kind"] == "RayJob" and _name(i) == name)
    words = shlex.split(job["spec"]["entrypoint"])
    assert job["spec"]["backoffLimit"] > 0
    assert "--resume" in words
    assert re.fullmatch(r"/shared/[\w/-]+", words[words.index("--out") + 1]), "the same every time"


def _name(item: dict) -> str:
    return item["metadata"]["name"]


def entrypoints(rendered) -> list[list[str]]:
    specs = [item["spec"] for items in rendered.values() for item in items if "spec" in item]
    jobs = [spec.get("jobTemplate", spec) for spec in specs]
    texts = [job["entrypoint"] for job in jobs if "entrypoint" in job]
    return [shlex.split(re.sub(r"\$\([^)]*\)", "SUBSTITUTED", text)) for text in texts]


def test_commands_of_the_jobs_parse(rendered):
    from leuk_ray.cli.main import cli

    commands = entrypoints(rendered)
    assert {words[1] for words in commands} == {"train", "tune", "evaluate"}
    for words in commands:
        command = cli.commands.get(words[1])
        if command is None:
            pytest.skip(f"leuk-ray {words[1]} is not there yet")
        command.make_context(words[1], words[2:])  # raises UsageError for an unknown option


def test_secrets_and_claims_are_explained_or_defined(rendered):
    readme = (CLUSTER / "README.md").read_text()
    text = json.dumps(rendered["gpu"])
    secrets = set(re.findall(r'"(?:secretKeyRef|secretRef)": \{[^}]*"name": "([^"]+)"', text))
    secrets |= set(re.findall(r'"secretName": "([^"]+)"', text))
    assert secrets == {
        "leuk-ray-auth", "leuk-ray-redis", "leuk-ray-s3", "leuk-ray-api-keys",
        "leuk-ray-serve-auth", "leuk-ray-serve-redis", "leuk-ray-serve-s3",
    }  # fmt: skip
    for secret in secrets:
        assert f"create secret generic {secret} " in readme
    claims = {_name(item) for item in rendered["gpu"] if item["kind"] == "PersistentVolumeClaim"}
    assert set(re.findall(r'"claimName": "([^"]+)"', text)) == claims


# Ray Serve


def serve_problems(config: dict) -> list[str]:
    """Keys that Ray Serve's schemas do not know, which they would let pass."""
    from ray.serve.schema import (
        DeploymentSchema,
        HTTPOptionsSchema,
        ServeApplicationSchema,
        ServeDeploySchema,
    )

    ServeDeploySchema.model_validate(config)
    parts: list[tuple[Any, dict]] = [(ServeDeploySchema, config)]
    parts.append((HTTPOptionsSchema, config.get("http_options", {})))
    for application in config["applications"]:
        parts.append((ServeApplicationSchema, application))
        parts += [(DeploymentSchema, part) for part in application.get("deployments", [])]
    return [key for schema, part in parts for key in part if key not in schema.model_fields]


def test_serve_config_is_accepted_and_a_typo_is_not():
    config = yaml.safe_load((CLUSTER / "serve.yaml").read_text())
    assert serve_problems(config) == []
    for planted in (
        config | {"proxy_locaton": "EveryNode"},
        config | {"http_options": {"hosst": "0.0.0.0"}},
        config | {"applications": [config["applications"][0] | {"import_pth": "x:y"}]},
    ):
        assert len(serve_problems(planted)) == 1


def test_the_application_takes_its_settings():
    settings = pytest.importorskip("leuk_ray.serving.settings", reason="serving is not there yet")
    (application,) = yaml.safe_load((CLUSTER / "serve.yaml").read_text())["applications"]
    settings.ServeSettings(**application["args"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_service_serves_what_serve_yaml_says(overlay: str, rendered):
    service = next(item for item in rendered[overlay] if item["kind"] == "RayService")
    ours = yaml.safe_load((CLUSTER / "serve.yaml").read_text())
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == ours


# ray up


def check_ray_up(config: dict) -> None:
    """Raise for a file that `ray up` would refuse, or whose provider it would not understand."""
    import ray.autoscaler

    folder = Path(ray.autoscaler.__file__).parent
    schema = json.loads((folder / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    unknown = set(config["provider"]) - set(schema["properties"]["provider"]["properties"])
    if unknown:
        raise jsonschema.ValidationError(f"provider: {unknown}")


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_files_are_accepted_and_a_typo_is_not(name: str):
    config = yaml.safe_load((CLUSTER / name).read_text())
    check_ray_up(config)
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    for group in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token ray start" in re.sub(r"\S+=\d+ ", "", config[group][-1])
    for key in ("docker", "auth", "provider"):
        with pytest.raises(jsonschema.ValidationError, match="imge"):
            check_ray_up(config | {key: config[key] | {"imge": "x"}})
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        check_ray_up(config | {"max_worker": 2})


# Images


def hadolint(dockerfile: Path) -> str:
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run([program, "--no-color", dockerfile], capture_output=True).stdout.decode()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfiles_are_clean_and_a_typo_is_not(name: str, tmp_path: Path):
    text = (CLUSTER / "docker" / name).read_text()
    assert hadolint(CLUSTER / "docker" / name) == ""
    (tmp_path / name).write_text(text.replace("WORKDIR", "WORKDIRR"))
    assert ":" in hadolint(tmp_path / name), "the place of the mistake"
    users = re.findall(r"^USER (.+)$", text, re.MULTILINE)
    assert users[-1] == "1000:1000"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_image_has_the_switches_of_serve(name: str):
    text = (CLUSTER / "docker" / name).read_text().replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if line.startswith("ENV RAY_SERVE"))
    own = {"RAY_SERVE_HAPROXY_BINARY_PATH": f"/opt/venv/bin/{PROGRAM}"}
    assert dict(word.split("=", 1) for word in shlex.split(line)[1:]) == SWITCHES | own
    (line,) = (line for line in text.splitlines() if line.startswith(f"ENV {PREFIX}"))
    front = Front.read(dict(word.split("=", 1) for word in shlex.split(line)[1:]))
    assert front.source_connections == 1024, "one gateway is one source"


LOCKS = ["requirements.txt", "tools.txt", "ray-up.txt"]


def locked(name: str) -> dict[str, str]:
    """Package -> version of a lock file, every one of which must have hashes."""
    found: dict[str, str] = {}
    text = (CLUSTER / "docker" / name).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, *hashes = line.split(" --hash=")
            assert hashes, requirement
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest.strip()) for digest in hashes)
            package, version = requirement.split(" ;")[0].strip().split("==")
            found[package.partition("[")[0]] = version
    return found


def test_every_package_of_an_image_is_locked_with_its_hashes():
    pinned = dict(
        line.partition("#")[0].strip().lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    for name in LOCKS:
        packages = locked(name)
        differing = {p for p, v in packages.items() if pinned.get(p, v) != v}
        assert not differing, f"{name}: make lock"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in ("serve", "tune", "onnx")]
    wanted = [*project["dependencies"], *chain.from_iterable(extras)]
    names = {re.split(r"[\[=<>!~ ;]", each)[0].lower().replace("_", "-") for each in wanted}
    assert names <= locked("requirements.txt").keys(), "make lock"
    for name in DOCKERFILES:
        text = (CLUSTER / "docker" / name).read_text().replace("\\\n", " ")
        installs = re.findall(r"pip install[^\n;&]*", text)
        assert len(installs) >= 4
        assert all("--require-hashes" in line or "--no-deps" in line for line in installs)


def test_the_image_gets_what_it_copies_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines, "everything is left out but what is named"
    for name in DOCKERFILES:
        text = (CLUSTER / "docker" / name).read_text()
        copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
        assert {part for line in copied for part in line.split()} == allowed


# Every file

NO_OPENING = (".md", ".json", ".txt")


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in sorted(CLUSTER.rglob("*"))
        if p.is_file() and p.suffix not in (".md", ".json", ".txt")
    ],
    ids=lambda path: str(path.relative_to(CLUSTER)),
)
def test_every_file_opens_with_what_it_is(path: Path):
    opening = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        opening.append(line)
    text = "\n".join(opening)
    assert [word for word in ("What:", "Run:", "Change:") if f"# {word}" in text] == [
        "What:", "Run:", "Change:",
    ]  # fmt: skip
