"""Processes that this one has started: how each ends is asked once, so that none stays behind as a zombie."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

from .descriptors import Descriptor

log = logging.getLogger("reactor")

UNKNOWN = 255
"""Stands for an exit code that is lost: it must not look like success."""


class Process(Descriptor):
    """A process, as a descriptor that is readable when it has ended: Linux's pidfd.

    Where the system has no such descriptor, a thread waits for the process; for one that was `forked`, nobody does.

    Arguments:
        argv: the program and its arguments.
        notify: called on that thread when the process has ended.
        options: those of `subprocess.Popen`.

    Raises:
        OSError: the program cannot be run.

    Attributes:
        pid: its number.
        returncode: its exit code, or the number of the signal that killed it, negative; None until that is known.
    """

    def __init__(self, argv: Sequence[Any], notify: Callable[[], object], options: dict[str, Any]) -> None:
        super().__init__(-1)
        popen = subprocess.Popen(argv, **options)
        popen.returncode = 0  # its part is done: who waits for the process, and warns if nobody does, is not it
        self._open(popen.pid)
        self._notify = notify
        if self._number < 0:
            try:
                self.wait_on_thread()
            except BaseException:
                self.send_signal(signal.SIGKILL)
                self._ask(0)
                raise

    @classmethod
    def forked(cls, pid: int) -> Self:
        """Return the process `pid`, which `os.fork` has made.

        Who forks wants no threads: where the system has no descriptor for it, ``fileno()`` is -1, and one must `look`.
        """
        self = cls.__new__(cls)
        self._open(pid)
        return self

    def _open(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._thread: threading.Thread | None = None
        try:
            self._number = os.pidfd_open(pid)
        except (AttributeError, OSError):  # not Linux, or an old one; or no descriptor is left
            self._number = -1

    def send_signal(self, signum: int) -> None:
        """Send it a signal; nothing happens if it has ended, although another process may have got its number."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                if self._number >= 0:
                    signal.pidfd_send_signal(self._number, signum)
                else:
                    os.kill(self.pid, signum)

    def look(self) -> bool:
        """Return whether it has ended; then the exit code is known. Not while a thread waits for it."""
        if self.returncode is None:
            self._ask(os.WNOHANG)
        return self.returncode is not None

    def wait(self, timeout: float) -> bool:
        """Block until it has ended, `timeout` seconds at most; return whether it has."""
        if self._thread is not None:
            self._thread.join(timeout)
            return self.returncode is not None
        poll = select.poll()
        poll.register(self._number, select.POLLIN)
        poll.poll(timeout * 1000)
        return self.look()

    def wait_on_thread(self) -> None:
        """Have a thread wait for its end from now on, if none does.

        Raises:
            RuntimeError: the system gives no thread.
        """
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=f"reactor-process-{self.pid}", daemon=True)
            thread.start()
            self._thread = thread

    def _work(self) -> None:
        self._ask(0)
        self._notify()

    def _ask(self, options: int) -> None:
        """Take the exit code if the process has ended; that ends the zombie."""
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:
            log.error(
                "process %d has ended, and how is lost: SIGCHLD is ignored, or somebody else has waited for it; "
                "its exit code is taken for %d",
                self.pid,
                UNKNOWN,
            )
            self.returncode = UNKNOWN
        else:
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
