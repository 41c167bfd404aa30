"""Who is compared: for each kind of service the programs in `servers` that offer it."""

from __future__ import annotations

from typing import NamedTuple


class Contestant(NamedTuple):
    """A server program in one of its modes.

    Attributes:
        name: in the table.
        module: of the package `servers`.
        mode: its argument.
        distribution: what has to be installed for it; None for the standard library.
    """

    name: str
    module: str
    mode: str
    distribution: str | None = None


RAW = (
    Contestant("ours", "ours", "raw"),
    Contestant("bare epoll loop", "bare_epoll", "raw"),
    Contestant("uvloop", "uvloop_protocol", "raw", "uvloop"),
    Contestant("asyncio", "asyncio_protocol", "raw"),
)
"""The first one is what all others are compared with, here and below."""

TLS = (
    Contestant("ours", "ours", "tls"),
    Contestant("bare loop of ssl sockets", "bare_ssl", "tls"),
    Contestant("uvloop", "uvloop_protocol", "tls", "uvloop"),
    Contestant("asyncio", "asyncio_protocol", "tls"),
)

FRAMES = (
    Contestant("ours", "ours", "frames"),
    Contestant("bare epoll loop", "bare_epoll", "frames"),
    Contestant("uvloop", "uvloop_protocol", "frames", "uvloop"),
    Contestant("asyncio", "asyncio_protocol", "frames"),
)

PIPELINED_FRAMES = (
    *FRAMES,
    Contestant("uvloop, writes joined", "uvloop_protocol", "frames-joined", "uvloop"),
    Contestant("asyncio, writes joined", "asyncio_protocol", "frames-joined"),
)

MESSAGES = (
    Contestant("ours", "ours", "messages"),
    Contestant("multiprocessing, threads", "threads", "messages"),
)
