"""The loop: select, dispatch, timers, calls, flush. It knows no protocol.

One turn of the loop, in this order:

1. wait for events, until the next timer at the latest;
2. give each event to the state of its channel;
3. run the timers that are due;
4. run the calls that were there when this step began: `call_soon`, calls from other threads, and the
   hooks that states put off to here (`handle_open` and others), so that no hook runs inside another; then
   give back the descriptors of channels that were closed, and tell their `handle_close`;
5. flush the channels for which something was queued: one system call each, where the kernel takes it.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from .calls import Call, ThreadCall
from .errors import ClosedReactorError, LocalError, ReactorError
from .guards import SpinGuard, Watchdog
from .shutdown import Shutdown
from .signals import SignalHandlers
from .threads import ThreadPool, Threads
from .timers import Deadlines, Timer, TimerQueue
from .tombstones import ClosedSelector, ForkedSelector
from .wakeup import SocketPairWaker, Waker

if TYPE_CHECKING:
    from .channel import Channel

log = logging.getLogger("reactor")

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

CLOSING_ROUNDS = 10

LONGEST_WAIT = 86400.0
"""Seconds in one select; epoll_wait counts milliseconds in 31 bits, and longer timers still work."""

SENDFILE: Callable[[int, int, int, int], int] | None = getattr(os, "sendfile", None)
"""Not every POSIX system has it."""

_reactors: weakref.WeakSet[Reactor] = weakref.WeakSet()


class _WakeupState:
    """The only state of the wakeup channel: it takes over the calls that other threads made."""

    name = "Waking"

    def readable(self, channel: _WakeupChannel) -> bool:
        channel.reactor._take_calls()
        return True


class _WakeupChannel:
    state = _WakeupState()

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = weakref.proxy(reactor)


class _Resumed(NamedTuple):
    """Stands for the selector's key of a channel that has input left over from an earlier turn."""

    data: Any


class Reactor:
    """A single-threaded event loop that drives channels, timers and calls.

    All that comes from outside is given in, so that a simulation runs this very code.

    Arguments:
        selector: any selector of the standard library; by default the best of the platform.
        clock: seconds that never go back.
        socket_factory: makes sockets, as `socket.socket` does.
        resolver: resolves names, as `socket.getaddrinfo` does; called on a thread.
        random: gives so many random bytes, as `os.urandom` does.
        waker: wakes the loop from other threads; by default a socket pair.
        threads: the largest number of threads for `run_in_thread`, or what runs its functions instead.
        sendfile: sends a piece of a file, as `os.sendfile` does; None where the system has no such call.
        slow_handler: report with its stack whatever holds the loop longer than so many seconds;
            None does not watch. Watching takes one thread, which sleeps while the loop does.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        socket_factory: Callable[..., socket.socket] = socket.socket,
        resolver: Callable[..., list[Any]] = socket.getaddrinfo,
        random: Callable[[int], bytes] = os.urandom,
        waker: Waker | None = None,
        threads: int | Threads = 8,
        sendfile: Callable[[int, int, int, int], int] | None = SENDFILE,
        slow_handler: float | None = None,
    ) -> None:
        self.clock = clock
        self.socket_factory = socket_factory
        self.resolver = resolver
        self.random = random
        self.sendfile = sendfile
        self.now = clock()
        self.turns = 0
        self.channels: dict[Channel, None] = {}  # a dictionary keeps the order, so that runs repeat
        self.dirty: list[Channel] = []
        self._selector = selector if selector is not None else selectors.DefaultSelector()
        self._largest = 1023 if isinstance(self._selector, selectors.SelectSelector) else None
        self._timers = TimerQueue()
        self.deadlines = Deadlines(self._timers, clock)
        self._soon: deque[Call] = deque()
        self._from_threads: deque[Call] = deque()
        self._finishing: deque[Channel] = deque()
        self._wakeup_sent = False
        self._waker = waker if waker is not None else SocketPairWaker()
        self._selector.register(self._waker, READ, _WakeupChannel(self))
        self._resumed: dict[Channel, None] = {}
        self._thread_count = threads if isinstance(threads, int) else 0
        self._threads: Threads | None = None if isinstance(threads, int) else threads
        self._thread_calls = 0
        self._signals = SignalHandlers(self._waker, weakref.WeakMethod(self.call_threadsafe))
        self._shutdown: Shutdown | None = None
        self._stopping = False
        self._running = False
        self._spin_guard = SpinGuard(self)
        self._watchdog = None if slow_handler is None else Watchdog(slow_handler)
        _reactors.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Reactor with {len(self.channels)} channels and {len(self._timers)} timers>"

    # Running

    def loop(self, timeout: float | None = None, count: int | None = None) -> None:
        """Run until no channel, timer or call is left, or until `stop`.

        Arguments:
            timeout: return after so many seconds at the latest; None for no limit.
            count: return after so many turns; None for no limit.

        Raises:
            ClosedReactorError: the reactor was closed, or belongs to the parent of a fork.
            LocalError: it runs already.
        """
        if self._running:
            raise LocalError("this reactor runs already; a handler cannot run it once more")
        self._running = True
        clock = self.clock
        timers = self._timers
        soon = self._soon
        watchdog = self._watchdog
        end = None if timeout is None else clock() + timeout
        resumed: dict[Channel, None] = {}
        channel: Any = None
        dirty: list[Channel] = []
        looked = False
        try:
            while not self._stopping:
                if soon or self.dirty or self._resumed or self._finishing:
                    wait: float | None = 0
                elif not self.channels and self.is_idle():
                    if looked:
                        return
                    looked, wait = True, 0  # a wakeup for nothing must not stay in the waker: a host would spin
                else:
                    wait = self._time_to_wait(end)
                ready: Any = self._selector.select(wait)
                now = self.now = clock()
                self.turns += 1
                if watchdog is not None:
                    watchdog.begin()
                if self._resumed:
                    resumed, self._resumed = self._resumed, {}
                    ready += [(_Resumed(channel), READ) for channel in resumed]
                for key, events in ready:
                    channel = key.data
                    channel._active_at = now
                    try:
                        if events & READ and not channel.state.readable(channel):
                            self._spin_guard.count(channel, "readable")
                        if events & WRITE and not channel.state.writable(channel):
                            self._spin_guard.count(channel, "writable")
                    except Exception as error:
                        channel._hook_failed(error)
                if timers.next_due <= now:
                    self._run_timers(now)
                if soon:
                    self._run_calls()
                if self._finishing:
                    self._finish_closed()
                if self.dirty:
                    dirty, self.dirty = self.dirty, []
                    for channel in dirty:
                        channel._active_at = now
                        try:
                            channel.state.flush(channel)
                        except Exception as error:
                            channel._hook_failed(error)
                    dirty = []
                # A closed channel must not live on in a variable of this frame while the loop sleeps.
                resumed = {}
                ready = key = channel = None
                if watchdog is not None:
                    watchdog.end()
                if count is not None:
                    count -= 1
                    if count <= 0:
                        return
                if end is not None and clock() >= end:
                    return
        finally:
            self._stopping = False
            # Ctrl-C can end a turn anywhere. What it left undone is done when the loop runs again;
            # a channel that is flushed or resumed once too often takes no harm.
            self.dirty += dirty
            self._resumed.update(resumed)
            if getattr(channel, "_has_input", False):
                self._resumed[channel] = None
            if self._from_threads:
                self._wakeup_sent = False
                self._take_calls()
            self._running = False
            if watchdog is not None:
                watchdog.end()

    def poll(self, timeout: float | None = 0) -> None:
        """Run one turn of the loop, waiting `timeout` seconds at most for something to happen."""
        self.loop(timeout, 1)

    def stop(self) -> None:
        """Make `loop` return at the end of this turn; from another thread, say ``call_threadsafe(r.stop)``."""
        self._stopping = True

    def close(self) -> None:
        """Close every channel at once, drop timers and calls, and give all descriptors and threads back.

        `handle_close` runs for each channel that was open. Closing once more does nothing.
        """
        if self._running:
            raise LocalError("stop() the reactor first: it cannot be closed from inside a handler")
        if self.is_closed:
            return
        if not isinstance(self._selector, ForkedSelector):
            for _ in range(CLOSING_ROUNDS):  # a handle_close may make another channel
                for channel in list(self.channels):
                    channel.close()
            self._finish_closed()
        self.channels.clear()
        self._soon.clear()
        self._timers.clear()
        self.deadlines.groups.clear()
        self._from_threads.clear()
        self._signals.restore_all()
        if self._watchdog is not None:
            self._watchdog.close()
        if self._threads is not None:
            self._threads.close()
        self._wakeup_sent = False  # whoever calls from now on finds out that the waker is closed
        self._waker.close()
        self._selector.close()
        self._selector = ClosedSelector()
        _reactors.discard(self)

    @property
    def is_running(self) -> bool:
        """Whether the loop runs at this moment."""
        return self._running

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return isinstance(self._selector, ClosedSelector)

    @property
    def is_shutting_down(self) -> bool:
        """Whether `shutdown` was called, and channels are left."""
        return self._shutdown is not None

    def is_idle(self) -> bool:
        """Return whether no channel, no timer and no call is left."""
        return not (
            self.channels or self._timers or self._soon or self.dirty or self._thread_calls or self._from_threads
        )

    # Calls and timers

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Call:
        """Call `callback` in this turn of the loop or the next. Only from the loop's own thread.

        Returns: a handle that cancels.
        """
        call = Call(callback, args)
        self._soon.append(call)
        return call

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback` after `delay` seconds.

        Returns: a handle that cancels.
        Raises:
            LocalError: `delay` is infinite or not a number.
        """
        return self._timers.add(self.clock() + delay, callback, args)

    def call_at(self, deadline: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback` when the reactor's clock shows `deadline`, in seconds.

        Returns: a handle that cancels.
        Raises:
            LocalError: `deadline` is infinite or not a number.
        """
        return self._timers.add(deadline, callback, args)

    def call_every(self, interval: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback` every `interval` seconds, the first time after one interval.

        The rhythm does not drift; runs that a slow handler made impossible are left out.

        Returns: a handle that cancels.
        Raises:
            LocalError: `interval` is not above 0, or not finite.
        """
        return self._timers.add(self.clock() + interval, callback, args, interval)

    def call_threadsafe(self, callback: Callable[..., object], *args: Any) -> Call:
        """Call `callback` on the loop. From any thread and from signal handlers; never lost.

        Many calls made while the loop is busy wake it once.

        Returns: a handle that cancels.
        Raises:
            ClosedReactorError: the reactor was closed.
        """
        call = Call(callback, args)
        # The order matters: the loop clears the flag before it empties the queue (see _take_calls), so
        # whoever finds the flag set knows that its call, already in the queue, will be found there.
        self._from_threads.append(call)
        if not self._wakeup_sent:
            self._wakeup_sent = True
            try:
                self._waker.wake()
            except OSError:
                self._wakeup_sent = False
                self._from_threads.clear()
                raise ClosedReactorError("this reactor was closed; nothing can be called on it") from None
        return call

    def run_in_thread(
        self,
        function: Callable[..., Any],
        *args: Any,
        on_result: Callable[[Any], object] | None = None,
        on_error: Callable[[BaseException], object] | None = None,
    ) -> ThreadCall:
        """Call a `function` that may block, on a thread of a bounded pool.

        Arguments:
            on_result: called on the loop with what it returned.
            on_error: called on the loop with what it raised; by default that is logged.
        Returns: a handle whose `cancel` drops the outcome.
        Raises:
            LocalError: far too many calls wait already.
        """
        if self._threads is None:
            self._threads = ThreadPool(self._thread_count, f"reactor-{id(self):x}")
        call = ThreadCall(on_result, on_error)

        def work() -> None:
            result = error = None
            try:
                result = function(*args)
            except BaseException as problem:
                error = problem
            try:
                self.call_threadsafe(self._thread_call_ended, call, result, error)
            except ClosedReactorError:
                pass

        self._threads.submit(work)
        self._thread_calls += 1
        return call

    def on_signal(self, signum: int, callback: Callable[[], object] | None) -> None:
        """Call `callback` on the loop whenever the process gets the signal; None restores what was.

        Only from the main thread, as `signal.signal`. A handler alone does not keep the loop running.

        Raises:
            ValueError: called from another thread.
        """
        if callback is None:
            self._signals.restore(signum)
        else:
            self._signals.install(signum, callback)

    # Shutting down

    def shutdown(self, grace: float = 10.0) -> Shutdown:
        """Stop accepting, let every queue drain, close all, and end the loop when that is done.

        Whoever makes another channel meanwhile gets a `StateError`.

        Arguments:
            grace: seconds after which whoever is left is cut off, with a line in the log.
        Returns: an object that tells, in the end, who had to be cut; the same one if a shutdown is under way.
        """
        if self._shutdown is not None:
            return self._shutdown
        shutdown = self._shutdown = Shutdown(self, grace)
        shutdown.start()
        self._look_after_shutdown()
        return shutdown

    def shutdown_on_signal(self, *signums: int, grace: float = 10.0) -> None:
        """Shut down when the process gets a signal; a second one cuts off at once whoever is left.

        Only from the main thread.

        Arguments:
            signums: by default SIGTERM alone, so that Ctrl-C ends even a handler that hangs.
            grace: see `shutdown`.
        """

        def asked() -> None:
            if self._shutdown is None:
                self.shutdown(grace)
            else:
                self._shutdown.cut_off()

        for signum in signums or (signal.SIGTERM,):
            self.on_signal(signum, asked)

    # For another event loop that hosts this one

    def fileno(self) -> int:
        """Return the descriptor that is readable when `poll` has something to do.

        Raises:
            LocalError: this selector class has none (`SelectSelector`, `PollSelector`).
        """
        fileno = getattr(self._selector, "fileno", None)
        if fileno is None:
            raise LocalError(f"a {type(self._selector).__name__} has no descriptor of its own; use epoll or kqueue")
        number = fileno()
        assert isinstance(number, int)
        return number

    def next_timeout(self) -> float | None:
        """Return after how many seconds `poll` must be called even if nothing happens; None for never."""
        if self._soon or self.dirty or self._resumed or self._finishing:
            return 0.0
        return self._time_to_wait(None)

    # For channels

    def register(self, fileobj: Any, interest: int, channel: Channel) -> None:
        """Watch `fileobj` for `interest`, READ or WRITE or both, on behalf of `channel`."""
        if self._largest is not None and fileobj.fileno() > self._largest:
            raise LocalError(
                f"descriptor {fileobj.fileno()} is too large for select, which ends at {self._largest}; "
                "give the reactor another selector, or use fewer descriptors"
            )
        self._selector.register(fileobj, interest, channel)

    def modify(self, fileobj: Any, interest: int, channel: Channel) -> None:
        """Change the interest in `fileobj`."""
        self._selector.modify(fileobj, interest, channel)

    def forget(self, channel: Channel, reason: ReactorError) -> None:
        """`channel` is closed, for `reason`: it keeps the loop running no longer."""
        if self._shutdown is not None:
            self._shutdown.note(channel, reason)
        self.channels.pop(channel, None)
        self._spin_guard.forget(channel)
        self._look_after_shutdown()

    def note_progress(self, channel: Channel) -> None:
        """Something came of an event after all, though the state of `channel` could not tell."""
        self._spin_guard.forget(channel)

    def unregister(self, fileobj: Any) -> None:
        """Watch `fileobj` no more."""
        self._selector.unregister(fileobj)

    def flush_soon(self, channel: Channel) -> None:
        """Flush `channel` at the end of this turn; once for each time it is said."""
        self.dirty.append(channel)

    def resume_soon(self, channel: Channel) -> None:
        """Treat `channel` as readable in the next turn: it has input that no descriptor will announce."""
        self._resumed[channel] = None

    def hook_soon(self, channel: Channel, hook: Callable[..., object], *args: Any) -> None:
        """Call `hook` of `channel` after this batch of events; what it raises stays in the channel."""
        self._soon.append(Call(hook, args, channel))

    def finish_soon(self, channel: Channel) -> None:
        """`finish` the channel after this batch of events; at once where the loop does not run."""
        self._finishing.append(channel)
        if not self._running:
            self._running = True  # so that what a hook closes is finished behind it, not inside it
            try:
                self._finish_closed()
            finally:
                self._running = False

    # The steps of a turn that are not on the hot path

    def _time_to_wait(self, end: float | None) -> float | None:
        due = self._timers.next_due
        if end is not None and end < due:
            due = end
        if due == math.inf:
            return None
        left = due - self.clock()
        return 0.0 if left < 0 else min(left, LONGEST_WAIT)

    def _run_timers(self, now: float) -> None:
        # A timer that is set by one of these waits for the next turn, even if it is due already.
        latest = self._timers.latest
        while (due := self._timers.pop_due(now, latest)) is not None:
            callback, args = due
            try:
                callback(*args)
            except Exception:
                log.exception("the timer's callback %r failed", callback)

    def _run_calls(self) -> None:
        # Only those that are there now: a call that calls itself soon again must not starve the rest.
        for _ in range(len(self._soon)):
            call = self._soon.popleft()
            callback, args, channel = call.callback, call.args, call.channel
            if callback is None or (channel is not None and channel.state is channel._states["Closed"]):
                continue
            call.cancel()
            try:
                callback(*args)
            except Exception as error:
                if channel is None:
                    log.exception("the callback %r failed", callback)
                else:
                    channel._hook_failed(error)

    def _finish_closed(self) -> None:
        while self._finishing:
            channel = self._finishing.popleft()
            try:
                channel._finish()
            except Exception as error:
                channel._hook_failed(error)

    def _look_after_shutdown(self) -> None:
        if self._shutdown is not None and not self.channels:
            self._shutdown.complete()
            self._shutdown = None

    def _thread_call_ended(self, call: ThreadCall, result: Any, error: BaseException | None) -> None:
        self._thread_calls -= 1
        call.deliver(result, error)

    def _take_calls(self) -> None:
        self._waker.drain()
        self._wakeup_sent = False
        calls = self._from_threads
        while calls:
            self._soon.append(calls.popleft())


def _abandon_after_fork() -> None:
    """In the child of a fork: take the hands off what is shared with the parent, and say so to whoever asks."""
    for reactor in list(_reactors):
        reactor._signals.abandon()
        # The connections are the parent's: what is under way in this very turn must not touch them.
        for channel in reactor.channels:
            channel._abandon()
        reactor._from_threads.clear()
        reactor._wakeup_sent = False
        reactor._waker.close()
        reactor._selector.close()
        reactor._selector = ForkedSelector()
        reactor._threads = None
        reactor._running = False


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_abandon_after_fork)
