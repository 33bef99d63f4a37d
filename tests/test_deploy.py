"""The files for deploying agree with the server, with each other, and with who reads them.

Whether a container runs is not tested here: ``docs/deploy.md`` says what was tried.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway_queue import __version__
from gateway_queue.bots import JOURNAL_PATIENCE
from gateway_queue.http.asking import RESERVED
from gateway_queue.settings import describe

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPLOY = ROOT / "deploy"
PAGE = ROOT / "docs" / "deploy.md"
ALERTS = ROOT / "docs" / "alerts.md"
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "compose.yaml"
COMPOSE_REPLICAS = ROOT / "compose.replicas.yaml"
KUBERNETES = DEPLOY / "kubernetes" / "gateway-queue.yaml"
BASE = KUBERNETES.parent
REPLICAS = BASE / "replicas" / "replicas.yaml"
POLICY = BASE / "network-policy" / "network-policy.yaml"
MONITOR = BASE / "service-monitor" / "service-monitor.yaml"
SYSTEMD = DEPLOY / "systemd" / "gateway-queue.service"
FILES = [DOCKERFILE, COMPOSE, COMPOSE_REPLICAS, KUBERNETES, REPLICAS, SYSTEMD]

OURS = {setting.name: setting.default for setting in describe()}
CLIENTS = {"GATEWAY_QUEUE_URL"}

# Seconds from SIGTERM until the server is gone, with some for a busy machine.
TIME_TO_END = float(OURS["GATEWAY_QUEUE_SHUTDOWN_GRACE"]) + 5

# A server is not blamed for waiting so long, and for what Python needs to start.
TIME_TO_START = JOURNAL_PATIENCE + 5

JOURNALS = "/var/lib/gateway-queue"


def resources(file: Path = KUBERNETES) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def resource(kind: str, file: Path = KUBERNETES) -> Any:
    (found,) = (resource for resource in resources(file) if resource["kind"] == kind)
    return found


def pod(file: Path = KUBERNETES) -> Any:
    return resource("Deployment", file)["spec"]["template"]["spec"]


def container(file: Path = KUBERNETES) -> Any:
    (container,) = pod(file)["containers"]
    return container


# It takes what stands behind Compose's own tags.
ComposeLoader: Any = type("ComposeLoader", (yaml.SafeLoader,), {})
for tag in ("!override", "!reset"):
    ComposeLoader.add_constructor(tag, lambda loader, node: loader.construct_sequence(node))


def services(file: Path = COMPOSE) -> Any:
    return yaml.load(file.read_text(), ComposeLoader)["services"]


def seconds(pattern: str, file: Path) -> float:
    (number,) = re.findall(rf"{pattern}(\d+)", file.read_text())
    return float(number)


# All of them


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_they_set_what_there_is_to_set(file: Path) -> None:
    named = set(re.findall(r"\bGATEWAY_QUEUE_[A-Z_]+", file.read_text()))

    assert named <= OURS.keys() | CLIENTS


def test_nobody_kills_a_server_that_is_ending() -> None:
    assert seconds("stop_grace_period: ", COMPOSE) > TIME_TO_END
    assert seconds("TimeoutStopSec=", SYSTEMD) > TIME_TO_END
    assert pod()["terminationGracePeriodSeconds"] > TIME_TO_END


def test_nobody_blames_a_server_that_waits_for_its_journal() -> None:
    startup = container()["startupProbe"]

    assert seconds("--start-period=", DOCKERFILE) > TIME_TO_START
    assert startup["periodSeconds"] * startup["failureThreshold"] > TIME_TO_START


def test_the_journal_is_on_a_volume_of_the_user_who_writes_it() -> None:
    image = DOCKERFILE.read_text()
    (user,) = re.findall(r"^USER (\d+):\1$", image, re.MULTILINE)
    context = pod()["securityContext"]

    assert f"--owner={user} --group={user} {JOURNALS} " in image
    assert f"VOLUME {JOURNALS}\n" in image
    assert f"journal:{JOURNALS}" in services()["gateway-queue"]["volumes"]
    assert {context[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {int(user)}
    assert {"name": "journal", "mountPath": JOURNALS} in container()["volumeMounts"]


def test_the_image_has_what_each_setting_needs() -> None:
    extras = PROJECT["optional-dependencies"]

    assert f'".[{",".join(extras)}]"' in DOCKERFILE.read_text()


# compose.yaml


def test_prometheus_reads_the_server_of_compose() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (port,) = re.findall(r"^EXPOSE (\d+)$", DOCKERFILE.read_text(), re.MULTILINE)

    assert job["static_configs"] == [{"targets": [f"gateway-queue:{port}"]}]
    assert "./deploy/prometheus:/etc/prometheus:ro" in services()["prometheus"]["volumes"]


def test_compose_starts_programs_that_exist() -> None:
    bot = services()["bot"]
    (program,) = re.findall(r"exec python (\S+)", bot["command"][-1])

    assert (ROOT / program).is_file()
    assert (ROOT / bot["build"]["dockerfile"]).is_file()


def test_swarm_stops_one_server_before_it_starts_the_next() -> None:
    deploy = services()["gateway-queue"]["deploy"]

    assert deploy["replicas"] == 1
    assert deploy["update_config"] == deploy["rollback_config"] == {"order": "stop-first"}


def test_replicas_of_compose_share_a_valkey_that_forgets_nothing() -> None:
    replicas = services(COMPOSE_REPLICAS)
    queue, valkey = replicas["gateway-queue"], replicas["valkey"]
    url = urlsplit(queue["environment"]["GATEWAY_QUEUE_REDIS"])
    (ports,) = queue["ports"]
    first, last = map(int, re.findall(r":(\d+)-(\d+):80$", ports)[0])

    assert url.hostname in replicas
    assert "--appendonly yes" in valkey["command"]
    assert "--maxmemory-policy noeviction" in valkey["command"]
    assert set(valkey["networks"]) < set(queue["networks"])
    assert queue["deploy"]["replicas"] == last - first + 1 == 3


def test_prometheus_reads_each_replica_of_compose() -> None:
    one, each = (
        yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
        for name in ("prometheus.yml", "replicas.yml")
    )
    (job,) = each["scrape_configs"]
    (found,) = job.pop("dns_sd_configs")
    (target,) = one["scrape_configs"][0].pop("static_configs")[0]["targets"]

    assert f"{found['names'][0]}:{found['port']}" == target
    assert each == one


def has_compose() -> bool:
    version = [shutil.which("docker") or "false", "compose", "version"]
    return not subprocess.run(version, capture_output=True, check=False).returncode


@pytest.mark.skipif(not has_compose(), reason="docker compose is not installed")
@pytest.mark.parametrize("files", [[COMPOSE], [COMPOSE, COMPOSE_REPLICAS]], ids=len)
def test_docker_understands_compose(files: list[Path]) -> None:
    given = [part for file in files for part in ("--file", str(file))]
    config = ["docker", "compose", *given, "config", "--quiet"]
    verdict = subprocess.run(config, capture_output=True, text=True, check=False)

    assert (verdict.returncode, verdict.stderr) == (0, "")


# Kubernetes


def test_kubernetes_runs_one_server_and_never_two() -> None:
    deployment = resource("Deployment")["spec"]

    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})


def test_kubernetes_asks_pages_that_take_no_turn() -> None:
    pages = {
        kind: container()[kind]["httpGet"]["path"]
        for kind in ("startupProbe", "livenessProbe", "readinessProbe")
    }

    assert pages == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert set(pages.values()) <= RESERVED


def test_kubernetes_leads_to_the_port_on_which_the_server_listens() -> None:
    (listens,) = container()["ports"]
    (leads,) = resource("Service")["spec"]["ports"]
    environment = {variable["name"]: variable["value"] for variable in container()["env"]}

    assert str(listens["containerPort"]) == environment["PORT"]
    assert leads["targetPort"] == listens["name"]
    assert resource("Service")["spec"]["selector"] == pod_labels()


def pod_labels() -> Any:
    return resource("Deployment")["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_kubernetes_knows_all_its_fields(version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")

    for one in [*resources(), *resources(REPLICAS), yaml.safe_load(POLICY.read_text())]:
        kubernetes_validate.validate(one, version, strict=True)


def test_replicas_differ_from_one_server_only_where_they_must() -> None:
    one, each = container(), container(REPLICAS)
    added = {"GATEWAY_QUEUE_REPLICA"}

    assert pod().keys() | {"topologySpreadConstraints"} == pod(REPLICAS).keys()
    assert pod()["securityContext"] == pod(REPLICAS)["securityContext"]
    assert one.keys() | {"lifecycle"} == each.keys()
    for same in one.keys() - {"env", "volumeMounts"}:
        assert one[same] == each[same]
    assert [variable for variable in each["env"] if variable["name"] not in added] == one["env"]
    assert [volume["name"] for volume in pod(REPLICAS)["volumes"]] == ["secrets"]


def test_there_are_always_as_many_replicas_as_there_are_to_be() -> None:
    deployment = resource("Deployment", REPLICAS)["spec"]
    budget = resource("PodDisruptionBudget", REPLICAS)["spec"]
    labels = deployment["template"]["metadata"]["labels"]

    assert deployment["replicas"] > 1
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == deployment["selector"] == {"matchLabels": labels}
    for spread in pod(REPLICAS)["topologySpreadConstraints"]:
        assert spread["labelSelector"] == {"matchLabels": labels}
    assert resource("Service", REPLICAS)["spec"]["selector"] == labels


def test_no_replica_gets_clients_that_it_would_refuse() -> None:
    """It ends once nobody is led there any more, and one that cannot grant is passed by."""
    pause = container(REPLICAS)["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert pod(REPLICAS)["terminationGracePeriodSeconds"] > pause + TIME_TO_END
    assert "publishNotReadyAddresses" not in resource("Service", REPLICAS)["spec"]


@pytest.mark.parametrize("folder", [BASE, REPLICAS.parent], ids=["one", "replicas"])
def test_kustomize_takes_the_image_of_this_version(folder: Path) -> None:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    (image,) = kustomization["images"]
    (file,) = kustomization["resources"]

    assert container(folder / file)["image"] == f"{image['name']}:{__version__}"
    assert image["newTag"] == __version__


def test_prometheus_and_the_policy_mean_the_same_pod_and_port() -> None:
    policy, monitor = (yaml.safe_load(file.read_text())["spec"] for file in (POLICY, MONITOR))
    (endpoint,) = monitor["endpoints"]
    (port,) = resource("Service")["spec"]["ports"]

    assert policy["podSelector"]["matchLabels"] == pod_labels()
    assert policy["ingress"][0]["ports"] == [{"port": port["targetPort"]}]
    assert monitor["selector"]["matchLabels"] == resource("Service")["metadata"]["labels"]
    assert endpoint["port"] == port["name"]
    assert endpoint["path"] in RESERVED


KUBECTL = shutil.which("kubectl")


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
def test_kustomize_puts_it_all_together(tmp_path: Path) -> None:
    published = rf"https:\S+//deploy/kubernetes(\S*)\?ref=v{re.escape(__version__)}"
    (whole,) = re.findall(r"```yaml\n(.+?)```", PAGE.read_text(), re.DOTALL)
    whole, replaced = re.subn(published, r"../base\1", whole)
    assert replaced == 3
    shutil.copytree(BASE, tmp_path / "base")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(whole)
    (mine / "token.txt").write_text("token")

    command = [str(KUBECTL), "kustomize", str(mine)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)

    kinds = {one["kind"]: one for one in yaml.safe_load_all(made.stdout)}
    ours = {one["kind"] for one in resources()}
    volumes = kinds["Deployment"]["spec"]["template"]["spec"]["volumes"]
    secret = kinds["Secret"]["metadata"]["name"]
    assert kinds.keys() == ours | {"NetworkPolicy", "ServiceMonitor", "Secret"}
    assert secret in [volume.get("secret", {}).get("secretName") for volume in volumes]


# Prometheus


def test_each_alert_leads_to_its_section() -> None:
    (group,) = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    page = f"{PROJECT['urls']['Documentation']}alerts.html"
    sections = re.findall(
        r"^## (GatewayQueue\w+)\n\n\*\*(\w+)\*\*: ", ALERTS.read_text(), re.MULTILINE
    )

    assert [
        (rule["alert"], rule["labels"]["severity"], rule["annotations"].get("runbook_url"))
        for rule in group["rules"]
    ] == [(name, severity, f"{page}#{name.lower()}") for name, severity in sections]


# systemd

SYSTEMD_ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    "check", ["verify --recursive-errors=no", "security --offline=true --threshold=15"]
)
def test_systemd_accepts_the_unit_and_finds_it_confined(check: str, tmp_path: Path) -> None:
    unit = tmp_path / SYSTEMD.name
    command = "ExecStart=/opt/gateway-queue/bin/gateway-queue\n"
    assert command in SYSTEMD.read_text()
    unit.write_text(SYSTEMD.read_text().replace(command, f"ExecStart={sys.executable}\n"))

    verdict = subprocess.run(
        [str(SYSTEMD_ANALYZE), *check.split(), str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
