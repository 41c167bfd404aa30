"""The chat room for telnet, started as its docstring says, and visited with sockets and with curl."""

from __future__ import annotations

import codecs
import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from protocols.telnet import Command, Option, Session
from protocols.telnet.wire import LimitExceeded
from tests import certificates
from tests.examples.running import Program, Start


@pytest.fixture
def server(start: Start) -> Program:
    """The chat room, listening on a free port."""
    program = start("--port=0")
    program.address = program.read_address()
    assert program.first_line.startswith("listening on 127.0.0.1:")
    return program


class Terminal:
    """Somebody with a telnet client: the session of one, and a socket."""

    def __init__(self, server: Program, width: int = 80, receive_buffer: int | None = None) -> None:
        self.session = Session("client", window_size=(width, 24))
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.sock = socket.socket()
        self.sock.settimeout(20)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect(server.address)

    def type(self, text: str) -> None:
        self.session.send_data(text.encode())
        self.sock.sendall(self.session.data_to_send())

    def send_command(self, command: Command) -> None:
        self.session.send_command(command)
        self.sock.sendall(self.session.data_to_send())

    def sees(self, text: str) -> bool:
        """Receive until `text` has been shown, and say whether that is all: nothing before it, nothing behind it."""
        while text not in self.shown and self._receive():
            pass
        shown, self.shown = self.shown, ""
        return shown == text

    def sees_the_end(self) -> bool:
        """Return whether the connection ends, and nothing is shown before that; end it from this side too."""
        while self._receive():
            pass
        self.sock.close()
        return self.shown == ""

    def _receive(self) -> bytes:
        data = self.sock.recv(65536)
        for event in self.session.feed(data):
            assert not isinstance(event, LimitExceeded)
            self.shown += self._decoder.decode(getattr(event, "data", b""))
        self.sock.sendall(self.session.data_to_send())
        return data


QUESTION = "What is your name? "


@contextlib.contextmanager
def terminal(server: Program, width: int = 80) -> Iterator[Terminal]:
    """A terminal that has been asked for a name."""
    somebody = Terminal(server, width)
    with somebody.sock:
        assert somebody.sees(QUESTION)
        yield somebody


@contextlib.contextmanager
def guest(server: Program, name: str, *others: Terminal, width: int = 80) -> Iterator[Terminal]:
    """A terminal whose user is in the room; the `others` have seen him come in."""
    with terminal(server, width) as somebody:
        somebody.type(f"{name}\r\n")
        while f"{name}\r\n" not in somebody.shown:
            assert somebody._receive()
        assert somebody.shown.startswith("* welcome; here:")
        somebody.shown = ""
        for other in others:
            assert other.sees(f"* {name} has come in\r\n")
        yield somebody


def test_help_says_how_to_come_in(start: Start) -> None:
    program = start("--help")
    output, _ = program.process.communicate(timeout=20)
    assert (program.wait(), program.errors) == (0, "")
    assert b"usage: python -m examples.telnet_chat " in output
    assert b"telnet localhost 6023" in output
    assert b"authkey" not in output


def test_port_that_is_taken_is_told_on_one_line(start: Start, server: Program) -> None:
    port = server.address[1]
    second = start(f"--port={port}")
    assert second.wait() == 2
    assert second.errors == f"error: somebody listens on 127.0.0.1:{port} already\n"


def test_what_one_guest_types_all_others_see(server: Program) -> None:
    with guest(server, "anna") as anna, guest(server, "bert", anna) as bert, terminal(server) as stranger:
        with guest(server, "caf\u00e9", anna, bert) as carl:
            bert.type("hello, \u00ff!\r\n\r\n  \r\n")
            assert anna.sees("bert: hello, \u00ff!\r\n")
            assert carl.sees("bert: hello, \u00ff!\r\n")
            anna.type("hi\r\nthere\r\n")
            for each in (bert, carl):
                assert each.sees("anna: hi\r\nanna: there\r\n")
            carl.type("/who\r\n")
            assert carl.sees("* here: anna, bert, caf\u00e9\r\n")
        for each in (anna, bert):
            assert each.sees("* caf\u00e9 has left\r\n")
        with guest(server, "caf\u00e9", anna, bert):  # the name is free again
            pass
        for each in (anna, bert):
            assert each.sees("* caf\u00e9 has left\r\n")
        stranger.type("/quit\r\n")
        assert stranger.sees("* bye\r\n")  # and nothing before that: it gave no name
    assert server.ends_cleanly()


def test_fifty_people_are_in_one_room(server: Program) -> None:
    with contextlib.ExitStack() as stack:
        guests: list[Terminal] = []
        for number in range(50):
            guests.append(stack.enter_context(guest(server, f"guest {number}", *guests)))
        guests[7].type("hello\r\n")
        for other in guests:
            assert other is guests[7] or other.sees("guest 7: hello\r\n")


def test_bad_name_is_explained_and_asked_for_again(server: Program) -> None:
    rule = "A name has 1 to 20 characters, no colon, and no / or * in front. " + QUESTION
    with guest(server, "anna") as anna, terminal(server) as somebody:
        for name, complaint in [
            ("", rule),
            ("x" * 21, rule),
            ("/who", rule),
            ("* bert has left", rule),
            ("anna: hi", rule),
            ("anna\uff1a hi", rule),
            ("anna", "Somebody called anna is here already. " + QUESTION),
            ("ANNA", "Somebody called anna is here already. " + QUESTION),
            ("\uff21nna", "Somebody called anna is here already. " + QUESTION),
            (" anna ", "Somebody called anna is here already. " + QUESTION),
        ]:
            somebody.type(f"{name}\r\n")
            assert somebody.sees(complaint)
        somebody.type("\x1b[2J\r\n")
        assert somebody.sees("* welcome; here: anna, ?[2J\r\n")
        assert anna.sees("* ?[2J has come in\r\n")


def test_name_is_shown_as_it_was_typed(server: Program) -> None:
    with guest(server, "Anna") as anna:
        with guest(server, "ANDR\u00c9", anna) as andre:
            andre.type("/who\r\n")
            assert andre.sees("* here: Anna, ANDR\u00c9\r\n")
        assert anna.sees("* ANDR\u00c9 has left\r\n")
        with guest(server, "andre\u0301", anna):  # who has left is out of his way, however he was typed
            pass


def test_control_characters_do_not_reach_the_terminals_of_others(server: Program) -> None:
    with guest(server, "anna") as anna, guest(server, "bert", anna) as bert:
        bert.type("\x1b]0;title\x07 \x08\x9b2J\u202e\xff\r\n")
        assert anna.sees("bert: ?]0;title? ??2J?\xff\r\n")


def test_commands_are_explained(server: Program) -> None:
    with guest(server, "anna") as anna:
        anna.type("/dance\r\n")
        assert anna.sees("* there are the commands /who and /quit\r\n")


@pytest.mark.parametrize("how", ["command", "interrupt"])
def test_guest_leaves_in_good_order(server: Program, how: str) -> None:
    with guest(server, "anna") as anna, guest(server, "bert", anna) as bert:
        if how == "command":
            bert.type("/quit\r\n")
        else:
            bert.send_command(Command.INTERRUPT_PROCESS)
        assert bert.sees("* bye\r\n")
        assert bert.sees_the_end()
        assert anna.sees("* bert has left\r\n")
    assert server.ends_cleanly()


def test_client_that_asks_whether_somebody_is_there_gets_an_answer(server: Program) -> None:
    with guest(server, "anna") as anna:
        anna.send_command(Command.ARE_YOU_THERE)
        assert anna.sees("\r\n[Yes]\r\n")


def test_lines_are_as_wide_as_the_window(server: Program) -> None:
    with (
        guest(server, "wide", width=200) as wide,
        guest(server, "slim", wide, width=30) as slim,
        guest(server, "none", wide, slim, width=1) as none,
        guest(server, "talker", wide, slim, none) as talker,
    ):
        talker.type("a word " * 8 + "\r\n")
        assert wide.sees("talker: a word a word a word a word a word a word a word a word\r\n")
        assert slim.sees("talker: a word a word a word a\r\nword a word a word a word a\r\nword\r\n")
        assert none.sees("talker: a word a\r\nword a word a word a\r\nword a word a word a\r\nword\r\n")
        slim.session.set_window_size(0, 0)  # it does not say: what it said before holds
        slim.session.set_window_size(60, 24)
        slim.type("/who\r\n")
        assert slim.sees("* here: wide, slim, none, talker\r\n")
        talker.type("a word " * 8 + "\r\n")
        assert slim.sees("talker: a word a word a word a word a word a word a word a\r\nword\r\n")


def test_client_without_options_is_welcome(server: Program) -> None:
    with guest(server, "anna") as anna, socket.create_connection(server.address) as plain:
        plain.settimeout(20)
        plain.sendall(bytes([255, 252, Option.WINDOW_SIZE]) + b"bert\nhello\nlast words")
        plain.shutdown(socket.SHUT_WR)
        received = b""
        while data := plain.recv(65536):
            received += data
        assert b"* welcome; here: anna, bert\r\n" in received
        assert anna.sees("* bert has come in\r\nbert: hello\r\nbert: last words\r\n* bert has left\r\n")
    assert server.ends_cleanly()


def test_guest_whose_line_has_no_end_is_shown_the_door_and_nobody_else(server: Program) -> None:
    with guest(server, "anna") as anna, guest(server, "bert", anna) as bert:
        bert.type("x" * 3000)
        assert bert.sees("* bye: a line may be 2000 bytes long, and yours is longer\r\n")
        assert bert.sees_the_end()
        assert anna.sees("* bert has left\r\n")
        anna.type("/who\r\n")
        assert anna.sees("* here: anna\r\n")
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "a line is over the limit of 2000 bytes (maximum_line)" in server.errors
    assert len(server.errors.splitlines()) == 1


def test_guest_who_does_not_read_is_shown_the_door_and_nobody_else(server: Program) -> None:
    wide = 2000
    sleeper = Terminal(server, wide, receive_buffer=4096)
    with guest(server, "anna", width=wide) as anna, guest(server, "bert", anna, width=wide) as bert, sleeper.sock:
        sleeper.type("sleeper\r\n")
        for each in (anna, bert):
            assert each.sees("* sleeper has come in\r\n")
        line = "\U0001f600" * 475 + "\r\n"  # few characters, which each cost time, in as many bytes as a line may have
        for _ in range(1000):
            anna.type(line * 30)
            while bert.shown.count("anna: ") < 30 or not bert.shown.endswith("\r\n"):
                assert bert._receive()
            if "* sleeper has left\r\n" in bert.shown:
                break
            assert bert.shown == f"anna: {line}" * 30
            bert.shown = ""
        else:
            pytest.fail("the sleeper is still there")
        # He was told so; else the server would wait for him to notice.
        sleeper.sock.close()
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "maximum_output" in server.errors


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_server_ends_cleanly_while_guests_are_in_the_room(server: Program, signum: int) -> None:
    with guest(server, "anna") as anna, terminal(server) as stranger:
        server.send_signal(signum)
        assert anna.sees_the_end()
        assert stranger.sees_the_end()
        assert (server.wait(), server.errors) == (0, "")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed here")
def test_guests_come_in_with_openssl_as_the_docstring_says(start: Start) -> None:
    server = start("--port=0", f"--certificate={certificates.certificate()}")
    host, port = server.read_address()
    program = subprocess.run(
        ["openssl", "s_client", "-quiet", "-connect", f"{host}:{port}", "-CAfile", certificates.authorities()],
        input=b"bert\r\n/who\r\n/quit\r\n", capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert program.stdout.endswith(b"* welcome; here: bert\r\n* here: bert\r\n* bye\r\n"), program.stderr
    assert server.ends_cleanly()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
def test_curl_is_a_guest_as_any_other(server: Program) -> None:
    with guest(server, "anna") as anna:
        url = f"telnet://{server.address[0]}:{server.address[1]}"
        program = subprocess.run(
            ["curl", "--silent", "--max-time", "20", url],
            input=b"bert\nhello\n/quit\n", capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        assert program.stdout.endswith(b"* welcome; here: anna, bert\r\n* bye\r\n")
        assert anna.sees("* bert has come in\r\nbert: hello\r\n* bert has left\r\n")
    assert server.ends_cleanly()
