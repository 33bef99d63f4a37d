"""Whether the way to a server holds, in words, with advice on what to change. Pure."""

from gateway_queue.cli.findings import Finding, Holding, Leaving, Reply, Seen, bad
from gateway_queue.cli.words import measured

# An answer later than this, in seconds, was held back on its way.
LATE = 1.0

# A `wait` in seconds that is no load for a server, and shorter than most proxies' time-outs.
GOOD_WAIT = 20

# The longest `wait` that gateway_queue.client uses, in seconds.
CLIENT_HOLD = 14.0

PAGE = "docs/proxies.md"

# What to set in a proxy, by a word in its `Server` header or its error page.
PROXIES = {
    "nginx": "set `proxy_read_timeout 1d;` in nginx",
    "openresty": "set `proxy_read_timeout 1d;` in OpenResty",
    "envoy": "set the route's `timeout: 0s` and `stream_idle_timeout: 0s` in Envoy",
    "caddy": "take `read_timeout` and `response_header_timeout` out of Caddy's `transport`",
    "didn't respond in time": "set `timeout server 1d` and `mode tcp` in HAProxy",
    "awselb": "raise the load balancer's `idle_timeout.timeout_seconds`",
    "cloudfront": "let the bots go another way than through CloudFront",
    "cloudflare": "let the bots go another way than through Cloudflare",
}
ANY_PROXY = "raise the time-out of whatever is in between"


def of_leaving(leaving: Leaving) -> Finding:
    match leaving.seen:
        case Seen("left"):
            return Finding("ok", "The server notices when a client leaves")
        case Seen("held"):
            return bad(
                "The server does not notice when a client leaves: it is still held"
                f" {leaving.after:.0f} s later",
                "Turns would be granted to nobody. Use `mode tcp` where HAProxy is in between;"
                f" {PAGE} has others",
            )
    return Finding(
        "note",
        "Whether the server notices when a client leaves could not be seen",
        "Another server may have answered, or an older one; give --url the server's own address",
    )


def of_holding(holding: Holding) -> Finding:
    reply, seen = holding.reply, holding.seen
    if reply is None:
        return Finding(
            "note", f"A request was held for {measured(holding.after)}, and then stopped"
        )
    if reply.status == 204:
        return _of_the_answer(holding, reply)
    if reply.problem:
        return bad(
            f"The server did not hold a request for longer than {measured(reply.after)}, and says:"
            f" {reply.problem}",
            "Try again; if it ends often, its log says why",
        )
    if seen is None:
        why = reply.said if reply.status is None else reply.outcome
        return bad(
            f"The server ended after it held a request for {measured(reply.after)}: {why}",
            "Its log says why; look at what restarts it. Clients ask again by themselves",
        )
    unseen = "; the server has not noticed" if seen.state == "held" else ""
    return _cut(holding, reply, unseen)


def _of_the_answer(holding: Holding, reply: Reply) -> Finding:
    early = holding.seconds - reply.after
    if early > LATE:
        return bad(
            f"A request was answered {measured(early)} too early, by something else:"
            f" {reply.outcome}",
            f"{ANY_PROXY.capitalize()}, or take it away; see {PAGE}",
        )
    late = reply.after - (holding.seen.held if holding.seen else holding.seconds)
    if late > LATE:
        return bad(
            f"An answer came {measured(late)} late: something in between holds it back",
            f"Switch its buffering of answers off; see {PAGE}",
        )
    return Finding(
        "ok",
        f"A request was held for {measured(holding.seconds)}, and answered at once; longer was not"
        " tried",
    )


def _cut(holding: Holding, reply: Reply, unseen: str) -> Finding:
    if reply.status is not None:
        return bad(
            f"A request was cut after {measured(reply.after)}, by {reply.outcome}{unseen}",
            f"{_what_to_set(reply)}{_or_wait(reply.after)}. Clients of the original server take"
            " this answer for permission",
        )
    if reply.failure == "silent":
        return bad(
            f"A request for {measured(holding.seconds)} was not answered within"
            f" {measured(reply.after)}: something in between has forgotten the connection",
            "A firewall or NAT forgets connections without traffic: have it wait longer, or send"
            f" TCP keep-alive more often{_or_wait(holding.seconds)}",
        )
    return bad(
        f"A request was cut after {measured(reply.after)}: something in between closed the"
        f" connection without an answer{unseen}",
        f"{_what_to_set(reply)}{_or_wait(reply.after)}",
    )


def _what_to_set(reply: Reply) -> str:
    told = f"{reply.server} {reply.said}".lower()
    setting = next((setting for name, setting in PROXIES.items() if name in told), ANY_PROXY)
    return f"{setting[0].upper()}{setting[1:]}; see {PAGE}"


def _or_wait(patience: float) -> str:
    """What clients can do without any change to the proxy."""
    if patience > CLIENT_HOLD:
        seconds = min(GOOD_WAIT, int(patience / 2) or 1)
        return f". Or ask with `wait={seconds}`; gateway_queue.client asks often enough by itself"
    return f". Or ask with `wait={max(1, int(patience / 2))}`"
