"""Calls of shared objects: where they run, and what is answered."""

from __future__ import annotations

import functools
import traceback
from collections import defaultdict
from collections.abc import Callable
from multiprocessing import managers
from typing import TYPE_CHECKING, Any

from . import lines
from .crew import Job
from .lines import Line, Shared, Wait, settle
from .sessions import Session
from .standard import MayWait, is_quick, take_apart

if TYPE_CHECKING:
    from .server import Server


class Call:
    """A call of a shared object.

    Arguments:
        server: to whom the object belongs.
        session: who calls.
        message: the ident of the object, the name of the method, and its arguments.

    Attributes:
        is_fallback: whether the method is one that every proxy has, whatever its object exposes.
        typeid: what the result is shared as, or None.

    Raises:
        Exception: there is no such object, or it exposes no such method.
    """

    def __init__(self, server: Server, session: Session, message: Any) -> None:
        self.server = server
        self.session = session
        self.ident, self.name, self.args, self.kwargs = message
        self.obj, exposed, typeids = server.find(self.ident)
        self.is_fallback = False
        self.typeid = typeids.get(self.name) if typeids else None
        try:
            if self.name not in exposed:
                raise AttributeError(f"method {self.name!r} of {type(self.obj)!r} object is not in exposed={exposed!r}")
        except AttributeError:
            self._find_fallback()

    @property
    def makes_another(self) -> bool:
        """Whether its result is given to code that was registered, which makes another object of it."""
        return self.typeid is not None and self.server.registry.get(self.typeid, (None,))[0] is not None

    def make(self) -> Any:
        """Find the method, which may take the code of its object, and call it."""
        if not self.is_fallback:
            try:
                method = getattr(self.obj, self.name)
            except AttributeError:
                self._find_fallback()
            else:
                return method(*self.args, **self.kwargs)
        return self._fallback(self.server, self.session, self.ident, self.obj, *self.args, **self.kwargs)

    def _find_fallback(self) -> None:
        self.is_fallback = True
        self.typeid = None
        self._fallback: Any = self.server.fallback_mapping[self.name]

    def outcome(self, function: Callable[[], Any] | None = None) -> Any:
        """Return the message that tells what came of the call.

        Arguments:
            function: what is called in place of the method.
        """
        try:
            result = self.make() if function is None else function()
        except Exception as error:
            return self._failure(error)
        if not self.typeid:
            return "#RETURN", result
        try:
            ident, exposed = self.server.create(self.session, self.typeid, result)
        except Exception as error:
            return "#TRACEBACK", formatted(error)
        return "#PROXY", (exposed, managers.Token(self.typeid, self.server.address, ident))

    def returned(self, result: Any) -> None:
        """Send a result."""
        self.session.reply(self.outcome(lambda: result))

    def raised(self, error: BaseException) -> None:
        """Send an error."""
        if isinstance(error, Exception):
            self.session.reply(self._failure(error))
        else:
            self.session.exited(error)

    def _failure(self, error: Exception) -> Any:
        return ("#TRACEBACK", formatted(error)) if self.is_fallback else ("#ERROR", error)


class Switchboard:
    """Makes the calls of shared objects on the loop if they cannot hold it, else on a thread.

    Arguments:
        server: whose objects they are.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lines: defaultdict[str, dict[str, Line]] = defaultdict(lambda: defaultdict(Line))

    def forget(self, ident: str) -> None:
        """The object is gone."""
        self._lines.pop(ident, None)

    def call(self, session: Session, has_proxies: bool, message: Any) -> None:
        """Make a call, and answer it."""
        try:
            call = Call(self._server, session, message)
        except Exception as error:
            session.reply(("#TRACEBACK", formatted(error)))
            return
        if call.is_fallback:
            self.work(session, cannot_wait(type(call.obj)), call.outcome)
        elif isinstance(call.obj, Shared):
            lines.call(session, call.obj, call.make, call.returned, call.raised)
        else:
            self._call_standard(call, has_proxies)

    def work(self, session: Session, is_quick: bool, work: Callable[[], Any], ident: str = "") -> None:
        """Answer with the message that `work` returns.

        Arguments:
            is_quick: call it here, and not on a thread.
            ident: of the object for which others may wait that have to be tried again then.
        """
        if is_quick:
            session.reply(work())
            self._settle(ident)
            return

        def done(data: bytes) -> None:
            session.answer(data)
            self._settle(ident)

        self._server.crew.run(Job(lambda: session.encode(work()), done, session.drop))

    def _settle(self, ident: str) -> None:
        waiting = self._lines.get(ident)
        if waiting is not None:
            settle(waiting.values())

    def _call_standard(self, call: Call, has_proxies: bool) -> None:
        """Call an object of the standard library or of the user."""
        try:
            pieces = take_apart(call.obj, call.name, call.args, call.kwargs)
        except Exception as error:
            call.raised(error)
            return
        if pieces is not None and pieces.is_patient:
            self._call_in_pieces(call, pieces)
            return
        is_given_code = has_proxies or call.makes_another or any(map(callable, (*call.args, *call.kwargs.values())))
        quick = pieces is not None or (is_quick(type(call.obj)) and not is_given_code)
        self.work(call.session, quick, call.outcome, call.ident)

    def _call_in_pieces(self, call: Call, pieces: MayWait) -> None:
        """Make a call that may wait: now, or when another call has made it possible, or on a thread."""
        session, clock = call.session, self._server.reactor.clock
        line = self._lines[call.ident][call.name]
        others = self._lines[call.ident].values()
        deadline = None if pieces.timeout is None else clock() + pieces.timeout

        def begins() -> None:
            wait.withdraw()
            line.threads += 1

        def make() -> Any:
            return pieces.wait(None if deadline is None else max(deadline - clock(), 0))

        def ended(tell: Callable[[Any], object], outcome: Any) -> None:
            line.threads -= 1
            tell(outcome)
            settle(others)

        wait = Wait(session, line, pieces.attempt, pieces.timeout, pieces.late)
        lines.answer(others, wait, call.returned, call.raised)
        settle(others)
        if wait.is_waiting:
            job = Job(
                lambda: session.encode(call.outcome(make)),
                functools.partial(ended, session.answer),
                functools.partial(ended, session.drop),
                waits=True,
                begins=begins,
            )
            wait.helpers.append(job)
            self._server.crew.run(job)


def cannot_wait(kind: type) -> bool:
    """Return whether whatever is done with objects of this `kind` can be done on the loop."""
    return issubclass(kind, Shared) or is_quick(kind)


def formatted(error: BaseException) -> str:
    """Return `error` with its traceback, as text."""
    return "".join(traceback.format_exception(error))
