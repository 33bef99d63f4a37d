"""The ``gateway-queue`` command, also as ``python -m gateway_queue``."""

import sys


def main() -> None:
    try:
        # Here, for an installation of the client alone has the command, but not its packages.
        from gateway_queue.cli import main as cli  # noqa: PLC0415
    except ModuleNotFoundError as error:
        sys.exit(
            "gateway-queue: only the client is installed here; for the command:"
            f" pip install 'gateway-queue[server]' ({error})"
        )
    cli.main()


if __name__ == "__main__":
    main()
