"""The programs that people use: Debian's telnet on a terminal of its own, curl, and a real Telnet server."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import socket
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import reactor
from protocols.telnet import Command, Option, Side, Telnet, TelnetClient
from tests.conftest import Accepting, run_until


def version_of(program: str) -> str:
    """Return what a program that may be installed says that it is."""
    if shutil.which(program) is None:
        return ""
    done = subprocess.run(
        [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout.partition("\n")[0]


needs_telnet = pytest.mark.skipif("inetutils" not in version_of("telnet"), reason="no telnet of GNU inetutils is here")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")


class Host(Telnet):
    """Says back what it is told, and does what it is told besides."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.commands: list[Command] = []
        self.known: list[Any] = []

    def handle_open(self) -> None:
        self.request_window_size()
        self.request_terminal_type()
        self.send_line("welcome")

    def handle_line(self, line: str) -> None:
        self.lines.append(line)
        match line:
            case "keys":
                self.request_single_keys()
            case "binary":
                self.request_binary()
            case "secret":
                self.will(Option.ECHO)
            case "bye":
                self.close_when_done()
            case _:
                self.send_line(f"you said {line}")

    def handle_command(self, command: Command) -> None:
        self.commands.append(command)
        super().handle_command(command)

    def handle_window_size(self, width: int, height: int) -> None:
        self.known.append((width, height))

    def handle_terminal_type(self, name: str) -> None:
        self.known.append(name)

    def handle_option(self, side: Side, option: Option, enabled: bool) -> None:
        self.known.append((side, option, enabled))


@pytest.fixture
def host(loop: reactor.Reactor) -> Accepting:
    """A factory of channels that are hosts, with a listener's port in its `port`."""
    accepting: Any = Accepting(Host)
    accepting.port = reactor.Listener(("127.0.0.1", 0), accepting, reactor=loop).address[1]
    return accepting


class Terminal:
    """A program on a terminal of its own.

    Attributes:
        shown: what the program has shown so far.
    """

    def __init__(self, loop: reactor.Reactor, *command: str) -> None:
        self.loop = loop
        self.shown = b""
        self.master, slave = os.openpty()
        self.resize(255, 50)
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=functools.partial(fcntl.ioctl, 0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C", "HOME": "/nonexistent"},
        )  # fmt: skip
        os.close(slave)
        os.set_blocking(self.master, False)

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def command(self, text: bytes) -> None:
        """Type a command for the program itself."""
        self.wait_for_new(b"telnet> ", lambda: self.type(b"\x1d"))
        self.type(text + b"\r")

    def wait_for(self, text: bytes) -> None:
        """Run the loop until `text` has been shown."""
        self.run_until(lambda: text in self.shown)

    def wait_for_new(self, text: bytes, act: Callable[[], object]) -> None:
        """Do something, and run the loop until `text` has been shown since then."""
        self.look()
        before = len(self.shown)
        act()
        self.run_until(lambda: text in self.shown[before:])

    def run_until(self, condition: Callable[[], object]) -> None:
        def holds() -> object:
            self.look()
            return condition()

        run_until(self.loop, holds, timeout=20)

    def look(self) -> None:
        try:
            self.shown += os.read(self.master, 65536)
        except (BlockingIOError, OSError):  # nothing new; or the program has ended, which reads as EIO
            pass

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(loop: reactor.Reactor) -> Iterator[Callable[..., Terminal]]:
    """Starts programs on terminals; whatever still runs at the end is killed."""
    started: list[Terminal] = []

    def start(*command: str) -> Terminal:
        started.append(Terminal(loop, *command))
        return started[-1]

    yield start
    for each in started:
        each.close()


@needs_telnet
def test_telnet_tells_of_its_terminal_and_carries_lines_both_ways(host: Any, terminal: Any) -> None:
    program = terminal("telnet", "127.0.0.1", str(host.port))
    program.wait_for(b"welcome\r\n")
    (channel,) = host.channels
    program.run_until(lambda: (255, 50) in channel.known and "XTERM-256COLOR" in channel.known)
    program.type(b"caf\xc3\xa9 \xff\r")
    program.wait_for(b"you said caf\xc3\xa9 \xef\xbf\xbd\r\n")
    assert channel.lines == ["caf\u00e9 \ufffd"]
    program.resize(100, 24)
    program.run_until(lambda: (100, 24) in channel.known)
    program.type(b"bye\r")
    program.wait_for(b"Connection closed by foreign host")
    assert program.process.wait(20) is not None


@needs_telnet
def test_telnet_sends_commands_and_none_of_them_harms_the_data_behind_it(host: Any, terminal: Any) -> None:
    program = terminal("telnet", "127.0.0.1", str(host.port))
    program.wait_for(b"welcome\r\n")
    (channel,) = host.channels
    names = {
        b"ip": Command.INTERRUPT_PROCESS,
        b"ao": Command.ABORT_OUTPUT,
        b"brk": Command.BREAK,
        b"synch": Command.DATA_MARK,
        b"nop": Command.NO_OPERATION,
        b"ga": Command.GO_AHEAD,
        b"ayt": Command.ARE_YOU_THERE,
    }
    for number, (name, command) in enumerate(names.items(), 1):
        program.command(b"send " + name)
        program.run_until(lambda: len(channel.commands) == number)  # noqa: B023
        assert channel.commands[-1] is command
        program.type(b"after %d\r" % number)
        program.wait_for(b"you said after %d\r\n" % number)
    assert b"\r\n[Yes]\r\n" in program.shown
    assert channel.lines == [f"after {number}" for number in range(1, len(names) + 1)]


@needs_telnet
def test_telnet_sends_each_key_at_once_when_it_is_asked_to_and_binary_too(host: Any, terminal: Any) -> None:
    program = terminal("telnet", "127.0.0.1", str(host.port))
    program.wait_for(b"welcome\r\n")
    (channel,) = host.channels
    program.type(b"keys\r")
    program.run_until(lambda: (Side.LOCAL, Option.SUPPRESS_GO_AHEAD, True) in channel.known)
    assert channel.is_enabled(Side.LOCAL, Option.ECHO)
    program.type(b"\x03\x7f\x1a\r")  # what a terminal of its own would not let through
    program.wait_for(b"you said \x03\x7f\x1a\r\n")
    assert b"^C" not in program.shown
    program.type(b"binary\r")
    program.run_until(lambda: channel.is_enabled(Side.LOCAL, Option.BINARY))
    program.run_until(lambda: channel.is_enabled(Side.REMOTE, Option.BINARY))
    program.type(b"\xff\xfe\r")
    program.wait_for(b"you said \xef\xbf\xbd\xef\xbf\xbd\r\n")
    assert channel.lines == ["keys", "\x03\x7f\x1a", "binary", "\ufffd\ufffd"]


@needs_telnet
def test_telnet_hides_a_password_while_the_server_says_that_it_echoes(host: Any, terminal: Any) -> None:
    program = terminal("telnet", "127.0.0.1", str(host.port))
    program.wait_for(b"welcome\r\n")
    (channel,) = host.channels
    program.type(b"secret\r")
    program.run_until(lambda: channel.is_enabled(Side.LOCAL, Option.ECHO))
    # The program has agreed, and changes its terminal at the same moment or just behind it.
    program.command(b"send ayt")
    program.wait_for(b"[Yes]")
    program.type(b"swordfish\r")
    program.run_until(lambda: "swordfish" in channel.lines)
    program.wait_for(b"you said swordfish")
    assert program.shown.count(b"swordfish") == 1
    channel.wont(Option.ECHO)
    channel.send_line("done")
    program.wait_for(b"done")
    program.command(b"send ayt")
    program.type(b"seen\r")
    program.wait_for(b"you said seen")
    assert program.shown.count(b"seen") == 2


@needs_telnet
def test_telnet_that_negotiates_first_is_refused_what_is_not_known_and_nothing_of_its_environment_comes(
    host: Any, terminal: Any
) -> None:
    program = terminal("telnet")
    program.wait_for(b"telnet> ")
    program.type(b"open 127.0.0.1 -%d\r" % host.port)
    program.wait_for(b"welcome\r\n")
    (channel,) = host.channels
    program.run_until(lambda: "XTERM-256COLOR" in channel.known)
    enabled = {known[:2] for known in channel.known if len(known) == 3}
    assert enabled <= {
        (Side.LOCAL, Option.SUPPRESS_GO_AHEAD),
        (Side.REMOTE, Option.TERMINAL_TYPE),
        (Side.REMOTE, Option.WINDOW_SIZE),
    }
    program.type(b"hello\r")
    program.wait_for(b"you said hello")
    assert channel.lines == ["hello"]


@needs_curl
def test_curl_carries_a_file_both_ways_unharmed(host: Any, loop: reactor.Reactor, tmp_path: Path) -> None:
    text = "".join(f"line {number}: caf\u00e9 \u00ff\n" for number in range(2000))
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text(text + "bye\n", "utf-8")
    with source.open("rb") as stdin, target.open("wb") as stdout:
        program = subprocess.Popen(
            ["curl", "--silent", "--max-time", "30", f"telnet://127.0.0.1:{host.port}"], stdin=stdin, stdout=stdout
        )
        run_until(loop, lambda: program.poll() is not None, timeout=30)
    (channel,) = host.channels
    assert channel.lines == [*text.splitlines(), "bye"]
    answers = "welcome\n" + "".join(f"you said {line}\n" for line in text.splitlines())
    assert target.read_bytes().decode() == answers.replace("\n", "\r\n")


@needs_curl
def test_curl_cannot_bring_its_environment_in(host: Any, loop: reactor.Reactor) -> None:
    program = subprocess.Popen(
        [
            "curl", "--silent", "--verbose", "--max-time", "20", "-t", "TTYPE=vt100", "-t", "NEW_ENV=USER,-froot",
            "-t", "XDISPLOC=evil:0", f"telnet://127.0.0.1:{host.port}",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert program.stdin is not None
    assert program.stderr is not None
    for line in (b"one\n", b"two\n"):  # it looks at what the server says when there is something to say
        program.stdin.write(line)
        program.stdin.flush()
        run_until(loop, lambda: host.channels and line.decode().strip() in host.channels[0].lines)  # noqa: B023
    (channel,) = host.channels
    run_until(loop, lambda: "vt100" in channel.known)
    program.stdin.write(b"bye\n")
    program.stdin.close()
    run_until(loop, lambda: program.poll() is not None, timeout=20)
    said = program.stderr.read()
    program.stderr.close()
    assert b"RCVD DONT NEW-ENVIRON" in said
    assert b"RCVD DONT XDISPLOC" in said
    assert channel.lines == ["one", "two", "bye"]


class Visitor(TelnetClient):
    """Sees what a server shows."""

    terminal_types = ("xterm", "vt100")
    window_size = (100, 255)

    def __init__(self) -> None:
        self.shown = ""
        self.reason: Exception | None = None

    def handle_text(self, text: str) -> None:
        self.shown += text

    def handle_close(self, reason: reactor.ReactorError) -> None:
        self.reason = reason


LOGIN = """#!/bin/sh
stty size
echo "TERM is $TERM"
while read line; do
    echo "you said $line"
    test "$line" = bye && exit
done
"""


@pytest.mark.skipif(
    shutil.which("telnetd") is None or os.geteuid() != 0, reason="telnetd is not installed here, or this is not root"
)
def test_client_is_served_by_a_real_server(loop: reactor.Reactor, tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.write_text(LOGIN)
    login.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        visitor = Visitor.connect(listener.getsockname(), reactor=loop)
        run_until(loop, lambda: visitor.state.name == "Open")
        connection, _ = listener.accept()
    with connection:
        server = subprocess.Popen(
            ["telnetd", "--no-hostinfo", f"--exec-login={login}"],
            stdin=connection,
            stdout=connection,
            stderr=connection,
        )
    try:
        run_until(loop, lambda: "TERM is xterm\r\n" in visitor.shown, timeout=20)
        assert "255 100\r\n" in visitor.shown
        run_until(loop, lambda: visitor.is_enabled(Side.LOCAL, Option.BINARY), timeout=20)
        visitor.send_line("caf\u00e9 \u00ff")
        run_until(loop, lambda: "you said caf\u00e9 \u00ff\r\n" in visitor.shown, timeout=20)
        visitor.send_command(Command.ARE_YOU_THERE)
        run_until(loop, lambda: "[Yes]" in visitor.shown, timeout=20)
        visitor.wont(Option.BINARY)
        visitor.send_line("no longer binary")
        run_until(loop, lambda: "you said no longer binary\r\n" in visitor.shown, timeout=20)
        visitor.send_line("bye")
        run_until(loop, lambda: visitor.reason is not None, timeout=20)
        assert isinstance(visitor.reason, reactor.PeerClosed)
    finally:
        server.kill()
        server.wait()
