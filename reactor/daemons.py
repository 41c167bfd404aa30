"""What a program needs that runs in the background for years: to get there, a file that says it is there, no more
rights than it needs, enough descriptors, and a log.

The order matters: `daemonize` comes in front of everything that makes a reactor, a thread or a `PidFile`;
`drop_privileges` behind what only root may do, to listen on a port below 1024 for example.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import logging
import logging.handlers
import os
import pwd
import resource
import signal
import socket
import stat
import sys
import threading
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from .addresses import parse_address
from .errors import AlreadyRunningError, LocalError
from .eventloop import _reactors

Path = str | os.PathLike[str]

LONGEST_PID = 32
"""Bytes in a file that can be that of a pid; anything else is somebody's, and left alone."""

SYSLOG = "/var/run/syslog" if sys.platform == "darwin" else "/dev/log"

_locked: weakref.WeakSet[PidFile] = weakref.WeakSet()


class Readiness:
    """How a daemon tells whoever started it that it came up; `daemonize` makes it.

    Until then standard output and standard error are those of whoever started it: what goes wrong is read there.

    Arguments:
        pipe: the descriptor of a pipe to whoever started it.
        output: where standard output and standard error go once it is up, a descriptor.
    """

    def __init__(self, pipe: int, output: int) -> None:
        self._pipe = pipe
        self._output = output

    def ready(self) -> None:
        """It is up: whoever started it ends with exit code 0.

        Raises:
            LocalError: nobody waits for that any more. Somebody has pressed Ctrl-C, say, and wants no daemon.
        """
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        if not self._tell(0):
            raise LocalError("whoever started this daemon does not wait for it any more, so it ends")
        self.leave_terminal()

    def failed(self, code: int = 1) -> None:
        """It did not come up: whoever started it ends with this exit code. Once it is up, this does nothing."""
        self._tell(code)

    def leave_terminal(self) -> None:
        """Send standard output and standard error where those of a daemon go that is up; once more does nothing.

        A child of the daemon calls this by itself, if it was forked before the daemon was ready.
        """
        output, self._output = self._output, -1
        if output >= 0:
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)

    def _tell(self, code: int) -> bool:
        if self._pipe < 0:
            return False
        pipe, self._pipe = self._pipe, -1
        try:
            os.write(pipe, bytes([code & 0xFF]))
        except BrokenPipeError:
            return False
        finally:
            os.close(pipe)
        return True


def daemonize(
    *, directory: Path = "/", umask: int = 0o022, output: Path | None = None, keep: Iterable[int] = ()
) -> Readiness:
    """Go on in the background: in another process, in a session of its own, without a terminal.

    Only that process returns from here. The one that has called waits for its word, and ends with exit code 0 if it is
    `ready`, with the one that it gives if it `failed`, and with 1 if it ends without a word. So a shell, or an init
    script, knows whether the daemon came up.

    Arguments:
        directory: where it works; by default where no file system is kept from being unmounted.
        umask: what the files that it makes are not allowed to be.
        output: a file to which standard output and standard error go once it is ready; None drops them.
        keep: numbers of descriptors that stay open though this program has inherited them. All others that it has
            inherited are closed: somebody may wait for the end of a pipe, while a daemon goes on for years.

    Returns: in the daemon, what tells whoever started it.
    Raises:
        LocalError: there is something that cannot come along: a reactor, another thread, a `PidFile`.
        OSError: the file or the directory cannot be used, or there can be no other process.
    """
    open_standard_streams()
    _refuse_what_stays_behind()
    where = os.devnull if output is None else output
    target = os.open(where, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    reading, writing = os.pipe()
    for stream in (sys.stdout, sys.stderr):  # else what waits in there would be written twice
        stream.flush()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Python loses a Ctrl-C that comes in a fork
    try:
        child = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise
    if child:
        os.close(target)
        os.close(writing)
        os._exit(_wait_for_word(child, reading, mask))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        os.close(reading)
        os.setsid()
        if os.fork():  # what leads no session can never get a terminal
            os._exit(0)
        os.chdir(directory)
        os.umask(umask)
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nothing, 0)
        os.close(nothing)
        _close_inherited({0, 1, 2, *keep})
    except OSError as error:  # which must not be raised: whoever called would go on, in a process that nobody knows
        print(f"error: no daemon: {error}", file=sys.stderr, flush=True)
        Readiness(writing, target).failed()
        os._exit(1)
    return Readiness(writing, target)


def open_standard_streams() -> None:
    """Open /dev/null for those of the three that are closed: a socket would get the number, and be written into."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def _refuse_what_stays_behind() -> None:
    if any(not reactor.is_closed for reactor in _reactors):
        raise LocalError("daemonize() before anything makes a reactor: it would stay behind in the process that ends")
    if threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate() if thread is not threading.current_thread())
        raise LocalError(f"daemonize() before any thread is started: these would stay behind: {names}")
    if _locked:
        raise LocalError("daemonize() before the pid file is locked: it would belong to the process that ends")


def _close_inherited(kept: set[int]) -> None:
    """Close the descriptors that this program was given; those that Python makes are for no other program."""
    for number in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):  # the one of the listing is closed already
            if number not in kept and os.get_inheritable(number):
                os.close(number)


def _wait_for_word(child: int, pipe: int, mask: Iterable[int]) -> int:
    """Return the exit code that the daemon gives; in the process that has called, which has no other child."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.waitpid(child, 0)
        word = os.read(pipe, 1)
    except KeyboardInterrupt:
        return 130
    if word:
        return word[0]
    print("error: the daemon ended before it was ready", file=sys.stderr, flush=True)
    return 1


class PidFile:
    """A file with the number of this process, locked for as long as it runs: a second one finds that out.

    The lock is the system's (flock) and ends with the process, however that ends. So a file that was left behind is
    taken over. ``with PidFile("/run/server.pid"):`` locks it, and removes it in the end.

    Arguments:
        path: of the file; its directory has to be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = os.path.abspath(path)
        self._descriptor = -1

    def __enter__(self) -> Self:
        self.lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def lock(self) -> None:
        """Lock the file, and write the number of this process into it.

        Raises:
            AlreadyRunningError: another process has locked it.
            LocalError: there is something else in it than the number of a process, or it is no file.
            OSError: it cannot be made or written.
        """
        while True:
            descriptor, content = self._open(os.O_RDWR | os.O_CREAT)
            try:
                if not _try_lock(descriptor):
                    pid = _as_pid(content)
                    raise AlreadyRunningError(
                        f"{self.path} says that it already runs" + f" with pid {pid}" * (pid > 0), pid
                    )
                if _is_at(descriptor, self.path):  # and not removed meanwhile, by the one before
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
                    break
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        self._descriptor = descriptor
        _locked.add(self)

    def release(self) -> None:
        """Remove the file and unlock it, if this process has locked it; once more does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        _locked.discard(self)
        os.ftruncate(descriptor, 0)
        with contextlib.suppress(OSError):  # privileges were dropped: the directory may not be ours any more
            if _is_at(descriptor, self.path):
                os.unlink(self.path)
        os.close(descriptor)

    def owner(self) -> int | None:
        """Return the number of the process that has locked the file, 0 if it is not known; None where there is none.

        Raises:
            LocalError: there is something else in it than the number of a process, or it is no file.
            OSError: it cannot be read.
        """
        try:
            descriptor, content = self._open(os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return None if _try_lock(descriptor) else _as_pid(content)
        finally:
            os.close(descriptor)

    def _open(self, flags: int) -> tuple[int, bytes]:
        """Open the file, if it can be that of a pid; return its descriptor and what is in it."""
        try:
            descriptor = os.open(self.path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise LocalError(f"{self.path} is a symbolic link, which could lead anywhere; name the file") from None
            raise
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise LocalError(f"{self.path} is no file that could have the number of a process in it")
            content = os.pread(descriptor, LONGEST_PID + 1, 0)
            if not _is_pid(content):
                raise LocalError(f"{self.path} has something else in it than the number of a process; left alone")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, content

    def _forget(self) -> None:
        """This is the child of a fork: the lock is the parent's alone, and ends with it."""
        os.close(self._descriptor)
        self._descriptor = -1


def _forget_locks() -> None:
    for file in list(_locked):
        file._forget()
    _locked.clear()


os.register_at_fork(after_in_child=_forget_locks)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: str) -> bool:
    """Whether the file `descriptor` is the one that `path` names now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _is_pid(content: bytes) -> bool:
    return len(content) <= LONGEST_PID and (not content.strip() or content.strip().isdigit())


def _as_pid(content: bytes) -> int:
    return int(content) if content.strip().isdigit() else 0


def find_user(user: str | int | None, group: str | int | None = None) -> tuple[int, int, list[int]]:
    """Return the numbers of a user, of the group, and of all groups of that user.

    Arguments:
        user: its name or number; None for the one that this process is.
        group: its name or number; None for that of the user.

    Raises:
        LocalError: there is no such user or group.
    """
    uid, name, gid = os.geteuid(), None, os.getegid()
    if user is not None:
        try:
            entry = pwd.getpwnam(user) if isinstance(user, str) and not user.isdigit() else pwd.getpwuid(int(user))
        except KeyError:
            raise LocalError(f"there is no user {user!r} on this system") from None
        uid, name, gid = entry.pw_uid, entry.pw_name, entry.pw_gid
    if group is not None:
        try:
            named = isinstance(group, str) and not group.isdigit()
            gid = (grp.getgrnam(str(group)) if named else grp.getgrgid(int(group))).gr_gid
        except KeyError:
            raise LocalError(f"there is no group {group!r} on this system") from None
    return uid, gid, [gid] if name is None else sorted({gid, *os.getgrouplist(name, gid)})


def drop_privileges(user: str | int | None, group: str | int | None = None) -> None:
    """Become `user` for good, with the groups of that user and no others.

    Arguments:
        user: its name or number; None to stay the one that this is.
        group: its name or number; None for that of the user.

    Raises:
        LocalError: there is no such user or group, or only root could do that, or there would be a way back.
    """
    uid, gid, groups = find_user(user, group)
    if os.geteuid() != 0:
        if (uid, gid) != (os.geteuid(), os.getegid()):
            raise LocalError(f"only root can become the user {uid} with the group {gid}; this is user {os.geteuid()}")
        return
    os.setgroups(groups)
    os.setgid(gid)
    os.setuid(uid)
    if uid == 0:
        return
    with contextlib.suppress(PermissionError):
        os.setuid(0)
        raise LocalError(f"privileges are not dropped: the user {uid} can become root again")
    if {os.getuid(), os.geteuid()} != {uid} or {os.getgid(), os.getegid()} != {gid} or sorted(os.getgroups()) != groups:
        raise LocalError(f"privileges are not dropped: this is user {os.getuid()} with the groups {os.getgroups()}")


def raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as it may allow itself; return how many it has then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS says it is infinite, and does not mean it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class SyslogHandler(logging.handlers.SysLogHandler):
    """Sends what is logged to syslog, and never waits for it.

    What syslog does not take is lost; how much that was is said with the next line that it takes.

    Arguments:
        address: the path of its socket, ``unix:///path`` or ``udp://host:port``; None for the one of this system.
        name: what its lines begin with.

    Raises:
        AddressError: the address is none.
        LocalError: nobody listens there.
    """

    socket: Any
    append_nul = False  # today's daemons would show it

    def __init__(self, address: str | None = None, name: str = "reactor") -> None:
        endpoint = parse_address(address or SYSLOG, scheme="udp")
        where = endpoint.location
        if not endpoint.is_unix:
            where = self._resolve(str(endpoint), *where[:2])
        self.lost = 0
        try:
            super().__init__(where, facility=self.LOG_DAEMON)
            if endpoint.is_unix:  # it has tried that, and would not say if nobody is there
                self.socket.close()
                self._connect_unixsocket(where)
        except OSError as error:
            self.close()
            raise LocalError(f"no syslog listens on {endpoint}: {error.strerror or error}") from None
        self.setFormatter(logging.Formatter(f"{name}[%(process)d]: %(message)s"))
        self.socket.setblocking(False)

    @staticmethod
    def _resolve(endpoint: str, host: str, port: int) -> tuple[str, int]:
        """Once and now: the handler would resolve the name for each line, and hold the loop."""
        try:
            found = socket.getaddrinfo(host or "localhost", port, socket.AF_INET, socket.SOCK_DGRAM)
        except OSError as error:
            raise LocalError(f"no syslog at {endpoint}: {error.strerror or error}") from None
        address: tuple[str, int] = found[0][4][:2]  # type: ignore[assignment]
        return address

    def _connect_unixsocket(self, address: str) -> None:
        super()._connect_unixsocket(address)  # type: ignore[misc]
        self.socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        before = self.lost
        super().emit(record)
        if before and self.lost == before:
            self.lost = 0
            note = f"{before} lines in front of this one were lost: syslog did not take them"
            super().emit(logging.makeLogRecord({"levelno": logging.WARNING, "levelname": "WARNING", "msg": note}))

    def handleError(self, record: logging.LogRecord) -> None:
        self.lost += 1
