"""What a URL of Redis says."""

import pytest

from gateway_queue.redis_url import RedisURL


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("redis://localhost", RedisURL(hosts=(("localhost", 6379),))),
        ("redis://[::1]:6380/2", RedisURL(hosts=(("::1", 6380),), db=2)),
        ("rediss://localhost?db=3", RedisURL(hosts=(("localhost", 6379),), is_tls=True, db=3)),
        ("unix:///run/valkey%20socket?db=1", RedisURL(socket="/run/valkey socket", db=1)),
        (
            "redis+sentinel://a,b:26380/main",
            RedisURL(hosts=(("a", 26379), ("b", 26380)), primary="main"),
        ),
        (
            "rediss+sentinel://a/main?db=1&sentinel_username=queue&sentinel_password=s%2Bt",
            RedisURL(
                hosts=(("a", 26379),),
                primary="main",
                is_tls=True,
                db=1,
                sentinel_username="queue",
                sentinel_password="s+t",
            ),
        ),
    ],
)
def test_it_says_where_the_server_is(url: str, meant: RedisURL) -> None:
    assert RedisURL.parse(url) == meant


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel"])
def test_what_a_url_may_not_have_is_decoded(scheme: str) -> None:
    parsed = RedisURL.parse(f"{scheme}://q%3Aueue:open%40sesame%2F%2B@localhost/1")

    assert (parsed.username, parsed.password) == ("q:ueue", "open@sesame/+")


def test_no_password_is_in_its_text() -> None:
    url = "redis+sentinel://:open-sesame@a/main?sentinel_password=open-sesame"

    assert "open-sesame" not in repr(RedisURL.parse(url))
