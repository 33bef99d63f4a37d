"""The pages of the documentation as a browser shows them, on a desk and on a phone.

`nox -s browser` has what it takes: Sphinx with the extensions of ``docs/conf.py``, and Chromium.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urldefrag

import pytest

pytest.importorskip("playwright")
pytest.importorskip("sphinx")
pytest.importorskip("sphinx_copybutton")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402

DOCS = Path(__file__).parents[2] / "docs"
DESK, PHONE = (1300, 900), (390, 844)
PATIENCE = 120_000.0  # milliseconds

CUT_OFF = """() => [...document.querySelectorAll(".table-wrapper")]
    .filter(table => table.scrollWidth > table.clientWidth + 1)
    .map(table => table.innerText.slice(0, 40))"""
WIDER_THAN_WINDOW = "() => document.documentElement.scrollWidth - innerWidth"
MISSING = "() => [...document.images].filter(image => !image.naturalWidth).map(i => i.src)"
LINKS = "() => [...document.links].map(link => link.href)"
TARGETS = "() => [...document.querySelectorAll('[id]')].map(element => element.id)"


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None: ...  # noqa: A002


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """The address of the site, and of each page."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", DOCS, folder], check=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        names = (page.relative_to(folder).with_suffix(".html") for page in folder.rglob("*.html"))
        yield address, [f"{address}/{name}" for name in names if name.parts[0][0] != "_"]
        server.shutdown()


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_nothing_is_cut_off(site: tuple[str, list[str]], page: Page, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    for address in site[1]:
        page.goto(address)
        assert page.evaluate(CUT_OFF) == [], address
        assert page.evaluate(WIDER_THAN_WINDOW) <= 0, address
        assert page.evaluate(MISSING) == [], address


def test_each_link_within_the_site_leads_somewhere(site: tuple[str, list[str]], page: Page) -> None:
    home, addresses = site
    targets: dict[str, set[str]] = {}
    links: set[str] = set()
    for address in addresses:
        page.goto(address)
        targets[address] = set(page.evaluate(TARGETS))
        links |= {link for link in page.evaluate(LINKS) if link.startswith(home)}
    dead = []
    for link in links:
        where, place = urldefrag(link)
        if where in targets:
            found = not place or place in targets[where]
        else:
            found = page.request.get(where).ok
        if not found:
            dead.append(link)
    assert dead == []


def test_it_can_be_searched_and_copied_from(site: tuple[str, list[str]], page: Page) -> None:
    page.goto(f"{site[0]}/start.html")
    expect(page.locator("button.copybtn").first).to_be_attached()
    page.get_by_placeholder("Search").first.fill("crash loop")
    page.keyboard.press("Enter")
    expect(page.locator("#search-results li").first).to_be_visible(timeout=PATIENCE)
