"""The states in which datagrams are exchanged, and the queue of those that wait."""

from __future__ import annotations

import errno
from collections import deque
from typing import Any

from .addresses import format_address
from .errors import ClosedHere, ConnectionLost, DatagramError, DeadlineError, LimitError, ReactorError
from .eventloop import READ, WRITE
from .limits import DATAGRAMS_PER_TURN
from .sending import STATES
from .states import Closed, State, become

BROKEN = {errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTCONN, errno.ENOTSOCK}
"""What a receive says of the socket itself; all else is about one datagram, and the next may be well."""

SHORT_OF_MEMORY = {errno.ENOBUFS, errno.ENOMEM}
"""What a receive may say again and again, while the socket stays readable: that is no progress."""


class DatagramQueue(deque[tuple[bytes, Any]]):
    """Datagrams that wait, each with the address that it goes to.

    Attributes:
        size: their bytes.
        refused: how many found no room since it was empty.
    """

    size = 0
    refused = 0

    def add(self, data: bytes, address: Any) -> None:
        """Put a datagram at the end."""
        self.append((data, address))
        self.size += len(data)

    def drop_first(self) -> None:
        """The first one has been sent, or is lost."""
        data, _ = self.popleft()
        self.size -= len(data)


class SendingDatagrams(State):
    """What the states have in common in which datagrams go out: those that could not be sent at once."""

    def enter(self, channel: Any) -> None:
        channel._want(self.reads | channel._interest & WRITE)

    def writable(self, channel: Any) -> bool:
        return self.flush(channel)

    def flush(self, channel: Any) -> bool:
        queue = channel._queue
        if not queue:
            return False
        for count in range(DATAGRAMS_PER_TURN):
            data, address = queue[0]
            try:
                channel._send_now(data, address)
            except OSError as error:
                if channel._can_wait(error, address):
                    channel._want(channel.state.reads | WRITE)
                    return count > 0
                queue.drop_first()
                channel._report(datagram_lost(error, address, channel.peer))
            else:
                queue.drop_first()
            # Whoever was told of a loss may have paused the channel, or closed it: the state may be another one.
            if not queue:
                channel.state.drained(channel)
                return True
        channel._want(channel.state.reads | WRITE)
        return True

    def drained(self, channel: Any) -> None:
        """The queue has run empty."""
        channel._queue.refused = 0
        channel._want(self.reads)
        if channel._hears_drained:
            channel.reactor.hook_soon(channel, channel.handle_drained)

    def drain(self, channel: Any, reason: ReactorError) -> None:
        channel._reason = reason
        become(channel, "drain")

    def shutdown(self, channel: Any) -> None:
        self.drain(channel, ClosedHere("the reactor was shut down"))


class OpenForDatagrams(SendingDatagrams):
    """Gives what comes in to `handle_datagram`, too."""

    name = "Open"
    reads = READ

    def readable(self, channel: Any) -> bool:
        maximum = channel.limits.maximum_datagram
        receive = channel.socket.recvfrom
        for count in range(DATAGRAMS_PER_TURN):
            try:
                data, address = receive(maximum + 1)  # so that one that is too large shows
            except (BlockingIOError, InterruptedError):
                return count > 0
            except OSError as error:
                if error.errno in BROKEN:
                    channel._fail(ConnectionLost.by(error))
                    return True
                channel._report(datagram_lost(error, None, channel.peer))
                if error.errno in SHORT_OF_MEMORY:
                    return False
            else:
                if len(data) > maximum:
                    channel._report(
                        LimitError(
                            f"a datagram from {format_address(address)} is larger than {maximum} bytes "
                            "(maximum_datagram), and was dropped",
                            "maximum_datagram",
                        )
                    )
                else:
                    channel.handle_datagram(data, address)
            if channel.state is not self:
                break
        return True

    def pause(self, channel: Any) -> None:
        become(channel, "pause")


class PausedForDatagrams(SendingDatagrams):
    name = "Paused"

    def pause(self, channel: Any) -> None:
        """It reads nothing already."""

    def resume(self, channel: Any) -> None:
        become(channel, "resume")


class ClosingDatagrams(SendingDatagrams):
    """Sends what is queued, then closes."""

    name = "Closing"

    def enter(self, channel: Any) -> None:
        super().enter(channel)
        channel._set_deadline(channel.limits.drain_timeout)
        channel.reactor.flush_soon(channel)

    def flush(self, channel: Any) -> bool:
        if not channel._queue:
            self.drained(channel)
            return True
        progress = super().flush(channel)
        if progress and channel.state is self:
            channel._set_deadline(channel.limits.drain_timeout)
        return progress

    def drained(self, channel: Any) -> None:
        self.close(channel, channel._reason)

    def expired(self, channel: Any) -> None:
        timeout = channel.limits.drain_timeout
        channel._fail(
            DeadlineError(
                f"{len(channel._queue)} datagrams of {channel.output_size} bytes wait, and none could be sent "
                f"for {timeout:g} s (drain_timeout)",
                "drain_timeout",
            )
        )

    def pause(self, channel: Any) -> None:
        """It reads nothing already."""

    def drain(self, channel: Any, reason: ReactorError) -> None:
        """It drains already."""


class ClosedForDatagrams(Closed):
    def drained(self, channel: Any) -> None:
        """It was closed while its queue was sent."""


class Resolving(State):
    """Gets its socket, perhaps the address of a name before it; what is sent meanwhile is queued."""

    name = "Connecting"

    def drain(self, channel: Any, reason: ReactorError) -> None:
        channel._reason = reason  # when it is open, it sends what is queued first

    def shutdown(self, channel: Any) -> None:
        self.close(channel, ClosedHere("the reactor was shut down"))

    def expired(self, channel: Any) -> None:
        timeout = channel.limits.connect_timeout
        channel._fail(
            DeadlineError(f"the name was not resolved within {timeout:g} s (connect_timeout)", "connect_timeout")
        )


DATAGRAM_STATES: dict[str, State] = {
    **STATES,
    **{
        state.name: state
        for state in (
            Resolving(),
            OpenForDatagrams(),
            PausedForDatagrams(),
            ClosingDatagrams(),
            ClosedForDatagrams(),
        )
    },
}
"""The states of a channel for datagrams."""


def datagram_lost(cause: OSError, address: Any, peer: Any) -> DatagramError:
    """Return the error that `cause`, from the operating system, means for a datagram.

    Arguments:
        address: where it was to go; None for the `peer` of a connected channel, or if nobody knows.
    """
    where = peer if address is None else address
    to = "" if where is None else f" to {format_address(where)}"
    return DatagramError(f"a datagram{to} is lost: {cause.strerror or cause}", cause.errno, where)
