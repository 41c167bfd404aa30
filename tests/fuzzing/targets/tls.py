"""TLS: the socket that encrypts, with somebody on the wire, and the way from plaintext to TLS."""

from __future__ import annotations

from functools import partial
from typing import Any

import reactor
from reactor.errors import ConnectionLost, TlsError, TruncatedError
from reactor.limits import RECEIVE_SIZE
from reactor.simulation import World
from reactor.simulation.running import run_once
from reactor.simulation.witness import endpoint_of
from reactor.tls import Tls, TlsSocket
from tests.conversations.encryption import client_tls, server_tls
from tests.conversations.peers import SERVER, Checked, serving
from tests.fuzzing.decisions import Decisions

MOST_STEPS = 200
MOST_DATA = 200_000
"""Bytes that one end sends in plaintext, at the most."""
NUMBERS = b"".join(number.to_bytes(4) for number in range(MOST_DATA // 4))
"""What is sent: no piece of it is found at two places."""

# The socket that encrypts


class Wire:
    """One direction of a connection: what was sent and not received.

    Attributes:
        has_ended: whether nothing follows.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.has_ended = False


class RawSocket:
    """Takes and gives as much as the decisions `sizes` say; all of it when they have run out."""

    def __init__(self, sizes: Decisions, incoming: Wire, outgoing: Wire) -> None:
        self._sizes = sizes
        self._incoming = incoming
        self._outgoing = outgoing

    def _size(self, most: int) -> int:
        size = self._sizes.number()
        if size == 1:
            raise BlockingIOError
        if size == 2:
            raise InterruptedError
        return min(most, size * size) if size else most

    def recv(self, size: int) -> bytes:
        wire = self._incoming
        if not wire.data:
            if wire.has_ended:
                return b""
            raise BlockingIOError
        size = self._size(min(size, len(wire.data)))
        data = bytes(wire.data[:size])
        del wire.data[:size]
        return data

    def send(self, data: bytes | memoryview) -> int:
        size = self._size(len(data))
        if self._outgoing.has_ended:
            raise BrokenPipeError
        self._outgoing.data += data[:size]
        return size

    def shutdown(self, how: int) -> None:
        self._outgoing.has_ended = True

    def close(self) -> None:
        self._outgoing.has_ended = True


class Loop:
    """What a `TlsSocket` knows of a reactor.

    Attributes:
        resumed: the ends that have something to be received, though their sockets are silent.
    """

    def __init__(self) -> None:
        self.resumed: set[Any] = set()

    def resume_soon(self, end: Any) -> None:
        self.resumed.add(end)

    def note_progress(self, end: Any) -> None:
        """Something has come, though nothing to be delivered."""


class End:
    """One end of a connection: does with its socket what a channel does.

    Arguments:
        tls: what it speaks.
        reactor: what it lives in.
        raw: its socket.
        incoming: what that receives from.

    Attributes:
        heard: the plaintext that it was given.
        sent: the plaintext that it has sent, or is to send.
        failure: why it has given up.
        was_told: whether it was told that the peer has sent all.
        has_said: whether it has said so itself, or at least tried.
    """

    _host = "server"
    _shares_tls_buffers = True

    def __init__(self, tls: Tls, reactor: Loop, raw: RawSocket, incoming: Wire) -> None:
        self.reactor = reactor
        self.heard = self.sent = b""
        self.failure: Exception | None = None
        self.is_open = self.was_told = self.has_said = False
        self._origin = self
        self._waiting = b""
        self._incoming = incoming
        self._is_ending = False
        self.socket: TlsSocket = tls.wrap(self, raw)  # type: ignore[arg-type]
        self._try(self.socket.greet)

    def push(self, size: int) -> None:
        """Queue some bytes."""
        if not self._is_ending:
            data = NUMBERS[len(self.sent) : len(self.sent) + size]
            self.sent += data
            self._waiting += data

    def end(self) -> None:
        """Say that this was all, as soon as it has left."""
        self._is_ending = True

    def leave(self) -> None:
        """Say so at once, and close."""
        self.has_said = self._is_ending = True
        self.socket.say_goodbye()
        self.socket.close()
        self.failure = self.failure or ConnectionLost("closed", None)

    def turn(self) -> None:
        """Do what a turn of the loop would do."""
        if self.failure is None:
            self._try(self._receive if self.is_open else self._shake_hands)
        if self.failure is None and self.is_open:
            self._try(self._send)

    def _try(self, action: Any) -> None:
        try:
            action()
        except (BlockingIOError, InterruptedError):
            pass
        except (TlsError, TruncatedError, BrokenPipeError) as error:
            self.failure = error
            if isinstance(error, TlsError):
                self.socket.say_goodbye()  # it was broken off: there is no last word, only what was wrong
            self.socket.close()

    def _shake_hands(self) -> None:
        self.is_open = self.socket.handshake()
        if self.is_open and self.socket.has_more:
            self.reactor.resume_soon(self)

    def _receive(self) -> None:
        if self.was_told or not (self._incoming.data or self._incoming.has_ended or self in self.reactor.resumed):
            return
        self.reactor.resumed.discard(self)
        data = self.socket.recv(RECEIVE_SIZE)
        self.heard += data
        self.was_told = not data

    def _send(self) -> None:
        if self._waiting:
            half = len(self._waiting) // 2
            buffers = [self._waiting[:half], self._waiting[half:]] if half % 2 else [self._waiting]
            sent = self.socket.sendmsg(buffers)
            assert 0 < sent <= len(self._waiting)
            self._waiting = self._waiting[sent:]
            assert self.socket.begun <= len(self._waiting)
        elif self._is_ending and not self.has_said:
            self.has_said = True
            self._end()
        elif self.has_said:
            self._end()

    def _end(self) -> None:
        self.socket.shutdown(1)


def tls_socket(data: bytes) -> None:
    """Two ends of a connection, and somebody between them: what is heard is a beginning of what was sent."""
    decisions = Decisions(data)
    loop = Loop()
    wires = Wire(), Wire()
    kinds: list[Tls] = [client_tls(is_old=decisions.flag()), server_tls()]
    sizes = Decisions(decisions.string())
    ends = [
        End(tls, loop, RawSocket(sizes, incoming, outgoing), incoming)
        for tls, incoming, outgoing in zip(kinds, wires, reversed(wires), strict=True)
    ]
    is_clean = True
    for _ in range(MOST_STEPS):
        if not decisions:
            break
        which = decisions.below(2)
        is_clean = act(decisions, ends[which], wires[which]) and is_clean
        check_ends(ends)
    while sizes:
        sizes.number()
    for _ in range(20):
        for end in ends:
            end.turn()
        check_ends(ends)
    if not is_clean or decisions:
        return
    for end, other in (ends, ends[::-1]):
        assert end.failure is None, end.failure
        assert end.is_open
        assert end.heard == other.sent
        assert end.was_told == other.has_said


def act(decisions: Decisions, end: End, wire: Wire) -> bool:
    """Do something with one end, or with what it receives; return whether nobody can complain of it."""
    action = decisions.below(10)
    if action < 4:
        end.turn()
    elif action == 4:
        end.push(decisions.number())
    elif action == 5:
        end.push(decisions.number() * 300)
    elif action == 6:
        end.end()
    elif action == 7:
        wire.data += decisions.string()
        return False
    elif action == 8:
        if wire.data:
            place = decisions.number(2) % len(wire.data)
            wire.data[place : place + decisions.below(3)] = decisions.take(decisions.below(3))
            return False
    elif decisions.flag():
        wire.has_ended = True
        return False
    else:
        end.leave()
        return False
    return True


def check_ends(ends: list[End]) -> None:
    """See that each end has heard a beginning of what the other one has sent, and nothing else."""
    for end, other in (ends, ends[::-1]):
        assert other.sent.startswith(end.heard), "other bytes were delivered than were sent"
        assert other.has_said or not end.was_told, "what was cut off is taken for the end"
        for buffer in (end.socket._incoming, end.socket._outgoing):
            assert not buffer.pending, "something is left in a buffer that all connections share"


# From plaintext to TLS


class Talker(Checked, reactor.Stream):
    """Speaks in plaintext first, and encrypted later.

    Arguments:
        talkers: both ends; where it keeps itself.
        speaks: what it encrypts with.

    Attributes:
        heard: what came encrypted.
        sent: what was queued to be encrypted.
    """

    def __init__(self, talkers: list[Talker], speaks: Tls) -> None:
        self.speaks = speaks
        self.heard = self.sent = b""
        self.is_secure = self.has_begun = False
        talkers.append(self)

    def handle_data(self, data: bytes) -> None:
        assert self.is_secure == (self.tls is not None)
        if self.is_secure:
            self.heard += data

    def handle_secured(self) -> None:
        assert self.has_begun
        assert not self.is_secure
        assert self.tls is not None
        assert self.tls.version(), "the handshake is not over"
        self.is_secure = True

    def say(self, size: int) -> None:
        data = NUMBERS[len(self.sent) : len(self.sent) + size]
        self.push(data)
        if self.has_begun:
            self.sent += data

    def begin(self) -> None:
        try:
            self.start_tls(self.speaks)
        except reactor.StateError:
            return
        self.has_begun = True


def start_tls(data: bytes) -> None:
    """Both ends begin with TLS in the middle of a connection: nothing sent in plaintext is taken for encrypted."""
    decisions = Decisions(data)
    count = decisions.below(24)
    draws = {
        name: {decisions.number(): 1 + decisions.below(3) | decisions.number() << 6 for _ in range(count // 2)}
        for name in ("client.1", "server.2")
    }
    failure = run_once(partial(conversation, decisions), draws=draws).failure
    if failure is not None:
        raise failure


def conversation(decisions: Decisions, world: World) -> None:
    talkers: list[Talker] = []
    world.host("server", serving(partial(Talker, talkers, server_tls())))
    world.connect(SERVER, partial(Talker, talkers, client_tls()))
    world.run(timeout=20)
    if not is_open(talkers):
        return
    is_clean = True
    for _ in range(MOST_STEPS):
        if not decisions:
            break
        is_clean = do(decisions, world, talkers[decisions.below(2)]) and is_clean
        check_talkers(talkers)
    world.run(timeout=60)
    check_talkers(talkers)
    if is_clean and all(talker.has_begun for talker in talkers) and not any(talker.ended for talker in talkers):
        for talker, other in (talkers, talkers[::-1]):
            assert talker.is_secure
            assert talker.heard == other.sent


def is_open(talkers: list[Talker]) -> bool:
    return len(talkers) == 2 and all(talker.state.name == "Open" for talker in talkers)


def do(decisions: Decisions, world: World, talker: Talker) -> bool:
    """Do something with one end; return whether what it has sent must be heard."""
    if talker.ended is not None:
        return False
    action = decisions.below(8)
    if action < 2:
        world.run(timeout=0.01 * action)
    elif action == 2:
        talker.say(decisions.number())
    elif action == 3:
        talker.say(decisions.number() * 300)
    elif action == 4:
        talker.begin()
    elif action == 5:
        endpoint = endpoint_of(talker)
        if endpoint.is_connected and not endpoint.fin_sent:
            endpoint.ledger = None  # which knows nothing of this
            junk = decisions.string()
            with world.tape.calm():
                if junk and endpoint.readiness() & 2:
                    endpoint.send(junk)
        return False
    elif action == 6:
        endpoint_of(talker).capacity = 1 + decisions.number()
    elif decisions.flag():
        talker.close_when_done()
        return False
    else:
        talker.close()
        return False
    return True


def check_talkers(talkers: list[Talker]) -> None:
    for talker, other in (talkers, talkers[::-1]):
        assert other.sent.startswith(talker.heard), "other bytes were delivered than were encrypted"
