"""Connections that proxies make: the header comes first, and behind it whatever else there is."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import reactor
from reactor.proxying import SIGNATURE
from reactor.simulation import Host, World
from tests.conftest import KEY

from .encryption import client_tls, server_tls
from .handshakes import Browser, OldClient, SlowLoris
from .peers import (
    AGES,
    SERVER,
    Asker,
    Checked,
    Client,
    Echo,
    EchoStream,
    Greeter,
    is_broken,
    serving,
    still_serves,
    talk,
)
from .timeouts import Mute

ANNA = ("192.0.2.1", 56324)
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
BLOCK = (
    SIGNATURE + b"\x21\x11\0\x18" + socket.inet_aton(ANNA[0]) + socket.inet_aton("198.51.100.7")
    + ANNA[1].to_bytes(2) + (443).to_bytes(2) + b"\x02\0\x09localhost"
)  # fmt: skip
NOBODY = SIGNATURE + b"\x20\0\0\0"
SHORT = reactor.Limits(proxy_timeout=3, maximum_unauthenticated=3)


class Introduced(Checked):
    """Mixed into what a listener makes: nobody is let in who was not introduced as Anna."""

    def handle_open(self) -> None:
        assert self.peer == ANNA, self.peer  # type: ignore[attr-defined]


class IntroducedStream(Introduced, EchoStream):
    """Sends back what came."""


class IntroducedEcho(Introduced, Echo):
    """Sends back every frame."""


class Proxy(Client, reactor.Channel):
    """Mixed into a client: it says first who is behind it.

    Arguments:
        header: what it says.
    """

    def __init__(self, header: bytes, done: list[Any]) -> None:
        self.header = header
        super().__init__(done)

    def handle_open(self) -> None:
        self._open_queue().append(self.header)  # past the witness, which would miss it on the other side
        super().handle_open()


class ProxyOfGreeter(Proxy, Greeter):
    """Stands in front of somebody who says hello."""


class ProxyOfOldClient(Proxy, OldClient):
    """Stands in front of somebody who knows the key."""


class ProxyOfEncrypted(Proxy, Greeter):
    """Stands in front of somebody who speaks TLS."""

    def handle_open(self) -> None:
        if self.tls is None:
            self._open_queue().append(self.header)
            reactor.Stream.start_tls(self, client_tls())  # past the witness, too: all that it knows of is encrypted
            self.push(b"hello")


class Looking(Proxy, Mute):
    """Only looks whether the server is there, and leaves in a hurry."""

    def handle_open(self) -> None:
        super().handle_open()
        self.close_when_done()


def believing(factory: Callable[[], reactor.Channel], **options: Any) -> Callable[[Host], object]:
    """Return a setup for a host that believes every proxy; see `serving`."""
    return serving(factory, proxies=["0.0.0.0/0"], **options)


def proxied(
    world: World, header: bytes, factory: Callable[[], reactor.Channel], proxy: Callable[..., Any], **options: Any
) -> None:
    """A server is asked by way of a proxy, and once more when all goes well."""
    world.host("server", believing(factory, **options))
    talk(world, partial(proxy, header))
    still_serves(world, partial(proxy, header))


def proxy_says_in_a_line_who_it_is(world: World) -> None:
    proxied(world, LINE, IntroducedStream, ProxyOfGreeter)


def proxy_says_in_a_block_who_it_is(world: World) -> None:
    proxied(world, BLOCK, IntroducedStream, ProxyOfGreeter)


def proxy_stands_in_front_of_a_key(world: World) -> None:
    proxied(world, BLOCK, IntroducedEcho, ProxyOfOldClient, authkey=KEY)


def proxy_stands_in_front_of_tls(world: World) -> None:
    proxied(world, LINE, IntroducedStream, ProxyOfEncrypted, tls=server_tls())


def proxy_only_looks(world: World) -> None:
    """It is served, and nobody is behind it; what it does with the connection is no trouble."""
    world.host("server", believing(EchoStream))
    looking = [world.connect(SERVER, partial(Looking, NOBODY, [])) for _ in range(3)]
    world.run(until=lambda: all(each.ended for each in looking), timeout=AGES)
    still_serves(world, partial(ProxyOfGreeter, BLOCK))


def unintroduced(world: World, stranger: Callable[[list[Any]], Any]) -> None:
    """Whoever says nothing of the kind is sent away, and takes nobody's place."""
    world.host("server", believing(IntroducedStream, limits=SHORT))
    strangers = [world.connect(SERVER, partial(stranger, []), source="crowd") for _ in range(5)]
    talk(world, partial(ProxyOfGreeter, BLOCK), is_steady=False)
    world.run(until=lambda: all(each.ended for each in strangers), timeout=AGES)
    assert world.elapsed < 60 or is_broken(world)
    still_serves(world, partial(ProxyOfGreeter, LINE))


class Silent(Client, Mute):
    """Says nothing."""


class Hesitant(SlowLoris):
    """Says who it is, one byte a second."""

    def handle_open(self) -> None:
        self.drip(LINE)


def proxies_say_nothing(world: World) -> None:
    unintroduced(world, Silent)


def proxies_speak_http(world: World) -> None:
    unintroduced(world, Browser)


def proxies_take_their_time(world: World) -> None:
    unintroduced(world, Hesitant)


def another_is_no_proxy(world: World) -> None:
    """Who is not believed is served as ever."""
    world.host("server", serving(Echo, proxies=["192.0.2.0/24"]))
    talk(world, Asker)
    still_serves(world, Asker)


SCENARIOS = [
    proxy_says_in_a_line_who_it_is,
    proxy_says_in_a_block_who_it_is,
    proxy_stands_in_front_of_a_key,
    proxy_stands_in_front_of_tls,
    proxy_only_looks,
    proxies_say_nothing,
    proxies_speak_http,
    proxies_take_their_time,
    another_is_no_proxy,
]
