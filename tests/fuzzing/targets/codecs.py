"""Codecs, from any frame."""

from __future__ import annotations

import codecs
import copyreg
import gc
import json
import json.decoder
import json.scanner
import math
import pickle
import pickletools
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from reactor.codecs import BytesCodec, JsonCodec, RestrictedPickle
from reactor.connection import undecodable
from tests.fuzzing.decisions import Decisions
from tests.fuzzing.targets.texts import assert_readable


def loaded(loads: Callable[[bytes], Any], data: bytes) -> tuple[Any, Exception | None]:
    """Return the message for which `data` stands, or the error, as a connection has it, whose text it checks."""
    try:
        return loads(data), None
    except Exception as error:
        assert_readable(str(undecodable(data, error)))
        return None, error


def inside(value: Any) -> Iterator[Any]:
    """Yield `value` and all that it holds, however deep; of a class nothing but itself.

    It asks the garbage collector, because a pickle can make objects lie about their attributes.
    """
    seen = {}
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if id(value) not in seen:
            seen[id(value)] = value
            yield value
            if not isinstance(value, type):
                waiting += gc.get_referents(value)
            if isinstance(value, dict):
                waiting += dict.keys(value)  # the collector is not interested in text


# JSON


class PlainDecoder(json.JSONDecoder):
    """The reader of JSON that is written in Python: the fuzzer sees which way it goes, as it does not in C."""

    def __init__(self) -> None:
        super().__init__()
        self.parse_string = json.decoder.py_scanstring  # type: ignore[attr-defined]
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    def loads(self, data: bytes) -> Any:
        return self.decode(data.decode(json.detect_encoding(data), "surrogatepass"))


plain_decoder = PlainDecoder()


def json_codec(data: bytes) -> None:
    """A frame is JSON that can be sent again and is the same then, or a ValueError, or nested too deeply."""
    message, error = loaded(JsonCodec.loads, data)
    loaded(plain_decoder.loads, data)
    if error is not None:
        assert isinstance(error, ValueError | RecursionError)
        return
    try:
        sent = JsonCodec.dumps(message)
    except (ValueError, RecursionError):
        assert not is_standard(message)
        return
    assert is_standard(message)
    assert b"\n" not in sent
    assert JsonCodec.loads(sent) == message
    assert json.loads(sent.decode("utf-8", "strict")) == message
    assert JsonCodec.dumps(JsonCodec.loads(sent)) == sent


def is_standard(message: Any) -> bool:
    """Whether `message`, which Python's reader took for JSON, has a form in RFC 8259 and in UTF-8."""
    return not any(
        (isinstance(value, float) and not math.isfinite(value))
        or (isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value))
        for value in inside(message)
    )


# Bytes


def bytes_codec(data: bytes) -> None:
    """Bytes come out as they went in, whatever buffer they lie in; what cannot change is not copied."""
    decisions = Decisions(data)
    start, stop, step = decisions.number(), decisions.number(), 1 + decisions.below(3)
    payload = decisions.rest()
    view = memoryview(payload)
    for buffer in (bytearray(payload), view, view[start:stop:step], view[stop:start:-step]):
        sent = BytesCodec.dumps(buffer)
        assert type(sent) is bytes
        assert sent == bytes(list(buffer))
    assert BytesCodec.dumps(payload) is payload
    assert BytesCodec.loads(payload) is payload


# Restricted pickles


class Forbidden:
    """A class that no pickle may load, although it has a number in the registry of extensions."""


codecs.lookup("ascii")  # or it would be imported when the first pickle of protocol 0 is loaded

EXTENSION = 240
PLAIN = {type(None), bool, int, float, str, bytes, bytearray, list, tuple, dict, set, frozenset}
LARGEST_MEMO = 1 << 16


class Audit:
    """Listens to Python's audit (PEP 578). It stays for the life of the process: no hook can be taken away."""

    def __init__(self) -> None:
        self._events: list[tuple[str, tuple[Any, ...]]] | None = None
        self._is_installed = False

    def hear(self, loads: Callable[[bytes], Any], data: bytes, events: list[tuple[str, tuple[Any, ...]]]) -> Any:
        """Return what `loads` makes of `data`; what is reported in the meantime goes into `events`."""
        if not self._is_installed:
            sys.addaudithook(self._hear)
            self._is_installed = True
        self._events = events
        try:
            return loads(data)
        finally:
            self._events = None

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._events is not None:
            self._events.append((event, arguments))


audit = Audit()


def restricted_pickle(data: bytes) -> None:
    """Whatever is unpickled: nothing is named, called or given out that is not on the allow-list."""
    if is_memory_bomb(data):
        return
    # A class for this time alone, because a pickle may set attributes of what is allowed.
    allowed = type("Allowed", (), {"__module__": __name__})
    globals()["Allowed"] = allowed
    may_be_named = {(__name__, "Allowed"), ("collections", "OrderedDict")}
    codec = RestrictedPickle([allowed, OrderedDict])
    events: list[tuple[str, tuple[Any, ...]]] = []
    copyreg.add_extension(__name__, "Forbidden", EXTENSION)
    try:
        pickle.loads(pickle.dumps(Forbidden, 2))  # from now on Python knows the number without asking
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # as in the tests; to show one, Python would open files
            message, _ = loaded(lambda frame: audit.hear(codec.loads, frame, events), data)
    finally:
        copyreg.remove_extension(__name__, "Forbidden", EXTENSION)
    for event, arguments in events:
        if event != "sys.excepthook":  # CPython prints a SystemError where memory for a bytearray is refused
            assert event == "pickle.find_class", (event, arguments)
            assert arguments in may_be_named, arguments
    for value in inside(message):
        assert type(value) in PLAIN or is_any_of(value, allowed, OrderedDict), value


def is_any_of(value: Any, *kinds: type) -> bool:
    """Whether `value` is one of `kinds`, or an object of one; whatever it says of itself."""
    return any(kind is value or kind is type(value) for kind in kinds)


def is_memory_bomb(data: bytes) -> bool:
    """Whether the pickle `data` gives something a number so large that the memo takes the machine's memory.

    Not all of them are found: the reader in C goes on elsewhere than this one behind a frame within a frame.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > LARGEST_MEMO:
                return True
    except Exception:
        pass  # what stands behind this place is not loaded either
    return False
