"""What clients and server say to one another, in bytes: pickled, or in XML.

Pickles may hold proxies. One of an object of this very server is no more than its name; any other one says to its own
server that it is there, and again when it goes. That takes a connection, which is not waited for on the loop: the other
server may be this one under another name.
"""

from __future__ import annotations

import functools
import io
import pickle
import xmlrpc.client
from collections.abc import Callable
from multiprocessing import managers, process, reduction, util
from typing import Any, Protocol

from ..errors import ClosedReactorError
from .lines import Blocked

rebuild_proxy: Any = managers.RebuildProxy  # type: ignore[attr-defined]


class Host(Protocol):
    """The server for which messages are read.

    Attributes:
        address: where it listens.
    """

    address: Any

    def run_aside(self, function: Callable[[], Any]) -> None:
        """Call `function` on a thread. From any thread.

        Raises:
            ClosedReactorError: it cannot any more.
        """


def carries_proxies(data: bytes) -> bool:
    """Return whether the message in `data` has proxies in it; sometimes it is wrong, and has none."""
    return b"RebuildProxy" in data


class PickleCodec:
    """Messages as `multiprocessing` pickles them."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @staticmethod
    def dumps(message: Any) -> bytes:
        return bytes(reduction.ForkingPickler.dumps(message))

    def loads(self, data: bytes, may_connect: bool = True) -> Any:
        """Return the message in `data`.

        Raises:
            Blocked: that takes a connection, and it may not connect.
        """
        if not may_connect and b"resource_sharer" in data:  # a socket, to be fetched from whoever has it
            raise Blocked
        if carries_proxies(data):
            return ProxyUnpickler(data, self._host, may_connect).load()
        return pickle.loads(data)


class ProxyUnpickler(pickle.Unpickler):
    """Reads pickles with proxies in them."""

    def __init__(self, data: bytes, host: Host, may_connect: bool) -> None:
        super().__init__(io.BytesIO(data))
        # Not a method: what has been read remembers it, and is not to remember this object.
        self._rebuild = functools.partial(rebuild, host, may_connect)

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return self._rebuild if found is rebuild_proxy else found


def rebuild(
    host: Host, may_connect: bool, kind: Any, token: managers.Token, serializer: str, options: dict[str, Any]
) -> Any:
    """Return a proxy, as `multiprocessing.managers.RebuildProxy` makes it.

    Raises:
        Blocked: its object belongs to another server, and it may not connect.
    """
    is_here = getattr(process.current_process(), "_manager_server", None) is host and token.address == host.address
    if not is_here and not may_connect:
        raise Blocked
    proxy: Any = rebuild_proxy(kind, token, serializer, options)
    if hasattr(proxy, "_close"):  # what says to its server that it goes
        proxy._close.cancel()
        decref = functools.partial(
            proxy._decref, proxy._token, proxy._authkey, None, proxy._tls, proxy._idset, proxy._Client
        )
        proxy._close = util.Finalize(proxy, let_go, (host, decref), exitpriority=10)
    return proxy


def let_go(host: Host, decref: Callable[[], None]) -> None:
    """Say to the server of a proxy that it is gone, on a thread as long as there are any."""
    try:
        host.run_aside(decref)
    except ClosedReactorError:
        decref()


class XmlCodec:
    """Messages in XML, for the serializer ``xmlrpclib``."""

    def __init__(self, host: Host) -> None:
        """Take what the other codec takes."""

    @staticmethod
    def dumps(message: Any) -> bytes:
        return xmlrpc.client.dumps((message,), allow_none=True).encode()

    @staticmethod
    def loads(data: bytes, may_connect: bool = True) -> Any:
        (message,), _ = xmlrpc.client.loads(data.decode("utf-8"))
        return message


CODECS: dict[str, type[PickleCodec] | type[XmlCodec]] = {"pickle": PickleCodec, "xmlrpclib": XmlCodec}
