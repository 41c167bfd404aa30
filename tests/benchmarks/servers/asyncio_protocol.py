"""asyncio, with a Protocol; its fastest face."""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import cast

from . import BACKLOG, server_context

HEADER = struct.Struct("!i")


class Raw(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Frames(asyncio.Protocol):
    """Cuts what comes in into messages, as everybody writes it who has a protocol with lengths in it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        position, end = 0, len(data)
        while position + 4 <= end:
            (size,) = HEADER.unpack_from(data, position)
            stop = position + 4 + size
            if stop > end:
                break
            self.message_received(data[position + 4 : stop])
            position = stop
        self.rest = data[position:]

    def message_received(self, message: bytes) -> None:
        self.transport.write(HEADER.pack(len(message)) + message)


class JoinedFrames(Frames):
    """The same by somebody who has measured: what one piece of input leads to leaves in one write."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.answers: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.answers:
            self.transport.write(b"".join(self.answers))
            self.answers.clear()

    def message_received(self, message: bytes) -> None:
        self.answers.append(HEADER.pack(len(message)) + message)


MODES = {"raw": Raw, "tls": Raw, "frames": Frames, "frames-joined": JoinedFrames}


async def serve(mode: str, *certificate: str) -> None:
    loop = asyncio.get_running_loop()
    context = server_context(*certificate) if mode == "tls" else None
    server = await loop.create_server(MODES[mode], "127.0.0.1", 0, backlog=BACKLOG, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
