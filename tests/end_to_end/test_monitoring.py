"""What a real Prometheus makes of our metrics, with our alerts and the queries of our dashboard.

When each alert fires is the matter of ``deploy/prometheus/alerts_test.yml``, which runs here.
The dashboard is held to its form and its queries; Grafana itself does not run here.
"""

import json
import re
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from engines import INSTALLED, servers
from fake_discord import fake_discord
from harness import Program, free_port, running, running_server
from patience import PATIENCE
from raw import answer_of, grant_of, waiting
from shards import shards

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"

PROMTOOL = shutil.which("promtool")
PROMETHEUS = shutil.which("prometheus")
with_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
with_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed")

Alert = tuple[str, str, str]  # where, which, and whether it is pending or firing

LONG = 60.0  # seconds of an interval whose end no test waits for


# The files


@with_promtool
@pytest.mark.parametrize(
    "check",
    [
        "check rules --lint=all --lint-fatal alerts.yml",
        "test rules alerts_test.yml",
        "check config prometheus.yml",
        "check config replicas.yml",
    ],
)
async def test_promtool_has_nothing_to_say_against(check: str) -> None:
    verdict = await trio.run_process(
        [str(PROMTOOL), *check.split()], cwd=RULES, capture_stdout=True, check=False
    )

    assert verdict.returncode == 0, verdict.stdout.decode()


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def test_the_dashboard_asks_the_prometheus_that_its_user_chooses() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    first, *others = dashboard["templating"]["list"]
    queried = [panel for panel in panels() if panel["type"] != "row"]
    targets = [target for panel in queried for target in panel["targets"]]

    assert (first["name"], first["type"], first["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    for query in [*others, *dashboard["annotations"]["list"], *queried, *targets]:
        assert query["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in targets:
        unbound = (
            r'\b(gateway_queue_\w+|up|scrape_\w+)\b(?!{job=~"\$job", instance=~"\$instance"[,}])'
        )
        assert re.findall(unbound, target["expr"]) == []


def test_each_panel_of_the_dashboard_has_its_own_name_and_place() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for panel in panels():
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"].endswith(".")
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in combinations(panels(), 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[length] and other[start] < one[start] + one[length]
        for start, length in (("x", "w"), ("y", "h"))
    )


# A real Prometheus


@dataclass(frozen=True, slots=True)
class Prometheus:
    client: httpx.AsyncClient

    async def ask(self, path: str, **parameters: str) -> Any:
        answer = await self.client.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that this comes to now; fails for an expression that is wrong."""
        found: list[dict[str, Any]] = (await self.ask("query", query=expression))["result"]
        return found

    async def alerts(self) -> set[Alert]:
        return {
            (alert["labels"].get("instance", ""), alert["labels"]["alertname"], alert["state"])
            for alert in (await self.ask("alerts"))["alerts"]
        }


@asynccontextmanager
async def prometheus(folder: Path, *addresses: str) -> AsyncIterator[Prometheus]:
    """Prometheus with our configuration and alerts, but for these servers and in a hurry."""
    config = (RULES / "prometheus.yml").read_text()
    for ours, instead in (("15s", "1s"), ('["gateway-queue:80"]', json.dumps(addresses))):
        assert ours in config
        config = config.replace(ours, instead)
    (folder / "prometheus.yml").write_text(config)
    shutil.copy(RULES / "alerts.yml", folder)
    address = f"127.0.0.1:{free_port()}"
    async with (
        running(
            str(PROMETHEUS),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=warn",
        ),
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):

        async def ready() -> bool:
            try:
                return (await client.get("/-/ready")).status_code == 200
            except httpx.TransportError:
                return False

        assert await soon(ready)
        yield Prometheus(client)


async def soon(holds: Callable[[], Awaitable[bool]]) -> bool:
    """Whether this comes to hold before long."""
    with trio.move_on_after(PATIENCE):
        while not await holds():  # noqa: ASYNC110 - another process has no Event
            await trio.sleep(0.1)
        return True
    return False


def own_fault(alerts: set[Alert]) -> set[Alert]:
    """Those alerts that are not of a machine which is too busy."""
    return {alert for alert in alerts if alert[1] != "GatewayQueueGrantsLate"}


def address(url: str) -> str:
    return url.removeprefix("http://")


def filled_in(expression: str) -> str:
    """A query of the dashboard, as Grafana asks it."""
    values = {"$job": "gateway-queue", "$instance": ".+", "$bot": ".*", "$__rate_interval": "1m"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


def queries_of_panels() -> Iterator[str]:
    for panel in panels():
        for target in panel.get("targets", ()):
            yield filled_in(target["expr"])


def queries_of_variables() -> Iterator[str]:
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"][1:]:
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert match, variable
        yield filled_in(f"group by ({match[2]}) ({match[1]})")


@with_prometheus
@pytest.mark.skipif(not INSTALLED, reason="neither Redis nor Valkey is installed")
async def test_no_panel_stays_empty_and_no_alert_is_up_while_all_is_well(tmp_path: Path) -> None:
    wanted = [*queries_of_variables(), *queries_of_panels()]
    dashboard = json.loads(DASHBOARD.read_text())
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        engine = stack.enter_context(servers(tmp_path))(INSTALLED[0])
        await engine.start()
        discord = await enter(fake_discord(max_concurrency=2, total=10_000, remaining=10_000))
        given = {
            "DISCORD_TOKEN": discord.token,
            "GATEWAY_QUEUE_DISCORD_API": discord.api,
            "GATEWAY_QUEUE_INTERVAL": 0.1,
        }
        server = await enter(running_server(**given))
        replica = await enter(running_server(**given, GATEWAY_QUEUE_REDIS=engine.url))
        observer = await enter(prometheus(tmp_path, address(server.url), address(replica.url)))
        bot = await enter(shards(server.url))
        bot.ask(*range(400))

        async def all_have_data() -> bool:
            wanted[:] = [query for query in wanted if not await observer.query(query)]
            return not wanted

        assert await soon(all_have_data), f"without data: {wanted}"

        for annotation in dashboard["annotations"]["list"]:
            assert await observer.query(filled_in(annotation["expr"])) == []
        names = set(await observer.ask("label/__name__/values"))
        (group,) = (await observer.ask("rules"))["groups"]
        for rule in group["rules"]:
            assert {*re.findall(r"gateway_queue_\w+", rule["query"])} <= names
            assert rule["health"] == "ok"

        async def no_alert_is_up() -> bool:
            return not own_fault(await observer.alerts())

        # At first the line is long for the grants that were seen so far.
        assert await soon(no_alert_is_up), await observer.alerts()


@with_prometheus
async def test_servers_in_trouble_raise_the_alerts_that_say_so(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(5)]
    worn, busy, slow, deaf, dead = (f"127.0.0.1:{port}" for port in ports)
    async with (
        prometheus(tmp_path, worn, busy, slow, deaf, dead) as observer,  # needs 5 s to begin
        running_server(
            PORT=ports[0],
            GATEWAY_QUEUE_INTERVAL=0.2,
            GATEWAY_QUEUE_DAILY_STARTS=4,
            GATEWAY_QUEUE_RESERVE=2,
            GATEWAY_QUEUE_CRASH_LOOP="1/600",
        ) as worn_server,
        running_server(
            PORT=ports[1],
            GATEWAY_QUEUE_INTERVAL=0.2,
            GATEWAY_QUEUE_DAILY_STARTS=10,
            GATEWAY_QUEUE_RESERVE=0,
        ) as busy_server,
        running_server(PORT=ports[2], GATEWAY_QUEUE_INTERVAL=LONG) as slow_server,
        running_server(
            PORT=ports[3],
            DISCORD_TOKEN="token",
            GATEWAY_QUEUE_DISCORD_API=f"http://{dead}/api/v10",
        ) as deaf_server,
        waiting(slow_server, 0),
        waiting(deaf_server, 0),
    ):

        async def all_are_read() -> bool:
            return len(await observer.query("up == 1")) == 4

        assert await soon(all_are_read)
        await wear_out(worn_server)
        await grant_late(busy_server)

        expected = {
            (worn, "GatewayQueueCrashLoop", "pending"),
            (worn, "GatewayQueueHalfUsed", "pending"),
            (worn, "GatewayQueueInvalidSession", "firing"),
            (worn, "GatewayQueueReserveReached", "pending"),
            (busy, "GatewayQueueGrantsLate", "pending"),
            (busy, "GatewayQueueHalfUsed", "pending"),
            (busy, "GatewayQueueReserveNear", "pending"),
            (slow, "GatewayQueueWaitingTooLong", "pending"),
            (deaf, "GatewayQueueLimitsUnreadable", "pending"),
            (deaf, "GatewayQueueNotReady", "pending"),
            (dead, "GatewayQueueDown", "pending"),
        }

        async def all_are_raised() -> bool:
            alerts = await observer.alerts()
            return alerts >= expected and not own_fault(alerts - expected)

        assert await soon(all_are_raised), await observer.alerts() ^ expected


async def wear_out(server: Program) -> None:
    """Grant one shard twice, of which Discord refuses the second."""
    for _ in range(2):
        await grant_of(server, 0)
    report = "POST /confirm?shard=0&outcome=invalid_session HTTP/1.1"
    assert (await answer_of(server, report, "Host: queue")).status == 204


async def grant_late(server: Program) -> None:
    """Grant nine shards, and stop the server where one of them is due."""
    await grant_of(server, 0)
    async with shards(server.url) as bot:
        bot.ask(*range(1, 9))
        for shard in range(1, 9):
            await server.logged("identify_queued", shard=shard)
        server.process.send_signal(signal.SIGSTOP)
        await trio.sleep(0.6)
        server.process.send_signal(signal.SIGCONT)
        await bot.granted(8)
