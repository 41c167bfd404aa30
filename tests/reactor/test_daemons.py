"""Daemons: how they come up, their pid files, the privileges that they drop, and what they say to syslog."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pwd
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor import AddressError, AlreadyRunningError, LocalError
from reactor.daemons import (
    PidFile,
    SyslogHandler,
    daemonize,
    find_user,
    raise_descriptor_limit,
)
from tests.conftest import ROOT

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

HEAD = """
import json, logging, os, signal, sys, time
import reactor
from reactor.daemons import *

def wait():
    signal.sigwait([signal.SIGTERM])

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
"""


def run(source: str, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to the end of the process that was started; a daemon of it may live on."""
    # Not a pipe for the output: a daemon that came up must have given it back, or this would wait for it.
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", HEAD + source, *map(str, arguments)],
        capture_output=True, text=True, timeout=20, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip


def ended(pid: int) -> None:
    """Wait until a process that is no child of this one has ended."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], 10)[0], f"process {pid} goes on"
        finally:
            os.close(descriptor)


def test_streams_that_are_closed_are_no_trouble(tmp_path: Path) -> None:
    # Else the file for the output would get the number 0, and be replaced by an empty input.
    for which in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        log = tmp_path / f"log {which}".replace("/", "")
        shell = f'exec "$@" {which}'
        source = "d = daemonize(output=sys.argv[1])\nd.ready()\nprint('it serves', flush=True)"
        subprocess.run(
            ["bash", "-c", shell, "", sys.executable, "-c", HEAD + source, log],
            check=True, timeout=20, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while log.read_text() != "it serves\n":
            assert time.monotonic() < deadline, which
            time.sleep(0.01)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    """What a daemon has written about itself into the file ``told``; it is ended in the end."""
    path = tmp_path / "told"

    def read() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    yield read
    if path.exists():
        pid = read()["pid"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        ended(pid)


TELL = """
def tell(path):
    with open(path, "w") as file:
        json.dump({"pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "group": os.getpgrp(),
                   "directory": os.getcwd(), "umask": os.umask(0),
                   "streams": [os.readlink(f"/proc/self/fd/{n}") for n in range(3)],
                   "descriptors": len(os.listdir("/proc/self/fd"))}, file)
"""

# Daemons


def test_daemon_is_alone_in_its_session_without_a_terminal_and_whoever_started_it_is_told(
    tmp_path: Path, told: Callable[[], dict[str, Any]]
) -> None:
    done = run(
        TELL + "d = daemonize(umask=0o027)\nd.ready()\ntell(sys.argv[1])\nos.rename(sys.argv[1], sys.argv[2])\nwait()",
        tmp_path / "draft", tmp_path / "told",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    deadline = time.monotonic() + 10
    while not (tmp_path / "told").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    daemon = told()
    assert daemon["session"] == daemon["group"] != daemon["pid"]  # so no terminal can become its own
    assert daemon["session"] != os.getsid(0)
    assert (daemon["directory"], daemon["umask"]) == ("/", 0o027)
    assert daemon["streams"] == ["/dev/null"] * 3
    assert daemon["descriptors"] == 5  # with the file that it writes, and the listing


def test_whoever_started_the_daemon_waits_until_it_is_ready(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + f"d = daemonize(keep=[{reading}])\nos.read({reading}, 1)\nd.ready()"],
        pass_fds=[reading], env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        os.close(reading)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        os.write(writing, b"!")
        os.close(writing)
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("source", "code", "error"),
    [
        ("d = daemonize()\nprint('error: no', file=sys.stderr)\nd.failed(3)", 3, "error: no\n"),
        ("d = daemonize()\nd.failed()\nd.failed(7)", 1, ""),
        ("d = daemonize()\nos._exit(0)", 1, "error: the daemon ended before it was ready\n"),
        ("d = daemonize()\nos.kill(os.getpid(), 9)", 1, "error: the daemon ended before it was ready\n"),
        ("d = daemonize(directory='/no/such/place')", 1, "error: no daemon: [Errno 2] No such file or directory"),
    ],
)
def test_daemon_that_does_not_come_up_makes_the_exit_code_of_whoever_started_it(
    source: str, code: int, error: str
) -> None:
    done = run(source)
    assert done.returncode == code
    assert done.stderr.startswith(error)
    assert bool(done.stderr) == bool(error)


def test_exception_in_a_daemon_that_is_not_ready_is_read_where_it_was_started() -> None:
    done = run("daemonize()\nraise ValueError('no such thing')")
    assert done.returncode == 1
    assert "ValueError: no such thing" in done.stderr


def test_output_of_a_daemon_goes_to_a_file_once_it_is_ready(tmp_path: Path) -> None:
    done = run(
        "d = daemonize(output=sys.argv[1])\nprint('to the terminal')\nd.ready()\nprint('to the file', flush=True)\n"
        "print('and this', file=sys.stderr)\nos.system('echo a child')",
        "log", cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "to the terminal\n", "")
    deadline = time.monotonic() + 10
    while "a child" not in (tmp_path / "log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (tmp_path / "log").read_text() == "to the file\nand this\na child\n"


def test_daemon_keeps_nothing_open_that_it_has_inherited_but_what_it_is_told_to_keep() -> None:
    (kept, write_kept), (unkept, write_unkept) = os.pipe(), os.pipe()
    done = run(
        f"d = daemonize(keep=[{write_kept}])\nd.ready()\nos.write({write_kept}, b'%d' % os.getpid())\nwait()",
        pass_fds=[write_kept, write_unkept],
    )
    os.close(write_kept)
    os.close(write_unkept)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.read(unkept, 1) == b""  # the end, though the daemon goes on
    pid = int(os.read(kept, 100))
    os.kill(pid, signal.SIGTERM)
    ended(pid)
    assert os.read(kept, 1) == b""
    os.close(kept)
    os.close(unkept)


def test_what_was_printed_before_is_printed_once() -> None:
    done = run("print('once')\nd = daemonize()\nd.ready()")
    assert done.stdout == "once\n"


def test_output_that_cannot_be_written_is_an_error_of_the_call(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        daemonize(output=tmp_path / "no" / "log")


@pytest.mark.parametrize("is_forking", [False, True], ids=["waiting", "forking"])
def test_daemon_ends_where_nobody_waits_for_it_any_more(tmp_path: Path, is_forking: bool) -> None:
    reading, writing = os.pipe()
    interrupt = "me = os.getpid()\nos.register_at_fork(after_in_parent=lambda: me == os.getpid() and os.kill(me, 2))\n"
    source = (
        interrupt
        * is_forking
        + f"d = daemonize(keep=[{reading}])\nprint(os.getpid(), flush=True)\nos.read({reading}, 1)\n"
        "try:\n    d.ready()\nexcept reactor.LocalError as error:\n    print(error, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", HEAD + source], pass_fds=[reading], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        os.close(reading)
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        if not is_forking:
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        os.close(writing)
        assert process.stdout.read() == "whoever started this daemon does not wait for it any more, so it ends\n"
    ended(pid)


def test_what_would_stay_behind_is_refused(tmp_path: Path) -> None:
    with reactor.Reactor(), pytest.raises(LocalError, match="before anything makes a reactor"):
        daemonize()
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="somebody")
    thread.start()
    try:
        done = run(
            "import threading\ne = threading.Event()\nthreading.Thread(target=e.wait, name='somebody').start()\n"
            "try:\n    daemonize()\nexcept reactor.LocalError as error:\n    print(error)\ne.set()"
        )
        assert "these would stay behind: somebody" in done.stdout
    finally:
        release.set()
        thread.join()
    done = run(
        "file = PidFile(sys.argv[1])\nfile.lock()\n"
        "try:\n    daemonize()\nexcept reactor.LocalError as error:\n    print(error)\nfile.release()",
        tmp_path / "pid",
    )
    assert "before the pid file is locked" in done.stdout


# Pid files


def test_pid_file_has_the_number_of_the_process_and_is_removed_in_the_end(tmp_path: Path) -> None:
    file = PidFile(tmp_path / "pid")
    with file:
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"
        assert file.owner() == os.getpid()
    assert list(tmp_path.iterdir()) == []
    assert file.owner() is None
    file.release()


def test_second_one_is_told_who_runs_already(tmp_path: Path) -> None:
    with PidFile(tmp_path / "pid"):
        with pytest.raises(AlreadyRunningError, match=rf"already runs with pid {os.getpid()}$") as caught:
            PidFile(tmp_path / "pid").lock()
        assert caught.value.pid == os.getpid()
        done = run("PidFile(sys.argv[1]).lock()", tmp_path / "pid")
        assert f"already runs with pid {os.getpid()}" in done.stderr
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("content", ["", "1\n", "999999999\n", "  7  \n"])
def test_file_that_was_left_behind_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "pid").write_text(content)
    with PidFile(tmp_path / "pid"):
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"


def test_process_that_was_killed_leaves_a_file_that_locks_nobody_out(tmp_path: Path) -> None:
    source = "file = PidFile(sys.argv[1])\nfile.lock()\nos.kill(os.getpid(), signal.SIGKILL)"
    assert run(source, tmp_path / "pid").returncode == -signal.SIGKILL
    assert (tmp_path / "pid").exists()
    with PidFile(tmp_path / "pid"):
        pass


@pytest.mark.parametrize("releases", [False, True])
def test_children_of_the_process_hold_no_lock_and_remove_nothing(tmp_path: Path, releases: bool) -> None:
    (told, tell), (waiting, end) = os.pipe(), os.pipe()
    with PidFile(tmp_path / "pid") as file:
        child = os.fork()
        if not child:
            os.close(end)
            if releases:
                file.release()
            os.write(tell, b".")
            os.read(waiting, 1)
            os._exit(0)
        assert os.read(told, 1) == b"."
        assert (tmp_path / "pid").read_text() == f"{os.getpid()}\n"
        assert file.owner() == os.getpid()
        file.release()
        with PidFile(tmp_path / "pid"):  # though the child lives on, which has inherited all descriptors
            pass
    for descriptor in (told, tell, waiting, end):
        os.close(descriptor)
    assert os.waitpid(child, 0)[1] == 0


def test_file_of_somebody_else_is_not_removed(tmp_path: Path) -> None:
    file = PidFile(tmp_path / "pid")
    file.lock()
    (tmp_path / "pid").unlink()
    with PidFile(tmp_path / "pid"):
        file.release()
        assert (tmp_path / "pid").exists()


@pytest.mark.parametrize("content", ["import os\n", "12 13\n", "1" * 33, "\0"])
def test_file_with_something_else_in_it_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "module.py").write_text(content)
    with pytest.raises(LocalError, match="something else in it than the number of a process"):
        PidFile(tmp_path / "module.py").lock()
    assert (tmp_path / "module.py").read_text() == content


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LocalError, match="is no file"):
        PidFile(tmp_path / "pipe").lock()
    with pytest.raises(IsADirectoryError):
        PidFile(tmp_path).lock()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalError, match="link is a symbolic link"):
        PidFile(tmp_path / "link").lock()
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "prose").write_text("a will")
    for name in (".", "pipe", "link", "prose"):
        with pytest.raises(LocalError):
            PidFile(tmp_path / name).owner()


def test_of_many_that_start_at_once_one_gets_the_lock(tmp_path: Path) -> None:
    source = (
        "sys.stdin.readline()\nfile = PidFile(sys.argv[1])\n"
        "try:\n    file.lock()\nexcept reactor.AlreadyRunningError:\n    print('no', flush=True)\n"
        "else:\n    print('yes', flush=True)\n    sys.stdin.readline()\n    file.release()"
    )
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            processes = [
                stack.enter_context(
                    subprocess.Popen(
                        [sys.executable, "-c", HEAD + source, tmp_path / "pid"], text=True, stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
                    )
                )
                for _ in range(4)
            ]  # fmt: skip
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            answers = [process.stdout.readline() for process in processes if process.stdout is not None]
            assert sorted(answers) == ["no\n"] * 3 + ["yes\n"]
            for process in processes:
                process.communicate("\n", timeout=10)
        assert not (tmp_path / "pid").exists()


def test_locking_again_while_the_one_before_removes_its_file_loses_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = PidFile(tmp_path / "pid")
    first.lock()
    real = os.open

    def slow_open(path: Any, flags: int, mode: int = 0o777) -> int:
        descriptor = real(path, flags, mode)
        first.release()  # between the open and the lock: what was opened is no file any more
        return descriptor

    monkeypatch.setattr("reactor.daemons.os.open", slow_open)
    second = PidFile(tmp_path / "pid")
    second.lock()
    monkeypatch.undo()
    with pytest.raises(AlreadyRunningError):
        PidFile(tmp_path / "pid").lock()
    second.release()


# Privileges


def test_users_and_groups_are_found_by_name_and_by_number() -> None:
    root = pwd.getpwuid(0)
    assert find_user("root")[:2] == find_user(0)[:2] == find_user("0")[:2] == (0, root.pw_gid)
    assert find_user(None, 0)[:2] == (os.geteuid(), 0)
    assert root.pw_gid in find_user("root")[2]
    for user, group in (("no-such-user", None), (2**31 - 7, None)):
        with pytest.raises(LocalError, match=f"there is no user {user!r}"):
            find_user(user, group)
    with pytest.raises(LocalError, match="there is no group 'no-such-group'"):
        find_user("root", "no-such-group")


@as_root
def test_privileges_are_dropped_for_good_with_all_groups(tmp_path: Path) -> None:
    done = run(
        "os.setgroups([0, 4, 27])\ndrop_privileges('nobody')\n"
        "print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups()]))\n"
        "for step in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]),\n"
        "             lambda: os.seteuid(0), lambda: open('/etc/shadow')):\n"
        "    try:\n        step()\n    except PermissionError:\n        print('refused')"
    )
    nobody = pwd.getpwnam("nobody")
    numbers, *refused = done.stdout.splitlines()
    assert json.loads(numbers) == [
        [nobody.pw_uid] * 3, [nobody.pw_gid] * 3, sorted(os.getgrouplist("nobody", nobody.pw_gid)),
    ]  # fmt: skip
    assert refused == ["refused"] * 5
    assert done.stderr == ""


@as_root
def test_group_may_be_another_one_than_that_of_the_user() -> None:
    done = run("drop_privileges('nobody', 'daemon')\nprint(os.getresgid()[0], os.getgroups())")
    gid = find_user(None, "daemon")[1]
    assert done.stdout.startswith(f"{gid} [")
    assert str(gid) in done.stdout.partition("[")[2]


@as_root
def test_who_is_not_root_can_stay_who_it_is_and_become_nobody_else() -> None:
    done = run(
        "drop_privileges('nobody')\ndrop_privileges('nobody')\ndrop_privileges(None)\n"
        "try:\n    drop_privileges('root')\nexcept reactor.LocalError as error:\n    print(error)"
    )
    assert "only root can become the user 0" in done.stdout
    assert done.stderr == ""


@as_root
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_pid_file_that_cannot_be_removed_any_more_is_emptied(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "run"
    directory.mkdir(mode)
    tmp_path.chmod(0o755)
    done = run("with PidFile(sys.argv[1]):\n    drop_privileges('nobody')", directory / "pid")
    assert done.stderr == ""
    assert (directory / "pid").read_text() == ""
    with PidFile(directory / "pid"):
        pass


def test_descriptor_limit_is_raised_as_far_as_it_may_be() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
    try:
        assert raise_descriptor_limit() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
        assert raise_descriptor_limit() == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# Syslog


@pytest.fixture
def syslog(socket_path: str) -> Iterator[socket.socket]:
    """A syslog of the test's own."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(socket_path)
        listening.settimeout(10)
        yield listening
    os.unlink(socket_path)


@contextlib.contextmanager
def logger_to(handler: SyslogHandler) -> Iterator[logging.Logger]:
    log = logging.Logger("apart")
    log.addHandler(handler)
    try:
        yield log
    finally:
        handler.close()


def test_lines_go_to_syslog_with_name_process_and_priority(syslog: socket.socket) -> None:
    with logger_to(SyslogHandler(syslog.getsockname(), "calculator")) as log:
        log.warning("grüße, %s", "Anna")
        log.error("no")
        assert syslog.recv(1000).decode() == f"<28>calculator[{os.getpid()}]: grüße, Anna"
        assert syslog.recv(1000).decode() == f"<27>calculator[{os.getpid()}]: no"


def test_syslog_over_the_network() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(10)
        with logger_to(SyslogHandler(f"udp://localhost:{listening.getsockname()[1]}", "far")) as log:
            assert log.handlers[0].address[0] == "127.0.0.1"  # type: ignore[attr-defined]
            log.info("hello")
            assert listening.recv(1000).decode() == f"<30>far[{os.getpid()}]: hello"


def test_syslog_that_takes_nothing_delays_nobody_and_the_loss_is_told(syslog: socket.socket) -> None:
    with logger_to(SyslogHandler(syslog.getsockname())) as log:
        sent = 0
        while not log.handlers[0].lost:  # type: ignore[attr-defined]
            log.warning("line %d", sent)
            sent += 1
            assert sent < 100_000
        log.warning("one more")
        taken = []
        syslog.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                taken.append(syslog.recv(1000))
        assert len(taken) == sent - 1
        log.warning("again")
        assert syslog.recv(1000).endswith(b": again")
        assert syslog.recv(1000).endswith(b"2 lines in front of this one were lost: syslog did not take them")
        log.warning("and again")
        assert syslog.recv(1000).endswith(b": and again")


def test_syslog_that_starts_anew_is_found_again(syslog: socket.socket, socket_path: str) -> None:
    with logger_to(SyslogHandler(socket_path)) as log:
        os.unlink(socket_path)
        syslog.close()
        log.warning("nobody there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
            again.bind(socket_path)
            again.settimeout(10)
            log.warning("there")
            assert again.recv(1000).endswith(b": there")
            assert b"1 lines in front" in again.recv(1000)


@pytest.mark.parametrize(
    ("address", "kind", "reason"),
    [
        ("/no/such/syslog", LocalError, "no syslog listens on unix:/no/such/syslog: No such file"),
        ("tcp://localhost:514", AddressError, "udp:// and unix://"),
        ("udp://no-such-host.invalid:514", LocalError, "no syslog at no-such-host.invalid:514"),
    ],
)
def test_syslog_that_is_not_there_is_told_at_once(address: str, kind: type[Exception], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        SyslogHandler(address)
