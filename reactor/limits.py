"""Every bound and every timeout, with its default: the one place where they stand."""

from __future__ import annotations

import dataclasses
import math

from .errors import LocalError

KIB = 1024
MIB = 1024 * KIB

# What one channel may take of one turn of the loop, so that it starves nobody.
RECEIVE_SIZE = 64 * KIB
"""Bytes in one receive. Into 128 KiB and more it is three times as slow: the allocator goes to the kernel."""
FLUSH_SIZE = MIB
"""Bytes sent, in several calls if need be."""
FRAMES_PER_TURN = 256
"""Frames delivered; the others wait for the next turn."""
ACCEPTS_PER_TURN = 64
"""Connections accepted."""
DATAGRAMS_PER_TURN = 64
"""Datagrams received, and as many sent."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a channel or a listener grants its peers. Sizes are bytes, times are seconds.

    Give a changed copy to a listener or a connect: ``Limits(maximum_frame=1 << 32)``.
    ``None`` switches a timeout off; sizes and counts have no such switch.

    Raises:
        LocalError: a value is negative, not a number, or contradicts another one.
    """

    maximum_frame: int = 64 * MIB
    """The largest frame accepted from a peer. Memory grows with the bytes that came, not before."""

    maximum_line: int = 64 * KIB
    """The most bytes in front of a terminator: of a line, where lines are read."""

    maximum_proxy_header: int = 4 * KIB
    """The largest header with which a proxy says who is behind it."""

    maximum_datagram: int = 64 * KIB
    """The largest datagram accepted. None of UDP is larger; Unix datagrams can be. From 128 KiB on, each receive
    costs ten times as much."""

    high_water: int = 256 * KIB
    """Above so many bytes waiting for a peer that connected to us, reading from it pauses by itself."""

    low_water: int = 64 * KIB
    """Below so many bytes waiting, reading goes on and producers are pulled again."""

    maximum_output: int = 128 * MIB
    """With more than this waiting for a peer, the channel closes: the peer does not read."""

    connect_timeout: float | None = 30.0
    """For resolving the name and connecting, all addresses together."""

    authentication_timeout: float | None = 10.0
    """For the whole handshake with the key, from its first challenge to the last welcome."""

    tls_timeout: float | None = 10.0
    """For the handshake of TLS, which comes in front of the other one."""

    proxy_timeout: float | None = 10.0
    """For the header with which a proxy says who is behind it; it comes in front of all else."""

    idle_timeout: float | None = 86400.0
    """For an open channel on which nothing comes in and nothing goes out. A day, so that a worker
    that waits for its next job is left alone; peers that died are found by TCP keepalive long before."""

    stall_timeout: float | None = 60.0
    """For a peer that takes no byte while something waits for it."""

    drain_timeout: float | None = 30.0
    """For a closing channel whose peer takes no byte of what is queued."""

    linger_timeout: float | None = 2.0
    """For a closing channel that has sent everything to see the peer's end of stream."""

    maximum_connections: int = 50_000
    """On one listener. When it is reached the listener stops accepting, and the kernel's backlog fills."""

    maximum_connections_per_peer: int = 50_000
    """On one listener from one host; one more is closed at once, with a log line."""

    maximum_unauthenticated: int = 1_000
    """On one listener, still in a handshake, with the key or of TLS, or not introduced by its proxy yet. One more, and
    the one that waited longest goes."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_timeout"):
                if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
                    raise LocalError(f"Limits.{field.name} is {value!r}; give seconds above 0, or None for no limit")
            elif not isinstance(value, int) or value < 1:
                raise LocalError(f"Limits.{field.name} is {value!r}; give a whole number of at least 1")
        if not self.low_water <= self.high_water <= self.maximum_output:
            raise LocalError(
                f"Limits need low_water <= high_water <= maximum_output; they are "
                f"{self.low_water}, {self.high_water} and {self.maximum_output}"
            )


DEFAULT_LIMITS = Limits()
