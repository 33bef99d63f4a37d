"""``python -m gateway_queue`` is the ``gateway-queue`` command."""

from gateway_queue.cli import main

main()
