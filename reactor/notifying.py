"""Telling systemd how the program is: ready, reloading, stopping, alive (sd_notify(3)).

Where there is no systemd, nothing happens.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Mapping

from .errors import LocalError

log = logging.getLogger("reactor")

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


def compose(**fields: object) -> bytes:
    """Return the message that tells `fields`: ``compose(ready=1)`` is ``READY=1``.

    Raises:
        LocalError: a value has more than one line.
    """
    lines = [f"{name.upper()}={value}" for name, value in fields.items()]
    if any("\n" in line for line in lines):
        raise LocalError(f"what systemd is told stands on one line each; this does not: {fields!r}")
    return "\n".join(lines).encode()


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Return how many seconds systemd waits for a sign of life of the process `pid`; None where it does not.

    Raises:
        LocalError: WATCHDOG_USEC is no number above 0.
    """
    text = environ.get("WATCHDOG_USEC")
    if text is None or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    if not text.isdecimal() or int(text) == 0:
        raise LocalError(f"WATCHDOG_USEC is {text!r}; systemd gives microseconds, a whole number above 0")
    return int(text) / 1e6


class Notifier:
    """Tells systemd, if it wants to be told, what becomes of this program.

    Arguments:
        environ: where NOTIFY_SOCKET and WATCHDOG_USEC stand.

    Raises:
        LocalError: one of them makes no sense.

    Attributes:
        watchdog: within how many seconds `alive` has to be called again and again; None where nobody waits for it.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        if name and name[0] not in "/@":
            raise LocalError(f"NOTIFY_SOCKET is {name!r}; only a path, or @ and an abstract name, can be used here")
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self.watchdog = watchdog_interval(environ, os.getpid()) if name else None

    def ready(self, status: str) -> None:
        """The program is ready, for the first time or again after `reloading`.

        Arguments:
            status: in words, on one line, for whoever asks ``systemctl status``.
        """
        # Of several versions of the program, the one that says this is the one that counts.
        self.tell(ready=1, mainpid=os.getpid(), status=status)

    def reloading(self, status: str) -> None:
        """The program is about to renew itself; `ready` follows in any case."""
        self.tell(reloading=1, monotonic_usec=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000, status=status)

    def stopping(self, status: str, seconds: float) -> None:
        """The program is about to end, and may take so many `seconds` for it."""
        self.tell(stopping=1, extend_timeout_usec=round(seconds * 1e6), status=status)

    def alive(self) -> None:
        """The program is still there and does its work."""
        self.tell(watchdog=1)

    def tell(self, **fields: object) -> None:
        """Send one message; see `compose`. What goes wrong is logged: no program fails for want of a listener."""
        if not self._address:
            return
        try:
            with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
                sock.settimeout(1.0)
                sock.sendto(compose(**fields), self._address)
        except OSError as error:
            log.warning("systemd could not be told %s: %s", ", ".join(fields), error.strerror or error)
