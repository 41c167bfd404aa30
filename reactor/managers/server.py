"""The server of a manager on one reactor: one loop and a bounded crew instead of a thread for each connection."""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
from collections.abc import Callable
from multiprocessing import managers, process
from typing import Any

from ..authentication import check_authkey
from ..errors import ClosedReactorError
from ..eventloop import Reactor
from ..limits import DEFAULT_LIMITS, Limits
from ..listener import Listener
from .calls import Switchboard, cannot_wait, formatted
from .crew import Crew, Hands, Job
from .lines import Blocked, Shared
from .messages import CODECS, carries_proxies
from .sessions import Session
from .standard import OF_THREADS, is_quick

MANAGER_LIMITS = dataclasses.replace(
    DEFAULT_LIMITS, maximum_frame=1 << 40, maximum_output=1 << 40, idle_timeout=None, stall_timeout=None,
    maximum_connections=1_000_000, maximum_connections_per_peer=1_000_000,
)  # fmt: skip
"""Who has the key may send what fits into memory, and be silent, or stopped, for as long as it likes: proxies are."""

GRACE = 0.5
"""Seconds in which clients take their last answers when the server is shut down. Its manager kills it after one."""

QUICK_REQUESTS = {"accept_connection", "dummy", "get_methods", "incref", "number_of_objects", "shutdown"}
"""Requests that never run any of the code that was registered."""


class Stop:
    """In place of the event that the original has."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        try:
            self._server.reactor.call_threadsafe(self._server.end)
        except ClosedReactorError:
            pass


class Server(managers.Server):
    """Serves the clients of ``multiprocessing.managers``, unmodified.

    Calls of built-in types and of the types in `waiting` run on the loop. All others run on threads; those of the
    queues and locks of the standard library only while they have to wait.

    Arguments:
        registry: the types, as `BaseManager.register` collects them.
        address: where to listen; None for a Unix socket of its own. A tuple is an address of IPv4.
        authkey: the key that clients must have, in bytes.
        serializer: ``"pickle"`` or ``"xmlrpclib"``.
        threads: the largest number of threads.
        limits: what is granted to clients.

    Raises:
        TypeError: the key is no bytes object.
        LocalError: the key is empty.
        OSError, AddressError: see `reactor.Listener`.
    """

    def __init__(
        self,
        registry: dict[str, Any],
        address: Any,
        authkey: bytes,
        serializer: str,
        *,
        threads: int = 16,
        limits: Limits = MANAGER_LIMITS,
    ) -> None:
        if not isinstance(authkey, bytes):
            raise TypeError(f"Authkey {authkey!r} is type {type(authkey)!s}, not bytes")
        check_authkey(authkey)
        self.registry = registry
        self.authkey = process.AuthenticationString(authkey)  # type: ignore[attr-defined]
        self.codec = CODECS[serializer](self)
        self.reactor = Reactor(threads=Hands(threads, "manager"))
        try:
            self.listener = Listener(
                address,
                lambda: Session(self),
                family="AF_INET" if isinstance(address, tuple) else None,  # clients connect to nothing else
                authkey=bytes(authkey),
                codec=self.codec,
                limits=limits,
                reactor=self.reactor,
            )
        except BaseException:
            self.reactor.close()
            raise
        self.address = self.listener.address
        self.crew = Crew(self.reactor, threads)
        self.id_to_obj: dict[str, Any] = {"0": (None, ())}
        self.id_to_refcount: dict[str, int] = {}
        self.id_to_local_proxy_obj: dict[str, Any] = {}
        self.mutex = threading.Lock()
        self.stop_event = Stop(self)
        self._calls = Switchboard(self)

    def serve_forever(self) -> None:
        """Serve until a client says `shutdown`; then end the process, as the original does."""
        process.current_process()._manager_server = self  # type: ignore[attr-defined]
        try:
            self.reactor.loop()
        except (KeyboardInterrupt, SystemExit):
            pass
        finally:
            self.reactor.close()
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
            sys.exit(0)

    def end(self) -> None:
        """Close all connections, and return from `serve_forever`. Only from the loop's own thread.

        Nobody is waited for but those who have an answer to take: they may be stopped, or gone.
        """
        for channel in list(self.reactor.channels):
            if isinstance(channel, Session) and channel.is_silent:
                channel.close()
        self.reactor.shutdown(GRACE)

    def run_aside(self, function: Callable[[], Any]) -> None:
        """Call `function` on a thread. From any thread.

        Raises:
            ClosedReactorError: the server has ended.
        """
        self.reactor.call_threadsafe(self.crew.run, Job(function, lambda _: None, lambda _: None))

    def receive(self, session: Session, data: bytes) -> None:
        """A message of a client came in."""

        def unreadable(error: BaseException) -> None:
            session.reply(("#TRACEBACK", formatted(error)))

        act = functools.partial(self._calls.call if session.serves else self._serve, session, carries_proxies(data))
        try:
            message = self.codec.loads(data, may_connect=False)
        except Blocked:
            self.crew.run(Job(functools.partial(self.codec.loads, data), act, unreadable))
        except Exception as error:
            unreadable(error)
        else:
            act(message)

    def find(self, ident: str) -> tuple[Any, set[str], dict[str, str] | None]:
        """Return a shared object, the names of the methods that it exposes, and what their results are shared as."""
        found: tuple[Any, set[str], dict[str, str] | None]
        found = self.id_to_obj.get(ident) or self.id_to_local_proxy_obj[ident]
        return found

    # Requests for the server itself

    def _serve(self, session: Session, has_proxies: bool, message: Any) -> None:
        def work() -> Any:
            try:
                _, name, args, kwargs = message
                assert name in self.public, f"{name!r} unrecognized"
                return "#RETURN", getattr(self, name)(session, *args, **kwargs)
            except Exception as error:
                return "#TRACEBACK", formatted(error)

        self._calls.work(session, self._is_quick(message, has_proxies), work)

    def _is_quick(self, message: Any, has_proxies: bool) -> bool:
        """Return whether a request runs none of the code that was registered, or that came with it."""
        try:
            _, name, args, _ = message
            if name == "create":
                maker = self.registry[args[0]][0]
                if not isinstance(maker, type):
                    return maker in (None, managers.Array) and not has_proxies  # type: ignore[attr-defined]
                return issubclass(maker, Shared) or (is_quick(maker) and not has_proxies)
            if name == "decref":
                return self.id_to_refcount[args[0]] > 1 or cannot_wait(type(self.id_to_obj[args[0]][0]))
            return name in QUICK_REQUESTS
        except Exception:
            return True  # so is the answer, that the request makes no sense

    def accept_connection(self, session: Any, name: str) -> None:
        """From now on this connection calls objects."""
        session.serves = True

    def shutdown(self, session: Any) -> None:
        """End, once the answers have been sent."""
        self.stop_event.set()

    def create(self, session: Any, typeid: str, /, *args: Any, **kwargs: Any) -> tuple[str, tuple[str, ...]]:
        """Make a shared object, and return its ident and what it exposes.

        Unlike the original it holds nobody up meanwhile.
        """
        maker, exposed, typeids, _ = self.registry[typeid]
        if maker is None:
            if kwargs or len(args) != 1:
                raise ValueError("Without callable, must have one non-keyword argument")
            (obj,) = args
        else:
            if isinstance(maker, type) and issubclass(maker, Shared):
                args = tuple(map(self._behind, args))
                kwargs = {name: self._behind(argument) for name, argument in kwargs.items()}
            obj = maker(*args, **kwargs)
        if isinstance(obj, OF_THREADS):
            kind = type(obj).__name__
            raise TypeError(
                f"a {kind} of threading needs a thread for each caller, and this server has not so many; "
                f"register reactor.managers.{kind} in its place"
            )
        exposed = list(managers.public_methods(obj) if exposed is None else exposed)  # type: ignore[attr-defined]
        if typeids is not None:
            if not isinstance(typeids, dict):
                raise TypeError(f"Method_to_typeid {typeids!r}: type {type(typeids)!s}, not dict")
            exposed += typeids
        ident = f"{id(obj):x}"
        with self.mutex:
            self.id_to_obj[ident] = (obj, set(exposed), typeids)
            self.id_to_refcount[ident] = self.id_to_refcount.get(ident, 0) + 1
        return ident, tuple(exposed)

    def decref(self, session: Any, ident: str) -> None:
        """One proxy less; with the last one the object goes."""
        if ident not in self.id_to_refcount and ident in self.id_to_local_proxy_obj:
            return
        with self.mutex:
            self.id_to_refcount[ident] -= 1
            if self.id_to_refcount[ident]:
                return
            del self.id_to_refcount[ident]
            entry = self.id_to_obj.pop(ident)
        self._calls.forget(ident)
        del entry  # not under the mutex: who knows what it does when it goes

    def debug_info(self, session: Any) -> str:
        """Return the shared objects, with the number of proxies that each one has."""
        with self.mutex:
            found = [(ident, count, self.id_to_obj[ident][0]) for ident, count in sorted(self.id_to_refcount.items())]
        return "\n".join(f"  {ident}:       refcount={count}\n    {str(obj)[:75]}" for ident, count, obj in found)

    def _behind(self, argument: Any) -> Any:
        """Return the object itself for a proxy of it: a condition takes a lock."""
        token = getattr(argument, "_token", None) if isinstance(argument, managers.BaseProxy) else None
        return argument if token is None or token.address != self.address else self.id_to_obj[token.id][0]
