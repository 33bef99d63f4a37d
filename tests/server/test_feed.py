"""The live feed of the operator's page: what its viewers see, and what they cost the queue."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from asgi import Call, Client
from serving import FIRST, INTERVAL, MOMENT, limit, serving
from structlog.testing import capture_logs

from gateway_queue.http import dashboard
from gateway_queue.queue.queue import Gateway
from gateway_queue.watch import feed

FEED = "/dashboard/feed"
KEY = "correct-horse-battery-staple"
PAGE = ["/dashboard", *(f"/dashboard/{name}" for name in dashboard.FILES)]


@asynccontextmanager
async def watched(**settings: Any) -> AsyncIterator[Client]:
    """A queue whose feed runs, as it does in a server."""
    async with serving(**settings) as client:
        client.nursery.start_soon(feed_of(client).run)
        yield client


def feed_of(client: Client) -> feed.Feed:
    bot = client.app.bots.find(None)
    assert bot is not None
    return bot.feed


async def look(client: Client, *, slow: float = 0.0) -> Call:
    """A viewer, who has the first message."""
    viewer = client.ask(FEED, slow=slow)
    await trio.sleep(MOMENT + 3 * slow)
    return viewer


def seen(viewer: Call) -> list[tuple[str, dict[str, Any]]]:
    """The names and the contents of the messages that came."""
    messages = []
    for message in viewer.body.decode().split("\n\n")[:-1]:
        event, data = message.split("\n")
        assert (event[:7], data[:6]) == ("event: ", "data: ")
        messages.append((event[7:], json.loads(data[6:])))
    return messages


def names(viewer: Call) -> list[str]:
    return [name for name, _ in seen(viewer)]


def shards(viewer: Call) -> str:
    """The letters that the viewer has in the end."""
    letters: list[str] = []
    for name, data in seen(viewer):
        if name == "whole":
            letters = list(data["shards"])
        for letter, changed in data.get("changed", {}).items():
            for shard in changed:
                letters[shard] = letter
    return "".join(letters)


# What is seen


async def test_the_whole_picture_comes_first_and_then_what_changes() -> None:
    async with watched() as client:
        for shard in (0, 1, 2):
            client.ask(f"/?shard={shard}")
            await trio.sleep(MOMENT)
        viewer = await look(client)
        assert names(viewer) == ["whole"]
        [(_, whole)] = seen(viewer)
        assert whole["shards"] == "nww"
        assert whole["summary"]["waiting"] == 3
        assert whole["summary"]["buckets"] == [
            [3, 0, pytest.approx(10, abs=1), pytest.approx(21, abs=1)]
        ]

        await trio.sleep(FIRST)
        assert set(names(viewer)[1:]) == {"change"}
        assert shards(viewer) == "jnw"
        await trio.sleep(30)
        assert shards(viewer) == "iii"
        changes = [data["changed"] for name, data in seen(viewer) if name == "change"]
        assert {"j": [0], "n": [1]} in changes
        assert changes.count({}) > 30


async def test_each_shard_has_the_letter_of_its_state() -> None:
    async with watched(token=True, crash_loop="1/600") as client:
        queue = client.queue
        queue.read(limit(), Gateway("wss://gateway.test", shards=8), trio.current_time())
        for shard in (0, 0, 1, 2):
            await client.get(f"/?shard={shard}")
        await client.get("/confirm?shard=1&outcome=invalid_session", "POST")
        client.ask("/?shard=0")  # slowed down
        for shard in (3, 4, 5):
            client.ask(f"/?shard={shard}")
            await trio.sleep(MOMENT)
        leaver = client.ask("/?shard=6")
        await trio.sleep(MOMENT)
        leaver.leave()
        await leaver.ended.wait()
        viewer = await look(client)
        assert shards(viewer) == "cxjnwwa."
        await trio.sleep(120)
        assert shards(viewer) == "ixiiii.."


async def test_requests_without_a_shard_or_beyond_the_picture_are_counted() -> None:
    async with watched() as client:
        for target in ("/", "/?shard=4294967295", "/?shard=1"):
            client.ask(target)
        await trio.sleep(MOMENT)
        viewer = await look(client)
    [(_, whole)] = seen(viewer)
    assert (whole["summary"]["waiting"], whole["summary"]["beside"]) == (3, 2)
    assert len(whole["shards"]) == 2


async def test_a_picture_of_more_shards_is_whole_again() -> None:
    async with watched() as client:
        client.ask("/?shard=1")
        await trio.sleep(MOMENT)
        viewer = await look(client)
        client.ask("/?shard=5")
        await trio.sleep(1)
    assert names(viewer) == ["whole", "whole"]
    assert shards(viewer) == ".n...w"


async def test_shards_in_a_crash_loop_do_not_put_off_when_the_others_are_in() -> None:
    async with watched(crash_loop="1/600") as client:
        for _ in range(2):
            await client.get("/?shard=0")
        for shard in (0, 1):
            client.ask(f"/?shard={shard}")
        await trio.sleep(MOMENT)
        viewer = await look(client)
    [(_, whole)] = seen(viewer)
    assert whole["summary"]["others_in_in"] == pytest.approx(INTERVAL, abs=0.1)
    assert whole["summary"]["all_in_in"] == pytest.approx(60, abs=1)


async def test_each_event_is_reported_once_in_plain_words() -> None:
    async with watched(buckets=2) as client:
        await client.get("/?shard=1")
        viewer = await look(client)
        await client.get("/confirm?shard=1&outcome=invalid_session", "POST")
        await trio.sleep(3)
        other = await look(client)
    told = [event["text"] for _, data in seen(viewer) for event in data["events"]]
    assert told[0].startswith("The server started")
    assert told[1:] == ["Shard 1 got an op 9 (bucket 1)"]
    [(_, whole)] = seen(other)
    assert [event["text"] for event in whole["events"]] == told[::-1]
    assert whole["events"][0]["ago"] == pytest.approx(3, abs=1.1)


@pytest.mark.parametrize("operator_key", [None, KEY])
async def test_what_an_operator_orders_is_told(operator_key: str | None) -> None:
    async with watched(operator_key=operator_key) as client:
        bot = client.app.bots.by_name["default"]
        bot.operator.pause("deployment", 60)
        viewer = await look(client)
        bot.operator.resume()
        await trio.sleep(1)
    (_, whole), (_, change) = seen(viewer)[:2]
    assert whole["summary"]["operator"] == (operator_key is not None)
    assert whole["summary"]["obstacle"] == "paused"
    assert whole["summary"]["paused"]["reason"] == "deployment"
    assert whole["events"][0]["text"] == "An operator paused all grants: deployment"
    assert change["summary"]["paused"] is None
    assert change["events"][0]["text"] == "An operator ended the pause"


async def test_the_history_goes_back_an_hour_even_without_viewers() -> None:
    async with watched(interval=60) as client:
        for shard in range(3):
            client.ask(f"/?shard={shard}")
        await trio.sleep(185)
        viewer = await look(client)
        await trio.sleep(10)
        other = await look(client)
        viewer.leave()
        other.leave()
        await trio.sleep(7200)
        late = await look(client)
    history = seen(viewer)[0][1]["history"]
    assert history["every"] == 10
    assert history["age"] == pytest.approx(5, abs=0.1)
    waiting = [sample[0] for sample in history["samples"]]
    assert waiting == [3] * 6 + [2] * 6 + [1] * 6
    assert sum(sample[1] for sample in history["samples"]) == 2
    new = [sample for name, data in seen(viewer) if name == "change" for sample in data["samples"]]
    assert new == [[0, 1]]
    assert seen(other)[0][1]["history"]["samples"] == [*history["samples"], *new]
    assert len(seen(late)[0][1]["history"]["samples"]) == 360


# What viewers cost


async def test_nothing_is_made_while_nobody_looks() -> None:
    async with watched() as client:
        viewer = await look(client)
        await trio.sleep(5.5)
        assert len(names(viewer)) == 6
        viewer.leave()
        await viewer.ended.wait()
        made = feed_of(client).number
        await trio.sleep(3600)
        assert feed_of(client).number <= made + 1
        again = await look(client)
        assert names(again) == ["whole"]


async def test_all_viewers_are_told_the_same_once_a_second() -> None:
    async with watched() as client:
        viewers = [await look(client) for _ in range(10)]
        made = feed_of(client).number
        await trio.sleep(5)
        assert feed_of(client).number == made + 5
        assert len({viewer.body[-500:] for viewer in viewers}) == 1
        assert seen(viewers[0])[-1][1]["summary"]["viewers"] == 10


async def test_a_viewer_that_falls_behind_gets_the_whole_picture_of_now() -> None:
    async with watched(interval=60) as client:
        slow = await look(client, slow=2.5)
        client.ask("/?shard=3")
        await trio.sleep(10)
    assert set(names(slow)) == {"whole"}
    assert len(names(slow)) < 8
    assert shards(slow) == "...n"


async def test_a_viewer_that_takes_nothing_is_let_go() -> None:
    with capture_logs() as logs:
        async with watched() as client:
            viewer = client.ask(FEED, slow=3600)
            await trio.sleep(6)
            assert viewer.connection.was_cut
            viewer.leave()  # which is what the cut connection tells
            await trio.sleep(4000)
            assert feed_of(client).viewers == set()
    assert [line["event"] for line in logs].count("page_not_taken") == 1


async def test_there_are_at_most_32_viewers() -> None:
    async with watched() as client:
        viewers = [client.ask(FEED) for _ in range(40)]
        await trio.sleep(MOMENT)
        refused = [viewer for viewer in viewers if viewer.answer is not None]
        assert [call.answer.status for call in refused if call.answer] == [503] * 8
        watching = [viewer for viewer in viewers if viewer.answer is None]
        watching[0].leave()
        await watching[0].ended.wait()
        assert names(await look(client)) == ["whole"]


async def test_a_viewer_that_leaves_before_the_first_message_takes_no_place() -> None:
    async with watched() as client:
        for _ in range(100):
            viewer = client.ask(FEED)
            viewer.leave()
            await viewer.ended.wait()
        assert feed_of(client).viewers == set()


async def test_the_end_of_the_server_ends_it_at_once() -> None:
    async with watched() as client:
        viewer = await look(client)
        before = trio.current_time()
        await viewer.connection.context.terminated.set()
        answer = await viewer.answered()
        assert answer.status == 200
        assert trio.current_time() == before
        assert feed_of(client).viewers == set()


async def test_a_failure_ends_the_viewers_and_not_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def sabotage(*_: object) -> None:
        raise RuntimeError("sabotage")

    async with watched() as client:
        viewer = await look(client)
        with capture_logs() as logs, monkeypatch.context() as patch:
            patch.setattr(feed, "paint", sabotage)
            assert (await viewer.answered()).status == 200
            await client.ask(FEED).answered()
            assert (await client.get("/?shard=1")).status == 200
        assert {line["event"] for line in logs if line["log_level"] == "error"} == {"feed_failed"}
        assert feed_of(client).viewers == set()
        again = client.ask(FEED)
        await trio.sleep(6)
        assert shards(again) == ".j"


async def test_the_end_of_its_bot_ends_it_at_once() -> None:
    async with serving() as client:
        async with trio.open_nursery() as bot:
            bot.start_soon(feed_of(client).run)
            viewer = await look(client)
            bot.cancel_scope.cancel()
        assert (await viewer.answered()).status == 200


# Who may see it


async def test_the_feed_needs_the_key_and_the_page_does_not() -> None:
    async with watched(api_key=KEY) as client:
        for target in PAGE:
            assert (await client.get(target)).status == 200
        for target in (FEED, "/dashboard/other", "/dashboard/"):
            assert (await client.get(target)).status == 401
        viewer = client.ask(FEED, headers={"Authorization": f"Bearer {KEY}"})
        await trio.sleep(MOMENT)
        assert names(viewer) == ["whole"]


async def test_a_page_of_another_site_may_not_watch() -> None:
    async with watched() as client:
        other = client.ask(FEED, headers={"Sec-Fetch-Site": "cross-site"})
        assert (await other.answered()).status == 403


@pytest.mark.parametrize("target", [*PAGE, FEED])
async def test_nothing_foreign_gets_into_the_page(target: str) -> None:
    async with watched() as client:
        headers = (await client.get(target, "HEAD")).headers
    policy = dict(
        part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert ("x-accel-buffering" in headers) == (target == FEED)


# What takes no turn


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/dashboard?shard=3", "GET", 200),
        ("/dashboard/?shard=3", "GET", 404),
        ("/dashboard/index.html?shard=3", "GET", 404),
        ("/dashboard/page.css?shard=3", "GET", 200),
        ("/dashboard/nothing?shard=3", "GET", 404),
        ("/dashboard/../x?shard=3", "GET", 404),
        ("/dashboard/..%2fx?shard=3", "GET", 404),
        ("/dashboard/../operator?shard=3", "GET", 404),
        ("/dashboard/feed?shard=3", "HEAD", 200),
        ("/dashboard/feed?shard=3", "POST", 405),
        ("/dashboard?shard=3", "POST", 405),
    ],
)
async def test_no_path_of_the_page_takes_a_turn(target: str, method: str, status: int) -> None:
    async with watched() as client:
        assert (await client.get(target, method)).status == status
        watching = client.ask(f"{FEED}?shard=3")
        await trio.sleep(FIRST)
        assert names(watching)[0] == "whole"
        assert client.queue.starts.last_day.granted(trio.current_time()) == 0
        assert client.queue.buckets[0].line.waiting == 0


@pytest.mark.parametrize("api_key", [None, KEY])
@pytest.mark.parametrize("target", ["/", "/?", "/?wait=3&x=shard"])
async def test_a_browser_that_opens_the_server_is_redirected_to_the_page(
    target: str, api_key: str | None
) -> None:
    person = {"Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "cross-site"}
    async with watched(api_key=api_key) as client:
        answer = await client.ask(target, headers=person).answered()
        await trio.sleep(FIRST)
        assert (answer.status, answer.headers["location"]) == (303, "dashboard")
        assert client.queue.starts.last_day.granted(trio.current_time()) == 0


@pytest.mark.parametrize(
    ("target", "method", "headers"),
    [
        ("/?shard=1", "GET", {"Sec-Fetch-Dest": "document"}),
        ("/", "POST", {"Sec-Fetch-Dest": "document"}),
        ("/", "GET", {"Sec-Fetch-Dest": "empty"}),
        ("/", "GET", {}),
    ],
)
async def test_everybody_else_takes_a_turn(
    target: str, method: str, headers: dict[str, str]
) -> None:
    async with watched() as client:
        assert (await client.ask(target, method, headers).answered()).status == 200
