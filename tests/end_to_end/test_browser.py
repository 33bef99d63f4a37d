"""The operator's page in a real browser, by the eye, by the keyboard and by screen readers.

With PICTURES set to a folder the pictures for the documentation are made there.
"""

import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
import trio
from background import background
from fake_discord import TOKEN, fake_discord
from harness import Program, free_port, running_server
from raw import HTTP2Client, connect, connect_http2, grant_of, waiting
from verdicts import LENGTHS, NOW, OVERVIEWS, PLANS, VERDICTS

pytest.importorskip("playwright")
pytest.importorskip("axe_playwright_python")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # noqa: E402
from playwright.sync_api import ConsoleMessage, FloatRect, Page, expect, sync_playwright  # noqa: E402

KEY = "correct-horse-battery-staple"
LONG = 60.0  # seconds of an interval whose end no test waits for
ONE_START: dict[str, object] = {
    "GATEWAY_QUEUE_INTERVAL": 0.05,
    "GATEWAY_QUEUE_DAILY_STARTS": 2,
    "GATEWAY_QUEUE_RESERVE": 1,
}
WIDTH = 1360  # pixels, but for phones
PICTURES = os.environ.get("PICTURES")

# The page's own words, for cases that ``verdicts.py`` has for the commands too.
VERDICT = """async ([figures, shards, now]) => {
    const { verdict } = await import("/dashboard/verdict.js");
    const { Picture } = await import("/dashboard/picture.js");
    const picture = Object.assign(new Picture(), { shards: [...shards] });
    return verdict(figures, picture.counts(), now);
}"""
OVERVIEW = """async ([bots, strangers, now]) => {
    const { described, verdictOfAll } = await import("/dashboard/overview.js");
    const waiting = bots.reduce((sum, bot) => sum + bot.waiting, 0);
    const all = { waiting, unknown_bot_waiting: strangers };
    const its = verdictOfAll(bots.map((bot) => described(bot, now)), all, now);
    return [its.state, its.headline, its.detail];
}"""
PLAN = """async ([plan, now]) => {
    const { inWords } = await import("/dashboard/plan.js");
    return inWords(plan, now);
}"""
LENGTH = """async (seconds) => {
    const { length } = await import("/dashboard/words.js");
    return length(seconds);
}"""

SMALLEST_TARGET = 24  # pixels: https://www.w3.org/TR/WCAG22/#target-size-minimum

PATIENCE = 120_000.0  # milliseconds for what has to happen: far more than it takes
expect.set_options(timeout=PATIENCE)

Part = Callable[[Page], None]


async def in_browser(url: str, *parts: Part, quiet: bool = True, **context: Any) -> None:
    """Open the page in a new browser, and do these parts of a test there.

    They run in a thread of their own. If it is to be ``quiet``, the console must stay empty.
    """
    await trio.to_thread.run_sync(partial(_in_browser, url, parts, context, quiet=quiet))


def _in_browser(url: str, parts: Iterable[Part], context: dict[str, Any], *, quiet: bool) -> None:
    said: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        said.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(**{"viewport": {"width": WIDTH, "height": 900}, **context})
        page.set_default_timeout(PATIENCE)
        page.on("console", hear)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        for part in parts:
            part(page)
        browser.close()
    words = [text for text in said if quiet or not text.startswith("Failed to load resource")]
    assert words == []


@asynccontextmanager
async def launch(
    shards: int, *, max_concurrency: int = 16, **settings: object
) -> AsyncIterator[Program]:
    """A server at which all shards of a bot but the last five wait."""
    async with (
        fake_discord(
            shards=shards,
            max_concurrency=max_concurrency,
            total=4 * shards,
            remaining=3 * shards,
            reset_after=28_800,
        ) as discord,
        running_server(
            DISCORD_TOKEN=discord.token, GATEWAY_QUEUE_DISCORD_API=discord.api, **settings
        ) as server,
        AsyncExitStack() as clients,
        background() as nursery,
    ):
        await server.logged("limits_read")
        for first in range(0, shards - 5, 500):
            client = await clients.enter_async_context(connect_http2(server))
            nursery.start_soon(_take_answers, client)
            last = min(first + 500, shards - 5) - 1
            for shard in range(first, last + 1):
                await client.ask(f"/?shard={shard}")
            await server.logged("identify_queued", shard=last)
        yield server


async def _take_answers(client: HTTP2Client) -> None:
    while data := await client.stream.receive_some():
        client.take(data)


def order(address: str, what: str, body: dict[str, object]) -> None:
    """Do what an operator may do elsewhere than on the page."""
    headers = {"Authorization": f"Bearer {KEY}"}
    httpx.put(f"{address}/operator/{what}", json=body, headers=headers).raise_for_status()


def headline(page: Page, words: str | re.Pattern[str]) -> None:
    expect(page.locator("#headline")).to_have_text(words)


def is_accessible(page: Page) -> None:
    expect(page.locator("#live")).not_to_have_text("Connecting")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def picture(name: str, *, scheme: Literal["light", "dark"] = "light", height: int = 0) -> Part:
    """Take a picture of the page, or of so much of it from the top."""

    def take(page: Page) -> None:
        if PICTURES is not None:
            page.emulate_media(color_scheme=scheme)
            file = Path(PICTURES, f"{name}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            if height:
                clip: FloatRect = {"x": 0, "y": 0, "width": WIDTH, "height": height}
                page.screenshot(path=file, clip=clip)
            else:
                page.screenshot(path=file, full_page=True)

    return take


# A launch


async def test_a_launch_is_watched_to_its_end() -> None:
    def begins(page: Page) -> None:
        headline(page, re.compile(r"Everyone is in by (\w{3} )?\d\d:\d\d"))
        expect(page.locator("#live")).to_have_text("Live")
        expect(page.locator("#shards-number")).to_have_text("2,000 in 16 buckets")
        expect(page).to_have_title(re.compile(r"wait, .* \u2013 Gateway Queue"))
        expect(page.locator("#map-help")).to_contain_text("A row for each bucket")
        expect(page.get_by_role("table").get_by_role("row")).to_have_count(17)

    def goes_on(page: Page) -> None:
        page.get_by_label("Find a shard").fill("1994")
        page.get_by_role("button", name="Show").click()
        details = page.get_by_role("region", name="Shard 1994")
        expect(details).to_contain_text("waiting")
        expect(details).to_contain_text("Expected")
        expect(page.locator("#counts")).to_contain_text("Got an op 9")
        expect(page.locator("#pace-chart rect")).to_be_visible()

    def shows_much(page: Page) -> None:
        if PICTURES:
            expect(page.locator("#pace-chart rect").nth(1)).to_be_visible()

    def ends(page: Page) -> None:
        headline(page, "Nobody waits")
        expect(page.get_by_role("region", name="Shard 1994")).to_contain_text("let in")
        expect(page.locator("#detail")).to_have_text(
            "1,992 of 2,000 are in; 5 not asked yet, 3 refused by Discord (op 9)."
        )
        expect(page).to_have_title("nobody waits \u2013 Gateway Queue")

    async with (
        launch(2_000, GATEWAY_QUEUE_INTERVAL=0.5 if PICTURES else 0.2) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        for shard in (3, 20, 37):
            await server.logged("identify_granted", shard=shard)
            await client.post(f"/confirm?shard={shard}&outcome=invalid_session")
        pictures = shows_much, picture("dashboard"), picture("dark", scheme="dark")
        await in_browser(server.url, begins, goes_on, *pictures, ends)


async def test_opening_the_server_redirects_to_the_page() -> None:
    def is_led(page: Page) -> None:
        headline(page, "Nobody waits")
        expect(page.locator("#detail")).to_have_text("No shard has asked in the last 24 hours.")
        assert page.url.endswith("/dashboard")

    async with running_server() as server:
        await in_browser(f"{server.url}/", is_led)
        assert server.logged_so_far("identify_queued") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_what_stands_in_the_way_is_said(scheme: str) -> None:
    def is_stopped(page: Page) -> None:
        banner = page.get_by_role("region", name="Problem")
        expect(banner).to_contain_text("The reserve is reached.")
        headline(page, "1 shard waits, nobody is let in")
        expect(page.locator("#starts-enough")).to_have_text("1 too few for the waiting shards")
        expect(page).to_have_title("Stopped, 1 wait \u2013 Gateway Queue")

    async with running_server(**ONE_START) as server:
        await grant_of(server, 1)
        async with waiting(server, 3):
            parts = is_stopped, is_accessible
            await in_browser(f"{server.url}/dashboard", *parts, color_scheme=scheme)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_limits_that_are_not_known_are_not_made_up(scheme: str) -> None:
    def are_unknown(page: Page) -> None:
        banner = page.get_by_role("region", name="Problem")
        expect(banner).to_contain_text("Discord's limits are unknown.")
        expect(banner).to_contain_text("The last reading failed")
        headline(page, "1 shard waits, nobody is let in")
        expect(page.get_by_role("region", name="Session starts")).to_contain_text("Unknown")

    nobody = f"http://127.0.0.1:{free_port()}"
    settings = {"DISCORD_TOKEN": TOKEN, "GATEWAY_QUEUE_DISCORD_API": nobody}
    async with running_server(**settings) as server, waiting(server, 3):
        parts = are_unknown, is_accessible
        await in_browser(f"{server.url}/dashboard", *parts, color_scheme=scheme)


async def test_what_happened_is_said_in_plain_words() -> None:
    def is_told(page: Page) -> None:
        events = page.get_by_role("region", name="What happened").get_by_role("listitem")
        expect(events.first).to_contain_text("Shard 3 got an op 9 (bucket 0)")
        expect(events.last).to_contain_text("The server started")
        expect(page.get_by_role("region", name="Op 9")).to_contain_text(
            "refused by Discord: shard 3"
        )

    async with (
        running_server(GATEWAY_QUEUE_INTERVAL=0.1) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        await client.get("/?shard=3")
        await client.post("/confirm?shard=3&outcome=invalid_session")
        await in_browser(f"{server.url}/dashboard", is_told, is_accessible)


async def test_the_page_says_what_the_commands_say() -> None:
    def says(page: Page) -> None:
        headline(page, "Nobody waits")
        now = NOW.timestamp() * 1000
        for figures, shards, state, words, detail, banner in VERDICTS.values():
            its = page.evaluate(VERDICT, [figures, shards, now])
            assert (its["state"], its["headline"], its["detail"]) == (state, words, detail)
            shown = its["banner"] and f"{its['banner']['title']} {its['banner']['text']}"
            assert shown == banner
        for bots, strangers, *expected in OVERVIEWS.values():
            assert page.evaluate(OVERVIEW, [bots, strangers, now]) == expected
        for plan, words in PLANS.values():
            assert page.evaluate(PLAN, [plan, now]) == words
        for seconds, words in LENGTHS.items():
            assert page.evaluate(LENGTH, seconds) == words

    async with running_server() as server:
        await in_browser(f"{server.url}/dashboard", says, timezone_id="UTC")


# What an operator does


async def test_an_operator_pauses_and_resumes() -> None:
    why = "<b>Discord</b> has an incident"

    def asks(page: Page) -> None:
        headline(page, re.compile("Everyone is in by"))
        page.get_by_role("button", name="Pause").click()
        dialog = page.get_by_role("dialog", name="Pause")
        dialog.get_by_label("Reason").fill(why)
        dialog.get_by_label("For", exact=True).select_option("an hour")
        is_accessible(page)
        dialog.get_by_label("Reason").press("Enter")

    def has_no_key(page: Page) -> None:
        dialog = page.get_by_role("dialog", name="Operator key")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("This is not the operator key")
        is_accessible(page)
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        headline(page, re.compile("Everyone is in by"))

    def has_the_key(page: Page) -> None:
        page.get_by_role("dialog", name="Pause").get_by_role("button", name="Pause").click()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_have_count(0)

    def is_paused(page: Page) -> None:
        headline(page, "Paused, 295 shards wait")
        banner = page.get_by_role("region", name="Problem")
        expect(banner).to_contain_text("An operator paused the queue at")
        expect(banner).to_contain_text(f": {why}. Until ")
        expect(page).to_have_title("Paused, 295 wait \u2013 Gateway Queue")
        events = page.get_by_role("region", name="What happened")
        expect(events).to_contain_text(f"An operator paused all grants: {why}")
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0

    def resumes(page: Page) -> None:
        banner = page.get_by_role("region", name="Problem")
        banner.get_by_role("button", name="Resume").click()
        headline(page, re.compile("Everyone is in by"))
        expect(banner).to_be_hidden()

    async with launch(300, GATEWAY_QUEUE_INTERVAL=LONG, GATEWAY_QUEUE_OPERATOR_KEY=KEY) as server:
        parts: list[Part] = [asks, has_no_key, has_the_key, is_paused, resumes]
        await in_browser(f"{server.url}/dashboard", *parts, quiet=False)
        assert KEY not in "\n".join(server.lines)


async def test_an_operator_decides_about_a_shard() -> None:
    def goes_first(page: Page) -> None:
        page.get_by_label("Find a shard").fill("290")
        page.keyboard.press("Enter")
        details = page.get_by_role("region", name="Shard 290")
        expect(details).to_contain_text("Position")
        details.get_by_role("button", name="Put it first").click()
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        expect(details.locator("dd").nth(1)).to_have_text("1")
        is_accessible(page)
        details.get_by_role("button", name="Move it back").click()
        expect(details.locator("dd").nth(1)).not_to_have_text("1")

    def is_dropped(page: Page) -> None:
        page.get_by_role("button", name="Drop its seat").click()
        dialog = page.get_by_role("dialog", name="Drop shard 290?")
        is_accessible(page)
        dialog.get_by_role("button", name="Drop its seat").click()
        details = page.get_by_role("region", name="Shard 290")
        expect(details).to_contain_text("has not asked")
        expect(details.get_by_role("button")).to_have_count(0)
        expect(page.get_by_role("region", name="What happened")).to_contain_text(
            "An operator dropped shard 290"
        )

    async with launch(300, GATEWAY_QUEUE_INTERVAL=LONG, GATEWAY_QUEUE_OPERATOR_KEY=KEY) as server:
        await in_browser(f"{server.url}/dashboard", goes_first, is_dropped, quiet=False)


async def test_an_operator_forgives_a_crash_loop() -> None:
    def forgives(page: Page) -> None:
        headline(page, "Everyone else is in")
        page.get_by_role("region", name="Crash loops").get_by_role("button").click()
        details = page.get_by_role("region", name="Shard 3")
        details.get_by_role("button", name="Forgive its crash loop").click()
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        headline(page, "Nobody waits")

    settings = {"GATEWAY_QUEUE_CRASH_LOOP": "1/600", "GATEWAY_QUEUE_INTERVAL": 0.1}
    async with running_server(**settings, GATEWAY_QUEUE_OPERATOR_KEY=KEY) as server:
        for _ in range(2):
            await grant_of(server, 3)
        async with waiting(server, 3):
            await in_browser(f"{server.url}/dashboard", forgives, quiet=False)


async def test_an_operator_slows_down_and_has_the_limits_read() -> None:
    def slows_down(page: Page) -> None:
        page.get_by_role("button", name="Pace").click()
        dialog = page.get_by_role("dialog", name="Slow down")
        dialog.get_by_label("Seconds").fill("59")  # faster than configured
        dialog.get_by_role("button", name="Slow down").click()
        expect(dialog).to_be_visible()
        is_accessible(page)
        dialog.get_by_label("Seconds").fill("90")
        dialog.get_by_role("button", name="Slow down").click()
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        pace = page.get_by_role("region", name="Pace")
        expect(pace).to_contain_text("one shard every 90 s in each instead of 60 s: an operator")

    def goes_back(page: Page) -> None:
        page.get_by_role("button", name="Pace").click()
        page.get_by_role("button", name="Use the configured interval").click()
        pace = page.get_by_role("region", name="Pace")
        expect(pace).to_contain_text("one shard every 60 s in each")
        expect(pace).not_to_contain_text("instead of")

    def reads(page: Page) -> None:
        page.get_by_role("button", name="Read limits").click()
        starts = page.get_by_role("region", name="Session starts")
        expect(starts).to_contain_text("Asking Discord.")
        page.get_by_role("button", name="Read limits").click()
        expect(starts).to_contain_text("Not done: the limits were read on demand just now")

    async with launch(300, GATEWAY_QUEUE_INTERVAL=LONG, GATEWAY_QUEUE_OPERATOR_KEY=KEY) as server:
        parts = (slows_down, goes_back, reads)
        await in_browser(f"{server.url}/dashboard", *parts, quiet=False)


async def test_without_an_operator_key_there_are_no_buttons_for_it() -> None:
    def has_none(page: Page) -> None:
        headline(page, re.compile("Everyone is in by"))
        page.get_by_label("Find a shard").fill("3")
        page.keyboard.press("Enter")
        expect(page.get_by_role("region", name="Shard 3")).to_contain_text("Position")
        names = [button.inner_text() for button in page.get_by_role("button").all()]
        assert names == ["Plan", "Show"]

    async with running_server(GATEWAY_QUEUE_INTERVAL=LONG) as server, waiting(server, 3):
        await in_browser(f"{server.url}/dashboard", has_none)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_launch_is_planned(scheme: str) -> None:
    def is_planned(page: Page) -> None:
        headline(page, re.compile("Everyone is in by"))
        page.get_by_role("button", name="Plan").click()
        dialog = page.get_by_role("dialog", name="Plan a launch")
        answer = dialog.get_by_role("status")
        expect(dialog.get_by_label("Shards to start")).to_have_value("300")
        expect(answer).to_contain_text("300 shards in 16 buckets take 18 min 0 s.")
        expect(answer).to_contain_text("295 wait before them.")
        is_accessible(page)
        dialog.get_by_label("Shards to start").fill("2600")
        expect(answer).to_contain_text("There are not enough session starts")
        dialog.get_by_label("Shards to start").fill("")
        expect(answer).to_contain_text("How many shards")
        dialog.get_by_role("button", name="Close").click()
        expect(dialog).to_be_hidden()

    async with launch(300, GATEWAY_QUEUE_INTERVAL=LONG) as server:
        await in_browser(f"{server.url}/dashboard", is_planned, color_scheme=scheme)


# Trouble


async def test_a_server_that_is_gone_is_found_again() -> None:
    port = free_port()
    async with AsyncExitStack() as first:
        server = await first.enter_async_context(running_server(PORT=port))

        def is_live(page: Page) -> None:
            expect(page.locator("#live")).to_have_text("Live")

        def is_lost(page: Page) -> None:
            trio.from_thread.run(server.stop)
            expect(page.locator("#live")).to_have_text(re.compile("No answer for .* are old"))
            expect(page).to_have_title("No answer \u2013 Gateway Queue")

        def comes_back(page: Page) -> None:
            second = running_server(PORT=port)
            trio.from_thread.run(first.enter_async_context, second)
            is_live(page)

        await in_browser(
            f"{server.url}/dashboard", is_live, is_lost, is_accessible, comes_back, quiet=False
        )


async def test_a_key_is_asked_for_until_it_is_right() -> None:
    def is_locked(page: Page) -> None:
        expect(page.get_by_role("dialog", name="API key")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog", name="API key")).to_be_visible()

    def tries(key: str) -> Part:
        def enters(page: Page) -> None:
            page.locator("#key").fill(key)
            page.keyboard.press("Enter")

        return enters

    def is_wrong(page: Page) -> None:
        expect(page.locator("#key-why")).to_have_text(re.compile("not the key"))

    def is_open(page: Page) -> None:
        expect(page.get_by_role("dialog", name="API key")).to_be_hidden()
        headline(page, re.compile("Everyone is in by"))
        page.get_by_label("Find a shard").fill("3")
        page.keyboard.press("Enter")
        expect(page.get_by_role("region", name="Shard 3")).to_contain_text("waiting")
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0

    async with (
        running_server(GATEWAY_QUEUE_API_KEY=KEY, GATEWAY_QUEUE_INTERVAL=LONG) as server,
        httpx.AsyncClient(base_url=server.url, timeout=None) as client,  # noqa: S113
        background() as nursery,
    ):
        client.headers["Authorization"] = f"Bearer {KEY}"
        nursery.start_soon(client.get, "/?shard=3")
        await server.logged("identify_queued", shard=3)
        await in_browser(
            f"{server.url}/dashboard",
            *(is_locked, is_accessible, tries("wrong"), is_wrong, is_accessible),
            *(tries(KEY), is_open, is_accessible),
            quiet=False,
        )


# Many, and little room


@pytest.mark.parametrize(("buckets", "lanes"), [(1, "row"), (16, "row"), (128, "column")])
async def test_there_is_room_for_ten_thousand_shards(buckets: int, lanes: str) -> None:
    def is_there(page: Page) -> None:
        many = "1 bucket" if buckets == 1 else f"{buckets} buckets"
        expect(page.locator("#shards-number")).to_have_text(f"10,000 in {many}")
        expect(page.locator("#map-help")).to_contain_text(f"A {lanes} for each bucket")
        assert _overflow(page) <= 0
        page.locator("#map").focus()
        page.keyboard.press("End")
        expect(page.locator("#map")).to_have_attribute("aria-valuenow", "9999")

    async with fake_discord(shards=10_000, max_concurrency=buckets) as discord:
        settings = {"DISCORD_TOKEN": discord.token, "GATEWAY_QUEUE_DISCORD_API": discord.api}
        async with running_server(**settings) as server:
            await server.logged("limits_read")
            await in_browser(f"{server.url}/dashboard", is_there)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_there_is_room_on_a_phone(scheme: str) -> None:
    def fits(page: Page) -> None:
        headline(page, re.compile("Everyone is in by"))
        expect(page.locator("#map-help")).to_contain_text("A column for each bucket")
        assert _overflow(page) <= 0
        for target in page.locator("button:visible, input:visible").all():
            box = target.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= SMALLEST_TARGET

    async with launch(300, GATEWAY_QUEUE_INTERVAL=LONG) as server:
        await in_browser(
            *(f"{server.url}/dashboard", fits, is_accessible),
            viewport={"width": 320, "height": 640},
            color_scheme=scheme,
            has_touch=True,
        )


def _overflow(page: Page) -> int:
    """By how much the page is wider than its window."""
    element = "document.documentElement"
    return int(page.evaluate(f"{element}.scrollWidth - {element}.clientWidth"))


# Several bots


def put(folder: Path, bots: dict[str, str]) -> None:
    for name, content in bots.items():
        Path(folder, name).write_text(content)


async def test_each_of_several_bots_has_its_verdict_and_its_page(tmp_path: Path) -> None:
    bots = {"alpha.toml": "", "beta.toml": "", "gamma": "MTIz.x.y", "delta.toml": "wrong"}
    put(tmp_path, bots)
    settings = {
        "GATEWAY_QUEUE_BOTS": tmp_path,
        "GATEWAY_QUEUE_DISCORD_API": f"http://127.0.0.1:{free_port()}",
        "GATEWAY_QUEUE_INTERVAL": LONG,
    }

    def are_listed(page: Page) -> None:
        headline(page, "1 of 3 bots lets nobody in")
        expect(page.locator("#detail")).to_have_text("1 shard waits at 1 bot. Stopped: gamma.")
        expect(page.get_by_role("region", name="Files with errors")).to_contain_text("delta")
        bots = page.get_by_role("region", name="Bots").get_by_role("listitem")
        expect(bots).to_have_count(3)
        expect(bots.nth(0)).to_contain_text("Nobody can be let in")  # what is wrong comes first
        expect(bots.nth(1)).to_contain_text("Everyone is in by")
        expect(bots.nth(2)).to_contain_text("No shard has asked")
        expect(page).to_have_title("Stopped, 1 wait \u2013 Gateway Queue")

    def is_opened(page: Page) -> None:
        page.get_by_role("link", name="alpha").click()
        headline(page, re.compile("Everyone is in by"))
        expect(page.get_by_role("heading", level=1)).to_have_text("Gateway Queue alpha")
        expect(page).to_have_title(re.compile("1 wait, .* \u2013 alpha \u2013 Gateway Queue"))

    def is_left(page: Page) -> None:
        page.get_by_role("link", name="All bots").click()
        headline(page, "1 of 3 bots lets nobody in")

    async with running_server(**settings) as server, connect(server) as client:
        await client.send("GET /bots/alpha/?shard=1 HTTP/1.1", "Host: queue")
        await server.logged("identify_queued", shard=1)
        parts: list[Part] = [are_listed, is_accessible, picture("bots", height=440), is_opened]
        parts += [is_accessible, is_left]
        await in_browser(f"{server.url}/", *parts)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_there_is_room_for_two_hundred_bots_on_a_phone(tmp_path: Path, scheme: str) -> None:
    put(tmp_path, {f"customer-with-a-rather-long-name-{n}.toml": "" for n in range(170)})
    put(tmp_path, {f"customer-with-trouble-{n}": f"MTIz{n}.x.y" for n in range(30)})
    settings = {
        "GATEWAY_QUEUE_BOTS": tmp_path,
        "GATEWAY_QUEUE_DISCORD_API": f"http://127.0.0.1:{free_port()}",
        "GATEWAY_QUEUE_OPERATOR_KEY": KEY,
    }

    def fit(page: Page) -> None:
        order(f"{server.url}/bots/customer-with-a-rather-long-name-7", "pause", {})
        headline(page, "31 of 200 bots let nobody in")
        expect(page.locator("#detail")).to_contain_text("and 26 more")
        assert _overflow(page) <= 0

    async with running_server(**settings) as server:
        await in_browser(
            *(f"{server.url}/dashboard", fit, is_accessible),
            viewport={"width": 320, "height": 640},
            color_scheme=scheme,
        )


# Everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_whatever_an_operator_does(scheme: str) -> None:
    def is_busy(page: Page) -> None:
        headline(page, re.compile("Everyone is in by"))
        page.get_by_label("Find a shard").fill("299")
        page.keyboard.press("Enter")
        expect(page.get_by_role("region", name="Shard 299")).to_contain_text("has not asked")

    def is_chosen(page: Page) -> None:
        page.get_by_label("Find a shard").fill("290")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Put it first")).to_be_visible()

    def is_to_be_dropped(page: Page) -> None:
        page.get_by_role("button", name="Drop its seat").click()
        expect(page.get_by_role("dialog", name="Drop shard 290?")).to_be_visible()

    def is_slowed_down(page: Page) -> None:
        page.keyboard.press("Escape")
        order(server.url, "interval", {"seconds": 90})
        expect(page.get_by_role("region", name="Pace")).to_contain_text("90 s")

    def is_paused(page: Page) -> None:
        order(server.url, "pause", {"reason": "Discord has an incident", "for": 3600})
        headline(page, "Paused, 295 shards wait")
        if scheme == "light":
            picture("paused", height=348)(page)

    def is_gone(page: Page) -> None:
        trio.from_thread.run(server.stop)
        expect(page.locator("#live")).to_have_text(re.compile("No answer for"))

    states = is_busy, is_chosen, is_to_be_dropped, is_slowed_down, is_paused, is_gone
    async with launch(300, GATEWAY_QUEUE_INTERVAL=LONG, GATEWAY_QUEUE_OPERATOR_KEY=KEY) as server:
        await in_browser(
            f"{server.url}/dashboard",
            *chain.from_iterable((state, is_accessible) for state in states),
            quiet=False,
            color_scheme=scheme,
        )


async def test_forced_colours_and_reduced_motion_take_nothing_away() -> None:
    def is_seen(page: Page) -> None:
        headline(page, re.compile("Everyone is in by"))

    async with launch(300, GATEWAY_QUEUE_INTERVAL=LONG) as server:
        await in_browser(
            *(f"{server.url}/dashboard", is_seen),
            forced_colors="active",
            reduced_motion="reduce",
        )


async def test_the_keyboard_is_enough() -> None:
    def walks(page: Page) -> None:
        headline(page, re.compile("Everyone is in by"))
        focused = page.locator(":focus")
        page.keyboard.press("Tab")
        expect(focused).to_have_id("plan-open")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog", name="Plan a launch")).to_be_visible()
        page.keyboard.press("Escape")
        expect(focused).to_have_id("plan-open")
        page.keyboard.press("Tab")
        expect(focused).to_have_id("find-number")
        page.keyboard.type("8")
        page.keyboard.press("Enter")
        expect(page.get_by_role("region", name="Shard 8")).to_be_visible()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        expect(focused).to_have_id("map")
        page.keyboard.press("Home")
        for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowUp"):
            page.keyboard.press(key)
        expect(focused).to_have_attribute("aria-valuetext", re.compile(r"1, bucket 1: \w+"))
        page.keyboard.press("Enter")
        details = page.get_by_role("region", name="Shard 1")
        expect(details).to_contain_text("Position")
        page.keyboard.press("Tab")
        expect(focused).to_have_attribute("aria-labelledby", "buckets-name")
        page.keyboard.press("Tab")
        expect(focused).to_have_attribute("aria-labelledby", "events-name")

    async with launch(300, GATEWAY_QUEUE_INTERVAL=LONG) as server:
        await in_browser(f"{server.url}/dashboard", walks)


async def test_a_screen_reader_gets_the_order_of_the_questions() -> None:
    def reads(page: Page) -> None:
        headline(page, re.compile("Everyone is in by"))
        expect(page.locator("main")).to_match_aria_snapshot(
            """
            - status: /Everyone is in by .+/
            - region /Everyone is in by/:
              - heading /Everyone is in by/ [level=2]
              - list "Shards by state"
              - figure
            - region "Session starts"
            - region "Pace"
            - region "Crash loops"
            - region "Op 9, last 15 minutes"
            - region "Shards"
            - region "Buckets"
            - region "What happened"
            """
        )

    async with launch(300, GATEWAY_QUEUE_INTERVAL=LONG) as server:
        await in_browser(f"{server.url}/dashboard", reads)
