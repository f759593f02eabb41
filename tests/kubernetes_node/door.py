"""A door into a machine: a port of the host's loopback whose connections go on inside.

A socket stays in the network that it was made in. So the listening one is made outside and handed to a process inside,
which makes the others: neither network learns of the other, and no interface, route or rule joins them.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.kubernetes_node.namespaces import Machine

BUFFER_BYTES = 1 << 16


@contextmanager
def door(machine: Machine, address: str, port: int = 0, outside: int = 0) -> Iterator[int]:
    """Open a door to an address inside; the block has the port outside, any free one unless it is named.

    Without a port inside it is the same as outside. The one outside is shared (SO_REUSEPORT) with those who merely hold
    it, as a control plane does with a port that it will listen at inside.
    """
    with socket.create_server(("127.0.0.1", outside), reuse_port=True) as listener:
        inside = port or listener.getsockname()[1]
        command = [*machine.network, sys.executable, __file__, str(listener.fileno()), address, str(inside)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[listener.fileno()], start_new_session=True
        ) as keeper:
            try:
                yield listener.getsockname()[1]
            finally:
                keeper.kill()


async def main(listener: socket.socket, address: str, port: int) -> None:
    """Pass connections on until standard input closes, which it does with whoever opened the door."""

    async def enter(outside: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        try:
            inside, requests = await asyncio.open_connection(address, port)
        except OSError:  # nobody listens there (yet): the caller finds its connection closed
            answers.close()
            return
        await asyncio.gather(_pass(outside, requests), _pass(inside, answers))

    async with await asyncio.start_server(enter, sock=listener):
        await asyncio.to_thread(sys.stdin.read)


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(BUFFER_BYTES):
            target.write(data)
            await target.drain()
    target.close()


if __name__ == "__main__":
    asyncio.run(main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3])))
