"""The world of one simulation: its hosts, its clock, its network, its trace."""

from __future__ import annotations

import heapq
import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from ..addresses import Address
from ..channel import Channel
from ..connecting import AnyChannel
from ..defaults import use_reactor
from ..errors import LocalError
from ..listener import Listener
from .faults import SCHEDULE, WEATHER
from .hosts import Host
from .tape import Tape
from .witness import Witness

BEGINNING = 1000.0
"""What the clock shows at first. Not 0, which programs take for 'never'."""
STANDSTILL = 100_000
"""Turns without a moment passing after which the world is taken to hang."""
WEATHER_INTERVAL = 1.0
LONGEST_OUTAGE = 16.0

HOST_NAME = re.compile(r"[A-Za-z][\w-]*(\.[A-Za-z][\w-]*)*", re.ASCII)
"""So that it is no address, and that the streams of hosts and of their sockets have names of their own."""
RESERVED_NAMES = {"localhost", "world"}

Item = TypeVar("Item")


class Violation(AssertionError):
    """Something that must never happen has happened.

    Attributes:
        kind: which invariant was violated.
    """

    def __init__(self, kind: str, details: str) -> None:
        super().__init__(f"{kind}: {details}" if details else kind)
        self.kind = kind


class NotInTime(AssertionError):
    """What `World.run` waited for did not come true."""


class _Nobody:
    """The default reactor where no program of a host runs: a real one would be on the real network."""

    @property
    def is_closed(self) -> bool:
        """Refuse, as soon as `get_reactor` asks."""
        raise LocalError(
            "no program of a simulated host runs here: say which host, with world.listen, world.connect or "
            "world.host, or ask for the `reactor` of a host"
        )


NOBODY: Any = _Nobody()


class _LogTaker(logging.Handler):
    """Takes what the engine logs into the trace; an exception that escaped from the program is a violation."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        world = self._world
        if world.tracing:
            world.note(f"log {record.levelname}: {record.getMessage()}", "")
        if record.exc_info and isinstance(record.exc_info[1], Exception):
            error = record.exc_info[1]
            if not isinstance(error, world.tolerated):
                world.violate("an exception escaped", f"{type(error).__name__}: {error}", error)


class World:
    """Hosts, and a network between them. Everything in it happens in virtual time, on one thread.

    Made by `simulate`, and given to the scenario.

    Arguments:
        tape: what decides wherever there is a choice.
        tracing: whether to write down what happens.

    Attributes:
        now: seconds, as every host's clock shows them.
        hosts: by name.
        faults: how often each fault was injected, by its name.
        trace: the lines of what happened.
    """

    def __init__(self, tape: Tape, tracing: bool = False) -> None:
        self.tape = tape
        self.tracing = tracing
        self.now = BEGINNING
        self.hosts: dict[str, Host] = {}
        self.faults: dict[str, int] = {}
        self.trace: list[str] = []
        self.turns = self.hooks = 0
        self.partitions: dict[frozenset[Host], list[tuple[Callable[..., None], tuple[Any, ...]]]] = {}
        self.tolerated: tuple[type[Exception], ...] = ()
        self.violation: Violation | None = None
        self.condemned: dict[Host, bool] = {}
        self.witness = Witness(self)
        self._stream = tape.stream("world")
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._sequence = 0
        self._invariants: list[Callable[[], object]] = []
        self._standing = 0
        self._next_weather = BEGINNING + WEATHER_INTERVAL

    # What a scenario does

    def host(self, name: str, setup: Callable[[Host], object] | None = None, *, descriptors: int = 1024) -> Host:
        """Return the host `name`; it starts when it is first asked for.

        Arguments:
            setup: see `Host.on_boot`.
            descriptors: how many the host may have open, if it starts here.
        Raises:
            LocalError: no host can have this name.
        """
        host = self.hosts.get(name)
        if host is None:
            if not HOST_NAME.fullmatch(name) or name in RESERVED_NAMES:
                raise LocalError(
                    f"a simulated host cannot have the name {name!r}; take letters, digits, '-' and '_', a letter "
                    "first, and neither 'localhost' nor 'world'. It gets its addresses from the world"
                )
            host = self.hosts[name] = Host(self, name, len(self.hosts) + 1, descriptors)
        if setup is not None:
            host.on_boot(setup)
        return host

    def listen(self, address: tuple[str, int], factory: Callable[[], Channel], **options: Any) -> Listener:
        """Return a `Listener` on the host that `address` names, which starts if it does not run yet.

        Arguments:
            address: (name of the host, port).
            options: see `Listener`.

        Raises:
            LocalError: `address` is no such pair.
        """
        if not isinstance(address, tuple) or len(address) != 2 or not isinstance(address[0], str):
            raise LocalError(f"{address!r} says not on which host; give (name of the host, port)")
        return self.host(address[0]).listen(address, factory, **options)

    def connect(
        self, address: Address, factory: Callable[[], AnyChannel], *, source: str = "client", **options: Any
    ) -> AnyChannel:
        """Return a channel that connects to `address`.

        Arguments:
            source: the host that connects; it starts if it does not run yet.
            options: see `reactor.connect`.
        """
        return self.host(source).connect(address, factory, **options)

    def run(self, until: Callable[[], object] | None = None, timeout: float = 60.0) -> None:
        """Let time pass.

        Arguments:
            until: return as soon as this holds; None for as soon as nothing is left that could happen, or
                `timeout` is over.
            timeout: virtual seconds that this may take.

        Raises:
            NotInTime: `until` does not hold after `timeout` seconds, or nothing is left that could happen.
            Violation: an invariant does not hold.
        """
        __tracebackhide__ = True
        end = self.now + timeout
        while until is None or not until():
            if self.now > end or not self._step(end):
                use_reactor(NOBODY)
                if until is None:
                    return
                if self.now >= end:
                    raise NotInTime(f"{describe(until)} did not come true within {timeout:g} s")
                left = f"after {self.elapsed:g} s nothing is left that could happen"
                raise NotInTime(f"{describe(until)} did not come true: {left}")
        use_reactor(NOBODY)

    def pass_time(self, seconds: float) -> None:
        """Let the clock run on while a program computes: nothing else happens meanwhile."""
        self.now += seconds
        self._standing = 0

    def call_later(self, delay: float, function: Callable[..., object], *args: Any) -> None:
        """Call `function` after `delay` virtual seconds: a part of the scenario, on no host."""
        self.schedule(delay, function, *args)

    def partition(self, one: str, other: str) -> None:
        """Let nothing pass between two hosts until `heal`. What is sent is kept, as TCP would send it again.

        Datagrams are lost. Connections last, however long it takes.

        Raises:
            LocalError: there is no such host.
        """
        pair = self._pair(one, other)
        self.note(f"{one} and {other} are cut off from each other")
        # A list of its own, so that the end of an earlier partition does not end this one.
        self.partitions[pair] = list(self.partitions.get(pair, ()))

    def heal(self, one: str, other: str) -> None:
        """Let everything pass between two hosts again.

        Raises:
            LocalError: there is no such host.
        """
        pair = self._pair(one, other)
        self.note(f"{one} and {other} are connected again")
        for function, args in self.partitions.pop(pair, []):
            self.schedule(0.0, function, *args)

    def invariant(self, holds: Callable[[], object]) -> None:
        """Have `holds` looked at after every turn: it raises AssertionError, or returns False, where it does not."""
        self._invariants.append(holds)

    def tolerate(self, *kinds: type[Exception]) -> None:
        """Take exceptions of these `kinds`, raised by hooks and callbacks, for a part of the scenario."""
        self.tolerated += kinds

    def choose(self, options: list[Item] | tuple[Item, ...]) -> Item:
        """Return one of `options`, as the tape decides; the first is the benign one."""
        return options[self._stream.pick(len(options))]

    def note(self, text: str, where: str = "world") -> None:
        """Put a line into the trace."""
        if self.tracing:
            self.trace.append(f"{self.now - BEGINNING:12.6f}  {where:8}  {without_places(text)}")

    # What the parts of the world do

    def clock(self) -> float:
        """Return the time, for reactors."""
        return self.now

    def violate(self, kind: str, details: str = "", cause: BaseException | None = None) -> None:
        """Take note that an invariant does not hold. `run` raises it when this turn is over."""
        if self.violation is None:
            self.note(f"VIOLATION {kind}: {details}")
            self.violation = Violation(kind, without_places(details))
            self.violation.__cause__ = without_engine(cause)

    def schedule(self, delay: float, function: Callable[..., object], *args: Any) -> None:
        """Have `function` called by the world, after `delay` seconds."""
        self.schedule_at(self.now + delay, function, *args)

    def schedule_at(self, due: float, function: Callable[..., object], *args: Any) -> None:
        """Have `function` called by the world when its clock shows `due`."""
        self._sequence += 1
        heapq.heappush(self._events, (due, self._sequence, function, args))

    def send(self, source: Host, target: Host | None, due: float, deliver: Callable[..., None], *args: Any) -> None:
        """Carry something from host to host: at once, or when it is `due`, or when a partition has healed."""
        if due > self.now:
            self.schedule_at(due, self.carry, source, target, deliver, args)
        else:
            self.carry(source, target, deliver, args)

    def carry(self, source: Host, target: Host | None, deliver: Callable[..., None], args: tuple[Any, ...]) -> None:
        """Deliver something that is due, unless a partition holds it."""
        if self.partitions and target is not None:
            held = self.partitions.get(frozenset((source, target)))
            if held is not None:
                held.append((deliver, args))
                return
        deliver(*args)

    def is_cut(self, one: Host, other: Host | None) -> bool:
        """Return whether a partition is between two hosts."""
        return bool(self.partitions) and frozenset((one, other)) in self.partitions

    def host_at(self, address: str, source: Host) -> Host | None:
        """Return the host that has `address`, as `source` sees it."""
        if address.startswith("127.") or address == "::1":
            return source
        for host in self.hosts.values():
            if address in host.addresses.values():
                return host
        return None

    def wait_for(self, host: Host, timeout: float | None) -> None:
        """Let time pass until `host`, which runs its own loop, has something ready."""
        end = math.inf if timeout is None else self.now + timeout
        while not host.has_ready() and self.now < end and host not in self.condemned:
            if not self._step(end):
                if timeout is None:
                    raise LocalError(f"{host.name} waits for ever: nothing is left that could happen")
                self.pass_time(end - self.now)
                return
        use_reactor(host.reactor)

    def finish(self) -> None:
        """The scenario is over: close all, and see that nothing is left behind.

        Raises:
            Violation: something is.
        """
        self._look_at_invariants()
        self.note("the scenario is over: every host closes what it has")
        for host in self.hosts.values():
            host.finish()
        self.witness.finish()
        self._raise_violation()

    def abandon(self) -> None:
        """The scenario has failed: close all, whatever else goes wrong."""
        self.violation = self.violation or Violation("the scenario failed", "")
        self.note("the scenario has failed: every host closes what it has")
        for host in self.hosts.values():
            with suppress(Exception):  # a broken engine may let out what its hooks raise
                host.finish()

    @property
    def elapsed(self) -> float:
        """The virtual seconds that have passed."""
        return self.now - BEGINNING

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """Take what the engine logs, and the default reactor of this thread, for as long as this lasts."""
        log = logging.getLogger("reactor")
        taker = _LogTaker(self)
        before = log.propagate, log.level, log.disabled, logging.root.manager.disable
        logging.disable(logging.NOTSET)  # what is logged tells which exceptions escaped
        log.propagate = log.disabled = False
        log.setLevel(logging.DEBUG if self.tracing else logging.ERROR)
        log.addHandler(taker)
        reactor = use_reactor(NOBODY)
        try:
            yield
        finally:
            use_reactor(reactor)
            log.removeHandler(taker)
            log.propagate, _, log.disabled, disabled = before
            log.setLevel(before[1])
            logging.disable(disabled)

    # Steps

    def _pair(self, *names: str) -> frozenset[Host]:
        unknown = [name for name in names if name not in self.hosts]
        if unknown:
            raise LocalError(f"there is no host {unknown[0]!r}; there are {', '.join(self.hosts) or 'none'}")
        return frozenset(self.hosts[name] for name in names)

    def _step(self, end: float) -> bool:
        """Run one turn of every host that has something to do, or let time pass. False: nothing is left till `end`."""
        __tracebackhide__ = True
        for host in [host for host in self.condemned if not host.reactor.is_running]:
            host.kill(self.condemned.pop(host))
        runnable = [host for host in self.hosts.values() if host.is_runnable()]
        if not runnable:
            return self._pass_on(end)
        if len(runnable) > 1:
            fault, parameter = SCHEDULE.decode(self._stream.draw(SCHEDULE))
            if fault is not None:
                runnable[0].injected("world", SCHEDULE, fault)
                turn = 1 + parameter % (len(runnable) - 1)
                runnable = runnable[turn:] + runnable[:turn]
        for host in runnable:
            if host.is_up:
                host.turn()
                self.turns += 1
                if self.violation is not None:
                    self._raise_violation()
        self._look_at_invariants()
        self._standing += 1
        if self._standing > STANDSTILL:
            names = ", ".join(host.name for host in runnable)
            raise Violation("time stands still", f"{STANDSTILL:,} turns of {names}, and no moment has passed")
        return True

    def _pass_on(self, end: float) -> bool:
        """Let the time pass until the next thing happens."""
        due = self._events[0][0] if self._events else math.inf
        for host in self.hosts.values():
            if host.is_up and not host.reactor.is_running:
                wait = host.reactor.next_timeout()
                if wait is not None:
                    due = min(due, self.now + wait)
        if due == math.inf:
            return False
        if due > end:
            self.now = max(self.now, end)
            return False
        if due > self.now:
            self.now = due
            self._standing = 0
            if due >= self._next_weather:
                self._change_weather()
        events = self._events
        while events and events[0][0] <= self.now:
            _, _, function, args = heapq.heappop(events)
            function(*args)
        return True

    def _look_at_invariants(self) -> None:
        for holds in self._invariants:
            if holds() is False:
                raise Violation("an invariant of the scenario does not hold", describe(holds))

    def _change_weather(self) -> None:
        self._next_weather = self.now + WEATHER_INTERVAL
        fault, parameter = WEATHER.decode(self._stream.draw(WEATHER))
        if fault is None:
            return
        hosts = list(self.hosts.values())
        outage = LONGEST_OUTAGE * parameter / 1024
        if fault.name == "partition":
            one, other = hosts[parameter % len(hosts)], hosts[parameter // len(hosts) % len(hosts)]
            if one is not other and not self.is_cut(one, other):
                one.injected("world", WEATHER, fault)
                self.partition(one.name, other.name)
                self.schedule(outage, self._clear_up, one, other, self.partitions[frozenset((one, other))])
            return
        able = [host for host in hosts if host.can_restart and host.is_up and not host.reactor.is_running]
        if able:
            host = able[parameter % len(able)]
            host.injected("world", WEATHER, fault)
            host.kill(power_cut=fault.name == "power cut")
            self.schedule(outage, self._restart, host, host.boots)

    def _clear_up(self, one: Host, other: Host, held: list[Any]) -> None:
        if self.partitions.get(frozenset((one, other))) is held:  # the scenario has made none of its own since
            self.heal(one.name, other.name)

    def _restart(self, host: Host, boots: int) -> None:
        if host.boots == boots and not host.is_up:  # unless the scenario did it
            host.restart()

    def _raise_violation(self) -> None:
        __tracebackhide__ = True
        if self.violation is not None:
            raise self.violation


def without_engine(error: BaseException | None) -> BaseException | None:
    """Return `error` with a traceback that begins where the user's code does."""
    if error is not None:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_frame.f_globals.get("__name__", "").startswith("reactor."):
            traceback = traceback.tb_next
        if traceback is not None:
            error.__traceback__ = traceback
    return error


def without_places(text: str) -> str:
    """Return `text` without the places of objects in memory, which differ from run to run."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def describe(function: Callable[..., object]) -> str:
    """Return what a person would call `function`, and the line where it stands."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__name__", type(function).__name__)
    if code is None:
        return name
    return f"{'the condition' if name == '<lambda>' else name} in line {code.co_firstlineno}"
