"""What is left of NO_PROXY is what httpx can read, and no less."""

import os

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_queue.no_proxy import leave_out_unreadable

ENTRIES = [
    "localhost",
    "127.0.0.0/8",
    "::1",
    "::1/128",
    "fe80::/10",
    "[::1]",
    "fe80::1%eth0",
    ".svc",
    "*.svc",
    "queue:8000",
    "queue:port",
    "bücher.example",
    "http://queue",
    "http://queue:port",
    "",
    ":",
]


def can_make_a_client() -> bool:
    try:
        httpx.Client(verify=False).close()  # noqa: S501 - it asks nobody
    except httpx.InvalidURL:
        return False
    return True


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_is_left_out_if_httpx_cannot_read_it(
    name: str, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, entry)
    expected = [] if can_make_a_client() else [entry]
    assert leave_out_unreadable() == expected
    assert can_make_a_client()


@given(st.lists(st.sampled_from(ENTRIES) | st.text("[]:/*.%@1a ", max_size=8)))
def test_no_list_of_entries_is_in_the_way(entries: list[str]) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NO_PROXY", ",".join(entries))
        leave_out_unreadable()
        assert can_make_a_client()


def test_the_others_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost, ::1/128,10.0.0.0/8, ::1/128")
    monkeypatch.setenv("no_proxy", "::1/128")
    assert leave_out_unreadable() == ["::1/128"]
    assert os.environ["NO_PROXY"] == "localhost,10.0.0.0/8"
    assert os.environ["no_proxy"] == ""
