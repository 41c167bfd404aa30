"""Callers of shared objects without a server: what waits, waits until the test says that its time is over."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from reactor.managers.lines import Shared, Wait, call


class Answer:
    """What has come of a call.

    Attributes:
        state: ``"waiting"``, ``"returned"`` or ``"raised"``.
        value: the result or the error.
    """

    def __init__(self) -> None:
        self.state = "waiting"
        self.value: Any = None

    def returned(self, value: Any) -> None:
        assert self.state == "waiting"
        self.state, self.value = "returned", value

    def raised(self, error: BaseException) -> None:
        assert self.state == "waiting"
        self.state, self.value = "raised", error

    @property
    def is_waiting(self) -> bool:
        return self.state == "waiting"

    @property
    def error(self) -> type[BaseException]:
        """The type of the error that was raised."""
        assert self.state == "raised"
        return type(self.value)

    @property
    def result(self) -> Any:
        """What was returned."""
        assert self.state == "returned", self.value
        return self.value


class Caller:
    """Somebody who calls, one call at a time.

    Attributes:
        has_left: whether the server may have seen that this one has gone.
        aside: what is to run on a thread: functions, and what is called with their errors.
    """

    def __init__(self) -> None:
        self.has_left = False
        self.aside: list[tuple[Callable[[], Any], Callable[[BaseException | None], object]]] = []
        self.waits: list[Wait] = []

    def hold(self, wait: Wait) -> None:
        self.waits.append(wait)

    def run_aside(self, function: Callable[[], Any], ended: Callable[[BaseException | None], object]) -> None:
        self.aside.append((function, ended))

    def call(self, obj: Shared, name: str, *args: Any, **kwargs: Any) -> Answer:
        """Call a method of `obj`."""
        answer = Answer()
        method = functools.partial(getattr(obj, name), *args, **kwargs)
        call(self, obj, method, answer.returned, answer.raised)
        return answer

    def run_out_of_time(self) -> None:
        """The timeout of the call that waits has passed."""
        assert self.waits[-1].timeout is not None
        self.waits[-1].expire()

    def leave(self) -> None:
        """Go, and have the server notice it."""
        self.has_left = True
        self.waits[-1].abandon()

    def act(self) -> None:
        """Run what is to run on a thread."""
        (function, ended), self.aside = self.aside[0], self.aside[1:]
        try:
            function()
        except BaseException as error:
            ended(error)
        else:
            ended(None)
