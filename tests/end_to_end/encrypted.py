"""Clients that speak TLS, as those of ``raw`` do not."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import raw
import trio
import trustme
from harness import Program
from instants import StampedStream, dial
from raw import Client, HTTP2Client

Stream = trio.SSLStream[StampedStream]


@dataclass(frozen=True)
class Identity:
    """A certificate for this machine, and who issued it."""

    issuer: trustme.CA
    certfile: Path
    keyfile: Path
    cafile: Path

    @classmethod
    def new(cls, folder: Path) -> Self:
        """One whose files are in this folder."""
        issuer = trustme.CA()
        issued = issuer.issue_cert("127.0.0.1", "localhost")
        identity = cls(issuer, folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
        for certificate in issued.cert_chain_pems:
            certificate.write_to_path(identity.certfile, append=True)
        issued.private_key_pem.write_to_path(identity.keyfile)
        issuer.cert_pem.write_to_path(identity.cafile)
        return identity

    @property
    def settings(self) -> dict[str, object]:
        return {"GATEWAY_QUEUE_CERTFILE": self.certfile, "GATEWAY_QUEUE_KEYFILE": self.keyfile}

    def trust(self, *alpn: str) -> ssl.SSLContext:
        """A client's view of it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.issuer.configure_trust(context)
        context.set_alpn_protocols(alpn)
        return context


async def encrypt(transport: StampedStream, context: ssl.SSLContext) -> Stream:
    stream = trio.SSLStream(transport, context, server_hostname="127.0.0.1", https_compatible=True)
    await stream.do_handshake()
    return stream


@asynccontextmanager
async def tls(server: Program, context: ssl.SSLContext) -> AsyncIterator[Stream]:
    async with await dial(server.url) as transport:
        yield await encrypt(transport, context)


@asynccontextmanager
async def connect(server: Program, identity: Identity) -> AsyncIterator[Client]:
    async with tls(server, identity.trust("http/1.1")) as stream:
        yield Client(stream.transport_stream, stream)


@asynccontextmanager
async def connect_http2(
    server: Program, identity: Identity, *, window: int | None = None
) -> AsyncIterator[HTTP2Client]:
    async with tls(server, identity.trust("h2")) as stream:
        assert stream.selected_alpn_protocol() == "h2"
        client = HTTP2Client(stream.transport_stream, stream, window=window)
        client.protocol.initiate_connection()
        await client.flush()
        yield client


def connected(server: Program, identity: Identity) -> AbstractAsyncContextManager[Client]:
    """A client that speaks TLS if the server does."""
    return connect(server, identity) if _speaks_tls(server) else raw.connect(server)


def connected_http2(
    server: Program, identity: Identity
) -> AbstractAsyncContextManager[HTTP2Client]:
    """The same, with HTTP/2."""
    return connect_http2(server, identity) if _speaks_tls(server) else raw.connect_http2(server)


def _speaks_tls(server: Program) -> bool:
    return server.url.startswith("https:")
