"""Several bots in one server: who is meant, who comes and goes, and that they stay apart."""

import gc
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from asgi import Client
from background import background
from pydantic import SecretStr
from serving import FIRST, GATEWAY, INTERVAL, MOMENT, Nobody, limit
from structlog.testing import capture_logs

from gateway_queue import bots
from gateway_queue.http.app import create_app
from gateway_queue.lobby import MOST_GUESTS
from gateway_queue.queue.queue import Queue
from gateway_queue.settings import Settings

T = TypeVar("T")

GRACE = 5.0


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that jumps does not wait for threads."""

    async def at_once(function: Callable[[], T], *, abandon_on_cancel: bool) -> T:  # noqa: ARG001
        await trio.lowlevel.checkpoint()
        return function()

    monkeypatch.setattr("trio.to_thread.run_sync", at_once)


def token_of(application: int) -> str:
    return f"{b64encode(str(application).encode()).decode().rstrip('=')}.x.y"


class Directory:
    """Bots without a token, so that nobody has to be asked for their limits."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, name: str, content: str = "") -> None:
        (self.path / f"{name}.toml").write_text(content)

    def remove(self, name: str) -> None:
        (self.path / f"{name}.toml").unlink()

    def swap(self, one: str, other: str) -> None:
        first, second = (self.path / f"{name}.toml" for name in (one, other))
        second.rename(self.path / ".swapped")
        first.rename(second)
        (self.path / ".swapped").rename(first)


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    (tmp_path / "bots").mkdir()
    directory = Directory(tmp_path / "bots")
    directory.put("one")
    directory.put("two")
    return directory


@asynccontextmanager
async def serving(directory: Directory, **given: Any) -> AsyncIterator[Client]:
    settings = Settings.model_construct(
        bots=directory.path, journal="memory", shutdown_grace=GRACE, **given
    )
    app = create_app()
    with trio.fail_after(40 * 24 * 3600):
        async with background() as nursery:
            app.bots = await nursery.start(bots.run, settings)
            yield Client(app, nursery)


async def follow(client: Client) -> None:
    """Have the server look at its directory, as SIGHUP does."""
    client.app.bots.look()
    await trio.sleep(MOMENT)


def queue(client: Client, name: str) -> Queue:
    return client.app.bots.by_name[name].queue


async def page(client: Client, target: str) -> Any:
    return json.loads((await client.get(target)).body)


def events(logs: list[Any], *names: str) -> list[str]:
    return [line["event"] for line in logs if line["event"] in names]


async def test_each_bot_has_its_own_buckets_and_starts(directory: Directory) -> None:
    directory.put("two", "interval = 100")
    async with serving(directory) as client:
        one = [client.ask("/bots/one/?shard=0") for _ in range(2)]
        two = client.ask("/bots/two/?shard=0")
        for call in one:
            await call.answered()
        assert trio.current_time() == pytest.approx(FIRST + INTERVAL, abs=0.1)
        assert (await two.answered()).at == pytest.approx(100, abs=0.1)
        assert queue(client, "one").starts.left(trio.current_time()) == 948
        assert queue(client, "two").starts.left(trio.current_time()) == 949


@pytest.mark.parametrize(
    "target", ["/bots/one/?shard=3", "/bots/one?shard=3", "/bots/one/queue/?shard=3"]
)
async def test_a_bot_is_named_by_the_path(directory: Directory, target: str) -> None:
    async with serving(directory) as client:
        assert (await client.get(target)).status == 200
        assert queue(client, "one").starts.last_day.of(3, trio.current_time())


async def test_a_name_within_a_bots_path_names_nobody(directory: Directory) -> None:
    async with serving(directory) as client:
        assert (await client.get("/bots/one/bots/two/?shard=3")).status == 200
        assert not queue(client, "two").starts.last_day.granted(trio.current_time())


async def test_without_a_name_the_default_bot_is_meant(directory: Directory) -> None:
    directory.put("default")
    async with serving(directory) as client:
        assert (await client.get("/?shard=3")).status == 200
        assert (await client.get("/bots/default/status/shards/3")).status == 200
        assert (await client.get("/status/shards/3")).status == 200
        assert (await client.get("/readyz")).status == 200


UNKNOWN = [
    "/?shard=1",
    "/",
    "/bots/?shard=1",
    "/bots?shard=1",
    "/bots//?shard=1",
    "/bots/three/?shard=1",
    "/bots/three/",
    "/bots/three",
    "/bots/One/?shard=1",
    "/bots/%2e%2e/?shard=1",
    "/bots/status/?shard=1",
    f"/bots/{'a' * 64}/?shard=1",
    "/bots/one%2Fx/?shard=1",
]


@pytest.mark.parametrize("target", UNKNOWN[:-1])
async def test_a_request_for_a_bot_that_is_not_here_is_held(
    directory: Directory, target: str
) -> None:
    async with serving(directory) as client:
        call = client.ask(target)
        await trio.sleep(3600)
        assert not call.ended.is_set()
        assert client.app.bots.lobby.guests == 1
        call.leave()
        await call.ended.wait()
        assert client.app.bots.lobby.guests == 0
        assert not call.connection.was_cut


PAGES = [
    "/bots",
    "/bots/",
    "/bots/three/status",
    "/bots/three/metrics",
    "/bots/three/readyz",
    "/bots/three/elsewhere",
    "/gateway/bot",
    "/status/shards/1",
]


@pytest.mark.parametrize("target", PAGES)
async def test_a_page_of_a_bot_that_is_not_here_is_not_found(
    directory: Directory, target: str
) -> None:
    async with serving(directory) as client:
        assert (await client.get(target)).status == 404


async def test_a_page_of_a_bot_is_about_that_bot(directory: Directory) -> None:
    async with serving(directory) as client:
        await client.get("/bots/one/?shard=5")
        assert (await page(client, "/bots/one/status"))["last_24_hours"]["granted"] == 1
        assert (await page(client, "/bots/two/status"))["last_24_hours"]["granted"] == 0
        assert (await client.get("/bots/one/status/shards/5")).status == 200
        assert (await client.get("/bots/two/status/shards/5")).status == 404
        assert (await client.get("/bots/one/confirm?shard=5", "POST")).status == 204
        assert (await client.get("/bots/two/confirm?shard=5", "POST")).status == 404
        assert (await client.get("/bots/one/readyz")).status == 200
        metrics = (await client.get("/bots/one/metrics")).body.decode()
        assert 'gateway_queue_grants_total{bot="one",bucket="0"} 1.0' in metrics
        assert 'bot="two"' not in metrics


async def test_the_lobby_is_bounded_and_answers_clients_that_set_wait(directory: Directory) -> None:
    async with serving(directory) as client:
        with capture_logs() as logs:
            calls = [client.ask(f"/bots/three/?shard={n}") for n in range(MOST_GUESTS)]
            await trio.sleep(1)
            one_more = client.ask("/bots/four/?shard=0")
            await one_more.ended.wait()
            assert one_more.connection.was_cut
            assert not any(call.ended.is_set() for call in calls)
            calls[0].leave()
            await trio.sleep(MOMENT)
            answer = await client.get("/bots/three/?shard=1&wait=7")
        assert answer.status == 202
        assert answer.at == pytest.approx(8, abs=0.1)
        told = json.loads(answer.body)
        assert (told["reason"], told["expected_in"], told["position"]) == (
            "unknown_bot",
            None,
            MOST_GUESTS,
        )
        assert [line["bot"] for line in logs if line["event"] == "unknown_bot"] == ["three", "four"]


async def test_a_bot_that_is_added_grants_the_requests_waiting_for_it(directory: Directory) -> None:
    async with serving(directory) as client:
        calls = [client.ask("/bots/three/?shard=1"), client.ask("/bots/three/?shard=2&wait=300")]
        await trio.sleep(100)
        directory.put("three")
        await follow(client)
        assert client.app.bots.lobby.guests == 0
        answers = sorted([(await call.answered()).at for call in calls])
        assert answers == pytest.approx([100 + FIRST, 100 + FIRST + INTERVAL], abs=0.1)


async def test_how_long_the_patient_waited_for_their_bot_counts(directory: Directory) -> None:
    async with serving(directory) as client:
        call = client.ask("/bots/three/?shard=1&wait=12")
        await trio.sleep(5)
        directory.put("three")
        await follow(client)
        answer = await call.answered()
        assert answer.status == 202
        assert answer.at == pytest.approx(12, abs=0.1)


async def test_a_change_is_seen_without_being_told(directory: Directory) -> None:
    async with serving(directory) as client:
        directory.put("three")
        directory.remove("two")
        await trio.sleep(bots.LOOK + MOMENT)
        assert set(client.app.bots.by_name) == {"one", "three"}


async def test_a_bot_that_is_removed_ends_as_a_server_does(directory: Directory) -> None:
    async with serving(directory) as client:
        await trio.sleep(FIRST)
        calls = [client.ask(f"/bots/two/?shard={n}") for n in range(3)]
        await trio.sleep(MOMENT)
        patient = client.ask("/bots/two/?shard=9&wait=300")
        other = client.ask("/bots/one/?shard=0")
        await trio.sleep(MOMENT)
        directory.remove("two")
        await follow(client)
        assert json.loads((await patient.answered()).body)["reason"] == "ending"
        late = client.ask("/bots/two/?shard=4")
        await trio.sleep(GRACE - 0.1)
        assert sum(call.ended.is_set() for call in calls) == 1  # by its grant
        await trio.sleep(0.2)
        assert sum(call.answer is not None for call in calls) == 1
        assert all(call.connection.was_cut for call in calls if call.answer is None)
        assert not late.ended.is_set()
        assert other.answer is not None
        assert 'bot="two"' not in (await client.get("/metrics")).body.decode()


async def test_a_bot_nobody_waits_for_is_gone_at_once(directory: Directory) -> None:
    async with serving(directory) as client:
        with capture_logs() as logs:
            directory.remove("two")
            await follow(client)
        assert events(logs, "bot_removed") == ["bot_removed"]


async def test_a_thousand_shards_of_a_bot_that_is_removed_are_let_go(directory: Directory) -> None:
    async with serving(directory) as client:
        calls = [client.ask(f"/bots/two/?shard={n}") for n in range(1000)]
        await trio.sleep(MOMENT)
        directory.remove("two")
        await follow(client)
        await trio.sleep(GRACE + 1)
        assert all(call.connection.was_cut for call in calls)


async def test_a_bot_that_comes_back_is_spaced_from_its_past(directory: Directory) -> None:
    async with serving(directory) as client:
        await trio.sleep(FIRST)
        await client.get("/bots/two/?shard=0")
        directory.remove("two")
        await follow(client)
        directory.put("two")
        await follow(client)
        before = trio.current_time()
        answer = await client.get("/bots/two/?shard=0")
        assert answer.at >= before + INTERVAL - MOMENT
        assert answer.headers["X-Gateway-Queue-Grant".lower()] == "2"


async def test_other_settings_start_a_bot_anew(directory: Directory) -> None:
    async with serving(directory) as client:
        await trio.sleep(FIRST)
        with capture_logs() as logs:
            directory.put("two", "interval = 20")
            await follow(client)
        assert events(logs, "bot_added", "bot_removed") == ["bot_removed", "bot_added"]
        assert queue(client, "two").spacing.interval == 20


async def test_another_key_changes_nothing_else(directory: Directory) -> None:
    async with serving(directory) as client:
        before = queue(client, "two")
        call = client.ask("/bots/two/?shard=0")
        await trio.sleep(MOMENT)
        directory.put("two", "api_key = 'tenant'")
        await follow(client)
        assert queue(client, "two") is before
        assert (await client.get("/bots/two/status")).status == 401
        assert (await call.answered()).status == 200


async def test_a_file_that_is_spoilt_leaves_its_bot_as_it_was(directory: Directory) -> None:
    async with serving(directory) as client:
        before = queue(client, "two")
        with capture_logs() as logs:
            directory.put("two", "interval = 'fast'")
            directory.put("three", "nonsense")
            for _ in range(3):
                await follow(client)
        assert queue(client, "two") is before
        told = [(line["file"], line["meanwhile"]) for line in logs if "file" in line]
        assert told == [
            ("three.toml", "the bot is not served"),
            ("two.toml", "the bot runs on unchanged"),
        ]
        faults = (await page(client, "/status"))["faults"]
        assert [fault["file"] for fault in faults] == ["three.toml", "two.toml"]


async def test_a_directory_that_vanishes_leaves_all_as_they_were(directory: Directory) -> None:
    async with serving(directory) as client:
        directory.path.rename(directory.path.with_name("elsewhere"))
        with capture_logs() as logs:
            for _ in range(3):
                await follow(client)
        assert events(logs, "bots_unreadable") == ["bots_unreadable"]
        assert set(client.app.bots.by_name) == {"one", "two"}


async def test_an_empty_directory_is_ready_for_bots_to_come(directory: Directory) -> None:
    for name in ("one", "two"):
        directory.remove(name)
    async with serving(directory) as client:
        assert (await client.get("/readyz")).status == 200
        assert (await page(client, "/status"))["bots"] == []
        assert (await client.get("/metrics")).status == 200


async def test_the_page_of_all_has_a_verdict_for_each(directory: Directory) -> None:
    directory.put("two", "daily_starts = 1\nreserve = 0\napi_key = 's3cret'")
    async with serving(directory) as client:
        authorized = {"Authorization": "Bearer s3cret"}
        await client.ask("/bots/two/?shard=0", headers=authorized).answered()
        client.ask("/bots/two/?shard=0", headers=authorized)
        await trio.sleep(2)
        answer = await client.get("/status")
        shown = json.loads(answer.body)
        assert [(bot["name"], bot["obstacle"], bot["waiting"]) for bot in shown["bots"]] == [
            ("one", None, 0),
            ("two", "reserve", 1),
        ]
        assert b"s3cret" not in answer.body


KEYS = [
    ("/bots/one/status", None, 401),
    ("/bots/one/status", "global", 200),
    ("/bots/one/status", "tenant", 401),
    ("/bots/two/status", "tenant", 200),
    ("/bots/two/status", "global", 200),
    ("/bots/two/status", "wrong", 401),
    ("/bots/two/readyz", None, 200),
    ("/bots/three/status", None, 401),
    ("/bots/three/?shard=1", None, 401),
    ("/status", "tenant", 401),
    ("/metrics", "tenant", 401),
    ("/metrics", "global", 200),
    ("/?shard=1", "wrong", None),
]


@pytest.mark.parametrize(("target", "key", "status"), KEYS)
async def test_a_key_of_a_bot_opens_that_bot_and_the_servers_key_all(
    directory: Directory, target: str, key: str | None, status: int | None
) -> None:
    directory.put("two", "api_key = 'tenant'")
    async with serving(directory, api_key=SecretStr("global")) as client:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        call = client.ask(target, headers=headers)
        await trio.sleep(1)
        assert (call.answer and call.answer.status) == status


@pytest.mark.parametrize(
    ("target", "key", "status"),
    [
        ("/bots/two/operator/pause", "global", 200),
        ("/bots/two/operator/pause", "tenant", 200),
        ("/bots/one/operator/pause", "tenant", 401),
        ("/bots/one/operator/pause", "global", 200),
        ("/operator/pause", "tenant", 401),
    ],
)
async def test_an_operator_of_a_bot_steers_that_bot_and_no_other(
    directory: Directory, target: str, key: str, status: int
) -> None:
    directory.put("two", "operator_key = 'tenant'")
    async with serving(directory, operator_key=SecretStr("global")) as client:
        headers = {"Authorization": f"Bearer {key}"}
        answer = await client.ask(target, "PUT", headers).answered()
        assert answer.status == status
        paused = [name for name in ("one", "two") if queue(client, name).starts.orders.pause]
        assert paused == ([target.split("/")[2]] if status == 200 else [])


async def test_nobody_steers_a_bot_that_is_not_there(directory: Directory) -> None:
    async with serving(directory, operator_key=SecretStr("global")) as client:
        headers = {"Authorization": "Bearer global"}
        answer = await client.ask("/bots/three/operator/pause", "PUT", headers).answered()
        assert answer.status == 404


@pytest.mark.parametrize("key", ["tenant", "wrong"])
async def test_who_waited_for_a_bot_needs_its_key(directory: Directory, key: str) -> None:
    async with serving(directory, api_key=SecretStr("global")) as client:
        call = client.ask("/bots/three/?shard=1", headers={"Authorization": f"Bearer {key}"})
        await trio.sleep(1)
        directory.put("three", "api_key = 'tenant'")
        await follow(client)
        await call.ended.wait()
        assert (call.answer is None) == call.connection.was_cut == (key == "wrong")


async def test_a_crash_of_one_bot_costs_the_others_nothing(directory: Directory) -> None:
    async with serving(directory) as client:
        await trio.sleep(FIRST)
        crashed = queue(client, "two")
        waits = [client.ask(f"/bots/two/?shard={n}") for n in range(3)]
        other = [client.ask(f"/bots/one/?shard={n}") for n in range(2)]
        await trio.sleep(MOMENT)
        with capture_logs() as logs:
            crash(client)
            await trio.sleep(MOMENT)
            assert (await client.get("/bots/two/readyz")).status == 503
            assert b'gateway_queue_ready{bot="two"} 0.0' in (await client.get("/metrics")).body
            assert (await client.get("/bots/one/readyz")).status == 200
            await trio.sleep(2)
            assert (await client.get("/bots/two/readyz")).status == 200
            assert events(logs, "bot_crashed") == ["bot_crashed"]
        assert queue(client, "two") is not crashed
        assert sum(call.connection.was_cut for call in waits) >= 2  # one was granted before
        for call in other:
            assert (await call.answered()).status == 200
        again = await client.get("/bots/two/?shard=1")
        assert again.at >= FIRST + 1 + INTERVAL


def crash(client: Client) -> None:
    """Make the next arrival at the bot two fail as a bug would."""
    queue(client, "two").buckets[0].line.arrive = None  # type: ignore[assignment, method-assign]
    client.ask("/bots/two/?shard=99")


async def test_a_pause_outlives_a_crash_but_not_a_restart(directory: Directory) -> None:
    async with serving(directory, operator_key=SecretStr("global")) as client:
        headers = {"Authorization": "Bearer global"}
        await client.ask("/bots/two/operator/pause", "PUT", headers).answered()
        crash(client)
        await trio.sleep(10)
        paused = (await page(client, "/bots/two/status"))["paused"]
        assert paused is not None
        assert not paused["survives_restart"]  # the journal is in memory


async def test_a_bot_that_crashes_again_and_again_pauses_longer(directory: Directory) -> None:
    async with serving(directory) as client:
        with capture_logs() as logs:
            for _ in range(4):
                crash(client)
                await trio.sleep(10)
        assert [line["again_in"] for line in logs if "again_in" in line] == [1, 2, 4, 8]


async def test_swapped_files_are_told_apart(directory: Directory) -> None:
    """By then the clients of each name are those of the other, and are to ask again."""
    for number, name in enumerate(("one", "two")):
        directory.put(name, f"token = '{token_of(number)}'")
    async with serving(directory, api="http://127.0.0.1:9") as client:
        calls = [client.ask(f"/bots/{name}/?shard=0") for name in ("one", "two")]
        await trio.sleep(1)
        before = [queue(client, name) for name in ("one", "two")]
        directory.swap("one", "two")
        await follow(client)
        await trio.sleep(GRACE + 1)
        bots = client.app.bots.by_name
        assert {name: bot.application for name, bot in bots.items()} == {"one": "1", "two": "0"}
        assert not {bot.queue for bot in bots.values()} & set(before)
        assert all(call.connection.was_cut for call in calls)


async def test_a_new_name_for_a_bot_waits_for_the_end_of_the_old_one(directory: Directory) -> None:
    directory.put("two", f"token = '{token_of(2)}'")
    async with serving(directory, api="http://127.0.0.1:9") as client:
        client.ask("/bots/two/?shard=0")
        await trio.sleep(1)
        directory.remove("two")
        directory.put("three", f"token = '{token_of(2)}'")
        await follow(client)
        assert set(client.app.bots.by_name) == {"one"}
        await trio.sleep(GRACE + 1)
        assert set(client.app.bots.by_name) == {"one", "three"}


async def test_one_application_has_one_name(directory: Directory) -> None:
    for name in ("two", "three"):
        directory.put(name, f"token = '{token_of(2)}'")
    async with serving(directory, api="http://127.0.0.1:9") as client:
        assert set(client.app.bots.by_name) == {"one", "three"}
        assert client.app.bots.faults == {
            "two": "it has the same application id as the bot three, 2;"
            " allowed: one bot for each application"
        }
        directory.remove("three")
        await follow(client)
        assert set(client.app.bots.by_name) == {"one", "two"}
        assert client.app.bots.faults == {}


async def test_the_default_bot_is_served_before_others_of_its_application(
    directory: Directory,
) -> None:
    directory.put("alpha", f"token = '{token_of(2)}x'")
    async with serving(directory, api="http://127.0.0.1:9", token=SecretStr(token_of(2))) as client:
        assert set(client.app.bots.by_name) == {"default", "one", "two"}
        assert list(client.app.bots.faults) == ["alpha"]


async def test_another_token_of_a_bot_has_its_limits_read_again(directory: Directory) -> None:
    directory.put("two", f"token = '{token_of(2)}'")
    async with serving(directory, api="http://127.0.0.1:9") as client:
        before = queue(client, "two")
        before.read(limit(), GATEWAY, trio.current_time())
        directory.put("two", f"token = '{token_of(2)}x'")
        await follow(client)
        assert queue(client, "two") is before
        assert not before.starts.allowance.known


@pytest.mark.alone
async def test_a_crowd_that_asks_for_one_bot_holds_up_no_other(directory: Directory) -> None:
    async with serving(directory) as client:
        crowd = [queue(client, "one").turn(shard, Nobody()) for shard in range(10_000)]
        gc.collect()
        gc.freeze()  # what the tests before have left, which no server has to look through
        longest, at = 0.0, time.thread_time()
        while queue(client, "one").buckets[0].line.waiting < len(crowd):
            await trio.lowlevel.checkpoint()
            before, at = at, time.thread_time()
            longest = max(longest, at - before)
        gc.unfreeze()
        assert longest < 0.05


@pytest.mark.alone
async def test_the_metrics_of_two_hundred_bots_are_cheap(directory: Directory) -> None:
    for number in range(200):
        directory.put(f"customer-{number:04}")
    async with serving(directory) as client:
        began_at = time.thread_time()
        page = (await client.get("/metrics")).body
        assert time.thread_time() - began_at < 0.1
        assert len(page) < 200_000
        assert b"gateway_queue_wait_seconds_count 0.0" in page
        one = (await client.get("/bots/customer-0007/metrics")).body
        assert b'gateway_queue_wait_seconds_count{bot="customer-0007"} 0.0' in one
        assert b"customer-0008" not in one


# The page


async def test_each_bot_has_its_page_and_its_feed(directory: Directory) -> None:
    person = {"Sec-Fetch-Dest": "document"}
    async with serving(directory) as client:
        for target, location in [("/bots/two", "two/dashboard"), ("/bots/two/", "dashboard")]:
            answer = await client.ask(target, headers=person).answered()
            assert (answer.status, answer.headers["location"]) == (303, location)
        assert (await client.get("/bots/two/dashboard?shard=1")).status == 200
        client.ask("/bots/two/?shard=1")
        await trio.sleep(MOMENT)
        viewers = [client.ask(f"/bots/{name}/dashboard/feed?shard=3") for name in ("one", "two")]
        await trio.sleep(2)
        one, two = (viewer.body.decode() for viewer in viewers)
        assert '"waiting":0' in one
        assert '"waiting":1' in two
        assert (await client.get("/bots/three/dashboard/feed?shard=1")).status == 404


async def test_a_bot_that_is_removed_lets_its_viewers_go(directory: Directory) -> None:
    async with serving(directory) as client:
        viewer = client.ask("/bots/two/dashboard/feed")
        await trio.sleep(MOMENT)
        directory.remove("two")
        await follow(client)
        assert (await viewer.answered()).status == 200


async def test_the_page_without_a_name_is_about_all_bots(directory: Directory) -> None:
    async with serving(directory) as client:
        assert b"bots.js" in (await client.get("/dashboard")).body
        assert b"main.js" in (await client.get("/bots/one/dashboard")).body
        client.ask("/bots/two/?shard=1")
        await client.get("/bots/one/?shard=1")
        client.ask("/bots/one/?shard=3")
        await trio.sleep(MOMENT)
        viewers = [client.ask("/dashboard/feed?shard=3") for _ in range(40)]
        await trio.sleep(4.5)
        refused = [viewer for viewer in viewers if viewer.answer is not None]
        assert [viewer.answer.status for viewer in refused if viewer.answer] == [503] * 8
        watching = [viewer for viewer in viewers if viewer.answer is None]
        messages = watching[0].body.decode().split("\n\n")[:-1]
        assert len(messages) == 5
        assert {viewer.body for viewer in watching} == {watching[0].body}
        name, data = messages[0].split("\ndata: ")
        assert name == "event: bots"
        one, two = json.loads(data)["bots"]
        assert (one["name"], one["waiting"], one["shards"]) == ("one", 1, 1)
        assert (two["name"], two["waiting"], two["shards"]) == ("two", 0, 1)
        assert one["all_in_in"] == one["others_in_in"] == pytest.approx(INTERVAL, abs=1)

        for viewer in watching:
            viewer.leave()
            await viewer.ended.wait()
        again = client.ask("/dashboard/feed")
        await trio.sleep(MOMENT)
        assert again.body.startswith(b"event: bots")
        await again.connection.context.terminated.set()
        assert (await again.answered()).status == 200
        assert queue(client, "one").starts.last_day.granted(trio.current_time()) == 1


async def test_a_probe_is_the_servers_whichever_way_it_came(directory: Directory) -> None:
    async with serving(directory) as client:
        held = client.ask("/bots/one/probe?hold=5&id=5f0c9a1e")
        await trio.sleep(1)
        for below in ("", "/bots/one", "/bots/two"):
            assert (await page(client, f"{below}/probe?id=5f0c9a1e"))["state"] == "held"
        assert (await client.get("/bots/nobody/probe?hold=5")).status == 404
        assert (await client.get("/probe?hold=5")).status == 204
        assert (await held.answered()).status == 204
