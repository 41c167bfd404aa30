"""The channel: on a simulated network with faults, and against sockets that write what they want."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reactor
from protocols.telnet import Command, Option, Side, Telnet, TelnetClient
from reactor.limits import FRAMES_PER_TURN
from reactor.simulation import ALL, World, simulate
from tests.conftest import Accepting, raw_client, run_until

BINARY, ECHO, GO_AHEAD = Option.BINARY, Option.ECHO, Option.SUPPRESS_GO_AHEAD
LOCAL, REMOTE = Side.LOCAL, Side.REMOTE


class Recording:
    """Mixed into a channel: writes down what its hooks were told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def handle_open(self) -> None:
        self.events.append(("open",))

    def handle_line(self, line: str) -> None:
        self.events.append(("line", line))

    def handle_command(self, command: Command) -> None:
        self.events.append(("command", command))
        super().handle_command(command)  # type: ignore[misc]

    def handle_window_size(self, width: int, height: int) -> None:
        self.events.append(("window", width, height))

    def handle_terminal_type(self, name: str) -> None:
        self.events.append(("terminal", name))

    def handle_option(self, side: Side, option: Option, enabled: bool) -> None:
        self.events.append(("option", side, option, enabled))

    def handle_eof(self) -> None:
        self.events.append(("eof",))
        super().handle_eof()  # type: ignore[misc]

    def handle_error(self, error: Exception) -> None:
        self.events.append(("error", error))
        super().handle_error(error)  # type: ignore[misc]

    def handle_close(self, reason: Exception) -> None:
        self.events.append(("close", reason))

    def of(self, kind: str) -> list[Any]:
        """Return what the hook `kind` was told last, each time."""
        return [event[-1] for event in self.events if event[0] == kind]


class Server(Recording, Telnet):
    """A server's side that writes down what happens to it."""


class Client(Recording, TelnetClient):
    """A client's side that writes down what happens to it."""

    terminal_types = ("XTERM-256COLOR", "XTERM")
    window_size = (80, 24)


class Texts(Server):
    """A server's side that takes text in the pieces in which it comes."""

    def handle_text(self, text: str) -> None:
        self.events.append(("text", text))


class Peer:
    """A server's channel with a socket at the other end."""

    def __init__(
        self, loop: reactor.Reactor, kind: type[Server] = Server, limits: reactor.Limits | None = None
    ) -> None:
        self.loop = loop
        accepting = Accepting(kind)
        self.listener = reactor.Listener(
            ("localhost", 0), accepting, reactor=loop, limits=limits or reactor.Limits(linger_timeout=0.1)
        )
        self.sock = raw_client(self.listener.address)
        run_until(loop, lambda: accepting.channels and accepting.channels[0].of("open"))
        self.sock.setblocking(False)
        self.channel: Any = accepting.channels[0]

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def wait(self, kind: str, count: int = 1) -> list[Any]:
        """Run the loop until the hook `kind` was told so often, and return what."""
        run_until(self.loop, lambda: len(self.channel.of(kind)) >= count)
        found: list[Any] = self.channel.of(kind)
        assert len(found) == count
        return found

    def receive(self, size: int) -> bytes:
        """Run the loop until the socket has received so many bytes."""
        data = bytearray()

        def received() -> bool:
            with contextlib.suppress(BlockingIOError):
                while chunk := self.sock.recv(min(1 << 20, size - len(data))):
                    data.extend(chunk)
            return len(data) == size

        run_until(self.loop, received)
        return bytes(data)

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def peers(loop: reactor.Reactor) -> Iterator[Any]:
    """Makes peers; their sockets are closed at the end."""
    made: list[Peer] = []

    def make(kind: type[Server] = Server, **options: Any) -> Peer:
        made.append(Peer(loop, kind, **options))
        return made[-1]

    yield make
    for peer in made:
        peer.close()


# On the simulated network


class Greeter(Telnet):
    """Learns who is there, and greets him; then says everything back."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def handle_open(self) -> None:
        self.request_window_size()
        self.request_terminal_type()

    def handle_window_size(self, width: int, height: int) -> None:
        self.known["size"] = width, height
        self.greet()

    def handle_terminal_type(self, name: str) -> None:
        self.known["terminal"] = name
        self.greet()

    def greet(self) -> None:
        if len(self.known) == 2:
            self.send_line("hello {terminal} {size}".format(**self.known))

    def handle_line(self, line: str) -> None:
        self.send_line(line)
        if line == "bye":
            self.close_when_done()


class Guest(TelnetClient):
    """Says three things once it is greeted."""

    terminal_types = ("XTERM",)
    window_size = (255, 24)

    def __init__(self) -> None:
        self.heard: list[str] = []

    def handle_line(self, line: str) -> None:
        if not self.heard:
            for text in ("caf\u00e9", "", "bye"):
                self.send_line(text)
        self.heard.append(line)


GREETING = "hello XTERM (255, 24)"


def visit(world: World) -> None:
    world.listen(("server", 23), Greeter)
    guest = world.connect(("server", 23), Guest)
    world.run(until=lambda: guest.state.name == "Closed", timeout=60)
    assert guest.heard == [GREETING, "caf\u00e9", "", "bye"]


def visit_with_patience(world: World) -> None:
    guests: list[Guest] = []

    def make() -> Guest:
        guests.append(Guest())
        return guests[-1]

    world.host("server", lambda host: host.listen(23, Greeter))
    world.connect(("server", 23), make, reconnect=reactor.Backoff())
    world.run(until=lambda: any("bye" in guest.heard for guest in guests), timeout=100_000)
    for guest in guests:
        assert guest.heard == [GREETING, "caf\u00e9", "", "bye"][: len(guest.heard)]


def test_server_and_client_talk_whatever_the_network_does_to_the_pieces() -> None:
    report = simulate(visit, seeds=60)
    assert report.injected > 60


def test_client_that_comes_back_survives_all_faults() -> None:
    report = simulate(visit_with_patience, seeds=60, faults=ALL)
    assert report.injected > 60


def test_client_tells_about_itself_and_about_changes(loop: reactor.Reactor) -> None:
    accepting = Accepting(Server)
    listener = reactor.Listener(("localhost", 0), accepting, reactor=loop)
    client = Client.connect(listener.address, reactor=loop)
    run_until(loop, lambda: accepting.channels and client.of("open"))
    (server,) = accepting.channels
    server.request_window_size()
    server.request_terminal_type()
    run_until(loop, lambda: server.of("terminal"))
    server.request_terminal_type()
    client.set_window_size(100, 50)
    run_until(loop, lambda: len(server.of("terminal")) == 2 and len(server.of("window")) == 2)
    assert server.of("terminal") == ["XTERM-256COLOR", "XTERM"]
    assert [event for event in server.events if event[0] == "window"] == [("window", 80, 24), ("window", 100, 50)]
    client.send_command(Command.INTERRUPT_PROCESS)
    client.send_command(Command.ARE_YOU_THERE)
    run_until(loop, lambda: client.of("line") == ["", "[Yes]"])
    assert server.of("command") == [Command.INTERRUPT_PROCESS, Command.ARE_YOU_THERE]
    server.close_when_done()
    run_until(loop, lambda: client.of("close"))
    assert isinstance(client.of("close")[0], reactor.PeerClosed)


def test_what_is_sent_before_the_channel_is_open_waits(loop: reactor.Reactor) -> None:
    accepting = Accepting(Server)
    listener = reactor.Listener(("localhost", 0), accepting, reactor=loop)
    client = Client.connect(listener.address, reactor=loop)
    client.send_line("early")
    client.will(GO_AHEAD)
    run_until(loop, lambda: client.is_enabled(LOCAL, GO_AHEAD))
    assert accepting.channels[0].events == [("open",), ("line", "early"), ("option", REMOTE, GO_AHEAD, True)]


def test_options_go_on_and_off_on_both_sides(loop: reactor.Reactor) -> None:
    accepting = Accepting(Server)
    listener = reactor.Listener(("localhost", 0), accepting, reactor=loop)
    client = Client.connect(listener.address, reactor=loop)
    run_until(loop, lambda: accepting.channels and client.of("open"))
    (server,) = accepting.channels
    server.request_single_keys()
    server.request_binary()
    run_until(loop, lambda: len(server.of("option")) == 4)
    assert {event[1:] for event in client.events if event[0] == "option"} == {
        (REMOTE, ECHO, True),
        (REMOTE, GO_AHEAD, True),
        (REMOTE, BINARY, True),
        (LOCAL, BINARY, True),
    }
    server.wont(ECHO)
    server.dont(BINARY)
    assert not server.is_enabled(LOCAL, ECHO)
    run_until(loop, lambda: len(client.of("option")) == 6 and len(server.of("option")) == 5)
    assert server.events[-1] == ("option", REMOTE, BINARY, False)
    assert not client.is_enabled(REMOTE, ECHO)


def test_line_that_a_client_sends_ends_with_its_return_key_in_binary(loop: reactor.Reactor) -> None:
    accepting = Accepting(Texts)
    listener = reactor.Listener(("localhost", 0), accepting, reactor=loop)
    client = Client.connect(listener.address, reactor=loop)
    client.send_line("a\u00ff")
    client.will(BINARY)
    run_until(loop, lambda: client.is_enabled(LOCAL, BINARY))
    client.send_line("b")
    (server,) = accepting.channels
    run_until(loop, lambda: server.of("text") == ["a\u00ff\r\n", "b\r"])
    server.will(BINARY)
    run_until(loop, lambda: server.is_enabled(LOCAL, BINARY))
    server.send_line("c")
    run_until(loop, lambda: client.of("line") == ["c"])


# What comes in


def test_lines_are_told_whatever_ends_them_and_wherever_they_are_cut(peers: Any) -> None:
    peer = peers()
    for piece in (b"one\r", b"\ntw", b"o\ncaf\xc3", b"\xa9\r\0\r\n", b"\xff", b"\xffn\xfcn\r\n"):
        peer.send(piece)
        peer.loop.poll(0.05)
    assert peer.wait("line", 5) == ["one", "two", "caf\u00e9", "", "\ufffdn\ufffdn"]


def test_text_is_told_as_it_comes_and_characters_are_not_cut(peers: Any) -> None:
    peer = peers(Texts)
    peer.send(b"a\xff\xffb\r\0caf\xc3")
    assert "".join(peer.wait("text")) == "a\ufffdb\rcaf"
    peer.send(b"\xa9\r\n")
    assert peer.wait("text", 2)[-1] == "\u00e9\r\n"
    assert peer.channel.of("line") == []


def test_piece_of_a_character_alone_is_no_text_yet(peers: Any) -> None:
    peer = peers(Texts)
    peer.send(b"\xe2\xff\xf1\x82\xac")
    assert peer.wait("text") == ["\u20ac"]
    assert peer.channel.of("command") == [Command.NO_OPERATION]


def test_encoding_is_that_of_the_class(peers: Any) -> None:
    class Western(Server):
        encoding = "cp1252"

    peer = peers(Western)
    peer.send(b"5 \x80\r\n")
    assert peer.wait("line") == ["5 \u20ac"]
    peer.channel.send_line("\u20ac \u4e2d")
    assert peer.receive(5) == b"\x80 ?\r\n"


def test_line_that_the_end_of_the_input_cuts_short_is_told_before_the_end(peers: Any) -> None:
    peer = peers()
    peer.send(b"one\r\ntwo")
    peer.sock.shutdown(socket.SHUT_WR)
    peer.wait("close")
    assert [event[0] for event in peer.channel.events] == ["open", "line", "line", "eof", "close"]
    assert peer.channel.of("line") == ["one", "two"]


def test_hook_that_closes_on_the_last_line_is_told_of_no_end(peers: Any) -> None:
    class Leaver(Server):
        def handle_line(self, line: str) -> None:
            super().handle_line(line)
            self.close()

    peer = peers(Leaver)
    peer.send(b"one")
    peer.sock.shutdown(socket.SHUT_WR)
    peer.wait("close")
    assert [event[0] for event in peer.channel.events] == ["open", "line", "close"]


def test_unknown_options_are_refused_and_nothing_of_the_environment_is_asked_for(peers: Any) -> None:
    peer = peers()
    peer.send(b"\xff\xfb\x27\xff\xfd\x27\xff\xfa\x27\0\0USER\x01-froot\xff\xf0line\r\n")
    assert peer.receive(6) == b"\xff\xfe\x27\xff\xfc\x27"
    assert peer.wait("line") == ["line"]


@pytest.mark.parametrize("command", [Command.DATA_MARK, Command.INTERRUPT_PROCESS])
def test_urgent_byte_of_a_command_is_not_missing_in_the_stream(peers: Any, command: Command) -> None:
    peer = peers()
    peer.send(b"before\r\n\xff")
    peer.sock.send(bytes([command]), socket.MSG_OOB)
    peer.send(b"behind\r\n")
    assert peer.wait("line", 2) == ["before", "behind"]
    assert peer.channel.of("command") == [command]


class StubbornSocket:
    """A socket that takes no options."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def setsockopt(self, *args: Any) -> None:
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")


def test_socket_that_knows_no_urgent_data_serves_all_the_same(loop: reactor.Reactor) -> None:
    class Wrapping(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            channel.socket = StubbornSocket(channel.socket)

    accepting = Accepting(Server)
    listener = Wrapping(("localhost", 0), accepting, reactor=loop)
    with raw_client(listener.address) as sock:
        sock.sendall(b"line\r\n")
        run_until(loop, lambda: accepting.channels and accepting.channels[0].of("line") == ["line"])


def test_client_that_asks_whether_somebody_is_there_gets_an_answer_it_can_see(peers: Any) -> None:
    peer = peers()
    peer.send(b"\xff\xf6")
    assert peer.receive(9) == b"\r\n[Yes]\r\n"


def test_line_that_nobody_wants_is_dropped_with_a_line_in_the_log(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    accepting = Accepting(Telnet)
    listener = reactor.Listener(("localhost", 0), accepting, reactor=loop)
    with raw_client(listener.address) as sock:
        sock.sendall(b"line\r\n\xff\xf1")
        run_until(loop, lambda: caplog.records)
    assert "a line came in, and handle_line is not written" in caplog.text


# Limits


def test_line_over_the_limit_ends_the_connection_and_what_stands_before_it_counts(
    peers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    peer = peers(limits=reactor.Limits(maximum_line=10, linger_timeout=0.1))
    peer.send(b"1234567890\r\n\xff\xf6" + b"x" * 11 + b"\r\nlate\r\n")
    assert peer.receive(9) == b"\r\n[Yes]\r\n"
    (reason,) = peer.wait("close")
    assert isinstance(reason, reactor.LimitError)
    assert reason.limit == "maximum_line"
    assert "a line is over the limit of 10 bytes (maximum_line)" in caplog.text
    assert peer.channel.of("line") == ["1234567890"]
    assert peer.channel.of("error") == [reason]


def test_subnegotiation_over_the_limit_ends_the_connection(peers: Any) -> None:
    peer = peers()
    peer.send(b"\xff\xfa\x18" + b"x" * 1000)
    (reason,) = peer.wait("close")
    assert "a subnegotiation is over the limit of 512 bytes (maximum_subnegotiation)" in str(reason)


def test_peer_that_floods_with_lines_gets_its_share_of_a_turn_and_no_more(peers: Any) -> None:
    peer, other = peers(), peers()
    peer.send(b"\n" * 4000)
    other.send(b"me too\r\n")
    most = before = 0

    def done() -> bool:
        nonlocal most, before
        count = len(peer.channel.of("line"))
        most, before = max(most, count - before), count
        return count == 4000

    run_until(peer.loop, done)
    assert most == FRAMES_PER_TURN
    lines = len(peer.channel.of("line"))
    assert other.wait("line") == ["me too"]
    assert lines == 4000


def test_peer_that_reads_no_answers_is_not_read_from_either(peers: Any) -> None:
    class Talker(Server):
        def handle_line(self, line: str) -> None:
            super().handle_line(line)
            self.send_text("x" * 10_000)

    peer = peers(Talker, limits=reactor.Limits(low_water=1000, high_water=10_000, linger_timeout=0.1))
    peer.send(b"\n" * 1500)  # more answers than the kernel holds
    run_until(peer.loop, lambda: peer.channel.state.name == "Throttled")
    for _ in range(20):
        peer.loop.poll(0)
    count = len(peer.channel.of("line"))
    assert count < 1500
    for _ in range(20):
        peer.loop.poll(0)
    assert len(peer.channel.of("line")) == count
    assert peer.channel.output_size <= (FRAMES_PER_TURN + 1) * 10_000
    assert peer.receive(1500 * 10_000) == b"x" * 1500 * 10_000
    assert len(peer.channel.of("line")) == 1500


# Hooks that pause, close and raise


def test_pause_holds_the_rest_of_what_came_until_reading_goes_on(peers: Any) -> None:
    class Pausing(Server):
        def handle_line(self, line: str) -> None:
            super().handle_line(line)
            self.pause_reading()

    peer = peers(Pausing)
    peer.send(b"one\ntwo\nthree\n")
    peer.sock.shutdown(socket.SHUT_WR)
    for count in (1, 2, 3):
        peer.wait("line", count)
        for _ in range(5):
            peer.loop.poll(0)
        assert len(peer.channel.of("line")) == count
        assert peer.channel.of("eof") == []
        peer.channel.resume_reading()
    peer.wait("close")
    assert peer.channel.of("line") == ["one", "two", "three"]


def test_close_drops_the_rest_of_what_came(peers: Any) -> None:
    class Leaver(Server):
        def handle_line(self, line: str) -> None:
            super().handle_line(line)
            self.send_line("bye")
            self.close_when_done()

    peer = peers(Leaver)
    peer.send(b"one\ntwo\nthree\n")
    assert peer.receive(5) == b"bye\r\n"
    peer.close()
    peer.wait("close")
    assert peer.channel.of("line") == ["one"]


def test_rest_of_what_came_is_told_after_a_hook_that_raised_if_the_channel_lives_on(peers: Any) -> None:
    class Clumsy(Server):
        def handle_line(self, line: str) -> None:
            super().handle_line(line)
            if line == "two":
                raise ValueError(line)

        def handle_error(self, error: Exception) -> None:
            self.events.append(("error", error))

    peer = peers(Clumsy)
    peer.send(b"one\ntwo\nthree\n")
    assert peer.wait("line", 3) == ["one", "two", "three"]
    assert [str(error) for error in peer.channel.of("error")] == ["two"]


def test_hook_that_raised_closes_the_channel_by_default(peers: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Server):
        def handle_line(self, line: str) -> None:
            raise ValueError(line)

    peer = peers(Broken)
    peer.send(b"one\ntwo\n")
    (reason,) = peer.wait("close")
    assert isinstance(reason, reactor.HookError)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


# What goes out


def test_text_is_sent_with_the_line_ends_of_telnet(peers: Any) -> None:
    peer = peers()
    peer.channel.send_text("a\nb\r\nc\rd\u00ff")
    peer.channel.send_line("")
    peer.channel.send_line("end")
    expected = b"a\r\nb\r\nc\r\0d\xc3\xbf\r\nend\r\n"
    assert peer.receive(len(expected)) == expected


@pytest.mark.parametrize("line", ["a\nb", "a\rb", "\n"])
def test_line_with_the_end_of_a_line_in_it_is_refused(peers: Any, line: str) -> None:
    peer = peers()
    with pytest.raises(ValueError, match="more than one line"):
        peer.channel.send_line(line)
    assert peer.channel.output_size == 0


class Countdown:
    """A producer of the old kind."""

    def __init__(self) -> None:
        self.left = [b"\xff\r", b"\n2", b"1"]
        self.closed = 0

    def more(self) -> bytes:
        return self.left.pop(0) if self.left else b""

    def close(self) -> None:
        self.closed += 1


def test_everything_that_can_be_pushed_is_escaped(peers: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xfffile\r" * 20_000)
    producer = Countdown()
    peer = peers()
    channel = peer.channel
    channel.push(b"\xff\r\n")
    channel.push(memoryview(b"\xffview"))
    channel.push(bytearray(b"\xffarray"))
    channel.push(iter([b"\xffone", b"", b"\rtwo"]))
    channel.push(producer)
    channel.push(path.open("rb"))
    channel.push(io.BytesIO(b"\xffmemory"))
    channel.push(b"end")
    expected = (
        b"\xff\xff\r\n\xff\xffview\xff\xffarray\xff\xffone\r\0two\xff\xff\r\0\n21"
        + b"\xff\xfffile\r\0" * 20_000
        + b"\xff\xffmemoryend"
    )
    assert peer.receive(len(expected)) == expected
    assert producer.closed == 1


def test_producer_is_escaped_for_the_mode_in_which_it_was_queued(peers: Any) -> None:
    peer = peers()
    peer.channel.push(iter([b"\r"] * 3))
    peer.channel.will(BINARY)
    peer.send(b"\xff\xfd\0")
    assert peer.wait("option") == [True]
    peer.channel.push(iter([b"\r"] * 3))
    assert peer.receive(12) == b"\r\0\r\0\r\0\xff\xfb\0\r\r\r"


def test_what_cannot_be_pushed_is_refused(peers: Any) -> None:
    peer = peers()
    for nothing in ("text", 5, None):
        with pytest.raises(reactor.LocalError, match="cannot be pushed"):
            peer.channel.push(nothing)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb"), pytest.raises(reactor.ProducerError):
        peer.channel.push(pipe)


def test_sessions_of_a_role_refuse_what_only_the_other_one_can_do(peers: Any) -> None:
    peer = peers()
    with pytest.raises(reactor.LocalError, match="no ECHO on the remote side"):
        peer.channel.do(ECHO)
    assert peer.channel.output_size == 0
