"""`reactor.compat.asynchat` does what `asynchat` did, in linear time."""

from __future__ import annotations

import errno
import inspect
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.compat import asynchat, asyncore

from .conftest import original, run_until

Pair = Callable[[], tuple[socket.socket, socket.socket]]


class Wire:
    """Stands for a socket: gives `pieces`, one at each receive, and takes so many bytes at each send."""

    def __init__(self, pieces: Any = (), takes: Any = ()) -> None:
        self.pieces = list(pieces)
        self.takes = list(takes)
        self.sent: list[bytes] = []

    def fileno(self) -> int:
        return 1_000_000

    def recv(self, size: int) -> bytes:
        piece: bytes = self.pieces.pop(0)
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def send(self, data: Any) -> int:
        size = min(self.takes.pop(0) if self.takes else len(data), len(data))
        if not size and len(data):
            raise BlockingIOError(errno.EAGAIN, "full")
        self.sent.append(bytes(data[:size]))
        return size

    def close(self) -> None:
        pass


def names_and_defaults(function: Any) -> list[tuple[str, Any]]:
    return [(parameter.name, parameter.default) for parameter in inspect.signature(function).parameters.values()]


def test_module_has_every_name_of_the_original_with_its_arguments() -> None:
    old = original("asynchat")
    missing = {name for name in vars(old) if not hasattr(asynchat, name)}
    assert missing <= {"_DEPRECATION_MSG", "_deprecated", "__warningregistry__", "__path__"}  # pyasynchat is a package
    assert names_and_defaults(asynchat.find_prefix_at_end) == names_and_defaults(old.find_prefix_at_end)
    for name in ("async_chat", "simple_producer"):
        for attribute, value in vars(getattr(old, name)).items():
            ours = getattr(getattr(asynchat, name), attribute)
            if inspect.isfunction(value):
                assert names_and_defaults(ours) == names_and_defaults(value), (name, attribute)
            elif not attribute.startswith("__"):
                assert ours == value, (name, attribute)


def test_chat_is_a_dispatcher_of_the_module_beside() -> None:
    assert asynchat.asyncore is asyncore
    assert issubclass(asynchat.async_chat, asyncore.dispatcher)


# Input: the same calls as the original makes, whatever comes and however it is cut


def log_of(module: Any, pieces: list[bytes], terminators: list[Any], size: int, looks: bool) -> list[Any]:
    """Return the calls that `module.async_chat` makes, and what its buffer held in each.

    Arguments:
        terminators: the first one, and the one to set at each that is found.
        looks: whether the program looks at the buffer in each call.
    """
    left = list(terminators)
    log: list[Any] = []

    class Chat(module.async_chat):  # type: ignore[misc]
        ac_in_buffer_size = size

        def collect_incoming_data(self, data: Any) -> None:
            log.append((bytes(data), self.ac_in_buffer if looks else None))

        def found_terminator(self) -> None:
            log.append((self.get_terminator(), self.ac_in_buffer if looks else None))
            if left:
                self.set_terminator(left.pop(0))

    chat = Chat(map={})
    chat.socket = wire = Wire(pieces)
    chat.set_terminator(left.pop(0))
    while wire.pieces:
        chat.handle_read()
    return [*log, chat.ac_in_buffer, chat.get_terminator()]


terminators = st.one_of(st.none(), st.integers(0, 5), st.text("ab\n", min_size=0, max_size=4).map(str.encode))


@given(
    st.lists(st.text("ab\n", min_size=1, max_size=20).map(str.encode), max_size=8),
    st.lists(terminators, min_size=1, max_size=4),
    st.sampled_from([1, 3, 7, 100]),
    st.booleans(),
)
def test_input_is_told_in_the_calls_that_the_original_makes(
    pieces: list[bytes], terminators: list[Any], size: int, looks: bool
) -> None:
    old = original("asynchat")
    assert log_of(asynchat, pieces, terminators, size, looks) == log_of(old, pieces, terminators, size, looks)


class Lines(asynchat.async_chat):
    """Keeps the lines that come in."""

    def __init__(self, sock: Any = None, map: Any = None) -> None:
        super().__init__(sock, map)
        self.lines: list[bytes] = []
        self.set_terminator(b"\r\n")

    collect_incoming_data = asynchat.async_chat._collect_incoming_data

    def found_terminator(self) -> None:
        self.lines.append(self._get_data())


def of_wire(chat: Any, *pieces: bytes) -> Any:
    """Give `chat` a wire from which `pieces` come."""
    chat.socket = Wire(pieces)
    chat.connected = True
    return chat


def test_buffer_may_be_replaced_while_it_is_worked_off() -> None:
    class Starting(Lines):
        def found_terminator(self) -> None:
            super().found_terminator()
            if self.lines[-1] == b"STARTTLS":
                self.ac_in_buffer = b""  # what came in front of the encryption is not to be believed
            elif self.lines[-1] == b"MORE":
                self.ac_in_buffer = b"put in\r\n" + self.ac_in_buffer

    chat = of_wire(Starting(map={}), b"MORE\r\nSTARTTLS\r\ninjected\r\n", b"after\r\n")
    chat.handle_read()
    chat.handle_read()
    assert chat.lines == [b"MORE", b"put in", b"STARTTLS", b"after"]


def test_buffer_with_a_first_value_in_a_class_is_a_buffer() -> None:
    class First:
        ac_in_buffer = b"what is set here, __init__ replaces"

    class Beside(First, Lines):
        pass

    class Own(Lines):
        ac_in_buffer = b""

    class Further(First, Own):
        pass

    for kind in (Beside, Own, Further):
        chat = of_wire(kind(map={}), b"one\r\ntwo\r\nth", b"ree\r\n")
        chat.handle_read()
        assert chat.ac_in_buffer == b""
        chat.handle_read()
        assert chat.lines == [b"one", b"two", b"three"]


def test_buffer_may_be_a_property_that_stands_on_ours() -> None:
    looks: list[bytes] = []

    class Looking(Lines):
        @property
        def ac_in_buffer(self) -> Any:
            looks.append(super().ac_in_buffer)
            return looks[-1]

        @ac_in_buffer.setter
        def ac_in_buffer(self, data: Any) -> None:
            Lines.ac_in_buffer.__set__(self, data)

    chat = of_wire(Looking(map={}), b"one\r\n")
    chat.handle_read()
    assert chat.lines == [b"one"]
    assert looks


def test_buffers_may_be_discarded_while_they_are_worked_off() -> None:
    class Discarding(Lines):
        def found_terminator(self) -> None:
            super().found_terminator()
            self.producer_fifo.append(b"x")
            self.discard_buffers()

    chat = of_wire(Discarding(map={}), b"one\r\ntwo\r\n")
    chat.handle_read()
    assert (chat.lines, chat.incoming, chat.ac_in_buffer, list(chat.producer_fifo)) == ([b"one"], [], b"", [])


def test_input_may_be_read_in_the_middle_of_input() -> None:
    class Nested(Lines):
        def found_terminator(self) -> None:
            super().found_terminator()
            if self.lines == [b"one"]:
                self.handle_read()

    chat = of_wire(Nested(map={}), b"one\r\ntwo\r\nth", b"ree\r\n")
    chat.handle_read()
    assert chat.lines == [b"one", b"two", b"three"]


def test_terminator_may_be_decided_by_the_program() -> None:
    class Deciding(Lines):
        def get_terminator(self) -> Any:
            return b"\r\n" if len(self.lines) % 2 == 0 else b";"

    chat = of_wire(Deciding(map={}), b"one\r\ntwo;three\r\n")
    chat.handle_read()
    assert chat.lines == [b"one", b"two", b"three"]


def test_search_for_a_beginning_of_the_terminator_may_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynchat, "find_prefix_at_end", lambda haystack, needle: 0)
    chat = of_wire(Lines(map={}), b"one\r", b"\ntwo\r\n")
    chat.handle_read()
    chat.handle_read()
    assert chat.lines == [b"one\r\ntwo"]


def test_short_lines_are_not_copied_over_and_over() -> None:
    """The original cut the buffer at each terminator: each byte was copied once for each line in front of it."""
    copied = 0

    class Counting(bytes):
        def __getitem__(self, key: Any) -> Any:
            nonlocal copied
            data = super().__getitem__(key)
            copied += len(data)
            return Counting(data)

        def __radd__(self, other: bytes) -> Counting:
            return Counting(other + bytes(self))

    class Feeding(Lines):
        ac_in_buffer_size = 1 << 20

    chat = of_wire(Feeding(map={}))
    chat.recv = lambda size: Counting(b"a line\r\n" * 8192)
    chat.handle_read()
    assert len(chat.lines) == 8192
    assert 0 < copied <= 8 * 8192


def test_error_of_a_receive_is_told_and_an_empty_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Lines(map={})
    told: list[str] = []
    monkeypatch.setattr(chat, "handle_error", lambda: told.append("error"))
    for error in (BlockingIOError(), OSError("broken")):

        def fail(size: int, error: Exception = error) -> bytes:
            raise error

        monkeypatch.setattr(chat, "recv", fail)
        chat.handle_read()
    assert told == ["error"]


def test_terminator_that_makes_no_sense_is_refused() -> None:
    chat = Lines(map={})
    with pytest.raises(ValueError, match="positive"):
        chat.set_terminator(-1)
    chat.set_terminator("text")
    assert chat.get_terminator() == "text"
    chat.use_encoding = 1
    chat.set_terminator("text")
    assert chat.get_terminator() == b"text"


def test_input_that_comes_as_text_is_encoded_for_who_asks_for_it() -> None:
    chat: Any = Lines(map={})
    chat.use_encoding = True
    chat.recv = lambda size: "\xe9\r\n"
    chat.handle_read()
    assert chat.lines == [b"\xe9"]


def test_class_must_be_completed() -> None:
    chat = asynchat.async_chat(map={})
    with pytest.raises(NotImplementedError, match="must be implemented in subclass"):
        chat.collect_incoming_data(b"")
    with pytest.raises(NotImplementedError, match="must be implemented in subclass"):
        chat.found_terminator()


# Output


def sends_of(module: Any, queued: list[tuple[str, Any]], takes: list[int]) -> list[Any]:
    """Return what `module.async_chat` sends of what is queued, and whether it closes."""
    closed: list[str] = []

    class Chat(module.async_chat):  # type: ignore[misc]
        ac_out_buffer_size = 8

        def handle_close(self) -> None:
            closed.append("close")
            self.connected = False

    chat = Chat(map={})
    chat.socket = wire = Wire(takes=takes)
    chat.connected = True
    for how, what in queued:
        if how == "push":
            chat.push(what)
        elif how == "producer":
            chat.push_with_producer(module.simple_producer(what, 3))
        elif how == "bytes":
            chat.push_with_producer(what)
        else:
            chat.close_when_done()
    for _ in range(200):
        if chat.writable() and chat.connected:
            chat.handle_write()
    left = [item if isinstance(item, bytes | None) else type(item).__name__ for item in chat.producer_fifo]
    return [wire.sent, closed, left, bool(chat.writable())]


def view_of(data: bytes) -> memoryview:
    return memoryview(data)


data = st.binary(max_size=40)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), data),
            st.tuples(st.just("push"), data.map(bytearray)),
            st.tuples(st.just("push"), data.map(view_of)),
            st.tuples(st.just("producer"), data),
            st.tuples(st.just("bytes"), data),
            st.tuples(st.just("close"), st.none()),
        ),
        max_size=6,
    ),
    st.lists(st.integers(0, 9), max_size=20),
)
def test_output_is_sent_in_the_pieces_of_the_original(queued: list[tuple[str, Any]], takes: list[int]) -> None:
    assert sends_of(asynchat, queued, takes) == sends_of(original("asynchat"), queued, takes)


@pytest.mark.parametrize("use_poll", [False, True])
@pytest.mark.parametrize("size", [65536, 65537, 1_000_000])
def test_push_of_more_than_a_buffer_arrives_whole(
    pair: Pair, in_thread: Callable[..., threading.Thread], size: int, use_poll: bool
) -> None:
    ours, theirs = pair()
    content = bytes(range(256)) * (size // 256 + 1)
    received = bytearray()

    def receive() -> None:
        while piece := theirs.recv(65536):
            received.extend(piece)

    reader = in_thread(receive)
    chat = Lines(ours)
    chat.push(content[:size])
    chat.push_with_producer(asynchat.simple_producer(content[:size]))
    chat.close_when_done()
    asyncore.loop(use_poll=use_poll)
    reader.join(10)
    assert bytes(received) == content[:size] * 2


@pytest.mark.parametrize("wrong", ["text", 10, None, [b"x"]])
def test_push_of_what_is_no_bytes_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="byte-ish"):
        Lines(map={}).push(wrong)


def test_text_is_sent_only_by_who_asks_for_an_encoding() -> None:
    class Texts:
        def __init__(self) -> None:
            self.left = ["é"]

        def more(self) -> str:
            return self.left.pop() if self.left else ""

    chat = of_wire(Lines(map={}))
    chat.use_encoding = True
    chat.push_with_producer(Texts())
    chat.handle_write()
    assert chat.socket.sent == [b"\xe9"]


def test_error_of_a_send_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = of_wire(Lines(map={}))
    told: list[str] = []
    monkeypatch.setattr(chat, "handle_error", lambda: told.append("error"))

    def fail(data: bytes) -> int:
        raise PermissionError

    monkeypatch.setattr(chat.socket, "send", fail)
    chat.push(b"x")
    assert told == ["error"]
    assert list(chat.producer_fifo) == [b"x"]


def test_chat_between_two_loops_in_one(pair: Pair) -> None:
    ours, theirs = pair()
    left, right = Lines(ours), Lines(theirs)
    for number in range(100):
        left.push(b"%d\r\n" % number)
        right.push(b"-%d\r\n" % number)
    run_until(lambda: len(left.lines) == len(right.lines) == 100)
    assert right.lines == [b"%d" % number for number in range(100)]
    left.close_when_done()
    asyncore.loop()


def test_prefix_of_the_terminator_is_found_at_the_end() -> None:
    for haystack, needle, length in (
        (b"qwerty\r", b"\r\n", 1), ("qwerty\r", "\r\n", 1), (b"qwerty", b"\r\n", 0),
        (b"a\r\n.\r", b"\r\n.\r\n", 4), (b"x", b"y", 0),
    ):  # fmt: skip
        assert asynchat.find_prefix_at_end(haystack, needle) == length
