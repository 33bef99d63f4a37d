"""The ``gateway-queue`` command, also as ``python -m gateway_queue``."""

import sys


def main() -> None:
    try:
        # Here, for an installation of the client alone has the command, but not its packages.
        from gateway_queue.cli import main as cli  # noqa: PLC0415
    except ModuleNotFoundError as error:
        sys.exit(f"gateway-queue: {error}; the command needs the package's extra 'server'")
    cli.main()


if __name__ == "__main__":
    main()
