"""``python -m reactor serve``: in the foreground, in workers, as a daemon; and what it says."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest

from reactor.commands import main
from tests import certificates
from tests.conftest import ROOT, raw_client
from tests.reactor.commands.running import (
    PROGRAM,
    Server,
    Terminal,
    argv,
    command,
    environment,
    gone,
    place,
    serving,
    until,
)

__all__ = ["place"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def listens(path: Path) -> bool:
    """Return whether somebody listens on the Unix socket at `path`: the file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def ask(address: Any, line: str) -> str:
    """Send one line and return the first that comes back; "" if none does."""
    with raw_client(address) as client, client.makefile("rwb") as stream:
        stream.write(line.encode() + b"\n")
        stream.flush()
        return stream.readline().decode().rstrip()


# In the foreground


def test_handler_serves_until_it_is_told_to_end(place: Path) -> None:
    with serving("program:Lines") as server:
        assert ask(server.address, "hello") == "HELLO"
        assert server.end() == 0
        assert server.errors == ""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_connections_come_to_their_end_and_the_second_signal_cuts_them_off(place: Path, signum: int) -> None:
    with serving("program:Echo", "--grace", "60") as server, raw_client(server.address) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # So much comes back that the socket takes it only when we read it.
        client.sendall(bytes(1 << 17))
        client.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while True:
                client.sendall(bytes(1 << 16))
        server.process.send_signal(signum)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.3)
        assert server.end(signum) == 0
        assert "cut off at shutdown" in server.errors


def test_messages_are_served_to_whoever_has_the_key(place: Path) -> None:
    with serving("program:Adder", "--authkey-file", "key") as server:
        with Client(server.address, authkey=(place / "key").read_bytes()) as client:
            client.send([1, 2, 3])
            assert client.recv() == 6
        assert server.end() == 0


def test_several_addresses_are_served_and_the_file_of_a_unix_socket_is_removed(place: Path) -> None:
    with serving("program:make_lines", "--listen", "unix://s", listen="tcp://127.0.0.1:0") as server:
        # The order on the command line is that of the addresses.
        assert server.url == f"unix://{place}/s"
        assert server.process.stdout is not None
        port = int(server.process.stdout.readline().rpartition(":")[2])
        assert ask(str(place / "s"), "hello") == ask(("127.0.0.1", port), "hello") == "HELLO"
        assert server.end() == 0
    assert not (place / "s").exists()


def test_settings_come_from_a_file_and_the_command_line_wins(place: Path) -> None:
    (place / "sub").mkdir()
    (place / "sub" / "server.toml").write_text(
        "handler = 'program:Nothing'\nlisten = 'unix://s'\n[limits]\nmaximum_line = 10\n"
    )
    server = Server("program:Lines", "--config", "sub/server.toml", listen="unix://sub/t")
    try:
        assert server.url == f"unix://{place}/sub/t"
        assert ask(server.address, "0123456789") == "0123456789"
        assert ask(server.address, "0123456789x") == ""
        assert "maximum_line" in server.errors
        assert server.end() == 0
    finally:
        server.close()


def test_encrypted_server_reads_its_certificate_anew_at_sighup(place: Path) -> None:
    certificate, key = certificates.certificate_and_key()
    shutil.copy(certificate, place / "cert.pem")
    shutil.copy(key, place / "key.pem")
    context = ssl.create_default_context(cafile=certificates.authorities())

    def seen() -> Any:
        with raw_client(server.address) as raw, context.wrap_socket(raw, server_hostname="localhost") as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"HELLO\r\n"
            return client.getpeercert(binary_form=True)

    options = ["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--log-level", "info"]
    with serving("program:Lines", *options) as server:
        before = seen()
        shutil.copy(certificates.certificate(), place / "cert.pem")
        shutil.copy(certificates.certificate(), place / "key.pem")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "the certificate was read anew" in server.errors)
        assert seen() != before
        (place / "cert.pem").write_text("nothing")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "the certificate stays as it was" in server.errors)
        assert seen() != before
        assert server.end() == 0


def test_real_peer_is_known_behind_a_proxy(place: Path) -> None:
    with serving("program:Lines", "--proxies", "127.0.0.1") as server:
        with raw_client(server.address) as client, client.makefile("rwb") as stream:
            stream.write(b"PROXY TCP4 192.0.2.1 127.0.0.1 56324 443\r\nwho\n")
            stream.flush()
            assert stream.readline().split()[2] == b"192.0.2.1:56324"
        assert server.end() == 0


def test_exception_in_a_handler_is_logged_with_its_place(place: Path) -> None:
    with serving("program:Lines") as server:
        assert ask(server.address, "fail") == ""
        until(lambda: "ValueError: as asked for" in server.errors)
        assert "program.py" in server.errors
        assert f"ERROR [{server.process.pid}] Lines with 127.0.0.1:" in server.errors
        assert server.end() == 0


def test_log_goes_to_a_file_that_may_be_renamed(place: Path) -> None:
    with serving("program:Lines", "--log-file", "log") as server:
        ask(server.address, "fail")
        until(lambda: "as asked for" in (place / "log").read_text())
        (place / "log").rename(place / "log.1")
        ask(server.address, "fail")
        until(lambda: (place / "log").exists() and "as asked for" in (place / "log").read_text())
        assert server.end() == 0
        assert server.errors == ""


def test_log_goes_on_in_the_old_file_where_no_new_one_can_be_made(place: Path) -> None:
    with serving("program:Lines", "--log-file", "log") as server:
        ask(server.address, "fail")
        until(lambda: "as asked for" in (place / "log").read_text())
        (place / "log").rename(place / "log.1")
        (place / "log").mkdir()
        before = (place / "log.1").stat().st_size
        for _ in range(2):
            ask(server.address, "fail")
        until(lambda: (place / "log.1").stat().st_size == 3 * before)
        (place / "log").rmdir()
        ask(server.address, "fail")
        until(lambda: (place / "log").exists() and "as asked for" in (place / "log").read_text())
        assert server.end() == 0
        assert server.errors == ""


@pytest.mark.parametrize("which", ["<&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_no_trouble(place: Path, which: str) -> None:
    with subprocess.Popen(
        ["bash", "-c", f'exec "$@" {which}', "", *argv("serve", "program:Lines", "--listen", "unix://s")],
        env=environment(), stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            until(lambda: listens(place / "s"))
            assert ask(str(place / "s"), "hello") == "HELLO"
        finally:
            process.terminate()
    assert process.returncode == 0


def test_log_goes_to_syslog(place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind("syslog")
        syslog.settimeout(10)
        with serving("program:Lines", "--syslog-address", f"unix://{place}/syslog") as server:
            ask(server.address, "fail")
            assert syslog.recv(5000).startswith(f"<27>program[{server.process.pid}]: Lines with ".encode())
            assert server.end() == 0
            assert server.errors == ""


def test_socket_that_was_inherited_is_served(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"fd://{listening.fileno()}"
        with serving("program:Lines", listen=url, pass_fds=[listening.fileno()]) as server:
            assert ask(listening.getsockname(), "hello") == "HELLO"
            assert server.end() == 0


def test_socket_of_systemd_is_served_and_systemd_is_told(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind("notify")
        told.settimeout(10)
        # It has to have the number 3, and the variable the number of the process, as systemd sees to it.
        shell = 'exec 3<&"$0"; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        with subprocess.Popen(
            ["bash", "-c", shell, str(listening.fileno()), *argv("serve", "program:Lines")],
            pass_fds=[listening.fileno()], env=environment(NOTIFY_SOCKET=f"{place}/notify"), stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert b"READY=1" in told.recv(1000)
            assert ask(listening.getsockname(), "hello") == "HELLO"
            process.terminate()
            assert b"STOPPING=1" in told.recv(1000)
            assert process.wait(20) == 0


def test_sockets_of_systemd_that_are_for_another_process_are_none(place: Path) -> None:
    for workers in ([], ["--workers", "2"]):
        code, _, errors = command("serve", "program:Lines", *workers, LISTEN_FDS="1", LISTEN_PID="1")
        assert (code, errors) == (
            2, "error: --listen: systemd passes no socket to this process; say where to listen\n",
        )  # fmt: skip


def test_level_of_a_line_is_coloured_at_a_terminal_alone(place: Path) -> None:
    with Terminal("serve", "program:Lines", "--listen", "unix://s") as terminal:
        terminal.wait_for("listening on")
        ask(str(place / "s"), "fail")
        terminal.wait_for("as asked for")
        assert "\x1b[31mERROR\x1b[0m" in terminal.raw
        assert terminal.end("\x03") == 0
    with Terminal("serve", "program:Nothing", "--listen", "unix://s", NO_COLOR="1") as terminal:
        assert terminal.end() == 2
        assert "error: handler program:Nothing" in terminal.raw
        assert "\x1b[" not in terminal.raw


def test_terminal_that_is_closed_ends_the_server(place: Path) -> None:
    with Terminal("serve", "program:Lines", "--listen", "unix://s") as terminal:
        terminal.wait_for("listening on")
        terminal.process.send_signal(signal.SIGHUP)
        assert terminal.process.wait(10) == 0
    assert not (place / "s").exists()


# Mistakes


@pytest.fixture
def here(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: for what ends at once, that is faster."""
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr("reactor.daemons.SYSLOG", "/no/log")
    monkeypatch.setattr("reactor.commands.serve.raise_descriptor_limit", lambda: 0)
    for name in ("program", "broken", "unparsable"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code  # type: ignore[assignment]
        return (code, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["program:Lines"], 2, "--listen: say where to listen, such as --listen tcp://localhost:6000"),
        (["--listen", "unix://s"], 2, "MODULE:NAME: say what serves"),
        (["nothing:Lines"], 2, "handler nothing:Lines: there is no module nothing; it was looked for in "),
        (["program.py:Lines"], 2, "handler program.py:Lines: a module is named without its .py: program"),
        (["program:Lones"], 2, "handler program:Lones: program has no Lones; is 'Lines' meant?"),
        (["program:X"], 2, "program has no X; it has Echo, Adder, Json, Bytes, Lines, Datagrams"),
        (["program:number"], 2, "handler program:number: number makes no channels for connections: it is 7"),
        (["program:Datagrams"], 2, "Datagrams makes no channels for connections"),
        (["socketserver:StreamRequestHandler"], 2, "is a handler of socketserver; reactor.servers runs it"),
        (["broken:X"], 2, "handler broken:X: broken cannot be imported: ZeroDivisionError: division by zero (/"),
        (["unparsable:X"], 2, "unparsable cannot be imported: SyntaxError: invalid syntax (unparsable.py, line 1)"),
        (["program:Adder"], 2, "handler program:Adder: it takes pickles, which can run code, and nothing says who"),
        (["program:Echo", "--authkey-file", "key"], 2, "Echo is no Connection: it has no use for --authkey-file"),
        (["program:Adder", "--authkey-file", "no"], 2, "--authkey-file: there is no /"),
        (["program:Adder", "--authkey-file", "open"], 2, "; say: chmod 600 /"),
        (["program:Adder", "--authkey-file", "short"], 2, "has 5 bytes; at least 16 are needed"),
        (["program:Echo", "--tls-cert", "program.py"], 2, "--tls-cert: no certificate with its key in '/"),
        (["program:Echo", "--user", "no-such-user"], 2, "--user: there is no user 'no-such-user' on this system"),
        (["program:Echo", "--group", "no-such-group"], 2, "--group: there is no group 'no-such-group'"),
        (["program:Echo", "--pid-file", "program.py"], 2, "--pid-file: /"),
        (["program:Echo", "--pid-file", "no/pid"], 1, "/no/pid: No such file or directory"),
        (["program:Echo", "--log-file", "no/log"], 1, "/no/log: No such file or directory"),
        (["program:Echo", "--syslog-address", "unix:///no/syslog"], 2, "no syslog listens on unix:/no/syslog"),
        (["program:Echo", "--syslog"], 2, "--syslog: no syslog listens on unix:/no/log"),
        (["program:Echo", "--listen", "tcp://192.0.2.1:6000"], 1, "tcp://192.0.2.1:6000: this machine has no such"),
        (["program:Echo", "--listen", "unix://no/s"], 1, "/no/s: No such file or directory"),
        (["program:Echo", "--listen", "unix://program.py"], 1, "is a file, and no socket; it is left alone"),
        (["program:Echo", "--wrokers", "2"], 2, "unrecognized arguments: --wrokers 2 (see python -m reactor --help)"),
    ],
)
def test_mistake_is_one_line_that_names_the_setting_and_the_way_out(
    place: Path, here: Callable[..., tuple[int, str, str]], arguments: list[str], code: int, complaint: str
) -> None:
    (place / "broken.py").write_text("1 / 0\n")
    (place / "unparsable.py").write_text("x = ,\n")
    (place / "open").write_bytes(bytes(32))
    (place / "open").chmod(0o644)
    (place / "short").write_bytes(b"short")
    (place / "short").chmod(0o600)
    listen = ["--listen", "unix://s"] if arguments != ["program:Lines"] and "--listen" not in arguments else []
    if "program:Adder" in arguments:
        listen = ["--listen", "tcp://127.0.0.1:0"]
    found, output, errors = here("serve", *arguments, *listen)
    assert (found, output) == (code, "")
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert not (place / "s").exists()
    assert (place / "program.py").read_text() == PROGRAM


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["program:Lones"], 2, "handler program:Lones: program has no Lones; is 'Lines' meant?"),
        (["program:Adder"], 2, "handler program:Adder: it takes pickles"),
        (["program:Lines", "--tls-cert", "program.py"], 2, "--tls-cert: no certificate with its key in '/"),
    ],
)
def test_mistake_is_told_once_however_many_workers_there_are_to_be(
    place: Path, arguments: list[str], code: int, complaint: str
) -> None:
    found, _, errors = command("serve", *arguments, "--listen", "tcp://127.0.0.1:0", "--workers", "2")
    assert found == code
    (line,) = errors.splitlines()
    assert complaint in line


def test_address_that_is_taken_is_said_to_be(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        for workers in ([], ["--workers", "2"]):
            code, _, errors = command("serve", "program:Echo", "--listen", url, *workers)
            assert code == 1
            assert errors == f"error: --listen: {url}: somebody listens on {url[6:]} already\n"


def test_all_mistakes_are_told_at_once(place: Path) -> None:
    code, _, errors = command("serve", "program", "--listen", "nowhere", "--workers", "x", "--config", "none.toml")
    assert code == 2
    assert [line.split(":")[1].strip() for line in errors.splitlines()] == [
        "--config", "handler program", "--listen", "--workers",
    ]  # fmt: skip


# In workers


def test_workers_share_the_address_and_are_replaced_at_sighup_with_the_program_as_it_is_then(place: Path) -> None:
    with serving("program:Lines", "--workers", "2", "--log-level", "info") as server:
        pids = set()
        until(lambda: pids.add(ask(server.address, "who").split()[0]) or len(pids) == 2)  # type: ignore[func-returns-value]
        assert str(server.process.pid) not in pids
        text = (place / "program.py").read_text()
        (place / "program.py").write_text(text.replace("line.upper()", "'new ' + line"))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "the reload is done" in server.errors)
        assert ask(server.address, "hello") == "new hello"
        (place / "program.py").write_text("1 / 0")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "ZeroDivisionError" in server.errors)
        assert ask(server.address, "hello") == "new hello"
        assert "Traceback" not in server.errors
        assert server.end() == 0


def test_next_version_takes_over_and_the_old_one_ends_with_its_connections(place: Path) -> None:
    options = ["program:Lines", "--workers", "1", "--handover", "next"]
    with (
        serving(*options, listen="unix://s") as old,
        raw_client(str(place / "s")) as client,
        client.makefile("rwb") as stream,
    ):
        stream.write(b"hello\n")
        stream.flush()
        assert stream.readline() == b"HELLO\r\n"
        text = (place / "program.py").read_text()
        (place / "program.py").write_text(text.replace("line.upper()", "'new ' + line"))
        with serving(*options, listen="unix://s") as new:
            until(lambda: ask(new.address, "hello") == "new hello")  # the old one has still to hear of it
            stream.write(b"bye\n")
            stream.flush()
            assert stream.readline() == b"bye\r\n"
            assert old.process.wait(20) == 0
            assert ask(new.address, "hello") == "new hello"
            assert new.end() == 0
            assert (old.errors, new.errors) == ("", "")
    assert not (place / "s").exists()
    assert not (place / "next").exists()


# As a daemon


@contextlib.contextmanager
def daemon(*arguments: Any) -> Iterator[int]:
    """Run a server as a daemon, give its number, and end it."""
    pid = 0
    try:
        said = command("serve", *arguments, "--daemon", "--pid-file", "pid", "--log-file", "log")
        pid = int(Path("pid").read_text())
        assert said == (0, "", "")
        yield pid
    finally:
        if pid:
            os.kill(pid, signal.SIGTERM)
            gone(pid)
    assert not Path("pid").exists()


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["alone", "with workers"])
def test_daemon_serves_once_its_caller_has_ended_and_a_second_one_is_told(place: Path, workers: list[str]) -> None:
    with daemon("program:Lines", "--listen", "unix://s", *workers) as pid:
        assert (ask(str(place / "s"), "who").split()[0] == str(pid)) == (not workers)
        for more in (["--daemon", "--log-file", "log"], []):
            code, _, errors = command(
                "serve", "program:Lines", "--listen", "unix://t", "--pid-file", "pid", *more, *workers
            )
            assert code == 3
            assert errors == f"error: --pid-file: {place}/pid says that it already runs with pid {pid}\n"
        for process in [pid, *children_of(pid)]:
            opened = [os.readlink(f"/proc/{process}/fd/{number}") for number in range(3)]
            assert opened == ["/dev/null", f"{place}/log", f"{place}/log"]
            assert os.readlink(f"/proc/{process}/cwd") == "/"
    assert not (place / "s").exists()
    assert (place / "log").read_text() == ""


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["alone", "with workers"])
def test_daemon_that_cannot_serve_says_so_where_it_was_started(place: Path, workers: list[str]) -> None:
    code, _, errors = command(
        "serve",
        "program:Nothing",
        "--listen",
        "unix://s",
        "--daemon",
        "--log-file",
        "log",
        "--pid-file",
        "pid",
        *workers,
    )
    assert code == 2
    assert errors == (
        "error: handler program:Nothing: program has no Nothing; it has Echo, Adder, Json, Bytes, Lines, Datagrams\n"
    )
    assert not (place / "p").exists()
    assert not (place / "s").exists()


def test_daemon_without_a_log_is_warned_of(place: Path) -> None:
    code, _, errors = command("serve", "program:Lines", "--listen", "unix://s", "--daemon", "--pid-file", "pid")
    pid = int((place / "pid").read_text())
    os.kill(pid, signal.SIGTERM)
    gone(pid)
    assert code == 0
    assert errors == "warning: --daemon: what it logs goes nowhere; --syslog or --log-file keeps it\n"


def test_daemon_keeps_no_pipe_of_whoever_started_it_and_the_socket_that_it_inherits(place: Path) -> None:
    reading, writing = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"fd://{listening.fileno()}"
        subprocess.run(
            argv("serve", "program:Lines", "--listen", url, "--daemon", "--pid-file", "pid", "--log-file", "log"),
            pass_fds=[listening.fileno(), writing], env=environment(), check=True, timeout=20,
        )  # fmt: skip
        os.close(writing)
        assert os.read(reading, 1) == b""  # the end of the stream: nobody else has the pipe
        os.close(reading)
        pid = int((place / "pid").read_text())
        assert ask(listening.getsockname(), "hello") == "HELLO"
        os.kill(pid, signal.SIGTERM)
        gone(pid)


# As somebody else


NOBODY = pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def readable_python() -> str | None:
    """Return a Python that everybody may run, and that can run this package."""
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        source = "import os, tomllib; os.setuid(65534); os.stat(os.__file__); import multiprocessing.reduction"
        with contextlib.suppress(OSError):
            if not subprocess.run([candidate, "-c", source], check=False, capture_output=True).returncode:
                return candidate
    return None


@as_root
@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["here", "in workers"])
def test_privileges_are_dropped_once_the_addresses_are_bound(
    place: Path, monkeypatch: pytest.MonkeyPatch, workers: list[str]
) -> None:
    python = readable_python()
    if python is None or not os.access(ROOT, os.R_OK):
        pytest.skip("no Python that everybody may run")
    assert NOBODY is not None
    # Where nobody may look there would be no program, and no socket.
    home = Path("/var/tmp") / f"reactor-{os.getpid()}"
    home.mkdir(mode=0o755)
    try:
        shutil.copy("program.py", home)
        (home / "program.py").chmod(0o644)
        shutil.copytree(ROOT / "reactor", home / "reactor", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy("key", home)
        (home / "key").chmod(0o600)  # which root alone may read
        monkeypatch.setattr("tests.reactor.commands.running.ROOT", home)
        monkeypatch.setattr(sys, "executable", python)
        monkeypatch.chdir(home)
        options = ["--user", "nobody", "--log-file", "log", "--pid-file", "pid", *workers]
        with serving("program:Lines", *options, listen="unix://s") as server:
            _, user, _ = ask(str(home / "s"), "who").split()
            assert int(user) == NOBODY.pw_uid
            assert (home / "s").stat().st_uid == (home / "log").stat().st_uid == NOBODY.pw_uid
            assert server.end() == 0
            assert server.errors == ""
        assert not (home / "pid").exists() or (home / "pid").read_text() == ""
        with serving("program:Adder", *options, "--authkey-file", "key") as server:
            with Client(server.address, authkey=bytes(range(32))) as client:
                client.send([1, 2])
                assert client.recv() == 3
            assert server.end() == 0
    finally:
        shutil.rmtree(home)


# The command as a whole


def test_command_without_a_word_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: say what to do: serve, connect, check or states (see python -m reactor --help)\n"
    )


@pytest.mark.parametrize("arguments", [[], ["serve"], ["connect"], ["check"], ["states"]])
def test_help_tells_the_exit_codes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    for code in ("0 ", "1 ", "2 ", "3 ", "130 "):
        assert f"\n  {code}" in output
    assert max(map(len, output.splitlines())) < 125
