"""TLS: from the first byte or in the middle of a connection, with good peers, wrong ones, and silent ones."""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import reactor
from reactor.simulation import Host, World
from reactor.simulation.running import Scenario
from reactor.simulation.witness import endpoint_of
from tests.certificates import steady_authorities, steady_certificate
from tests.conftest import KEY, Accepting

from .closing import Answering, Asking, Leaver, Lecturer, Ousting, Student
from .handshakes import Browser, Forward, Porter, SlowLoris, Stranger
from .peers import (
    AGES,
    PORT,
    SERVER,
    Asker,
    Checked,
    Client,
    Echo,
    EchoStream,
    Greeter,
    begin,
    is_broken,
    serving,
    settle,
    still_serves,
)
from .sending import LARGE, SMALL, Greedy, Pipeliner, Publisher, Reader
from .timeouts import Mute

SHORT = reactor.Limits(tls_timeout=4, authentication_timeout=3)
ENOUGH = 1000
"""Virtual seconds."""
WORDS = ["one", "two", "three"]


@functools.cache
def server_tls(*, needs_certificates: bool = False) -> reactor.ServerTls:
    """What a server speaks; it may want to see a certificate of each client."""
    authorities = steady_authorities() if needs_certificates else None
    return reactor.ServerTls(steady_certificate("server"), client_authorities=authorities)


@functools.cache
def client_tls(
    *, has_certificate: bool = False, knows_authority: bool = True, server_name: str | None = None, is_old: bool = False
) -> reactor.ClientTls:
    """What a client speaks; an old one has TLS 1.2 alone."""
    made = reactor.ClientTls(
        steady_authorities() if knows_authority else None,
        certificate=steady_certificate("client") if has_certificate else None,
        server_name=server_name,
    )
    if is_old:
        made.context.maximum_version = ssl.TLSVersion.TLSv1_2
    return made


class Half(Asking):
    """Ends its own direction as soon as the socket takes the last word of TLS."""

    def handle_drained(self) -> None:
        self.end_output()

    def end_output(self) -> None:
        if self.ended is not None:
            return
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            self.reactor.call_later(0.1, self.end_output)
        except OSError as error:
            self.close(reactor.ConnectionLost("the peer is gone", error.errno))


class Severed(Checked, reactor.Stream):
    """Sends much, and does not get to say that this was all: its connection ends below TLS."""

    def handle_open(self) -> None:
        self.push(bytes(100_000))
        self.reactor.call_later(1, self.sever)

    def sever(self) -> None:
        if self.ended is None:
            endpoint = endpoint_of(self)
            if endpoint.is_connected:
                endpoint.shutdown(socket.SHUT_WR)


class Listener(Checked, reactor.Stream):
    """Takes what comes, and is not to be told that this was all."""

    def handle_data(self, data: bytes) -> None:
        assert not any(data)

    def handle_eof(self) -> None:
        raise AssertionError("what was cut off is taken for the end")


class Secretive(Checked, reactor.Stream):
    """Has queued a secret before there is a connection, and connects to somebody who has no TLS."""

    def __init__(self) -> None:
        self.push(b"a secret")

    def handle_open(self) -> None:
        raise AssertionError("the handshake is not over")


class Eavesdropper(Checked, reactor.Stream):
    """Keeps what goes over the wire.

    Arguments:
        heard: where.
    """

    def __init__(self, heard: bytearray) -> None:
        self.heard = heard

    def handle_data(self, data: bytes) -> None:
        self.heard += data


class Dripping(SlowLoris):
    """Seems to begin a handshake of TLS, byte by byte."""

    def handle_open(self) -> None:
        self.drip(bytes.fromhex("1603010200 010001fc 0303") + bytes(40))


class Upgraded(Checked, reactor.LineChannel):
    """Encrypts when it is asked to, and from then on sends back every line."""

    secure = False

    def handle_line(self, line: str) -> None:
        if self.secure:
            self.send_line(line)
            return
        assert line == "starttls", "plaintext was taken for what was encrypted"
        self.send_line("go on")
        self.start_tls(server_tls())

    def handle_secured(self) -> None:
        self.secure = True


class Upgrading(Client, reactor.LineChannel):
    """Asks for TLS, and for its words when it has it."""

    def __init__(self, done: list[Any]) -> None:
        super().__init__(done)
        self.heard: list[str] = []

    def handle_open(self) -> None:
        self.send_line("starttls")

    def handle_line(self, line: str) -> None:
        if self.tls is None:
            assert line == "go on"
            self.start_tls(client_tls())
            self.send_line(WORDS[0])  # which waits, and leaves encrypted
            return
        self.heard.append(line)
        assert WORDS[: len(self.heard)] == self.heard
        if self.heard == WORDS:
            self.finish()

    def handle_secured(self) -> None:
        for word in WORDS[1:]:
            self.send_line(word)


class Impatient(Upgrading):
    """Sends a command behind its request for TLS, in plaintext: nobody may execute it."""

    def handle_open(self) -> None:
        super().handle_open()
        self.send_line("delete everything")


class UpgradedStream(Checked, reactor.Stream):
    """Says much, then that it encrypts, and does so; sends back what comes then."""

    heard = b""

    def handle_open(self) -> None:
        self.push(b"in plaintext " * 30_000)
        self.push(b"!" for _ in range(1))
        self.start_tls(server_tls())

    def handle_data(self, data: bytes) -> None:
        assert self.tls is not None
        self.push(data)


class UpgradingStream(Client, reactor.Stream):
    """Hears much, encrypts at the exclamation mark, and says hello."""

    heard = 0

    def handle_data(self, data: bytes) -> None:
        if self.tls is not None:
            assert data[0] in b"helo"
            self.heard += len(data)
            if self.heard == 5:
                self.finish()
        elif data.endswith(b"!"):
            self.start_tls(client_tls())
            self.push(b"hello")


class AskingInVain(Mute):
    """Asks for TLS, and does nothing about it."""

    def handle_open(self) -> None:
        self.push(b"starttls\n")


def encrypted(factory: Callable[[], reactor.Channel], **options: Any) -> Callable[[Host], object]:
    """Return a setup for a host that listens with TLS; see `serving`."""
    options.setdefault("tls", server_tls())
    return serving(factory, **options)


def talk_in_time(world: World, factory: Callable[[list[Any]], Any], **options: Any) -> None:
    """Have a client connect, and another one when the first is done, while all goes well.

    A handshake of TLS takes many calls. Where each of them fails often, the first is not done before all goes well.
    """
    done = begin(world, factory, **options)
    world.run(until=lambda: done or (world.elapsed > ENOUGH and is_broken(world)), timeout=AGES)
    still_serves(world, factory, **options)


def talk_encrypted(world: World, factory: Callable[[list[Any]], Any], **options: Any) -> None:
    """The same for a client that connects with TLS."""
    options.setdefault("tls", client_tls())
    talk_in_time(world, factory, **options)


def stream_is_encrypted(world: World) -> None:
    world.host("server", encrypted(EchoStream))
    talk_encrypted(world, Greeter)


def frames_are_encrypted(world: World) -> None:
    world.host("server", encrypted(Echo))
    talk_encrypted(world, partial(Pipeliner, SMALL))


def large_frames_are_encrypted(world: World) -> None:
    world.host("server", encrypted(Echo))
    talk_encrypted(world, partial(Pipeliner, LARGE))


def messages_with_a_key_are_encrypted(world: World) -> None:
    world.host("server", encrypted(Echo, authkey=KEY))
    talk_encrypted(world, Asker, authkey=KEY)


def messages_with_a_key_are_encrypted_by_tls_1_2(world: World) -> None:
    world.host("server", encrypted(Echo, authkey=KEY))
    talk_encrypted(world, Asker, authkey=KEY, tls=client_tls(is_old=True))


def client_sends_before_it_is_secure(world: World) -> None:
    world.host("server", encrypted(Echo, authkey=KEY))
    talk_encrypted(world, Forward, authkey=KEY)


def producers_are_encrypted(world: World) -> None:
    world.host("server", encrypted(Publisher))
    talk_encrypted(world, Reader)


def encrypted_peer_reads_late(world: World) -> None:
    limits = reactor.Limits(high_water=100_000, low_water=20_000)
    world.host("server", encrypted(Echo, limits=limits))
    talk_encrypted(world, Greedy)


def line_protocol_starts_tls(world: World) -> None:
    world.host("server", serving(Upgraded))
    talk_in_time(world, Upgrading)


def stream_starts_tls_behind_much_that_waits(world: World) -> None:
    world.host("server", serving(UpgradedStream))
    talk_in_time(world, UpgradingStream)


def command_follows_starttls_in_plaintext(world: World) -> None:
    server = Accepting(Upgraded)
    world.host("server", serving(server))
    client = world.connect(SERVER, partial(Impatient, []))
    world.run(until=lambda: client.ended or client.heard, timeout=AGES)
    client.close()
    settle(world)
    still_serves(world, Upgrading)


def peer_is_silent_behind_starttls(world: World) -> None:
    server = Accepting(Upgraded)
    world.host("server", serving(server, limits=SHORT))
    client = world.connect(SERVER, AskingInVain)
    world.run(until=lambda: client.ended, timeout=AGES)
    assert is_broken(world) or server.channels[0].ended.limit == "tls_timeout"
    still_serves(world, Upgrading)


def encrypted_queue_is_sent_before_the_server_closes(world: World) -> None:
    world.host("server", encrypted(Lecturer))
    talk_encrypted(world, Student)


def encrypted_client_leaves_in_the_middle(world: World) -> None:
    world.host("server", encrypted(Lecturer))
    talk_encrypted(world, Leaver)
    still_serves(world, Student, tls=client_tls())


def encrypted_server_closes_in_the_middle(world: World) -> None:
    world.host("server", encrypted(Ousting))
    client = world.connect(SERVER, Mute, tls=client_tls())
    world.run(until=lambda: client.ended, timeout=AGES)
    settle(world)


def encrypted_stream_is_cut_off(world: World) -> None:
    world.host("server", encrypted(Severed))
    client = world.connect(SERVER, Listener, tls=client_tls())
    world.run(until=lambda: client.ended, timeout=AGES)
    assert isinstance(client.ended, reactor.TruncatedError) or is_broken(world)
    settle(world)


def encrypted_half_close_is_answered_late(world: World) -> None:
    world.host("server", encrypted(Answering))
    talk_encrypted(world, Half)


def shutdown_finds_handshakes_of_tls(world: World) -> None:
    server = world.host("server")
    server.listen(PORT, Echo, authkey=KEY, tls=server_tls())
    server.listen(PORT + 1, Upgraded)
    world.host("other", serving(Mute))
    peers = [
        world.connect(SERVER, Mute),
        world.connect(("server", PORT + 1), AskingInVain),
        world.connect(SERVER, partial(Asker, []), authkey=KEY, tls=client_tls()),
        server.connect(("other", PORT), Secretive, tls=client_tls()),
    ]
    world.run(timeout=0.01)
    shutdown = server.reactor.shutdown(grace=5)
    began = world.now
    world.run(until=lambda: shutdown.is_complete, timeout=AGES)
    assert world.now - began < 8 or is_broken(world)
    assert not server.reactor.channels
    world.run(until=lambda: all(peer.ended for peer in peers), timeout=AGES)


def both_have_certificates(world: World) -> None:
    world.host("server", encrypted(EchoStream, tls=server_tls(needs_certificates=True)))
    talk_encrypted(world, Greeter, tls=client_tls(has_certificate=True))


def refused(
    world: World, stranger: Callable[[], Any], tls: Any = None, *, needs_certificates: bool = False, limit: str = ""
) -> None:
    """A server with TLS does not let `stranger` in, for an error of TLS or a `limit`, and others all the same."""
    admitted: list[Any] = []
    server = Accepting(partial(Porter, admitted))
    world.host("server", encrypted(server, tls=server_tls(needs_certificates=needs_certificates), limits=SHORT))
    client = world.connect(SERVER, stranger, tls=tls)
    world.run(until=lambda: client.ended, timeout=AGES)
    settle(world)
    assert isinstance(client.ended, reactor.RemoteError), client.ended
    assert not admitted
    for channel in server.channels:
        expected = getattr(channel.ended, "limit", "") == limit if limit else type(channel.ended) is reactor.TlsError
        assert expected or is_broken(world), channel.ended
    still_serves(world, Asker, tls=client_tls(has_certificate=True))


def client_has_no_certificate(world: World) -> None:
    refused(world, Mute, client_tls(), needs_certificates=True)


def client_does_not_know_the_authority(world: World) -> None:
    refused(world, partial(Stranger, []), client_tls(knows_authority=False))


def client_wants_another_server(world: World) -> None:
    refused(world, partial(Stranger, []), client_tls(server_name="another"))


def client_speaks_http_to_tls(world: World) -> None:
    refused(world, partial(Browser, []))


def client_says_nothing_to_tls(world: World) -> None:
    refused(world, Mute, limit="tls_timeout")


def silent_peers_take_every_place_in_handshakes_of_tls(world: World) -> None:
    limits = reactor.Limits(maximum_unauthenticated=3)
    world.host("server", encrypted(Echo, authkey=KEY, limits=limits))
    mutes = [world.connect(SERVER, Mute, source="crowd") for _ in range(5)]
    done = begin(world, Asker, authkey=KEY, tls=client_tls(), is_steady=False)
    world.run(until=lambda: done and all(mute.ended for mute in mutes), timeout=AGES)
    still_serves(world, Asker, authkey=KEY, tls=client_tls())


def client_speaks_tls_one_byte_a_second(world: World) -> None:
    refused(world, partial(Dripping, []), limit="tls_timeout")


def server_does_not_speak_tls(world: World) -> None:
    heard = bytearray()
    world.host("server", serving(partial(Eavesdropper, heard)))
    client = world.connect(SERVER, Secretive, tls=client_tls(), limits=SHORT)
    world.run(until=lambda: client.ended, timeout=AGES)
    settle(world)
    assert b"secret" not in heard
    assert is_broken(world) or (heard[:1] == b"\x16" and client.ended.limit == "tls_timeout")


SCENARIOS: list[Scenario] = [
    stream_is_encrypted,
    frames_are_encrypted,
    large_frames_are_encrypted,
    messages_with_a_key_are_encrypted,
    messages_with_a_key_are_encrypted_by_tls_1_2,
    client_sends_before_it_is_secure,
    producers_are_encrypted,
    encrypted_peer_reads_late,
    line_protocol_starts_tls,
    stream_starts_tls_behind_much_that_waits,
    command_follows_starttls_in_plaintext,
    peer_is_silent_behind_starttls,
    encrypted_queue_is_sent_before_the_server_closes,
    encrypted_client_leaves_in_the_middle,
    encrypted_server_closes_in_the_middle,
    encrypted_stream_is_cut_off,
    encrypted_half_close_is_answered_late,
    shutdown_finds_handshakes_of_tls,
    both_have_certificates,
    client_has_no_certificate,
    client_does_not_know_the_authority,
    client_wants_another_server,
    client_speaks_http_to_tls,
    client_says_nothing_to_tls,
    silent_peers_take_every_place_in_handshakes_of_tls,
    client_speaks_tls_one_byte_a_second,
    server_does_not_speak_tls,
]
