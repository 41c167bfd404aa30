"""The module `asynchat` of Python 3.11, on the reactor: for programs that lost it in Python 3.12.

All its names are here, with the same arguments, defaults and behaviour, and they are looked up in this module, so that
a program may replace them. Better than it was: the time that input takes is linear in its size, however many
terminators are in it; and input that comes as text, to who asks for an encoding, is encoded.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from . import asyncore
from .passes import SocketMap

__all__ = ["async_chat", "asyncore", "deque", "find_prefix_at_end", "simple_producer"]


class async_chat(asyncore.dispatcher):
    """A dispatcher for commands and answers: input up to a terminator, output from producers.

    Derive from it, and write `collect_incoming_data` and `found_terminator`.
    """

    ac_in_buffer_size = 65536
    ac_out_buffer_size = 65536

    use_encoding: Any = 0
    encoding = "latin-1"

    # A program may look at `ac_in_buffer`, and replace it, whenever it is called. To cut off what was taken at
    # each terminator would cost a copy of all the rest, so the cut is made when somebody looks.
    __input: Any = b""
    __taken = 0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not isinstance(cls.ac_in_buffer, property):
            # An attribute of a class, with which programs gave a first value to what __init__ sets anyway: it would
            # hide the buffer that the input comes into.
            cls.ac_in_buffer = async_chat.ac_in_buffer  # type: ignore[method-assign]

    def __init__(self, sock: Any = None, map: SocketMap | None = None) -> None:
        self.ac_in_buffer = b""
        self.incoming: list[Any] = []
        self.producer_fifo: deque[Any] = deque()
        asyncore.dispatcher.__init__(self, sock, map)

    @property
    def ac_in_buffer(self) -> Any:
        """What came in and has not been collected."""
        if self.__taken:
            self.__input = self.__input[self.__taken :]
            self.__taken = 0
        return self.__input

    @ac_in_buffer.setter
    def ac_in_buffer(self, data: Any) -> None:
        self.__input = data
        self.__taken = 0

    # What a program writes

    def collect_incoming_data(self, data: Any) -> None:
        """Keep `data`; more of it may come before the terminator."""
        raise NotImplementedError("must be implemented in subclass")

    def found_terminator(self) -> None:
        """The terminator has come; what was collected is complete."""
        raise NotImplementedError("must be implemented in subclass")

    def _collect_incoming_data(self, data: Any) -> None:
        """One way to collect, with `_get_data`."""
        self.incoming.append(data)

    def _get_data(self) -> bytes:
        data = b"".join(self.incoming)
        self.incoming.clear()
        return data

    # Input

    def set_terminator(self, term: Any) -> None:
        """Set what ends the input.

        Arguments:
            term: bytes to look for; a number of bytes; None to collect all that comes.
        """
        if isinstance(term, str) and self.use_encoding:
            term = bytes(term, self.encoding)
        elif isinstance(term, int) and term < 0:
            raise ValueError("the number of received bytes must be positive")
        self.terminator = term

    def get_terminator(self) -> Any:
        """Return what ends the input."""
        return self.terminator

    def handle_read(self) -> None:
        try:
            data = self.recv(self.ac_in_buffer_size)
        except BlockingIOError:
            return
        except OSError:
            self.handle_error()
            return
        if isinstance(data, str) and self.use_encoding:
            data = bytes(data, self.encoding)
        self.ac_in_buffer = self.ac_in_buffer + data
        # Whatever is called here may change the terminator and the buffer, or read on in a loop of its own.
        while (waiting := len(self.__input) - self.__taken) > 0:
            terminator = self.get_terminator()
            if not terminator:
                self.collect_incoming_data(self.ac_in_buffer)
                self.ac_in_buffer = b""
            elif isinstance(terminator, int):
                if waiting < terminator:
                    self.collect_incoming_data(self.ac_in_buffer)
                    self.ac_in_buffer = b""
                    self.terminator = self.terminator - waiting
                else:
                    self.collect_incoming_data(self.__input[self.__taken : self.__taken + terminator])
                    self.__taken += terminator
                    self.terminator = 0
                    self.found_terminator()
            else:
                start = self.__taken
                found = self.__input.find(terminator, start)
                if found >= 0:
                    if found > start:
                        self.collect_incoming_data(self.__input[start:found])
                    self.__taken += found - start + len(terminator)
                    self.found_terminator()
                elif held := find_prefix_at_end(self.ac_in_buffer, terminator):
                    if held != waiting:
                        self.collect_incoming_data(self.ac_in_buffer[:-held])
                        self.ac_in_buffer = self.ac_in_buffer[-held:]
                    break
                else:
                    self.collect_incoming_data(self.ac_in_buffer)
                    self.ac_in_buffer = b""

    # Output

    def handle_write(self) -> None:
        self.initiate_send()

    def handle_close(self) -> None:
        self.close()

    def push(self, data: Any) -> None:
        """Queue bytes to be sent, and send what can be at once."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError("data argument must be byte-ish (%r)", type(data))
        size = self.ac_out_buffer_size
        if len(data) > size:
            for start in range(0, len(data), size):
                self.producer_fifo.append(data[start : start + size])
        else:
            self.producer_fifo.append(data)
        self.initiate_send()

    def push_with_producer(self, producer: Any) -> None:
        """Queue an object whose ``more()`` gives bytes until it gives none, and send what can be at once."""
        self.producer_fifo.append(producer)
        self.initiate_send()

    def readable(self) -> Any:
        return 1

    def writable(self) -> Any:
        return self.producer_fifo or (not self.connected)

    def close_when_done(self) -> None:
        """Close as soon as everything queued has been sent."""
        self.producer_fifo.append(None)

    def initiate_send(self) -> None:
        """Send some of what is queued."""
        while self.producer_fifo and self.connected:
            first = self.producer_fifo[0]
            if not first:
                del self.producer_fifo[0]
                if first is None:
                    self.handle_close()
                    return
            size = self.ac_out_buffer_size
            try:
                data = first[:size]
            except TypeError:
                data = first.more()
                if data:
                    self.producer_fifo.appendleft(data)
                else:
                    del self.producer_fifo[0]
                continue
            if isinstance(data, str) and self.use_encoding:
                data = bytes(data, self.encoding)
            try:
                sent = self.send(data)
            except OSError:
                self.handle_error()
                return
            if sent:
                if sent < len(data) or size < len(first):
                    self.producer_fifo[0] = first[sent:]
                else:
                    del self.producer_fifo[0]
            return

    def discard_buffers(self) -> None:
        """Drop what came in and what is queued. Emergencies only!"""
        self.ac_in_buffer = b""
        self.incoming.clear()
        self.producer_fifo.clear()


class simple_producer:
    """A producer that cuts `data` into pieces of `buffer_size` bytes."""

    def __init__(self, data: Any, buffer_size: int = 512) -> None:
        self.data = data
        self.buffer_size = buffer_size

    def more(self) -> Any:
        """Return the next piece; an empty one at the end."""
        data, size = self.data, self.buffer_size
        if len(data) > size:
            self.data = data[size:]
            return data[:size]
        self.data = b""
        return data


def find_prefix_at_end(haystack: Any, needle: Any) -> int:
    """Return how much of the end of `haystack` is a beginning of `needle`, which is not in it as a whole."""
    length = len(needle) - 1
    while length and not haystack.endswith(needle[:length]):
        length -= 1
    return length
