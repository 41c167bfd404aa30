"""``python -m reactor connect``: Talk to a server, by hand or in a pipe.

What you type goes to the server, line by line, and what it says is printed. By hand there are history and editing; a
pipe gets what the server says and nothing else. Ctrl-D, or the end of the pipe, ends it.

A message is typed as Python writes it, ("add", 2, 3); with --codec json as JSON has it, with --codec bytes as it is.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import pprint
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ClassVar

from ..addresses import Address, parse_address
from ..chat import Chat
from ..connecting import Connectable
from ..connection import Connection
from ..errors import ClosedHere, ConnectError, PeerClosed, ReactorError, RemoteError, UnsafePickleError
from ..eventloop import Reactor
from ..limits import MIB, Limits
from ..settings import address as read_address
from ..stream import Stream
from .console import GREEN, GREY, ExitCode, Failure, Parser, coloured, complain, printable
from .material import read_key

EXAMPLES = """examples:
  python -m reactor connect tcp://localhost:6000 --authkey-file key
  echo '("add", 2, 3)' | python -m reactor connect tcp://localhost:6000 --authkey-file key
  python -m reactor connect tcp://www.example.org:443 --tls --bytes < request

"""

LIMITS = Limits(maximum_line=16 * MIB, idle_timeout=None, stall_timeout=None)

HISTORY = "~/.reactor_history"
HISTORY_LENGTH = 1000

ROOM = 1 * MIB
"""Bytes that may wait for the server; then no more is read from a pipe."""

PATIENCE = 10.0
"""Seconds of silence behind the end of the input, after which a server is not waited for any more."""

AGAIN = 0.02
"""Seconds after which whoever waits for the next line is told once more that there will be none."""

PROMPT = "> "
MOMENT = 0.1
"""Seconds in which most servers answer: it looks better if the answer stands in front of the next prompt."""


def add_options(parser: Parser) -> None:
    """Describe the command line."""
    parser.add_argument("address", metavar="ADDRESS", help="tcp://HOST:PORT or unix://PATH")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--messages", action="store_true", help="send and print messages; so it is by default")
    kinds.add_argument("--lines", action="store_true", help="send and print lines of text")
    kinds.add_argument("--bytes", action="store_true", help="send and print bytes as they are")
    parser.add_argument(
        "--codec", choices=["pickle", "json", "bytes"], help="what the messages are made of; pickle by default"
    )
    parser.add_argument("--authkey-file", metavar="FILE", help="the key that both sides have: the bytes of this file")
    parser.add_argument("--tls", action="store_true", help="encrypt; the server has to prove that it has its name")
    parser.add_argument(
        "--tls-authorities", metavar="FILE", help="encrypt, and believe the authorities in this file, as PEM"
    )
    parser.add_argument("--tls-name", metavar="NAME", help="encrypt, and ask the server to prove that it has this name")
    parser.add_argument(
        "--wait", type=seconds, default=0.0, metavar="SECONDS",
        help="in a pipe: keep the connection open so long behind the end of the input; a server may think that nobody "
        "waits for its answers any more",
    )  # fmt: skip


def seconds(text: str) -> float:
    """Return the time that `text` means, for argparse."""
    found = float(text)
    if not 0 <= found < 1e6:
        raise ValueError(text)
    return found


def run(options: argparse.Namespace) -> int:
    """Talk to a server, and return the exit code."""
    if options.codec and (options.lines or options.bytes):
        raise Failure("--codec is for messages; leave out --lines and --bytes", ExitCode.MISTAKE)
    if options.authkey_file and (options.lines or options.bytes):
        raise Failure("--authkey-file is for messages; leave out --lines and --bytes", ExitCode.MISTAKE)
    is_interactive = sys.stdin.isatty() and sys.stdout.isatty()
    codec = options.codec or "pickle"
    kind: type[Talker] = Lines if options.lines else Bytes if options.bytes else CODECS[codec]
    with Reactor() as loop, Conversation(loop, kind, is_interactive, options.wait) as conversation:
        address = read_address(options.address, os.getcwd())
        arguments: dict[str, Any] = {}
        if issubclass(kind, Connection):
            arguments["codec"] = codec
            if options.authkey_file:
                arguments["authkey"] = read_key(options.authkey_file)
        if options.tls or options.tls_authorities or options.tls_name:
            from ..tls import ClientTls

            arguments["tls"] = ClientTls(options.tls_authorities, server_name=options.tls_name)
        try:
            conversation.connect(address, arguments)
        except UnsafePickleError:
            raise Failure(
                "the messages would be pickles, which can run code here, and nothing says who sends them; give "
                "--authkey-file, or choose --codec json, --codec bytes, --lines or --bytes",
                ExitCode.MISTAKE,
            ) from None
        conversation.talk()
    return ExitCode.DONE


# What is spoken


class Talker(Connectable):
    """A channel that belongs to a conversation."""

    conversation: Conversation

    hint: ClassVar[str]
    """What may be typed."""

    def say(self, text: str) -> None:
        """Send what was typed, or what is one line of a pipe.

        Raises:
            ValueError: it means nothing.
        """
        raise NotImplementedError

    def handle_open(self) -> None:
        self.conversation.opened()

    def handle_drained(self) -> None:
        self.conversation.room.set()

    def handle_error(self, error: Exception) -> None:
        if not isinstance(error, RemoteError):
            self.close(error)

    def handle_close(self, reason: ReactorError) -> None:
        self.conversation.closed(reason)


class Messages(Talker, Connection):
    """Messages as Python writes them."""

    hint = 'messages are typed as Python writes them: ("add", 2, 3)'

    def say(self, text: str) -> None:
        try:
            message = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ValueError(f"{text.strip()!r} is no value of Python; text stands in quotation marks") from None
        self.send(message)

    def handle_message(self, message: Any) -> None:
        width = shutil.get_terminal_size().columns - 2 if self.conversation.is_interactive else sys.maxsize
        try:
            shown = pprint.pformat(message, width=width, sort_dicts=False)
        except Exception as error:  # its own __repr__ has failed
            shown = f"<a {type(message).__name__} that cannot be shown: {type(error).__name__}>"
        self.conversation.show(shown)


class JsonMessages(Talker, Connection):
    """Messages as JSON."""

    hint = 'messages are typed as JSON: ["add", 2, 3]'

    def say(self, text: str) -> None:
        try:
            message = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{text.strip()!r} is no JSON: {error}") from None
        self.send(message)

    def handle_message(self, message: Any) -> None:
        shown = json.dumps(message, ensure_ascii=False)
        self.conversation.show(shown if shown.isprintable() else json.dumps(message))


class BytesMessages(Talker, Connection):
    """Messages that are bytes, taken for text."""

    hint = "each line is a message"

    def say(self, text: str) -> None:
        self.send_bytes(text.encode("utf-8", "surrogateescape"))

    def handle_message(self, message: Any) -> None:
        if self.conversation.is_interactive:
            self.conversation.show(printable(message.decode("utf-8", "backslashreplace")))
        else:
            self.conversation.write(message + b"\n")


class Lines(Talker, Chat):
    """Lines of text."""

    hint = "each line is sent as it is"
    terminator = b"\n"

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def say(self, text: str) -> None:
        self.push(text.encode("utf-8", "surrogateescape") + b"\r\n")

    def collect_incoming_data(self, data: bytes) -> None:
        self._parts.append(data)

    def found_terminator(self) -> None:
        line = b"".join(self._parts).removesuffix(b"\r")
        self._parts.clear()
        if self.conversation.is_interactive:
            self.conversation.show(printable(line.decode("utf-8", "backslashreplace"), kept="\t"))
        else:
            self.conversation.write(line + b"\n")

    def handle_eof(self) -> None:
        if self._parts:
            self.found_terminator()
        super().handle_eof()


class Bytes(Talker, Stream):
    """Bytes as they are."""

    hint = "each line is sent as it is"

    def say(self, text: str) -> None:
        self.push(text.encode("utf-8", "surrogateescape") + b"\n")

    def handle_data(self, data: bytes) -> None:
        if self.conversation.is_interactive:
            text = data.decode("utf-8", "backslashreplace")
            self.conversation.show(printable(text, kept="\n\t").removesuffix("\n"))
        else:
            self.conversation.write(data)


CODECS: dict[str, type[Talker]] = {"pickle": Messages, "json": JsonMessages, "bytes": BytesMessages}


# Both sides of it


class Ended(Exception):
    """The connection has ended while the next line was waited for."""


class Conversation:
    """Reads what is typed in the main thread, while the loop runs in another one.

    Arguments:
        loop: the loop.
        kind: what is spoken.
        is_interactive: whether somebody types, and reads.
        wait: seconds for which the connection is kept open, in a pipe, behind the end of the input.

    Attributes:
        room: set when what was said has gone, as far as that matters.
    """

    def __init__(self, loop: Reactor, kind: type[Talker], is_interactive: bool, wait: float) -> None:
        self.is_interactive = is_interactive
        self.room = threading.Event()
        self._loop = loop
        self._wait = wait
        self._kind = kind
        self._channel: Talker | None = None
        self._thread = threading.Thread(target=self._work, name="reactor-connect")
        self._begun = threading.Event()
        self._shown = threading.Event()
        self._over = threading.Event()
        self._has_left = threading.Event()
        self._reason: ReactorError | None = None
        self._is_reading = False
        self._output = threading.Lock()
        self._main = threading.get_ident()
        self._signal_before: Any = None

    def __enter__(self) -> Conversation:
        self._signal_before = signal.signal(signal.SIGUSR1, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        self._has_left.set()
        if self._thread.is_alive():
            self._loop.call_threadsafe(self._loop.stop)
            self._thread.join()
        signal.signal(signal.SIGUSR1, self._signal_before)

    # In the main thread

    def connect(self, address: Address, options: dict[str, Any]) -> None:
        """Begin to connect."""
        self._channel = self._kind.connect(address, reactor=self._loop, limits=LIMITS, **options)
        self._channel.conversation = self
        self._name = str(parse_address(address))
        self._thread.start()

    def talk(self) -> None:
        """Talk until one side has ended.

        Raises:
            Failure: the connection could not be made, or has broken.
        """
        self._begun.wait()
        if self._reason is None:
            if self.is_interactive:
                self._remark(f"connected to {self._name}; {self._kind.hint}; Ctrl-D ends")
            try:
                self._say_all()
            except Ended:
                pass
            else:
                self._end()
        self._has_left.set()
        self._over.wait()
        reason = self._reason
        if isinstance(reason, PeerClosed):
            if self.is_interactive:
                self._remark("the server has closed the connection")
        elif not isinstance(reason, ClosedHere):
            assert reason is not None
            where = "" if isinstance(reason, ConnectError) else f"{self._name}: "
            raise Failure(where + reason._message().replace("ClientTls(authorities=...)", "--tls-authorities"))

    def _say_all(self) -> None:
        assert self._channel is not None
        if isinstance(self._channel, Bytes) and not self.is_interactive:
            for data in self._pieces():
                self._call(self._channel.push, data)
            return
        for number, line in enumerate(self._typed() if self.is_interactive else self._piped(), 1):
            if not line.strip() and isinstance(self._channel, Messages | JsonMessages):
                continue
            self._shown.clear()
            problem = self._call(self._channel.say, line)
            if problem is None:
                if self.is_interactive:
                    self._shown.wait(MOMENT)
            elif self.is_interactive:
                complain(problem)
            else:
                raise Failure(f"line {number} of the input: {problem}", ExitCode.MISTAKE)

    def _typed(self) -> Iterator[str]:
        with history():
            while True:
                try:
                    yield self._read(lambda: input(PROMPT))
                except EOFError:
                    print()
                    return

    def _piped(self) -> Iterator[str]:
        while line := self._read(sys.stdin.buffer.readline):
            yield line.decode("utf-8", "surrogateescape").rstrip("\r\n")

    def _pieces(self) -> Iterator[bytes]:
        while data := self._read(lambda: os.read(sys.stdin.fileno(), 1 << 16)):
            yield data

    def _read(self, read: Callable[[], Any]) -> Any:
        """Return what `read` does, unless the connection ends first.

        Raises:
            Ended: it has.
        """
        try:
            self._is_reading = True
            if self._over.is_set():
                raise Ended
            return read()
        finally:
            self._is_reading = False

    def _interrupted(self, signum: int, frame: FrameType | None) -> None:
        if self._is_reading:
            if self.is_interactive:
                print()
            raise Ended

    def _call(self, function: Callable[[Any], object], argument: Any) -> Exception | None:
        """Call a method of the channel, on the loop; return what it raised. Wait until there is room for more."""
        problems: list[Exception] = []

        def call() -> None:
            assert self._channel is not None
            try:
                function(argument)
            except Exception as error:
                problems.append(error)
            if self._channel.output_size < ROOM:
                self.room.set()

        self.room.clear()
        if not self._over.is_set():
            self._loop.call_threadsafe(call)
            self.room.wait()
        return problems[0] if problems else None

    def _end(self) -> None:
        """Nothing more will be said."""
        assert self._channel is not None
        if self.is_interactive:
            self._loop.call_threadsafe(self._channel.close_when_done)
        else:
            self._over.wait(self._wait)
            self._loop.call_threadsafe(self._end_output)

    # On the loop

    def _work(self) -> None:
        try:
            self._loop.loop()
        finally:
            self._begun.set()
            # More than once: a signal that comes just before readline begins to wait does not wake it.
            while not self._has_left.wait(AGAIN):
                signal.pthread_kill(self._main, signal.SIGUSR1)

    def opened(self) -> None:
        """The connection is there."""
        self._begun.set()

    def closed(self, reason: ReactorError) -> None:
        """The connection is gone."""
        self._reason = reason
        self._over.set()
        self._begun.set()
        self.room.set()
        self._loop.stop()

    def show(self, text: str) -> None:
        """Print what the server has said, for somebody who may be typing at this very moment."""
        if not self.is_interactive:
            self.write(text.encode("utf-8", "backslashreplace") + b"\n")
            return
        shown = coloured(text, GREEN, sys.stdout)
        if self._is_reading:
            import readline

            shown = f"\r\033[K{shown}\n{PROMPT}{readline.get_line_buffer()}"
        else:
            shown += "\n"
        sys.stdout.write(shown)
        sys.stdout.flush()
        self._shown.set()

    def write(self, data: bytes) -> None:
        """Write what the server has said, for another program."""
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # it has read enough
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, sys.stdout.fileno())  # else Python would complain of what waits in there
            os.close(nothing)
            assert self._channel is not None
            self._channel.close()

    def _end_output(self) -> None:
        """Tell the server that this was all, and go on to hear what it says."""
        channel = self._channel
        assert channel is not None
        if channel.state.name not in ("Open", "Paused", "Throttled"):
            return
        try:
            if channel.output_size:
                raise BlockingIOError
            channel.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            self._loop.call_later(0.01, self._end_output)
        except OSError:
            channel.close()
        else:
            self._loop.call_every(PATIENCE / 10, self._look_for_silence)

    def _look_for_silence(self) -> None:
        channel = self._channel
        if channel is not None and self._loop.now - channel._active_at > PATIENCE:
            channel.close()

    def _remark(self, text: str) -> None:
        print(coloured(text, GREY, sys.stderr), file=sys.stderr, flush=True)


@contextlib.contextmanager
def history() -> Iterator[None]:
    """Have what was typed in earlier conversations at hand, and keep what is typed in this one."""
    try:
        import readline
    except ImportError:
        yield
        return
    file = os.path.expanduser(HISTORY)
    readline.set_history_length(HISTORY_LENGTH)
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))  # some libraries would let everybody read it
            readline.write_history_file(file)
