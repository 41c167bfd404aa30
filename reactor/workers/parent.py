"""The parent of the workers: it starts them, watches them, replaces them, and tells them to end.

It is a program of the reactor like any other: signals, timers, lines to the workers, and a descriptor for the end of
each of them.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence, Sized
from typing import Any

from ..addresses import Address
from ..connecting import Backoff
from ..defaults import use_reactor
from ..eventloop import Reactor
from ..handover import Offer, Predecessor, file_of
from ..notifying import VARIABLES, Notifier
from ..timers import Timer
from .hands import Hand, Plan, Stage
from .sharing import Share, assign, own_sockets
from .worker import LAST_WORDS, PATIENCE, SIGNS, Worker

log = logging.getLogger("reactor")

STEADY = 5.0
"""Seconds that a worker has to serve; then its end is no failure to start it."""

ONE_WISH = 0.3
"""Seconds in which a second signal to end is taken for the first: whoever runs us may pass on what we have got, too."""

PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
"""The signals that every worker gets when the parent does."""


@dataclasses.dataclass(frozen=True)
class Terms:
    """What `serve` was told of the workers; see there."""

    setup: Callable[[Worker], object]
    count: int
    grace: float
    heartbeat: float | None
    start_timeout: float | None
    backoff: Backoff
    make_reactor: Callable[[], Reactor]
    on_ready: Callable[[list[Any]], object] | None

    @property
    def patience(self) -> float:
        """The seconds that a worker has from the word that ends it to its end."""
        return self.grace + LAST_WORDS + PATIENCE


class Phase(enum.Enum):
    """How far the program has come."""

    STARTING = "not all workers have been ready yet"
    UP = "they serve"
    ENDING = "they come to their end"


@dataclasses.dataclass(eq=False)
class Slot:
    """The place of one worker.

    Attributes:
        number: from 1.
        serving: who serves, if anybody does.
        coming: who is to serve, and starts.
        failures: how many in a row have not lived long.
        timer: the next start, where it has to wait.
    """

    number: int
    serving: Hand | None = None
    coming: Hand | None = None
    failures: int = 0
    timer: Timer | None = None

    def wait_no_more(self) -> None:
        """Cancel the next start."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Parent:
    """Keeps the workers of `serve`.

    Arguments:
        terms: what the workers are like.
        shares: what they listen on.
        predecessor: the version of the program whose sockets these are, if there is one.
        path: where the next version asks for them, if it may.

    Attributes:
        exit_code: 0, or 1 if the program never came up, gave up, or had to kill a worker in the end.
    """

    def __init__(
        self,
        terms: Terms,
        shares: Sequence[Share],
        notifier: Notifier,
        predecessor: Predecessor | None,
        path: Address | None,
        reactor: Reactor,
    ) -> None:
        self.terms = terms
        self.shares = shares
        self.notifier = notifier
        self.predecessor = predecessor
        self.path = path
        self.reactor = reactor
        self.phase = Phase.STARTING
        self.slots = [Slot(number) for number in range(1, terms.count + 1)]
        self.hands: dict[Hand, Slot] = {}
        self.to_renew: deque[Slot] | None = None
        self.offer: Offer | None = None
        self.watchdog: Timer | None = None
        self.told_to_end_at: float | None = None
        self.looked_at = reactor.now
        self.exit_code = 0

    # Running

    def run(self) -> None:
        """Start the workers, and return when the last one has ended."""
        loop = self.reactor
        if self.predecessor is None:
            self.make_offer(None)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.on_signal(signum, functools.partial(self.stop, signum.name))
        loop.on_signal(signal.SIGHUP, self.reload)
        for signum in PASSED_ON:
            loop.on_signal(signum, functools.partial(self.pass_on, signum))
        limits = [limit for limit in (self.terms.heartbeat, self.terms.start_timeout) if limit is not None]
        if limits:
            loop.call_every(min(limits) / SIGNS, self.look_for_stuck, min(limits) / SIGNS)
        if self.notifier.watchdog is not None:
            self.watchdog = loop.call_every(self.notifier.watchdog / 2, self.notifier.alive)
        log.info("process %d starts %s for %s", os.getpid(), counted(self.slots), self.places)
        for slot in self.slots:
            loop.call_soon(self.start, slot)
        try:
            loop.loop()
        finally:
            for hand in list(self.hands):
                hand.end_now()
            if self.offer is not None:
                self.offer.close()

    @property
    def places(self) -> str:
        """What is listened on, in words."""
        return ", ".join(map(str, self.shares)) or "no shared address"

    @property
    def status(self) -> str:
        """What the program does when all is well, in words."""
        return f"serving {self.places} with {counted(self.slots)}"

    # Starting

    def start(self, slot: Slot) -> None:
        """Start a worker for `slot`."""
        if self.phase is Phase.ENDING:
            return
        slot.wait_no_more()
        plan = [own_sockets(len(share.sockets), len(self.slots), slot.number - 1) for share in self.shares]
        try:
            hand = Hand(slot.number, self, functools.partial(self.work, slot.number, plan), plan, self.reactor)
        except OSError as error:
            self.start_failed(slot, f"it could not be started: {error.strerror}")
        else:
            slot.coming = hand
            self.hands[hand] = slot
            log.info("%s starts", hand)

    def work(self, number: int, plan: Plan, control: socket.socket) -> None:
        """Be a worker: this runs in its process."""
        for name in VARIABLES:  # it is the parent that systemd wants to hear
            os.environ.pop(name, None)
        if self.predecessor is not None:
            self.predecessor.close()
        with self.terms.make_reactor() as loop:
            use_reactor(loop)
            Worker(number, loop, self.shares, plan, self.terms.grace).run(
                self.terms.setup, control, self.terms.heartbeat
            )

    def hand_ready(self, hand: Hand) -> None:
        """`hand` serves: whoever did so in its place need not any more."""
        slot = self.hands[hand]
        if hand is not slot.coming or self.phase is Phase.ENDING:
            return
        log.info("%s is ready, %.1f s after its start", hand, self.reactor.now - hand.started_at)
        before, slot.serving, slot.coming = slot.serving, hand, None
        if before is not None:
            before.leave(f"process {hand.process.pid} has taken over; ", self.terms.patience)
        self.balance()
        if self.phase is Phase.STARTING and all(slot.serving is not None for slot in self.slots):
            self.come_up()
        self.renew_next()

    def come_up(self) -> None:
        """Everybody is ready for the first time."""
        self.phase = Phase.UP
        log.info("%s", self.status)
        if self.terms.on_ready is not None:
            try:
                self.terms.on_ready([share.address for share in self.shares])
            except Exception:
                log.exception("on_ready failed")
                self.give_up("on_ready failed")
                return
        if self.predecessor is not None:
            self.succeed(self.predecessor)
        self.notifier.ready(self.status)

    def succeed(self, predecessor: Predecessor) -> None:
        """Send the old version of the program away: everything is ours from now on."""
        files = {path: file_of(path) for path in predecessor.files}
        for share in self.shares:
            share.file = files.pop(share.address, None)
        for file in files.values():  # of sockets for which this version has no use
            if file is not None:
                file.remove()
        door, predecessor.door = predecessor.door, None
        self.make_offer(door)
        log.info("the old version (process %d) is told to end", predecessor.pid)
        predecessor.dismiss(self.reactor, lambda: log.info("the old version (process %d) has ended", predecessor.pid))

    def start_failed(self, slot: Slot, why: str) -> None:
        """Nobody came for `slot`."""
        if self.phase is Phase.STARTING:
            self.give_up(f"worker {slot.number}: {why}, and the program never was up")
        elif slot.serving is not None:
            log.error("worker %d: %s; %s goes on instead", slot.number, why, slot.serving)
        else:
            self.start_later(slot, why)
        if self.to_renew is not None:
            self.to_renew = None
            log.error("the reload has ended with that; who has not been replaced goes on")
            self.notifier.ready(f"the reload failed: worker {slot.number}: {why}")

    def start_later(self, slot: Slot, why: str) -> None:
        """Start a worker for `slot`: at once the first time, and later each time it fails again."""
        backoff = self.terms.backoff
        slot.failures += 1
        if backoff.attempts is not None and slot.failures > backoff.attempts:
            self.give_up(f"worker {slot.number}: {why}; that was failure {slot.failures} in a row")
        elif slot.failures == 1:
            log.warning("worker %d: %s; the next one starts at once", slot.number, why)
            self.start(slot)
        else:
            delay = backoff.delay(slot.failures - 2, self.reactor.random)
            log.error("worker %d: %s; that was failure %d in a row, and the next one starts in %.1f s",
                      slot.number, why, slot.failures, delay)  # fmt: skip
            slot.timer = self.reactor.call_later(delay, self.start, slot)

    def balance(self) -> None:
        """See that somebody listens on every socket."""
        serving = {
            slot.number - 1: slot.serving
            for slot in self.slots
            if slot.serving is not None and slot.serving.stage is Stage.SERVING
        }
        plans = [assign(len(share.sockets), len(self.slots), serving) for share in self.shares]
        for number, hand in serving.items():
            hand.listen_on([plan[number] for plan in plans])

    # Ends

    def hand_ended(self, hand: Hand) -> None:
        """`hand` is dead, and has been collected."""
        slot = self.hands.pop(hand)
        why = f"process {hand.process.pid} {hand.ending}, {hand.lifetime}"
        if self.phase is Phase.ENDING:
            self.end_of_one(hand)
        elif hand is slot.coming:
            slot.coming = None
            self.start_failed(slot, why)
        elif hand is slot.serving:
            self.vacate(slot, why)
        else:
            self.log_end(hand)
        self.renew_next()

    def hand_silent(self, hand: Hand) -> None:
        """`hand` says no more, and is still there: its program has stopped its loop, or shuts it down."""
        slot = self.hands[hand]
        if hand is slot.serving and self.phase is not Phase.ENDING:
            hand.leave("", self.terms.patience)
            self.vacate(slot, f"process {hand.process.pid} ends by itself, {hand.lifetime}")

    def vacate(self, slot: Slot, why: str) -> None:
        """Whoever served for `slot` does not any more."""
        hand, slot.serving = slot.serving, None
        assert hand is not None
        assert hand.ready_at is not None
        if self.reactor.now - hand.ready_at >= STEADY:
            slot.failures = 0
        self.balance()
        if slot.coming is None:
            self.start_later(slot, why)
        else:
            log.warning("worker %d: %s; the next one is on its way", slot.number, why)

    def log_end(self, hand: Hand) -> None:
        """Take note of the end of one that nobody needs any more."""
        log.log(logging.WARNING if hand.process.returncode else logging.INFO, "%s %s", hand, hand.ending)

    def hand_asks_to_leave(self, hand: Hand) -> None:
        """Somebody has told this one worker to end. It may, when another one is there."""
        slot = self.hands[hand]
        if hand is slot.serving and slot.coming is None and self.phase is not Phase.ENDING:
            log.info("%s was told to end (SIGTERM); it goes on until it is replaced", hand)
            self.start(slot)

    def look_for_stuck(self, interval: float) -> None:
        """Who gives no sign of life says where it stands, and is killed. This is called every `interval` seconds."""
        now, terms = self.reactor.now, self.terms
        was_held, self.looked_at = now - self.looked_at > 2 * interval, now
        # What holds a loop may have begun just before the next sign was due.
        longest = None if terms.heartbeat is None else terms.heartbeat * (1 + 1 / SIGNS)
        for hand in self.hands:
            silence = now - hand.heard_at
            if was_held:  # this process was, by Ctrl-Z, or with the whole machine: so the workers were, too
                hand.heard_at = now
            elif hand.stage is Stage.STARTING:
                if terms.start_timeout is not None and silence > terms.start_timeout:
                    hand.dump_and_kill(f"its setup takes longer than {terms.start_timeout:g} s (start_timeout)")
            elif hand.stage is not Stage.DYING and hand.is_connected and longest is not None and silence > longest:
                hand.dump_and_kill(f"no sign of life for {silence:.1f} s; its heartbeat is {terms.heartbeat:g} s")
                self.balance()

    # What others want

    def pass_on(self, signum: int) -> None:
        """Give a signal to every worker."""
        for hand in self.hands:
            hand.process.send_signal(signum)

    def reload(self) -> None:
        """Replace the workers, one after the other, each when its successor is ready."""
        if self.phase is Phase.ENDING:
            log.warning("SIGHUP: no reload, since the program comes to its end")
            return
        log.info("SIGHUP: replacing %s, one after the other", counted(self.slots))
        self.notifier.reloading(f"replacing {counted(self.slots)}")
        self.to_renew = deque(self.slots)
        self.renew_next()

    def renew_next(self) -> None:
        """Go on with the reload, if there is one and nobody is on the way."""
        while self.to_renew is not None and not any(slot.coming for slot in self.slots):
            if not self.to_renew:
                self.to_renew = None
                log.info("the reload is done: %s", self.status)
                self.notifier.ready(self.status)
                return
            slot = self.to_renew.popleft()
            slot.failures = 0
            self.start(slot)

    def stop(self, why: str) -> None:
        """Bring everything to its end; at once, if this is said a second time."""
        if self.told_to_end_at is not None:
            if self.reactor.now - self.told_to_end_at < ONE_WISH:
                return
            log.warning("%s once more: closing what is still open in %s", why, counted(self.hands))
            for hand in self.hands:
                hand.cut(LAST_WORDS + PATIENCE)
            return
        self.told_to_end_at = self.reactor.now
        if self.offer is not None:
            self.offer.close()
        if self.phase is Phase.ENDING:
            log.info("%s: another process has taken over, and %s come to their end already", why, counted(self.hands))
            return
        terms = self.terms
        log.info("%s: ending %s; their connections have %g s", why, counted(self.hands), terms.grace)
        self.notifier.stopping(f"ending {counted(self.hands)}", terms.patience + PATIENCE)
        if self.offer is not None and self.offer.visitor is not None:
            self.leave_files()
        for share in self.shares:
            share.remove_file()  # as long as the socket is open, no other file can look like this one
        self.begin_to_end()
        for hand in self.hands:
            hand.stop(PATIENCE if hand.stage is Stage.STARTING else terms.patience)

    def hand_over(self, pid: int) -> None:
        """The next version of the program is ready."""
        if self.watchdog is not None:
            self.watchdog.cancel()
        if self.phase is not Phase.ENDING:
            log.info("process %d has taken over; ending %s", pid, counted(self.hands))
            self.begin_to_end()
            for hand in self.hands:
                hand.leave(f"process {pid} has taken over; ", self.terms.patience)
        self.leave_files()

    def leave_files(self) -> None:
        """Leave the files of Unix sockets to the next version of the program."""
        for share in self.shares:
            share.file = None

    def make_offer(self, door: socket.socket | None) -> None:
        """Listen for the next version of the program."""
        if self.path is not None:
            self.offer = Offer(
                self.path,
                lambda: [(share.name, sock) for share in self.shares for sock in share.sockets],
                lambda: [os.fsdecode(share.address) for share in self.shares if share.file is not None],
                self.hand_over,
                self.reactor,
                door,
            )

    def give_up(self, why: str) -> None:
        """End the program, which cannot go on."""
        self.exit_code = 1
        log.critical("%s; giving up", why)
        if self.phase is not Phase.ENDING:
            self.stop("giving up")

    def begin_to_end(self) -> None:
        """Start nobody any more, and listen no more; the workers have their own copies of the sockets."""
        self.phase = Phase.ENDING
        self.to_renew = None
        for slot in self.slots:
            slot.wait_no_more()
        for share in self.shares:
            share.close()
        if not self.hands:
            self.reactor.stop()

    def end_of_one(self, hand: Hand) -> None:
        """`hand` has ended, as it should; the program ends with the last one."""
        self.log_end(hand)
        if hand.process.returncode and hand.ready_at is not None:
            self.exit_code = 1
        if not self.hands:
            self.reactor.stop()


def counted(workers: Sized) -> str:
    """Return how many workers these are, in words."""
    return "1 worker" if len(workers) == 1 else f"{len(workers)} workers"
