"""Anything goes: programs that do with their channels, at any moment, whatever comes to their mind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import reactor
from reactor.simulation import Host, World
from tests.conftest import KEY

from .encryption import client_tls, server_tls
from .peers import AGES, PORT, SERVER, Asker, Greeter, still_serves

MOVES = 100
FILE = Path(__file__)
LIMITS = reactor.Limits(
    high_water=5_000,
    low_water=1_000,
    maximum_output=60_000,
    maximum_frame=50_000,
    maximum_connections=6,
    maximum_unauthenticated=2,
    idle_timeout=20,
    stall_timeout=5,
    drain_timeout=4,
    authentication_timeout=3,
    tls_timeout=3,
    connect_timeout=6,
)
BLAME = (reactor.RemoteError, reactor.ClosedHere, reactor.HookError, reactor.ProducerError)


class Table:
    """Where the players of one game sit. Each move is drawn; the first choice is always to do nothing.

    Arguments:
        world: where it stands.
        kind: the class of the players.
        tls: what the listener and those who connect speak; None for both where they speak no TLS.
        options: for the listener and for those who connect.

    Attributes:
        players: all that ever were.
        left: how many moves are left.
        is_over: whether players give answers instead.
        listener: the latest one.
    """

    def __init__(self, world: World, kind: Callable[[Table], Any], tls: tuple[Any, Any], **options: Any) -> None:
        self.world = world
        self.kind = kind
        self.server_tls, self.client_tls = tls
        self.options: dict[str, Any] = {**options, "limits": LIMITS}
        self.players: list[Any] = []
        self.left = MOVES
        self.is_over = False
        self.listener: reactor.Listener
        self.server = world.host("server", self.listen)

    def listen(self, host: Host) -> None:
        with self.world.tape.calm():
            self.listener = Dealer(
                ("", PORT), partial(self.kind, self), reactor=host.reactor, tls=self.server_tls, **self.options
            )

    def move(self, player: Any = None) -> None:
        """Do something: with `player`, with another one, or with the listener."""
        if self.left <= 0:
            return
        self.left -= 1
        choose = self.world.choose
        if player is None or choose([False, True]):
            player = choose(self.players)
        move = choose([*TABLE_MOVES, *PLAYER_MOVES])
        getattr(self if move in TABLE_MOVES else player, move)()

    # What a move may be

    def do_nothing(self) -> None:
        """A wise move."""

    def connect_one(self) -> None:
        if self.is_over:
            return  # time has flown: this was to happen long ago
        host = self.world.host(self.world.choose(["client", "other", "server"]))
        patience = self.world.choose([None, reactor.Backoff(attempts=2)])
        if host.is_up:
            host.connect(SERVER, partial(self.kind, self), reconnect=patience, tls=self.client_tls, **self.options)

    def pause_listener(self) -> None:
        self.listener.pause()

    def resume_listener(self) -> None:
        self.listener.resume()

    def close_listener(self) -> None:
        self.listener.close()
        self.world.call_later(0.5, self.listen_again)

    def listen_again(self) -> None:
        if self.server.is_up and self.listener.state.name == "Closed" and not self.server.reactor.is_shutting_down:
            self.listen(self.server)

    def move_later(self) -> None:
        self.world.call_later(self.world.choose([0, 0.1, 1, 5]), self.move_from_outside)

    def move_from_outside(self) -> None:
        if self.players:
            with suppress(ZeroDivisionError):
                self.move()


TABLE_MOVES = [
    "do_nothing", "connect_one", "pause_listener", "resume_listener", "resume_listener", "close_listener", "move_later",
]  # fmt: skip


class Dealer(reactor.Listener):
    """Lets a player make a move before there is a connection for it."""

    def handle_accepted(self, channel: Any) -> None:
        channel.table.move(channel)


class Player(reactor.Channel):
    """What a channel class is mixed with: makes a move in every hook."""

    def __init__(self, table: Table) -> None:
        self.table = table
        table.players.append(self)

    def handle_open(self) -> None:
        self.table.move(self)

    def handle_drained(self) -> None:
        self.table.move(self)

    def handle_eof(self) -> None:
        self.table.move(self)
        super().handle_eof()

    def handle_error(self, error: Exception) -> None:
        self.table.move(self)
        super().handle_error(error)

    def handle_close(self, reason: reactor.ReactorError) -> None:
        assert isinstance(reason, BLAME), repr(reason)
        self.table.move(self)

    def play(self, data: bytes) -> None:
        if self.table.is_over:
            self.push(data)
        else:
            self.table.move(self)

    # What a move may be

    def push_little(self) -> None:
        self.push(b"little")

    def push_much(self) -> None:
        self.push(bytes(20_000))

    def push_many(self) -> None:
        for number in range(300):
            self.push(b"%d" % number)

    def push_iterator(self) -> None:
        self.push(bytes([number]) * 700 for number in range(30))

    def push_file(self) -> None:
        self.push(FILE.open("rb"))

    def push_broken_iterator(self) -> None:
        self.push(bytes(1000 // (3 - number)) for number in range(9))

    def push_whim(self) -> None:
        self.push(Whim(self.table))

    def move_soon(self) -> None:
        if self.table.server.is_up:
            self.table.server.reactor.call_soon(self.table.move_from_outside)

    def leave(self) -> None:
        self.close()

    def leave_in_order(self) -> None:
        self.close_when_done()

    def leave_angrily(self) -> None:
        self.close(ZeroDivisionError("no more of this"))

    def pause(self) -> None:
        with suppress(reactor.StateError):
            self.pause_reading()

    def resume(self) -> None:
        self.resume_reading()

    def stumble(self) -> None:
        raise ZeroDivisionError


PLAYER_MOVES = [
    "push_little", "push_much", "push_many", "push_iterator", "push_file", "push_broken_iterator", "push_whim",
    "move_soon", "leave", "leave_in_order", "leave_angrily", "pause", "resume", "resume", "stumble",
]  # fmt: skip


class Whim:
    """A producer that makes moves while it is pulled, and when it is closed."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.chunks = [bytes(100)] * 3

    def more(self) -> bytes:
        self.table.move()
        return self.chunks.pop() if self.chunks else b""

    def close(self) -> None:
        self.table.move()


class StreamPlayer(Player, reactor.Stream):
    """Plays with bytes."""

    handle_data = Player.play


class FramePlayer(Player, reactor.Connection):
    """Plays with frames."""

    codec = "bytes"

    def handle_message(self, message: bytes) -> None:
        self.play(message)


def play(
    world: World,
    kind: Callable[[Table], Any],
    guest: Callable[[list[Any]], Any],
    tls: tuple[Any, Any] = (None, None),
    **options: Any,
) -> None:
    """Play with players of one `kind`; when the game is over, the server still has an answer for a `guest`."""
    world.tolerate(ZeroDivisionError)
    table = Table(world, kind, tls, **options)
    world.host("client")
    world.host("other")
    for step in range(30):
        world.call_later(step * 0.2, table.move_from_outside if step % 4 else table.connect_one)
    world.run(timeout=20)
    table.left, table.is_over = 0, True
    if world.choose([False, True]) and table.server.is_up:
        shutdown = table.server.reactor.shutdown(grace=1)
        world.run(until=lambda: shutdown.is_complete or not table.server.is_up, timeout=AGES)
    with world.tape.calm():
        world.run(until=lambda: table.server.is_up, timeout=AGES)
        for player in table.players:
            player.close()
        world.run(timeout=1)
        table.listen_again()
        table.resume_listener()
    still_serves(world, guest, tls=table.client_tls, **options)


def anything_on_streams(world: World) -> None:
    play(world, StreamPlayer, Greeter)


def anything_in_frames(world: World) -> None:
    play(world, FramePlayer, Asker)


def anything_with_a_key(world: World) -> None:
    play(world, FramePlayer, Asker, authkey=KEY)


def anything_on_encrypted_streams(world: World) -> None:
    play(world, StreamPlayer, Greeter, tls=(server_tls(), client_tls()))


def anything_encrypted_with_a_key(world: World) -> None:
    play(world, FramePlayer, Asker, tls=(server_tls(), client_tls()), authkey=KEY)
