"""The states in which output goes out: `Open`, and those that lead from there to `Closed`."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from .errors import ClosedHere, ConnectionLost, DeadlineError, ProducerError, ReactorError
from .eventloop import READ, WRITE
from .introducing import Introducing
from .limits import FLUSH_SIZE, RECEIVE_SIZE
from .producers import BYTES_PER_CALL, CHUNK, DISCARD, FileSlice, OutputQueue
from .securing import Securing
from .states import Closed, Connecting, New, Preparing, State, become

if TYPE_CHECKING:
    from .channel import Channel


NO_SENDFILE = {errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What sendfile says of a file system, or of a socket, that it cannot serve (sendfile(2))."""


class Sending(Preparing):
    """What the states have in common in which queued output goes out."""

    def enter(self, channel: Channel) -> None:
        channel._want(self.reads | channel._interest & WRITE)

    def flush(self, channel: Channel) -> bool:
        output = channel._output
        if type(output) is not list:
            return self.flush_queue(channel)
        channel._output = None
        data = output[0] if len(output) == 1 else b"".join(output)
        try:
            sent = channel.socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            channel._fail(ConnectionLost.by(error))
            return True
        if sent == len(data):
            if channel._hears_drained:
                channel.reactor.hook_soon(channel, channel.handle_drained)
            return True
        channel._make_queue().append(memoryview(data)[sent:])
        return self.flush_queue(channel)

    def writable(self, channel: Channel) -> bool:
        return self.flush_queue(channel)

    def flush_queue(self, channel: Channel) -> bool:
        """Send what the socket takes from the queue, then see to marks, deadline and interest."""
        queue = channel._output
        if not isinstance(queue, OutputQueue):
            channel._want(channel._interest & READ)
            return False
        budget = FLUSH_SIZE
        try:
            while budget > 0 and (sent := self._send_some(channel, queue)):
                budget -= sent
        except ProducerError as error:
            channel._fail(error)
            return True
        except OSError as error:
            channel._fail(ConnectionLost.by(error))
            return True
        if channel._output is not queue:
            return True  # a producer has closed its own channel
        # A producer may also have paused it: from here on the state may be another one.
        state = channel.state
        assert isinstance(state, Sending)
        progress = budget < FLUSH_SIZE
        if progress:
            queue.taken_at = channel.reactor.now
        if not queue:
            state.drained(channel)
            return True
        if state.check_output(channel):
            return True
        queue.renew_marks()
        if not channel._interest & WRITE:
            queue.taken_at = channel.reactor.now
            channel._set_deadline(state.stalled_after(channel))
        if queue.is_relieved:
            state.relieved(channel)
        elif queue.is_pressed:
            state.throttle(channel)
        channel._want(channel.state.reads | WRITE)
        return progress

    def _send_some(self, channel: Channel, queue: OutputQueue) -> int:
        """Make one system call; return how many bytes it took: 0 if the socket is full, or nothing waits."""
        file = queue.next_file()
        sent: int
        try:
            if file is not None:
                sent = send_file(channel, file)
                file.advance(sent)
                return sent
            buffers = queue.next_buffers()
            if not buffers:
                return 0
            sent = channel.socket.sendmsg(buffers)
        except (BlockingIOError, InterruptedError):
            return 0
        queue.advance(sent)
        return sent

    def throttle(self, channel: Channel) -> None:
        """Much waits for the peer, more than the high-water mark: read no more from it."""

    def drained(self, channel: Channel) -> None:
        """The queue has run empty."""
        channel._output = None
        if channel._interest & WRITE:
            channel._set_deadline(channel.limits.idle_timeout)
        self.relieved(channel)
        channel._want(channel.state.reads)
        if channel._hears_drained:
            channel.reactor.hook_soon(channel, channel.handle_drained)

    def stalled_after(self, channel: Channel) -> float | None:
        """Return the deadline for a peer for which something waits, in seconds."""
        return channel.limits.stall_timeout

    def expired(self, channel: Channel) -> None:
        limits = channel.limits
        queue = channel._output
        if isinstance(queue, OutputQueue):
            since, timeout, limit = queue.taken_at, limits.stall_timeout, "stall_timeout"
            what = f"took none of the {queue.size} bytes that wait for it"
        else:
            since, timeout, limit = channel._active_at, limits.idle_timeout, "idle_timeout"
            what = "was silent"
        if timeout is None:
            return
        left = since + timeout - channel.reactor.clock()
        if left > 0:
            channel._set_deadline(left)
        else:
            channel._fail(DeadlineError(f"the peer {what} for {timeout:g} s ({limit})", limit))

    def pause(self, channel: Channel) -> None:
        """The peer has sent its last byte, or nothing is delivered any more: there is nothing to pause."""

    def drain(self, channel: Channel, reason: ReactorError) -> None:
        channel._reason = reason
        become(channel, "drain")

    def shutdown(self, channel: Channel) -> None:
        if channel._origin is None or not channel._origin._outlasts_shutdown(channel):
            self.drain(channel, ClosedHere("the reactor was shut down"))


class Open(Sending):
    """Reads raw bytes and gives them to `handle_data`."""

    name = "Open"
    reads = READ

    def enter(self, channel: Channel) -> None:
        super().enter(channel)
        if channel._has_input:
            channel.reactor.resume_soon(channel)

    def readable(self, channel: Channel) -> bool:
        try:
            data = channel.socket.recv(RECEIVE_SIZE)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            channel._fail(ConnectionLost.by(error))
            return True
        if data:
            channel.handle_data(data)
        else:
            self.end_of_input(channel)
        return True

    def end_of_input(self, channel: Channel) -> None:
        """The peer has sent its last byte."""
        error = channel._input_finished()
        if error is not None:
            channel._give_up(error)
        else:
            become(channel, "end")
            channel.reactor.hook_soon(channel, channel.handle_eof)

    def pressed(self, channel: Channel) -> None:
        self.throttle(channel)
        super().pressed(channel)

    def throttle(self, channel: Channel) -> None:
        # Not on the side that connected: if both sides stopped reading, both would wait for ever. The
        # server protects itself from its clients; a client's queue has maximum_output.
        assert channel._origin is not None
        if channel._origin._role == "listener":
            become(channel, "throttle")

    def pause(self, channel: Channel) -> None:
        become(channel, "pause")


class Throttled(Sending):
    name = "Throttled"

    def enter(self, channel: Channel) -> None:
        # The interest in reading goes with the flush that follows: often that sends everything, and
        # the two system calls to take the interest away and to restore it are saved.
        pass

    def relieved(self, channel: Channel) -> None:
        become(channel, "release")

    def pause(self, channel: Channel) -> None:
        become(channel, "pause")


class Paused(Sending):
    name = "Paused"

    def resume(self, channel: Channel) -> None:
        become(channel, "resume")
        if isinstance(channel._output, OutputQueue) and channel._output.is_pressed:
            channel.state.pressed(channel)


class Upgrading(Sending):
    """Sends what was queued in front of `start_tls`, and reads nothing: what the peer says now belongs to TLS."""

    name = "Upgrading"

    def enter(self, channel: Channel) -> None:
        super().enter(channel)
        channel.reactor.flush_soon(channel)

    def flush_queue(self, channel: Channel) -> bool:
        progress = super().flush_queue(channel)
        queue = channel._output
        if channel.state is self and isinstance(queue, OutputQueue):
            encrypting = queue.take_turning_point()
            if encrypting is not None:
                channel.socket = encrypting
                become(channel, "secure")
        return progress

    def pause(self, channel: Channel) -> None:
        State.pause(self, channel)

    def drain(self, channel: Channel, reason: ReactorError) -> None:
        Preparing.drain(self, channel, reason)

    def shutdown(self, channel: Channel) -> None:
        State.shutdown(self, channel)


class HalfClosed(Sending):
    name = "HalfClosed"

    def drain(self, channel: Channel, reason: ReactorError) -> None:
        if channel._output or channel.tls is not None:  # TLS has a last word to say
            super().drain(channel, reason)
        else:
            self.close(channel, reason)  # both directions are done: nothing is left to wait for


class Closing(Sending):
    """Sends what is queued, says so with a half-close, and waits for the peer to do the same.

    A socket that is closed while unread input waits in it sends a reset, and the reset can destroy
    at the peer what was sent last; so the input is read, and dropped, until its end.
    """

    name = "Closing"
    reads = READ

    def enter(self, channel: Channel) -> None:
        channel._held = None
        queue = channel._make_queue()
        queue.seal()
        queue.taken_at = channel.reactor.clock()
        channel._set_deadline(channel.limits.drain_timeout)
        channel.reactor.flush_soon(channel)

    def drained(self, channel: Channel) -> None:
        try:
            channel.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:  # TLS has a last word to say first
            channel._want(READ | WRITE)
            return
        except OSError:
            self.close(channel, channel._reason)  # the peer is gone already
        else:
            channel._output = DISCARD
            channel._set_deadline(channel.limits.linger_timeout)
            # If its end of stream was seen before, it is still there to be read.
            channel._want(READ)
            if channel._has_input:
                channel.reactor.resume_soon(channel)

    def readable(self, channel: Channel) -> bool:
        try:
            data = channel.socket.recv(RECEIVE_SIZE)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if channel._output:
                channel._fail(ConnectionLost.by(error))
            else:
                self.close(channel, channel._reason)
            return True
        if data:
            return True
        if channel._output is not DISCARD:  # not everything has left, or not the last word of TLS
            channel._want(WRITE)
        else:
            self.close(channel, channel._reason)
        return True

    def stalled_after(self, channel: Channel) -> float | None:
        return channel.limits.drain_timeout

    def expired(self, channel: Channel) -> None:
        queue = channel._output
        timeout = channel.limits.drain_timeout
        if isinstance(queue, OutputQueue) and timeout is not None:
            left = queue.taken_at + timeout - channel.reactor.clock()
            if left > 0:  # slow, but it takes something
                channel._set_deadline(left)
                return
            channel._fail(
                DeadlineError(
                    f"took none of what waits for it ({queue.size} bytes and more) for {timeout:g} s (drain_timeout)",
                    "drain_timeout",
                )
            )
        else:
            self.close(channel, channel._reason)

    def drain(self, channel: Channel, reason: ReactorError) -> None:
        """It drains already."""


def send_file(channel: Channel, file: FileSlice) -> int:
    """Send a piece of `file`, from kernel to kernel where that is possible; return how many bytes."""
    source = file.file.fileno()
    sendfile = channel.reactor.sendfile
    if sendfile is not None and channel.tls is None:
        try:
            return sendfile(channel.socket.fileno(), source, file.offset, min(file.size, BYTES_PER_CALL))
        except OSError as error:
            if error.errno not in NO_SENDFILE:
                raise
    sent: int = channel.socket.send(os.pread(source, min(file.size, CHUNK), file.offset))
    return sent


STATES: dict[str, State] = {
    state.name: state
    for state in (
        New(),
        Connecting(),
        Introducing(),
        Securing(),
        Open(),
        Throttled(),
        Paused(),
        Upgrading(),
        HalfClosed(),
        Closing(),
        Closed(),
    )
}
"""The states of a raw stream; other channels replace some of them and add their own."""
