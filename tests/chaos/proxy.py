"""A TCP proxy in a process of its own: `python -m tests.chaos.proxy ADDRESS PORT TO_PORT`, told by lines on stdin.

pass     bytes go through (at first)
silent   connections stay open and new ones are taken, but not a byte goes through
forget   the connections of now are silent for ever, new ones pass
refuse   the connections of now are cut, new ones are closed at once; until the next `pass`
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress


class Proxy:
    def __init__(self, address: str, to_port: int) -> None:
        self._address = address
        self._to_port = to_port
        self._passing = asyncio.Event()
        self._passing.set()
        self._refuses = False
        self._open: set[asyncio.StreamWriter] = set()

    def tell(self, command: str) -> None:
        self._refuses = command == "refuse"
        if command == "silent":
            self._passing.clear()
        elif command == "pass":
            self._passing.set()
        elif command == "refuse":
            for writer in self._open:
                writer.transport.abort()
        elif command == "forget":
            self._passing.clear()
            self._passing = asyncio.Event()
            self._passing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        passing = self._passing
        await passing.wait()
        try:
            to_reader, to_writer = await asyncio.open_connection(self._address, self._to_port)
        except OSError:
            writer.close()
            return
        both = {writer, to_writer}
        self._open |= both
        await asyncio.gather(_pump(reader, to_writer, passing), _pump(to_reader, writer, passing))
        self._open -= both


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            await passing.wait()
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(address: str, port: int, to_port: int) -> None:
    proxy = Proxy(address, to_port)
    await asyncio.start_server(proxy.serve, address, port)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():  # ends with the harness
        proxy.tell(line.decode().strip())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
