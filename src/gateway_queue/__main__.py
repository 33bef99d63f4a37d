"""The ``gateway-queue`` command, also as ``python -m gateway_queue``."""

import os
import signal
import sys

from gateway_queue.cli import COMMANDS


def main() -> None:
    _heed_sigterm()
    try:
        # Here, for it takes a while; and an installation of the client alone has the command,
        # but not its packages.
        from gateway_queue.cli import main as cli  # noqa: PLC0415
    except ModuleNotFoundError as error:
        sys.exit(
            "gateway-queue: only the client is installed here; for the command:"
            f" pip install 'gateway-queue[server]' ({error})"
        )
    cli.main()


def _heed_sigterm() -> None:
    """End at once until somebody else takes the signal, such as the server once it runs.

    The first process of a container gets no signal for which it has no handler. A server that
    serves nobody yet ends well; whoever waits for a command is not to take its end for success.
    """
    serves = COMMANDS.keys().isdisjoint(sys.argv[1:])
    code = 0 if serves else 128 + signal.SIGTERM
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # not if it is to be ignored
        signal.signal(signal.SIGTERM, lambda *_: os._exit(code))


if __name__ == "__main__":
    main()
