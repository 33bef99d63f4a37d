"""What ``gateway-queue doctor`` says of what it found."""

import json
from typing import Any

import pytest

from gateway_queue.cli.diagnosis import ORIGINAL, of_status, who_answers
from gateway_queue.cli.findings import (
    Finding,
    Holding,
    Leaving,
    Mark,
    Reply,
    Seen,
    conclusion,
    seen_of,
)
from gateway_queue.cli.way_diagnosis import of_holding, of_leaving
from gateway_queue.http.answers import GRANTED

ADDRESS = "http://queue:8000"
PROBLEM = "application/problem+json"
LIMITS = {
    "known": True,
    "source": "discord",
    "total": 1000,
    "remaining": 900,
    "reserve": 50,
    "reset_in": 7200.0,
    "failure": None,
}
STATUS = {
    "version": "1.2.3",
    "uptime": 60.0,
    "ready": True,
    "obstacle": None,
    "limits": LIMITS,
    "waiting": 0,
    "waiting_slowed": 0,
    "away": 0,
    "covered": 0,
    "all_in_in": 0.0,
    "others_in_in": 0.0,
    "back_in": 7200.0,
    "recommended_shards": 16,
    "last_24_hours": {"granted": 0, "shards": 0},
    "buckets": [],
    "slowed_down": {"shards": 0, "longest": []},
    "open_files_limit": 1_048_576,
}
OVERVIEW = {
    "version": "1.2.3",
    "ready": True,
    "waiting": 0,
    "unknown_bot_waiting": 0,
    "bots": [
        {
            "name": name,
            "ready": True,
            "obstacle": None,
            "paused": None,
            "waiting": 0,
            "waiting_slowed": 0,
            "away": 0,
            "covered": 0,
            "all_in_in": 0.0,
            "others_in_in": 0.0,
            "back_in": 7200.0,
            "slowed_down": 0,
            "granted": 0,
            "shards": 0,
            "recommended_shards": None,
            "limits": LIMITS,
        }
        for name in ("one", "two")
    ],
    "faults": [],
}


def page(document: dict[str, Any]) -> Reply:
    return Reply(0.1, 200, json.dumps(document).encode(), "application/json")


def problem(status: int, detail: str, *, after: float = 0.1) -> Reply:
    return Reply(after, status, json.dumps({"detail": detail}).encode(), PROBLEM)


def of(
    changes: dict[str, Any] | None = None,
    *,
    limits: dict[str, Any] | None = None,
    ours: str = "1.2.3",
    why_not_ready: str | None = None,
) -> list[Finding]:
    """What is found in a ``/status`` with these changes."""
    document = STATUS | (changes or {}) | {"limits": LIMITS | (limits or {})}
    found, is_ours = of_status(json.dumps(document).encode(), ADDRESS, ours, why_not_ready)
    assert is_ours
    return found


def worst(found: list[Finding]) -> Finding:
    """The only finding that is not well."""
    (finding,) = [finding for finding in found if finding.mark != "ok"]
    assert finding.advice
    return finding


# Who is there


@pytest.mark.parametrize(
    ("reply", "said", "advice"),
    [
        (Reply(0, None, b"Connection refused", failure="unreachable"), "refused", "running?"),
        (Reply(5, None, failure="silent"), "did not answer within 5 s", "right port"),
        (Reply(0, None, b"disconnected", failure="closed"), "closed the connection", "https://"),
        (problem(401, "the API key is wrong"), "requires an API key: set", "same key"),
        (problem(503, "the bot failed"), "says: the bot failed", ""),
        (Reply(0, 200, ORIGINAL, "application/json"), "the original gateway-queue", "a turn"),
        (Reply(0, 502, b"", "text/html", "nginx"), "502 Bad Gateway (Server: nginx)", "running"),
        (Reply(0, 404, b"", "text/html"), "not a Gateway Queue: 404 Not Found", "pass all paths"),
        (Reply(0, 599), "not a Gateway Queue: 599", "--url"),
        (Reply(0, 301, location="https://q/"), "which leads to https://q/", "--url"),
        (Reply(0, 200, b"<html>", "text/html"), "it does not send JSON", "--url"),
        (Reply(0, 404, b"", server="\x1b[2J"), "(Server: ?[2J)", ""),
    ],
)
def test_who_is_no_server_that_can_be_examined(reply: Reply, said: str, advice: str) -> None:
    finding = who_answers(reply, ADDRESS, None)
    assert finding is not None
    assert (finding.mark, said in finding.text) == ("bad", True), finding
    assert advice in finding.advice


def test_a_wrong_key_is_not_told() -> None:
    finding = who_answers(problem(401, ""), ADDRESS, "sesame")
    assert finding is not None
    assert "does not accept the API key" in finding.text
    assert "sesame" not in f"{finding}"


def test_a_bot_that_is_not_there() -> None:
    finding = who_answers(problem(404, "there is no bot 'x'"), f"{ADDRESS}/bots/x", None)
    assert finding is not None
    assert "there is no bot 'x'" in finding.text
    assert "/status" in finding.advice


def test_the_originals_answer_is_ours() -> None:
    assert ORIGINAL == GRANTED


def test_a_status_is_no_stranger() -> None:
    assert who_answers(page(STATUS), ADDRESS, None) is None


@pytest.mark.parametrize("document", [{"status": "ok"}, {"version": "\x1b[2J"}])
def test_json_of_somebody_else(document: dict[str, Any]) -> None:
    found, is_ours = of_status(json.dumps(document).encode(), ADDRESS, "1.2.3", None)
    assert not is_ours
    assert "not a Gateway Queue: version" in worst(found).text


# What it says of itself


def test_all_is_well() -> None:
    found = of()
    assert [finding.mark for finding in found] == ["ok", "ok", "ok"]
    assert [finding.text for finding in found] == [
        "Gateway Queue 1.2.3 answers at http://queue:8000",
        "It has read the limits from Discord: 850 to grant",
        "It may open 1,048,576 files; each waiting shard needs one",
    ]
    assert conclusion(found) == Finding("ok", "Nothing stands between a bot and its turn")


def test_another_version() -> None:
    finding = worst(of(ours="1.3.0"))
    assert finding.mark == "note"
    assert "1.2.3" in finding.text
    assert "of 1.3.0" in finding.text


def test_a_status_that_this_version_cannot_read() -> None:
    body = json.dumps({"version": "9.0.0"}).encode()
    found, is_ours = of_status(body, ADDRESS, "9.0.0", None)
    assert is_ours
    assert "cannot read its /status: uptime" in worst(found).text


def test_an_earlier_version_does_not_say_how_many_files() -> None:
    document = {name: value for name, value in STATUS.items() if name != "open_files_limit"}
    found, _ = of_status(json.dumps(document).encode(), ADDRESS, "1.2.3", None)
    assert [finding.mark for finding in found] == ["ok", "ok"]


FAILURE = {"error": "ConnectError: no route\x1b", "age": 12.0}


@pytest.mark.parametrize(
    ("found", "mark", "said", "advice"),
    [
        (of(limits={"source": "counted"}), "note", "It has no token", "DISCORD_TOKEN"),
        (of(limits={"failure": FAILURE}), "note", "again: ConnectError: no route?, 12 s", "reach"),
        (
            of({"obstacle": "limits_unknown"}, limits={"known": False, "failure": FAILURE}),
            "bad",
            "cannot read the limits from Discord: ConnectError",
            "token right?",
        ),
        (
            of({"obstacle": "limits_unknown"}, limits={"known": False}),
            "bad",
            "has not yet read",
            "in a moment",
        ),
        (
            of({"obstacle": "reserve", "waiting": 3}, limits={"remaining": 40}),
            "bad",
            "only the reserve is left (40)",
            "come back in 2 h 0 min",
        ),
        (
            of({"obstacle": "journal"}, why_not_ready="disk I/O error"),
            "bad",
            "journal cannot be written: disk I/O error",
            "disk",
        ),
        (
            of({"obstacle": "engine"}, why_not_ready="Redis cannot be used: refused"),
            "bad",
            "Redis cannot be used: refused",
            "address and password",
        ),
        (of({"obstacle": "paused"}), "bad", "An operator has paused it", "gateway-queue resume"),
        (of({"obstacle": "ending"}), "bad", "It is ending", "the next answers"),
        (of({"obstacle": "new\x1b"}), "bad", "does not know: new?", "Update"),
        (of({"ready": False}, why_not_ready="it failed"), "bad", "not ready: it failed", "log"),
        (of({"waiting": 9, "covered": 4}), "bad", "suffice for 4 of the 9", "back in 2 h 0 min"),
        (
            of(
                {
                    "slowed_down": {
                        "shards": 2,
                        "longest": [
                            {"shard": 3, "level": 2, "eligible_in": 65.0, "starts": 9},
                            {"shard": None, "level": 1, "eligible_in": 5.0, "starts": 7},
                        ],
                    }
                }
            ),
            "bad",
            "2 shards in a crash loop: 3 for 1 min 5 s, those without a number for 5 s",
            "bot's log",
        ),
        (
            of({"open_files_limit": 1024, "recommended_shards": 2000}),
            "bad",
            "may open 1,024 files, and has 2,000 shards to hold",
            "LimitNOFILE",
        ),
        (of({"open_files_limit": 1024}), "note", "may open 1,024 files", "LimitNOFILE"),
    ],
)
def test_what_a_server_says_against_itself(
    found: list[Finding], mark: Mark, said: str, advice: str
) -> None:
    finding = worst(found)
    assert (finding.mark, said in finding.text) == (mark, True), finding
    assert advice in finding.advice


def test_several_bots() -> None:
    found, is_ours = of_status(json.dumps(OVERVIEW).encode(), ADDRESS, "1.2.3", None)
    assert is_ours
    assert found[-1] == Finding("ok", "2 bots; --bot NAME examines one of them")
    one, two = json.loads(json.dumps(OVERVIEW["bots"]))
    one |= {"obstacle": "paused"}
    two |= {"slowed_down": 1, "ready": False}
    document = OVERVIEW | {
        "bots": [one, two],
        "faults": [{"file": "three", "error": "no TOML"}],
        "unknown_bot_waiting": 5,
    }
    found, _ = of_status(json.dumps(document).encode(), ADDRESS, "1.2.3", None)
    assert [finding.text for finding in found[1:]] == [
        "Bot one: An operator has paused it",
        "Bot two: It is not ready: its /readyz says why",
        "Bot two: 1 shard in a crash loop",
        "three is wrong: no TOML",
        "5 requests for bots that it does not have",
    ]
    assert conclusion(found).text == "5 things stand between a bot and its turn"


# The way to it


def test_what_the_server_saw() -> None:
    assert seen_of(page({"state": "left", "held": 3.2, "more": 1})) == Seen("left", 3.2)
    for reply in (page({"state": "gone", "held": 1.0}), problem(404, "no probe"), Reply(0, None)):
        assert seen_of(reply) is None


def test_whether_it_notices_who_leaves() -> None:
    assert of_leaving(Leaving(Seen("left", 0.1), 0.1)).mark == "ok"
    not_noticed = of_leaving(Leaving(Seen("held", 5.1), 5.0))
    assert not_noticed.mark == "bad"
    assert "still held 5 s later" in not_noticed.text
    assert "`mode tcp`" in not_noticed.advice
    assert of_leaving(Leaving(None, 0.0)).mark == "note"


LEFT, HELD, ANSWERED = Seen("left", 60.0), Seen("held", 60.0), Seen("answered", 300.0)
HAPROXY = b"<h1>504 Gateway Time-out</h1>\nThe server didn't respond in time.\n"


def cut(reply: Reply, seen: Seen | None = LEFT) -> Holding:
    return Holding(300, reply.after, reply, seen)


@pytest.mark.parametrize(
    ("holding", "mark", "said", "advice"),
    [
        (cut(Reply(300.1, 204), ANSWERED), "ok", "held for 5 min 0 s, and answered at once", ""),
        (cut(Reply(300.1, 204), None), "ok", "held for 5 min 0 s, and answered at once", ""),
        (cut(Reply(310, 204), ANSWERED), "bad", "came 10 s late", "buffering"),
        (cut(Reply(0.1, 204, server="x")), "bad", "too early, by something else: 204", "take"),
        (Holding(300, 42, None), "note", "held for 42 s, and then stopped", ""),
        (
            cut(problem(503, "it is ending", after=9), ANSWERED),
            "bad",
            "not hold a request for longer than 9.0 s, and says: it is ending",
            "Try again",
        ),
        (
            cut(Reply(9, None, b"closed", failure="closed"), None),
            "bad",
            "server ended after it held a request for 9.0 s: closed",
            "restarts it",
        ),
        (
            cut(Reply(60, 504, b"", "text/html", "nginx/1.22.1")),
            "bad",
            "cut after 1 min 0 s, by 504 Gateway Timeout (Server: nginx/1.22.1)",
            "Set `proxy_read_timeout 1d;` in nginx; see docs/proxies.md. Or ask with `wait=20`",
        ),
        (
            cut(Reply(30, 504, HAPROXY, "text/html"), HELD),
            "bad",
            "by 504 Gateway Timeout; the server has not noticed",
            "`timeout server 1d` and `mode tcp` in HAProxy",
        ),
        (cut(Reply(15, 504, b"", "", "envoy")), "bad", "15 s", "`timeout: 0s`"),
        (cut(Reply(2, 504, b"", "", "envoy")), "bad", "2.0 s", "Or ask with `wait=1`. Clients"),
        (cut(Reply(100, 524, b"", "", "cloudflare")), "bad", "by 524 (Server", "another way"),
        (
            cut(Reply(60, None, b"", failure="closed")),
            "bad",
            "cut after 1 min 0 s: something in between closed the connection",
            "Raise the time-out of whatever is in between",
        ),
        (
            cut(Reply(60, None, b"", failure="closed"), HELD),
            "bad",
            "without an answer; the server has not noticed",
            "",
        ),
        (
            cut(Reply(315, None, failure="silent"), ANSWERED),
            "bad",
            "not answered within 5 min 15 s: something in between has forgotten",
            "keep-alive",
        ),
    ],
)
def test_whether_the_way_holds(holding: Holding, mark: Mark, said: str, advice: str) -> None:
    finding = of_holding(holding)
    assert (finding.mark, said in finding.text) == (mark, True), finding
    assert advice in finding.advice


def test_an_answer_of_a_proxy_is_dangerous_for_old_clients() -> None:
    assert "for permission" in of_holding(cut(Reply(60, 504))).advice
    assert "for permission" not in of_holding(cut(Reply(60, None, failure="closed"))).advice
