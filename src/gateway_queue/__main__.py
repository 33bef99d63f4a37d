"""The ``gateway-queue`` command, also as ``python -m gateway_queue``."""

import os
import signal
import sys

from gateway_queue.cli import COMMANDS


def main() -> None:
    _heed_sigterm()
    try:
        # Imported here because it takes a while, and because an installation of the client
        # alone has this command but lacks its dependencies.
        from gateway_queue.cli import main as cli  # noqa: PLC0415
    except ModuleNotFoundError as error:
        sys.exit(
            "gateway-queue: only the client is installed here; to get the command, run"
            f" pip install 'gateway-queue[server]' ({error})"
        )
    cli.main()


def _heed_sigterm() -> None:
    """Exit at once on SIGTERM, until something else, such as the server, handles it.

    The first process of a container only gets signals that it handles. A server that does not
    serve anybody yet exits with success; other commands must not, because scripts would think
    that they had succeeded.
    """
    serves = COMMANDS.keys().isdisjoint(sys.argv[1:])
    code = 0 if serves else 128 + signal.SIGTERM
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # not if it is ignored
        signal.signal(signal.SIGTERM, lambda *_: os._exit(code))


if __name__ == "__main__":
    main()
