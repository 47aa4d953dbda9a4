"""A TCP proxy that is as far away as it is told: every byte takes half the round trip.

    python -m benchmarks.delay --to 127.0.0.1:8001 --round-trip-s 0.08

Prints the port it listens on, as JSON. Order is kept and bandwidth is not limited: what is left of
a network is its distance.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from types import TracebackType


class Delay:
    """The proxy as a process of its own; a context manager that ends it."""

    def __init__(self, to: str, round_trip_s: float) -> None:
        program = [sys.executable, "-m", "benchmarks.delay"]
        arguments = [f"--to={to}", f"--round-trip-s={round_trip_s}"]
        self._popen = subprocess.Popen([*program, *arguments], stdout=subprocess.PIPE, text=True)
        assert self._popen.stdout
        self.address = f"127.0.0.1:{json.loads(self._popen.stdout.readline())['port']}"

    def __enter__(self) -> Delay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._popen.terminate()
        self._popen.communicate()


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float
) -> None:
    loop = asyncio.get_running_loop()
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            arrives_s, data = await under_way.get()
            await asyncio.sleep(arrives_s - loop.time())
            writer.write(data)
            if not data:
                writer.close()
                return

    delivering = asyncio.create_task(deliver())
    data = b"first"
    while data:
        try:
            data = await reader.read(65536)
        except OSError:
            data = b""
        under_way.put_nowait((loop.time() + delay_s, data))
    await delivering


async def run(to: str, round_trip_s: float) -> None:
    host, _, port = to.rpartition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(
            _carry(reader, far_writer, round_trip_s / 2),
            _carry(far_reader, writer, round_trip_s / 2),
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", required=True, help="HOST:PORT")
    parser.add_argument("--round-trip-s", type=float, default=0.0)
    options = parser.parse_args()
    asyncio.run(run(options.to, options.round_trip_s))


if __name__ == "__main__":
    main()
