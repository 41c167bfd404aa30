"""Chats: input by terminators, as asynchat had them, and lines of text."""

from __future__ import annotations

import gc
from typing import Any

import pytest

import reactor
from reactor.errors import DecodingError, LimitError, PeerClosed
from reactor.simulation import ALL, World, simulate
from tests.conftest import Accepting, Recorder, raw_client, run_until


class RecordingChat(Recorder, reactor.Chat):
    """Writes down what is collected, and in `lines` what stood in front of each terminator."""

    terminator = b"\r\n"

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[bytes] = []
        self.collected = b""

    def collect_incoming_data(self, data: bytes) -> None:
        self.collected += data

    def found_terminator(self) -> None:
        self.lines.append(self.collected)
        self.collected = b""


class RecordingLines(Recorder, reactor.LineChannel):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def handle_line(self, line: str) -> None:
        self.lines.append(line)


class EchoLines(reactor.LineChannel):
    def handle_line(self, line: str) -> None:
        self.send_line(line)


def served(loop: reactor.Reactor, make: Any, data: bytes, **options: Any) -> Any:
    """Send `data` to a channel that `make` makes, and its end; return the channel when it is closed."""
    accepted = Accepting(make)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop, **options)
    with listener, raw_client(listener.address) as client:
        client.sendall(data)
        client.shutdown(1)
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("close"))
    return accepted.channels[0]


def test_lines_end_at_their_terminator_and_the_rest_is_collected(loop: reactor.Reactor) -> None:
    chat = served(loop, RecordingChat, b"one\r\n\r\nthree\r\nrest\r")
    assert chat.lines == [b"one", b"", b"three"]
    assert chat.collected == b"rest\r"
    (reason,) = chat.of("close")
    assert isinstance(reason, PeerClosed)


def test_terminator_may_change_in_every_piece(loop: reactor.Reactor) -> None:
    class Alternating(RecordingChat):
        def found_terminator(self) -> None:
            super().found_terminator()
            self.set_terminator(3 if len(self.lines) % 2 else b";")

    Alternating.terminator = b";"
    assert served(loop, Alternating, b"a;bcdef;ghij;kl").lines == [b"a", b"bcd", b"ef", b"ghi", b"j"]


def test_terminator_that_is_a_number_tells_how_much_is_missing(loop: reactor.Reactor) -> None:
    class Counted(RecordingChat):
        terminator = 10

    chat = served(loop, Counted, b"0123456")
    assert chat.get_terminator() == 3
    assert chat.collected == b"0123456"


def test_line_without_an_end_closes_the_channel_at_the_limit(loop: reactor.Reactor) -> None:
    chat = served(loop, RecordingChat, b"x" * 5000, limits=reactor.Limits(maximum_line=1000))
    (reason,) = chat.of("close")
    assert isinstance(reason, LimitError)
    assert reason.limit == "maximum_line"
    assert len(chat.collected) <= 1000


@pytest.mark.parametrize("hook", ["collect_incoming_data", "found_terminator"])
def test_pause_in_a_hook_loses_nothing_and_repeats_nothing(loop: reactor.Reactor, hook: str) -> None:
    def pausing(self: RecordingChat, *args: bytes) -> None:
        getattr(RecordingChat, hook)(self, *args)
        self.pause_reading()
        loop.call_soon(self.resume_reading)

    paused = type("Pausing", (RecordingChat,), {hook: pausing})
    chat = served(loop, paused, b"one\r\ntwo\r\n\r\nfour\r\nrest")
    assert chat.lines == [b"one", b"two", b"", b"four"]
    assert chat.collected == b"rest"


@pytest.mark.parametrize("hook", ["collect_incoming_data", "found_terminator"])
def test_close_in_a_hook_ends_all_hooks(loop: reactor.Reactor, hook: str) -> None:
    def closing(self: RecordingChat, *args: bytes) -> None:
        getattr(RecordingChat, hook)(self, *args)
        self.close()

    chat = served(loop, type("Closing", (RecordingChat,), {hook: closing}), b"one\r\ntwo\r\n")
    assert (chat.lines, chat.collected) == (([], b"one") if hook.startswith("collect") else ([b"one"], b""))


def test_close_in_what_is_collected_at_the_end_is_no_error(loop: reactor.Reactor) -> None:
    class Closing(RecordingChat):
        def collect_incoming_data(self, data: bytes) -> None:
            super().collect_incoming_data(data)
            self.close()

    chat = served(loop, Closing, b"\r")
    assert (chat.collected, chat.of("error")) == (b"\r", [])


def test_exception_in_a_hook_that_the_user_takes_loses_no_other_line(loop: reactor.Reactor) -> None:
    class Choking(RecordingChat):
        def found_terminator(self) -> None:
            super().found_terminator()
            if self.lines[-1] == b"two":
                raise ValueError

        def handle_error(self, error: Exception) -> None:
            self.events.append(("error", error))

    chat = served(loop, Choking, b"one\r\ntwo\r\nthree\r\n")
    assert chat.lines == [b"one", b"two", b"three"]
    assert len(chat.of("error")) == 1


def test_flood_of_lines_starves_nobody(loop: reactor.Reactor) -> None:
    turns: list[int] = []

    class Counting(RecordingChat):
        def found_terminator(self) -> None:
            turns.append(loop.turns)

    served(loop, Counting, b"\r\n" * 20_000)
    assert len(turns) == 20_000
    assert max(turns.count(turn) for turn in set(turns)) <= 512


def test_discarded_buffers_are_neither_collected_nor_sent(loop: reactor.Reactor) -> None:
    class Discarding(RecordingChat):
        def found_terminator(self) -> None:
            super().found_terminator()
            self.push(b"never sent")
            self.discard_buffers()

    chat = served(loop, Discarding, b"one\r\ntwo\r\nthree")
    assert chat.lines == [b"one"]
    assert chat.collected == b""
    assert chat.output_size == 0


def test_producers_of_asynchat_are_sent(loop: reactor.Reactor) -> None:
    class Twice:
        left = 2

        def more(self) -> bytes:
            self.left -= 1
            return b"more" if self.left >= 0 else b""

    class Producing(RecordingChat):
        def found_terminator(self) -> None:
            self.push_with_producer(Twice())
            self.close_when_done()

    listener = reactor.Listener(("127.0.0.1", 0), Producing, reactor=loop)
    with listener, raw_client(listener.address) as client:
        client.sendall(b"go\r\n")
        client.setblocking(False)
        received = b""
        while len(received) < 8:
            loop.poll(0.1)
            try:
                received += client.recv(100)
            except BlockingIOError:
                pass
    assert received == b"moremore"


def test_lines_of_text_end_with_or_without_a_carriage_return(loop: reactor.Reactor) -> None:
    assert served(loop, RecordingLines, "one\r\ntwo\n\nvier \N{SNOWMAN}\r\n".encode()).lines == [
        "one", "two", "", "vier \N{SNOWMAN}",
    ]  # fmt: skip


def test_line_in_another_encoding_is_the_peer_s_fault(loop: reactor.Reactor) -> None:
    lines = served(loop, RecordingLines, b"good\n\xff\xfe\nnever seen\n")
    assert lines.lines == ["good"]
    (reason,) = lines.of("close")
    assert isinstance(reason, DecodingError)
    assert r"it begins b'\xff\xfe'" in str(reason)


@pytest.mark.parametrize("line", ["two\nlines", "two\rlines", "end\n"])
def test_end_of_a_line_within_a_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="more than one line"):
        RecordingLines().send_line(line)


def conversation(world: World) -> None:
    """A client that sends lines and tries again until every one has come back."""
    answered: set[str] = set()
    wanted = {f"line {number} {'x' * number}" for number in range(30)}

    class Asker(reactor.LineChannel):
        def handle_open(self) -> None:
            for line in sorted(wanted - answered):
                self.send_line(line)

        def handle_line(self, line: str) -> None:
            assert line in wanted
            answered.add(line)
            if answered == wanted:
                self.close()

    world.host("server", lambda host: host.listen(6000, EchoLines))
    world.connect(("server", 6000), Asker, reconnect=reactor.Backoff())
    world.run(until=lambda: answered == wanted, timeout=1e6)


def test_lines_survive_every_fault_of_the_network() -> None:
    simulate(conversation, seeds=100)
    simulate(conversation, seeds=100, faults=ALL)


def test_chat_dies_without_the_collector(loop: reactor.Reactor) -> None:
    import weakref

    gc.collect()
    gc.disable()
    try:
        chat = weakref.ref(served(loop, RecordingChat, b"one\r\ntwo"))
        loop.poll(0)
        assert chat() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("after", "lines", "collected"),
    [(b"\r", [b"abc", b"def"], b"ghi"), (None, [], b"abc\rdef\rghi"), (1, [b"abc\r"], b"")],
)
def test_terminator_set_from_outside_of_a_hook_finds_what_was_held_back(
    loop: reactor.Reactor, after: Any, lines: list[bytes], collected: bytes
) -> None:
    accepted = Accepting(RecordingChat)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    with listener, raw_client(listener.address) as client:
        client.sendall(b"abc\r")
        run_until(loop, lambda: accepted.channels and accepted.channels[0].collected == b"abc")
        chat = accepted.channels[0]
        chat.set_terminator(after)
        client.sendall(b"def\rghi" if after != 1 else b"")
        run_until(loop, lambda: (chat.lines, chat.collected) == (lines, collected))


def test_line_that_the_input_ends_in_is_told_apart(loop: reactor.Reactor, caplog: pytest.LogCaptureFixture) -> None:
    class Unfinished(RecordingLines):
        def handle_unfinished(self, line: str) -> None:
            self.lines.append(f"{line}...")

    assert served(loop, Unfinished, b"one\ntwo\r").lines == ["one", "two..."]
    assert served(loop, RecordingLines, b"one\ntwo").lines == ["one"]
    assert "the input ended within a line, which was dropped" in caplog.text
    with_all = type("WithAll", (RecordingLines,), {"handle_unfinished": RecordingLines.handle_line})
    assert served(loop, with_all, b"one\ntwo").lines == ["one", "two"]


def test_line_that_nobody_handles_is_told_in_the_log(loop: reactor.Reactor, caplog: pytest.LogCaptureFixture) -> None:
    class Careless(Recorder, reactor.LineChannel):
        pass

    served(loop, Careless, b"one\n")
    assert "a line came in, and handle_line is not written" in caplog.text
