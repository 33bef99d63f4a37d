"""The app for the hypercorn command, with changes of ``tampered_server`` that TAMPERING names."""

import os

import tampered_server

from gateway_queue.asgi import app

__all__ = ["app"]

tampered_server.change(os.environ["TAMPERING"])
