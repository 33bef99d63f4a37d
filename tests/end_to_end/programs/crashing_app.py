"""The app for the hypercorn command, with a bucket that crashes at its first grant."""

from unittest.mock import patch

from gateway_queue.asgi import app
from gateway_queue.queue.rules.line import Line

__all__ = ["app"]

patch.object(Line, "grant", side_effect=RuntimeError("sabotage")).start()
