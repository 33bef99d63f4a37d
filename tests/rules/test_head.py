"""Whatever the short way takes for a plain head, h11 understands in the same way."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_queue.http.head import plain_head

END = b"\r\n\r\n"
LINES = [
    b"Host: queue",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: keep-alive, close",
    b"Connection: upgrade",
    b"Connection: x, Close",
    b"Proxy-Connection: close",
    b"Authorization: Bearer key",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"Upgrade: h2c",
    b"Origin: http://other",
    b"Content-Length : 5",
    b"Host: ",
    b" folded",
    b"Odd : name",
    b"X: \x00",
    b"X: \x7f",
    b"X: 1\nTransfer-Encoding: chunked",
    b"X: 1\rContent-Length: 5",
    b"X: 1\n\nGET / HTTP/1.1",
    b"X: \xff",
    b"X:",
    b"",
]
FIRST = st.tuples(
    st.sampled_from([b"GET", b"HEAD", b"POST", b"OPTIONS", b"PRI", b"CONNECT", b"FOO", b"get"]),
    st.sampled_from([b"/", b"/?shard=1", b"/a?b", b"*", b"http://queue/?shard=1", b"/\xff", b""]),
    st.sampled_from([b"HTTP/1.0", b"HTTP/1.1", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1"]),
)
HEADS = st.builds(
    lambda before, space, first, lines, end: (
        before + b"\r\n".join([space.join(first), *lines]) + end
    ),
    st.sampled_from([b"", b"", b"", b"\r\n", b"\n", b"\r", b" "]),
    st.sampled_from([b" ", b" ", b" ", b"  ", b"\t"]),
    FIRST,
    st.lists(st.sampled_from(LINES), max_size=4),
    st.sampled_from([END, END, END, END + b"x", END + END, b"\r\n", b"\n\n", b""]),
)


@given(HEADS | st.binary(max_size=80).map(lambda data: data + END))
def test_h11_understands_plain_heads_in_the_same_way(data: bytes) -> None:
    head = plain_head(data)
    if head is None:
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (head.method, head.target)
    assert isinstance(server.next_event(), h11.EndOfMessage)  # without a body
    assert (server.their_state is h11.DONE) == head.keep_alive
    assert not server.they_are_waiting_for_100_continue


@pytest.mark.parametrize(("version", "keep_alive"), [(b"1.1", True), (b"1.0", False)])
def test_an_ordinary_request_is_plain(version: bytes, *, keep_alive: bool) -> None:
    head = plain_head(b"GET /?shard=1 HTTP/" + version + b"\r\nHost: queue\r\nAccept: */*" + END)

    assert head is not None
    assert (head.target, head.keep_alive) == (b"/?shard=1", keep_alive)
