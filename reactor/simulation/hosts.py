"""Hosts: a reactor each, on a selector, a clock, descriptors and names that do not exist outside."""

from __future__ import annotations

import errno
import heapq
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..addresses import Address
from ..channel import Channel
from ..connecting import AnyChannel, connect
from ..defaults import use_reactor
from ..errors import LocalError
from ..eventloop import Reactor
from ..listener import Listener
from ..states import abandon
from .faults import HANDLER, RESOLVE, SELECT, SENDFILE, SOCKET, Call, Fault, failure
from .network import EPHEMERAL, LONGEST_DELAY, LOOPBACKS, WILDCARDS, File, TcpSocket, UdpSocket
from .sockets import LONGEST_CALL, SimulatedSocket
from .substitutes import Batch, SimulatedSelector, SimulatedThreads, SimulatedWaker

if TYPE_CHECKING:
    from .world import World

FIRST_DESCRIPTOR = 3
"""Those below are the standard streams."""
QUIET_BATCHES = 40
"""So many batches of events in a row may come to nothing; far fewer than a spin guard lets pass."""
LONGEST_HANDLER = 0.1

LOCALHOST = "localhost"
LAST_PORT = 60999
"""Of the ports that Linux chooses by itself, from `EPHEMERAL` on (ip(7))."""


class Host:
    """A simulated machine that runs one program, with one reactor.

    Made by `World.host`.

    Attributes:
        name: by which the others find it.
        addresses: its IPv4 and IPv6 address, by family.
        descriptors: how many it may have open.
        reactor: the loop of its program; a new one after each restart.
        is_up: whether the program runs.
        has_power: whether the machine runs, and answers those who knock.
        boots: how often the program was started.
        calls: how many system calls it has made.
    """

    def __init__(self, world: World, name: str, number: int, descriptors: int) -> None:
        self.world = world
        self.name = name
        self.addresses: dict[int, str] = {
            socket.AF_INET: f"10.0.{number >> 8}.{number & 255}",
            socket.AF_INET6: f"fd00::{number:x}",
        }
        self.descriptors = descriptors
        self.stream = world.tape.stream(name)
        self.boots = self.calls = self.activity = 0
        self.is_up = self.has_power = False
        self.table: dict[int, File] = {}
        self.listeners: dict[tuple[int, int], TcpSocket] = {}
        self.datagram_ports: dict[tuple[int, int], UdpSocket] = {}
        self.candidates: dict[File, None] = {}
        self.batch: dict[int, File] = {}
        self._random = world.tape.random_bytes(name)
        self._setups: list[Callable[[Host], object]] = []
        self._sockets = 0
        self._ports = EPHEMERAL
        self._free: list[int] = []
        self._quiet = 0
        self._had_events = self._is_blinded = False
        self.reactor: Reactor
        self._start()

    def __repr__(self) -> str:
        return f"<Host {self.name}>"

    # What a scenario does

    def listen(self, address: Address | int, factory: Callable[[], Channel], **options: Any) -> Listener:
        """Return a `Listener` of this host; nothing goes wrong while it is made.

        Arguments:
            address: as `Listener` has it, or a port, for all addresses of the host.
            options: see `Listener`.
        """
        where = ("0.0.0.0", address) if isinstance(address, int) else address
        with self._set_up():
            return Listener(where, factory, reactor=self.reactor, **options)

    def connect(self, address: Address, factory: Callable[[], AnyChannel], **options: Any) -> AnyChannel:
        """Return a channel of this host that connects to `address`; see `reactor.connect`."""
        return connect(address, factory, reactor=self.reactor, **options)

    def on_boot(self, setup: Callable[[Host], object]) -> None:
        """Call `setup` with this host now, and after every restart: it makes the listeners and what else is needed.

        A host that has a setup may be killed and started again by the faults "weather kill" and "weather power cut".
        """
        self._setups.append(setup)
        with self._set_up():
            setup(self)

    @property
    def can_restart(self) -> bool:
        """Whether it knows what to do when it starts again."""
        return bool(self._setups)

    def kill(self, power_cut: bool = False) -> None:
        """End the program in the middle of what it does. No hook is called.

        Arguments:
            power_cut: the whole machine goes, without a word to anybody. Else its kernel closes the sockets.
        """
        if not self.is_up:
            return
        if self.reactor.is_running:
            self.reactor.stop()  # a handler asks for it: when this turn is over
            self.world.condemned[self] = power_cut
            return
        self.note("power cut" if power_cut else "killed")
        self.is_up = False
        self.has_power = not power_cut
        reactor = self.reactor
        for channel in list(reactor.channels):
            self.world.witness.gone(channel)
            abandon(channel)
            channel.socket = None
        reactor.channels.clear()
        for number, file in sorted(self.table.items()):
            if isinstance(file, TcpSocket | UdpSocket):
                file.key = None
                if power_cut:
                    file.vanish()
                else:
                    file.close()
                del self.table[number]
        self.candidates.clear()
        self.batch.clear()
        reactor.close()
        self._forget_everything()

    def restart(self) -> None:
        """Start the program again, with a new reactor; what was told to `on_boot` is done again.

        Raises:
            LocalError: it was called from inside of a handler of this very host.
        """
        if self.reactor.is_running:
            raise LocalError(
                f"{self.name} cannot restart itself from inside of a handler, nor while it runs its own loop; "
                "say host.kill(), and have the world start it again: world.call_later(1, host.restart)"
            )
        self.kill()
        self._start()
        with self._set_up():
            for setup in self._setups:
                setup(self)

    # What the world does

    def turn(self) -> None:
        """Run one turn of the loop."""
        world, reactor = self.world, self.reactor
        before = self.activity
        use_reactor(reactor)
        reactor.poll(0)
        self.batch.clear()
        world.witness.look_at(self)
        if self.activity != before or not self._had_events:
            self._quiet = 0
        elif not self._is_blinded:
            self._quiet += 1
            if self._quiet > QUIET_BATCHES:
                watched = ", ".join(sorted(file.name for file in self.candidates)) or "nothing"
                world.violate("the loop spins", f"{self._quiet} turns without progress; ready is {watched}")

    def is_runnable(self) -> bool:
        """Return whether the loop has something to do at this moment."""
        if not self.is_up or self.reactor.is_running:
            return False
        return self.has_ready() or self.reactor.next_timeout() == 0.0

    def has_ready(self) -> bool:
        """Return whether a descriptor is ready for what is wanted of it."""
        candidates = self.candidates
        while candidates:
            file = next(iter(candidates))
            if file.key is not None and file.readiness() & file.key.events:
                return True
            del candidates[file]
        return False

    def collect(self) -> Batch:
        """Return what a select returns."""
        self.calls += 1
        ready: list[tuple[Any, int]] = []
        batch = self.batch
        batch.clear()
        for file in list(self.candidates):
            key = file.key
            mask = file.readiness() & key.events if key is not None else 0
            if mask:
                assert key is not None
                ready.append((key, mask))
                batch[key.fd] = file
            else:
                del self.candidates[file]
        self._had_events = bool(ready)
        self._is_blinded = False
        value = self.stream.draw(SELECT)
        if value:
            self._disturb(ready, value)
        return Batch(self, ready)

    def finish(self) -> None:
        """The scenario is over: close the reactor, and see that nothing is left."""
        if self.is_up:
            use_reactor(self.reactor)
            self.reactor.close()
            if self.table:
                left = ", ".join(f"{number} ({file.name})" for number, file in sorted(self.table.items()))
                self.world.violate("a descriptor is left open", f"{self.name} still has {left}")
            self.is_up = False

    # What the sockets do

    def open(self, file: File) -> int:
        """Return the lowest free descriptor, for `file`."""
        self.check_room()
        number = heapq.heappop(self._free) if self._free else FIRST_DESCRIPTOR + len(self.table)
        self.table[number] = file
        file.number = number
        return number

    def check_room(self) -> None:
        """Raise OSError where no descriptor is left."""
        if len(self.table) >= self.descriptors:
            raise failure(errno.EMFILE)

    def release(self, number: int, file: File) -> None:
        """Give a descriptor back."""
        if self.table.get(number) is not file:
            return  # the host was killed since
        if file.key is not None:
            self.world.violate("a descriptor is closed before it is unregistered", f"{file.name}, {number}")
            self.reactor._selector.unregister(number)
        if self.batch.get(number) is file and not isinstance(file, SimulatedWaker):
            self.world.violate("a descriptor is closed inside of its batch", f"{file.name}, {number}")
        del self.table[number]
        heapq.heappush(self._free, number)
        file.number = -1
        if not isinstance(file, SimulatedWaker):
            file.close()

    def file_of(self, fileobj: Any) -> File:
        """Return what stands behind a file object's descriptor."""
        self.calls += 1
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        file = self.table.get(number)
        if file is None:
            raise ValueError(f"no descriptor {number}")
        return file

    def next_name(self) -> str:
        """Return the name of this host's next socket."""
        self._sockets += 1
        return f"{self.name}.{self._sockets}"

    def local_address(self, host: str, family: int) -> str:
        """Return the address to bind for `host`."""
        if host in ("", WILDCARDS[family]):
            return WILDCARDS[family]
        if host != self.addresses[family] and host != LOOPBACKS[family]:
            raise failure(errno.EADDRNOTAVAIL)
        return host

    def seen_from(self, local: Any, remote: Any) -> Any:
        """Return what the socket address `local` is for a peer at `remote`, if it is bound to all addresses."""
        family = socket.AF_INET if len(local) == 2 else socket.AF_INET6
        if local[0] != WILDCARDS[family]:
            return local
        return (self.addresses[family] if remote[0] != LOOPBACKS[family] else remote[0], *local[1:])

    def free_port(self) -> int:
        """Return a port that nobody has."""
        used = {file.local[1] for file in self.table.values() if isinstance(file, TcpSocket | UdpSocket) and file.local}
        while True:
            self._ports = self._ports + 1 if self._ports < LAST_PORT else EPHEMERAL
            if self._ports not in used:
                return self._ports

    def is_taken(self, family: int, port: int) -> bool:
        """Return whether somebody listens on `port`."""
        return (family, port) in self.listeners

    def listener_at(self, family: int, address: Any) -> TcpSocket | None:
        """Return who listens on `address`, if anybody does."""
        listener = self.listeners.get((family, address[1]))
        if listener is None and family == socket.AF_INET:
            listener = self.listeners.get((socket.AF_INET6, address[1]))
            return listener if listener is not None and listener.local[0] == "::" else None
        if listener is not None and listener.local[0] not in (WILDCARDS[family], address[0]):
            return None
        return listener

    def receiver_at(self, family: int, port: int) -> UdpSocket | None:
        """Return who receives datagrams on `port`, if anybody does."""
        receiver = self.datagram_ports.get((family, port))
        if receiver is None and family == socket.AF_INET:
            receiver = self.datagram_ports.get((socket.AF_INET6, port))
            return receiver if receiver is not None and receiver.local[0] == "::" else None
        return receiver

    def draw(self, call: Call, file: File) -> None:
        """Fail with an error of `call`, where the tape has one."""
        fault, _ = call.decode(file.stream.draw(call))
        if fault is not None:
            self.injected(file.name, call, fault)
            raise failure(fault.number)

    def injected(self, whose: str, call: Call, fault: Fault | None) -> None:
        """Take note of a fault that is being injected into what is called `whose`."""
        assert fault is not None
        self.activity += 1
        world = self.world
        label = f"{call.name} {fault.name}"
        world.faults[label] = world.faults.get(label, 0) + 1
        if world.tracing:
            self.note(f"! {whose} {label}")

    def note(self, text: str) -> None:
        """Put a line into the trace."""
        if self.world.tracing:
            self.world.note(text, self.name)

    def handler_runs(self) -> None:
        """A hook is about to be called: does it take its time?"""
        value = self.stream.draw(HANDLER)
        if value:
            fault, parameter = HANDLER.decode(value)
            self.injected(self.name, HANDLER, fault)
            self.world.pass_time(parameter / 1024 * LONGEST_HANDLER)

    # What the reactor was given

    def _start(self) -> None:
        self.boots += 1
        self.is_up = self.has_power = True
        with self.world.tape.calm():
            self.reactor = Reactor(
                SimulatedSelector(self),
                clock=self.world.clock,
                socket_factory=self._make_socket,
                resolver=self._resolve,
                random=self._random,
                waker=SimulatedWaker(self),
                threads=SimulatedThreads(self),
                sendfile=self._sendfile,
            )
        self.world.witness.watch(self)
        self.note("started")

    @contextmanager
    def _set_up(self) -> Iterator[None]:
        """What a program does when it starts either works, or the program ends: no use to let that fail."""
        before = use_reactor(self.reactor)
        try:
            with self.world.tape.calm():
                yield
        finally:
            use_reactor(before)

    def _forget_everything(self) -> None:
        self.table.clear()
        self._free.clear()
        self.listeners.clear()
        self.datagram_ports.clear()
        self._quiet = 0

    def _make_socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, *_others: Any) -> Any:
        if family not in self.addresses:
            raise LocalError("a simulated host has TCP and UDP over IPv4 and IPv6, and no sockets of other families")
        self.calls += 1
        fault, _ = SOCKET.decode(self.stream.draw(SOCKET))
        if fault is not None:
            self.injected(self.name, SOCKET, fault)
            raise failure(fault.number)
        self.check_room()
        make = TcpSocket if kind & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) == socket.SOCK_STREAM else UdpSocket
        return SimulatedSocket(self, make(self, family, self.next_name()))

    def _sendfile(self, number: int, source: int, offset: int, count: int) -> int:
        self.calls += 1
        file = self.table[number]
        assert isinstance(file, TcpSocket)
        fault, parameter = SENDFILE.decode(file.stream.draw(SENDFILE))
        if fault is not None:
            self.injected(file.name, SENDFILE, fault)
            if fault.name == "short":
                count = min(count, 1 + parameter)
            elif fault.name == "slow call":
                self.world.pass_time(parameter / 1024 * LONGEST_CALL)
            else:
                if fault.breaks:
                    file.abort()
                raise failure(fault.number)
        sent = file.send(os.pread(source, count, offset))
        self.activity += 1
        self.note(f"{file.name} sendfile: {sent} of {count} bytes")
        return sent

    def _resolve(self, host: str, port: int, family: int = 0, kind: int = 0, *_others: Any) -> list[Any]:
        fault, parameter = RESOLVE.decode(self.stream.draw(RESOLVE))
        families = [socket.AF_INET]
        if fault is not None:
            self.injected(self.name, RESOLVE, fault)
            if fault.name == "no name":
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            if fault.name.startswith("IPv6"):
                families.insert(0 if fault.name == "IPv6 first" else 1, socket.AF_INET6)
            else:
                self.world.pass_time(parameter / 1024 * LONGEST_DELAY if fault.name == "late" else parameter / 8)
        if family:
            families = [socket.AddressFamily(family)]
        target = self.world.hosts.get(host)
        if host == LOCALHOST:
            addresses = LOOPBACKS
        elif target is not None:
            addresses = target.addresses
        else:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (
                found,
                kind or socket.SOCK_STREAM,
                0,
                "",
                (addresses[found], port, *((0, 0) if found == socket.AF_INET6 else ())),
            )
            for found in families
        ]

    def _disturb(self, ready: list[tuple[Any, int]], value: int) -> None:
        fault, parameter = SELECT.decode(value)
        assert fault is not None
        if fault.name == "spurious":
            watched = [key for key in self.reactor._selector.get_map().values() if key.fd not in self.batch]
            watched = [key for key in watched if not isinstance(self.table.get(key.fd), SimulatedWaker)]
            if not watched:
                return
            key = watched[parameter % len(watched)]
            ready.insert(parameter % (len(ready) + 1), (key, key.events))
            self.batch[key.fd] = self.table[key.fd]
        elif not ready:
            return
        elif fault.name == "shuffled":
            turn = parameter % len(ready)
            ready[:] = ready[turn:] + ready[:turn]
            if parameter & 512:
                ready.reverse()
        else:
            keep = parameter % len(ready) if fault.name == "some unseen" else 0
            for key, _ in ready[keep:]:
                self.batch.pop(key.fd, None)
            del ready[keep:]
            self._is_blinded = True  # a loop cannot deal with what it is not told
        self.injected(self.name, SELECT, fault)
        self.activity -= 1  # what a selector says is no progress: a loop that spins must not be taken for a busy one
