"""What clients say of their grants, and who may say or ask it."""

import pytest
import trio
from serving import FIRST, INTERVAL, MOMENT, serving
from structlog.testing import capture_logs

from gateway_queue.queue.rules.pace import AFTER_CONFIRMATION, AFTER_READY


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("", AFTER_CONFIRMATION),
        ("&grant=1", AFTER_CONFIRMATION),
        ("&outcome=identified", AFTER_CONFIRMATION),
        ("&outcome=ready&grant=1", AFTER_READY),
    ],
)
async def test_what_is_said_of_a_grant_ends_its_hold(said: str, seconds: float) -> None:
    async with serving() as client:
        first = await client.get("/?shard=1&confirm=true")
        assert first.headers["x-gateway-queue-grant"] == "1"
        other = client.ask("/?shard=2")
        await trio.sleep(1)
        said_at = trio.current_time()
        assert (await client.get(f"/confirm?shard=1{said}", "POST")).status == 204
        assert (await other.answered()).at - said_at == pytest.approx(seconds, abs=2 * MOMENT)


async def test_a_report_about_an_earlier_grant_does_not_end_the_hold_of_a_later_one() -> None:
    async with serving() as client:
        await client.get("/?shard=1&confirm=true")
        again = await client.get("/?shard=1&confirm=true")
        other = client.ask("/?shard=2")
        await trio.sleep(1)
        assert (await client.get("/confirm?shard=1&grant=1", "POST")).status == 204
        answer = await other.answered()
    assert answer.at - again.at == pytest.approx(FIRST, abs=2 * MOMENT)


async def test_a_grant_that_is_not_yet_cannot_be_confirmed() -> None:
    async with serving() as client:
        await client.get("/?shard=1")
        assert (await client.get("/confirm?shard=1&grant=2", "POST")).status == 404


async def test_repeated_confirmations_block_a_bucket_for_a_minute_at_most() -> None:
    async with serving() as client:
        with capture_logs() as logs:
            first = await client.get("/?shard=1&confirm=true")
            other = client.ask("/?shard=2")
            for _ in range(100):
                await trio.sleep(1)
                await client.get("/confirm?shard=1", "POST")
        answer = await other.answered()
    assert answer.at - first.at < 60 + AFTER_CONFIRMATION + 1
    ignored = [line for line in logs if line["event"] == "confirmation_ignored"]
    assert [(line["log_level"], line["shard"]) for line in ignored] == [("warning", 1)]


async def test_two_clients_of_one_shard_are_warned_of_once() -> None:
    async with serving() as client:
        with capture_logs() as logs:
            for _ in range(2):
                calls = [client.ask("/?shard=1") for _ in range(2)]
                for call in calls:
                    assert (await call.answered()).status == 200
    warned = [line for line in logs if line["event"] == "shard_asked_twice"]
    assert [(line["shard"], line["granted"], line["waiting"]) for line in warned] == [
        (1, "127.0.0.1:1", "127.0.0.1:1")
    ]


OTHERS = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Host": "queue:8000", "Origin": "http://other:8000"},
    {"Host": "queue:8000", "Origin": "null"},
]
OURS = [
    {},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://seen.from.outside"},
    {"Host": "queue:8000", "Origin": "http://queue:8000"},
]


async def test_a_page_of_another_site_takes_and_confirms_no_turn() -> None:
    async with serving() as client:
        for headers in OTHERS:
            for method, target in (("GET", "/?shard=1"), ("POST", "/confirm?shard=1")):
                answer = await client.ask(target, method, headers).answered()
                assert answer.status == 403, headers
        await trio.sleep(FIRST)
        assert (await client.get("/?shard=1")).headers["x-gateway-queue-grant"] == "1"


@pytest.mark.parametrize("headers", OURS)
async def test_others_are_let_in(headers: dict[str, str]) -> None:
    async with serving() as client:
        assert (await client.ask("/?shard=1", "GET", headers).answered()).status == 200


@pytest.mark.parametrize(
    ("target", "headers", "said"),
    [
        ("/?shard=1", {}, ("warning", "answer_not_taken")),
        ("/?shard=nonsense", {}, ("debug", "page_not_taken")),
        ("/healthz", {}, ("debug", "page_not_taken")),
        ("/", {"Sec-Fetch-Dest": "document"}, ("debug", "page_not_taken")),
    ],
)
async def test_an_answer_that_is_not_taken_is_said_and_cuts_the_connection(
    target: str, headers: dict[str, str], said: tuple[str, str]
) -> None:
    async with serving(interval=INTERVAL) as client:
        with capture_logs() as logs:
            call = client.ask(target, "GET", headers, slow=10)
            await call.ended.wait()
        assert call.connection.was_cut
    [line] = [line for line in logs if line["event"].endswith("_not_taken")]
    assert (line["log_level"], line["event"]) == said
    assert line["peer"] == "127.0.0.1:1"
