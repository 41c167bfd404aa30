"""`reactor.compat.asyncore` has the names of `asyncore`, and uses them where a program replaces them."""

from __future__ import annotations

import importlib
import inspect
import select
import types
from typing import Any

import pytest

from reactor.compat import asyncore

from .conftest import original, run_until
from .dispatchers import Pair, Recording, raising, send_to

# The same names, the same signatures


def test_module_has_every_name_of_the_original() -> None:
    old = original("asyncore")
    missing = {name for name in vars(old) if not hasattr(asyncore, name)}
    assert missing <= {"_DEPRECATION_MSG", "__warningregistry__", "__path__"}  # pyasyncore is a package


@pytest.mark.parametrize("name", ["asyncore", "asynchat"])
def test_star_gives_the_names_that_it_gave(name: str) -> None:
    given: dict[str, Any] = {}
    exec(f"from reactor.compat.{name} import *", given)
    old = {public for public in vars(original(name)) if not public.startswith("_")}
    assert given.keys() - {"__builtins__"} == old


def signature(function: Any) -> list[tuple[str, Any]]:
    return [(parameter.name, parameter.default) for parameter in inspect.signature(function).parameters.values()]


def test_functions_and_methods_take_the_arguments_of_the_original() -> None:
    old = original("asyncore")
    compared = 0
    for name, value in vars(old).items():
        if inspect.isfunction(value):
            assert signature(getattr(asyncore, name)) == signature(value), name
            compared += 1
        elif inspect.isclass(value) and value.__module__ == old.__name__:
            ours = getattr(asyncore, name)
            for attribute, method in vars(value).items():
                if inspect.isfunction(method):
                    assert signature(getattr(ours, attribute)) == signature(method), (name, attribute)
                    compared += 1
                elif not attribute.startswith("__"):
                    assert getattr(ours, attribute) == method, (name, attribute)
    assert compared > 50


def test_reload_keeps_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: value for name, value in vars(asyncore).items() if not name.startswith("__")}
    asyncore.socket_map["mark"] = None
    try:
        assert importlib.reload(asyncore).socket_map is before["socket_map"]
    finally:
        vars(asyncore).update(before)
        del asyncore.socket_map["mark"]


def test_dispatcher_goes_by_the_old_name_and_subclass_by_its_own() -> None:
    dispatcher = asyncore.dispatcher()
    assert repr(dispatcher) == f"<asyncore.dispatcher at {id(dispatcher):#x}>"
    dispatcher.addr = ("host", 5)
    dispatcher.connected = True
    assert repr(dispatcher).startswith("<asyncore.dispatcher connected host:5 at ")
    assert repr(Recording()).startswith(f"<{Recording.__module__}.Recording at ")


# Names that a program replaces


def test_socket_that_was_put_in_the_module_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Fake:
        def setblocking(self, flag: bool) -> None:
            made.append(flag)

        def fileno(self) -> int:
            return 500

        def close(self) -> None:
            pass

    def make(family: int, type: int) -> Fake:
        made.append((family, type))
        return Fake()

    monkeypatch.setattr(asyncore, "socket", types.SimpleNamespace(socket=make))
    channel = asyncore.dispatcher()
    channel.create_socket(7, 8)
    assert made == [(7, 8), False]
    assert asyncore.socket_map[500] is channel
    channel.close()


def test_select_that_was_put_in_the_module_is_asked(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fake_select(r: Any, w: Any, e: Any, timeout: Any) -> Any:
        asked.append((r, w, e, timeout))
        return r, [], []

    monkeypatch.setattr(asyncore, "select", types.SimpleNamespace(select=fake_select))
    channel = Recording(pair()[0])
    send_to(channel)
    asyncore.loop(timeout=5, count=1)
    number = channel.socket.fileno()
    assert asked == [([number], [], [number], 5)]
    assert channel.events == [b"x"]
    channel.close()


def test_select_that_was_put_in_the_module_has_the_last_word(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    unasked = Recording(pair()[0])
    unasked.readable = lambda: False  # type: ignore[method-assign]
    asked = Recording(pair()[0])
    numbers = [channel.socket.fileno() for channel in (unasked, asked)]
    fake = types.SimpleNamespace(select=lambda r, w, e, timeout: (numbers, numbers, []))
    monkeypatch.setattr(asyncore, "select", fake)
    for channel in (unasked, asked):
        send_to(channel)
    asyncore.loop(count=1)
    assert unasked.events == asked.events == [b"x", "write"]
    asyncore.close_all()


def test_function_that_was_put_in_select_is_asked(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = select.select

    def recording_select(*args: Any) -> Any:
        asked.append("select")
        return real(*args)

    class RecordingPoll:
        def __init__(self) -> None:
            self.real = real_poll()

        def register(self, *args: Any) -> None:
            asked.append("register")
            self.real.register(*args)

        def poll(self, timeout: int) -> Any:
            asked.append(f"poll {timeout}")
            return self.real.poll(timeout)

    real_poll = select.poll
    monkeypatch.setattr(asyncore.select, "select", recording_select)
    monkeypatch.setattr(asyncore.select, "poll", RecordingPoll)
    channel = Recording(pair()[0])
    for use_poll in (False, True):
        send_to(channel)
        asyncore.loop(timeout=1.5, count=1, use_poll=use_poll)
    assert asked == ["select", "register", "poll 1500"]
    assert channel.events == [b"x"] * 2
    channel.close()


def test_compact_traceback_that_was_put_in_the_module_is_used(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asyncore, "compact_traceback", lambda: (None, "kind", "value", "the way"))
    ours, theirs = pair()
    theirs.send(b"x")
    channel = asyncore.dispatcher(ours)
    channel.handle_read = raising(ValueError())  # type: ignore[method-assign]
    asyncore.loop()
    assert "(kind:value the way)" in capsys.readouterr().out


def test_functions_and_exceptions_that_were_put_in_the_module_are_used(
    pair: Pair, use_poll: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(Exception):
        pass

    monkeypatch.setattr(asyncore, "_reraised_exceptions", (*asyncore._reraised_exceptions, Mine))
    told: list[Any] = []
    channel = Recording(pair()[0])
    channel.handle_read = raising(Mine())  # type: ignore[method-assign]
    send_to(channel)
    with pytest.raises(Mine):
        asyncore.loop(use_poll=use_poll)
    monkeypatch.setattr(asyncore, "read", told.append)
    monkeypatch.setattr(asyncore, "readwrite", lambda obj, flags: told.append(obj))
    asyncore.loop(count=1, use_poll=use_poll)
    assert told == [channel]
    channel.close()


def test_map_that_was_put_in_the_module_is_used(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncore, "socket_map", {})
    channel = Recording(pair()[0])
    assert list(asyncore.socket_map.values()) == [channel]
    send_to(channel)
    run_until(lambda: channel.events)
    asyncore.close_all()
    assert asyncore.socket_map == {}
