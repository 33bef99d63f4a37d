"""Connections to Redis, whatever is sent over them."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from coredis import Redis, Sentinel
from coredis.connection import SentinelManagedConnection, TCPLocation
from coredis.pool import SentinelConnectionPool
from coredis.retry import NoRetryPolicy

from gateway_queue.redis_url import RedisURL

# The default would repeat a step that was executed, but not answered in time.
ONCE = NoRetryPolicy()


@asynccontextmanager
async def client(
    url: RedisURL, connect: float, answer: float, most: int = 64
) -> AsyncIterator[Redis[str]]:
    """A client of this Redis, for as long as the context lasts.

    ``connect``: how many seconds connecting may take; ``answer``: the same for an answer;
    ``most``: connections at a time. Redis may be down: the client only connects when it is used,
    and reconnects if the connection was lost. Nothing is ever sent twice.
    """
    always: dict[str, Any] = {
        "connect_timeout": connect,
        "decode_responses": True,
        "ssl_context": _tls(url) if url.is_tls else None,
    }
    settings: dict[str, Any] = {
        **always,
        "stream_timeout": answer,
        "max_connections": most,
        "username": url.username,
        "password": url.password,
        "db": url.db,
    }
    if url.primary is None:
        if url.socket is not None:
            where: dict[str, Any] = {"unix_socket_path": url.socket}
        else:
            where = dict(zip(("host", "port"), url.hosts[0], strict=True))
        async with Redis(**where, **settings, retry_policy=ONCE) as server:
            yield server
        return
    sentinels: Sentinel[str] = Sentinel(
        [TCPLocation(host, port) for host, port in url.hosts],
        sentinel_kwargs={
            **always,
            "stream_timeout": connect,
            "username": url.sentinel_username,
            "password": url.sentinel_password,
        },
        decode_responses=True,
        retry_policy=ONCE,
    )
    async with (
        sentinels,
        sentinels.primary_for(url.primary, connection_pool_class=_Primary, **settings) as primary,
    ):
        yield primary


def _tls(url: RedisURL) -> ssl.SSLContext:
    # Coredis would create one that accepts a certificate for any host.
    context = ssl.create_default_context(cafile=url.ca)
    if url.certificate is not None:
        context.load_cert_chain(url.certificate, url.key)
    return context


class _Primary(SentinelConnectionPool):
    """Connects to the server that the Sentinels name."""

    async def _construct_connection(self) -> SentinelManagedConnection:
        try:
            return await super()._construct_connection()
        except BaseException:
            # Coredis 6.9 does not give back the place in the pool that it took for this connection.
            self._available_connections.append_nowait(None)
            raise
