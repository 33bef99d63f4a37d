"""A client that asks for one shard a thousand times a second, for some seconds.

On half of its connections it takes each answer, on the others it hangs up without one. It prints
a line of JSON that tells how often it asked.
"""

import argparse
import json
import sys
from itertools import count

import trio

A_SECOND = 1000
CONNECTIONS = 20  # of either kind
PAUSE = 2 * CONNECTIONS / A_SECOND  # between two requests of one connection


class Client:
    def __init__(self, host: str, port: int, shard: int) -> None:
        self.address = host, port
        self.request = f"GET /?shard={shard}&wait=0.001 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self.asked = 0

    async def ask_and_listen(self) -> None:
        async with await trio.open_tcp_stream(*self.address) as stream:
            for number in count(1):
                self.asked += 1
                await stream.send_all(self.request)
                if not await stream.receive_some():
                    return
                await trio.sleep_until(self.began_at + number * PAUSE)

    async def ask_and_leave(self) -> None:
        for number in count(1):
            self.asked += 1
            async with await trio.open_tcp_stream(*self.address) as stream:
                await stream.send_all(self.request)
            await trio.sleep_until(self.began_at + number * PAUSE)

    async def run(self, seconds: float) -> None:
        self.began_at = trio.current_time()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for _ in range(CONNECTIONS):
                    nursery.start_soon(self.ask_and_listen)
                    nursery.start_soon(self.ask_and_leave)
        sys.stdout.write(json.dumps({"event": "asked", "times": self.asked}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queue", required=True, help="its address, http://127.0.0.1:8000")
    parser.add_argument("--shard", required=True, type=int)
    parser.add_argument("--seconds", required=True, type=float)
    options = parser.parse_args()

    host, _, port = options.queue.removeprefix("http://").rpartition(":")
    trio.run(Client(host, int(port), options.shard).run, options.seconds)


if __name__ == "__main__":
    main()
