"""Planting a defect: in the source of a function a text is replaced, for as long as a test wants it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of one function of the engine.

    Arguments:
        where: the function's module and name: ``"reactor.channel:Channel._finish"``.
        texts: what stands in its source once, and what takes its place; perhaps another such pair, and so on.
    """

    where: str
    texts: tuple[str, ...]

    def __init__(self, where: str, *texts: str) -> None:
        object.__setattr__(self, "where", where)
        object.__setattr__(self, "texts", texts)

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """Have the function run with the change.

        It is the function's code that is exchanged, so whoever holds the function already gets the change too.
        """
        function = self._function()
        before = function.__code__
        function.__code__ = self._compile(function)
        try:
            yield
        finally:
            function.__code__ = before

    def _function(self) -> FunctionType:
        module, _, path = self.where.partition(":")
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = inspect.getattr_static(found, name)
        found = getattr(found, "fget", None) or getattr(found, "__func__", None) or found
        assert isinstance(found, FunctionType), f"{self.where} is no function"
        return found

    def _compile(self, function: FunctionType) -> CodeType:
        lines, first = inspect.getsourcelines(function)
        source = "".join(lines)
        for old, new in zip(self.texts[::2], self.texts[1::2], strict=True):
            times = source.count(old)
            assert times == 1, f"the zoo is out of date: {old!r} stands {times} times in {self.where}"
            source = source.replace(old, new)
        path = function.__code__.co_filename
        module = _lines_of(path)
        whole = [*module[: first - 1], source, *module[first - 1 + len(lines) :]]
        wanted = function.__code__.co_name, function.__code__.co_firstlineno
        for code in _codes_in(compile("".join(whole), path, "exec", dont_inherit=True)):
            if (code.co_name, code.co_firstlineno) == wanted:
                return code
        raise AssertionError(f"the zoo is out of date: {self.where} was not found again")


@contextlib.contextmanager
def planted(changes: tuple[Change, ...]) -> Iterator[None]:
    """Have the engine run with all of these changes."""
    with contextlib.ExitStack() as stack:
        for change in changes:
            stack.enter_context(change.planted())
        yield


@functools.cache
def _lines_of(path: str) -> list[str]:
    with open(path, encoding="utf-8") as file:
        return file.readlines()


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes_in(constant)
