"""What can go wrong at each call, as data: the one place where the faults stand.

A draw is a whole number. 0 is always the benign choice; for any other, the lowest six bits say which fault
of the call it is, and the bits above are its parameter (how short, how late), up to `PARAMETERS`.
"""

from __future__ import annotations

import dataclasses
import errno
import os

KIND_BITS = 6
PARAMETERS = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One thing that can go wrong.

    Attributes:
        name: what a trace shows: ``"short"``, ``"EPIPE"``.
        breaks: whether a program that does all right can lose a connection, a datagram or a call by it.
        number: the errno that the call fails with; 0 for a fault that is no error.
        tried: its parameters that torture tries: those with which it makes a difference.
    """

    name: str
    breaks: bool = False
    number: int = 0
    tried: tuple[int, ...] = (0,)


class Call:
    """A call, or a decision of the network, that can go wrong: it makes one draw.

    Arguments:
        name: what a trace shows.
        faults: what can go wrong; their order is what the numbers of a tape mean.
    """

    index = 0
    """The place of this call in `CALLS`."""

    def __init__(self, name: str, *faults: Fault) -> None:
        self.name = name
        self.faults: tuple[Fault | None, ...] = (None, *faults)
        self.labels = tuple(f"{name} {fault.name}" if fault else "" for fault in self.faults)
        self.size = len(self.faults)
        self.index = len(CALLS)
        CALLS.append(self)

    def __repr__(self) -> str:
        return f"<Call {self.name}>"

    def decode(self, value: int) -> tuple[Fault | None, int]:
        """Return the fault that the draw `value` means, None for no fault, and its parameter."""
        kind = value & ((1 << KIND_BITS) - 1)
        return self.faults[kind] if kind < self.size else None, value >> KIND_BITS


CALLS: list[Call] = []


def _errors(names: str, breaks: bool = True, tried: tuple[int, ...] = (0,)) -> list[Fault]:
    return [Fault(name, breaks, getattr(errno, name), tried) for name in names.split() if hasattr(errno, name)]


MOST = (PARAMETERS - 1,)


SHORT = Fault("short")
AGAIN = Fault("EAGAIN", number=errno.EAGAIN)
INTERRUPTED = Fault("EINTR", number=errno.EINTR)
SLOW = Fault("slow call", tried=MOST)
LATE = Fault("late", tried=MOST)
VERY_LATE = Fault("very late", breaks=True, tried=MOST)

# Each list is what the manual page of the call names, and what Linux, macOS or a firewall was seen to give besides.
RECEIVE = Call(
    "recv", SHORT, AGAIN, INTERRUPTED, SLOW,
    *_errors("ECONNRESET ETIMEDOUT EHOSTUNREACH ENETDOWN ENOTCONN ENOBUFS ENOMEM EIO"),
)  # fmt: skip
SEND = Call(
    "send", SHORT, AGAIN, INTERRUPTED, SLOW,
    *_errors("EPIPE ECONNRESET ETIMEDOUT EHOSTUNREACH ENETDOWN ENETUNREACH ENOTCONN EPERM ENOBUFS ENOMEM"),
)  # fmt: skip
SENDFILE = Call(
    "sendfile", SHORT, AGAIN, INTERRUPTED, SLOW, *_errors("EINVAL ENOSYS", breaks=False),
    *_errors("EPIPE ECONNRESET EIO ENOMEM"),
)  # fmt: skip
ACCEPT = Call(
    "accept", AGAIN, INTERRUPTED, *_errors("EMFILE ENFILE ENOBUFS ENOMEM", breaks=False),
    *_errors("ECONNABORTED ECONNRESET EPERM EPROTO ENOPROTOOPT ENETDOWN ENETUNREACH EHOSTDOWN EHOSTUNREACH ENONET"),
    *_errors("ETIMEDOUT EOPNOTSUPP"), Fault("gone", breaks=True),
)  # fmt: skip
SOCKET = Call("socket", *_errors("EMFILE ENFILE ENOBUFS ENOMEM EACCES EAFNOSUPPORT EPROTONOSUPPORT"))
CONNECT = Call(
    "connect", INTERRUPTED, Fault("at once"), LATE, Fault("hangs", breaks=True),
    *_errors(
        "ECONNREFUSED ENETUNREACH EHOSTUNREACH ETIMEDOUT EADDRNOTAVAIL EACCES EPERM EAGAIN ENOBUFS EADDRINUSE",
        tried=(0, 1),  # after a while, and at once
    ),
)  # fmt: skip
BIND = Call("bind", *_errors("EADDRINUSE EACCES EADDRNOTAVAIL EINVAL ENOBUFS"))
LISTEN = Call("listen", *_errors("EADDRINUSE EOPNOTSUPP"))
SHUTDOWN = Call("shutdown", *_errors("ENOTCONN EINVAL ENOBUFS"))
CLOSE = Call("close", *_errors("EIO ECONNRESET EINTR", breaks=False))
SETSOCKOPT = Call("setsockopt", *_errors("EINVAL ENOPROTOOPT ENOBUFS"))
GETSOCKOPT = Call("getsockopt", *_errors("EINVAL ECONNRESET ENOBUFS"))
GETPEERNAME = Call("getpeername", *_errors("ENOTCONN EINVAL ENOBUFS"))
GETSOCKNAME = Call("getsockname", *_errors("EINVAL ENOBUFS"))
SELECT = Call(
    "select", Fault("shuffled", tried=(1, 512)), Fault("spurious", tried=(0, 1)), Fault("some unseen", tried=(0, 1)),
    INTERRUPTED,
)  # fmt: skip
REGISTER = Call("register", *_errors("ENOSPC ENOMEM"))
MODIFY = Call("modify", *_errors("ENOMEM"))
RESOLVE = Call("resolve", LATE, Fault("IPv6 first"), Fault("IPv6 behind"), Fault("no name", breaks=True), VERY_LATE)
THREAD = Call("thread", LATE)
HANDLER = Call("handler", Fault("slow handler", tried=MOST))
LINK = Call("link", Fault("small buffers"), Fault("tiny buffers"), LATE)
SEGMENT = Call("segment", LATE, VERY_LATE)
RESET = Call("reset", Fault("unread input is lost"))
DATAGRAM = Call("datagram", Fault("lost", breaks=True), Fault("twice", breaks=True), Fault("overtaken", breaks=True))
SCHEDULE = Call("schedule", Fault("other host first"))
WEATHER = Call(
    "weather", Fault("partition", breaks=True, tried=(1021, 1022)), Fault("kill", breaks=True, tried=(512,)),
    Fault("power cut", breaks=True, tried=(512,)),
)  # fmt: skip
# What comes back in place of a datagram, for a socket that is connected (udp(7); icmp_err_convert in Linux).
ICMP = Call("icmp", *_errors("ECONNREFUSED EHOSTUNREACH ENETUNREACH EHOSTDOWN ENOPROTOOPT EPROTO EMSGSIZE"))

ALL = frozenset(label for call in CALLS for label in call.labels if label)
"""All faults: ``"recv short"``, ``"accept EMFILE"``, ``"weather partition"`` and so on."""

HARMLESS = frozenset(
    label for call in CALLS for fault, label in zip(call.faults, call.labels, strict=True) if fault and not fault.breaks
)
"""The faults of which a right program notices nothing but, at most, a second or two."""


def failure(number: int) -> OSError:
    """Return the exception that Python raises for the error `number`."""
    return OSError(number, os.strerror(number))
