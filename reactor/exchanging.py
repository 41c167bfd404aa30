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
from .states import State, become

BROKEN = {errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTCONN, errno.ENOTSOCK}
"""What a receive says of the socket itself; all else is about one datagram, and the next may be well."""


class DatagramQueue(deque[tuple[bytes, Any]]):
    """Datagrams that wait, each with the address that it goes to.

    Attributes:
        size: their bytes.
    """

    size = 0

    def add(self, data: bytes, address: Any) -> None:
        """Put a datagram at the end."""
        self.append((data, address))
        self.size += len(data)

    def drop_first(self) -> None:
        """The first one has been sent, or is lost."""
        data, _ = self.popleft()
        self.size -= len(data)

    def clear(self) -> None:
        super().clear()
        self.size = 0


class OpenForDatagrams(State):
    """Gives what comes in to `handle_datagram`, and sends what could not be sent at once."""

    name = "Open"
    reads = READ

    def enter(self, channel: Any) -> None:
        channel._want(self.reads | channel._interest & WRITE)

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
                else:
                    channel._report(datagram_lost(error, channel.peer))
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

    def writable(self, channel: Any) -> bool:
        return self.flush(channel)

    def flush(self, channel: Any) -> bool:
        queue = channel._queue
        for count in range(DATAGRAMS_PER_TURN):
            if not queue:
                self.drained(channel)
                return True
            data, address = queue[0]
            try:
                channel._send_now(data, address)
            except OSError as error:
                if channel._can_wait(error, address):
                    channel._want(self.reads | WRITE)
                    return count > 0
                queue.drop_first()
                channel._report(datagram_lost(error, address))
                if channel.state is not self:
                    return True
            else:
                queue.drop_first()
        channel._want(self.reads | WRITE)
        return True

    def drained(self, channel: Any) -> None:
        """The queue has run empty."""
        channel._is_full = False
        channel._want(self.reads)
        if channel._hears_drained:
            channel.reactor.hook_soon(channel, channel.handle_drained)

    def pause(self, channel: Any) -> None:
        become(channel, "pause")

    def drain(self, channel: Any, reason: ReactorError) -> None:
        channel._reason = reason
        become(channel, "drain")

    def shutdown(self, channel: Any) -> None:
        self.drain(channel, ClosedHere("the reactor was shut down"))


class PausedForDatagrams(OpenForDatagrams):
    name = "Paused"
    reads = 0

    def pause(self, channel: Any) -> None:
        """It reads nothing already."""

    def resume(self, channel: Any) -> None:
        become(channel, "resume")


class ClosingDatagrams(OpenForDatagrams):
    """Sends what is queued, then closes."""

    name = "Closing"
    reads = 0

    def enter(self, channel: Any) -> None:
        super().enter(channel)
        channel._set_deadline(channel.limits.drain_timeout)
        channel.reactor.flush_soon(channel)

    def drained(self, channel: Any) -> None:
        self.close(channel, channel._reason)

    def expired(self, channel: Any) -> None:
        channel._fail(
            DeadlineError(
                f"{channel.output_size} bytes could not be sent for {channel.limits.drain_timeout:g} s (drain_timeout)",
                "drain_timeout",
            )
        )

    def pause(self, channel: Any) -> None:
        """It reads nothing already."""

    def drain(self, channel: Any, reason: ReactorError) -> None:
        """It drains already."""


class Resolving(State):
    """Gets its socket, perhaps the address of a name before it; what is sent meanwhile is queued."""

    name = "Connecting"

    def drain(self, channel: Any, reason: ReactorError) -> None:
        channel._is_ending = True

    def shutdown(self, channel: Any) -> None:
        self.close(channel, ClosedHere("the reactor was shut down"))

    def expired(self, channel: Any) -> None:
        timeout = channel.limits.connect_timeout
        channel._fail(DeadlineError(f"the name was not resolved within {timeout:g} s", "connect_timeout"))


DATAGRAM_STATES: dict[str, State] = {
    **STATES,
    **{state.name: state for state in (Resolving(), OpenForDatagrams(), PausedForDatagrams(), ClosingDatagrams())},
}
"""The states of a channel for datagrams."""


def datagram_lost(cause: OSError, address: Any) -> DatagramError:
    """Return the error that `cause`, from the operating system, means for a datagram to `address`."""
    where = "" if address is None else f" to {format_address(address)}"
    return DatagramError(f"a datagram{where} is lost: {cause.strerror or cause}", cause.errno, address)
