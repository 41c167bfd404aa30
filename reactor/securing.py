"""The state of a channel in the handshake of TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ConnectionLost, DeadlineError
from .eventloop import READ, WRITE
from .states import Preparing, become

if TYPE_CHECKING:
    from .channel import Channel


class Securing(Preparing):
    """In the handshake of TLS: behind it comes the handshake with the key, if there is one."""

    name = "Securing"
    reads = READ

    def enter(self, channel: Channel) -> None:
        super().enter(channel)
        channel._want(READ)
        channel._set_deadline(channel.limits.tls_timeout)
        channel.reactor.flush_soon(channel)

    def readable(self, channel: Channel) -> bool:
        progress = True
        try:
            if channel.socket.handshake():
                channel._secured()
                return True
        except (BlockingIOError, InterruptedError):
            progress = False
        except OSError as error:
            self._refuse(channel, ConnectionLost.by(error))
            return True
        self._want_what_is_next(channel)
        return progress

    def writable(self, channel: Channel) -> bool:
        return self.readable(channel)

    def flush(self, channel: Channel) -> bool:
        if self.check_output(channel):
            return True
        # Nothing is received here: what comes behind the handshake must not be delivered in front of the hook.
        try:
            channel.socket.greet()
        except OSError as error:
            self._refuse(channel, ConnectionLost.by(error))
        else:
            self._want_what_is_next(channel)
        return True

    def _want_what_is_next(self, channel: Channel) -> None:
        if channel.state is not self:
            return  # a callback of the user's `ssl.SSLContext` has closed it
        sock = channel.socket
        channel._want((0 if sock.is_secure else READ) | (WRITE if sock.has_unsent else 0))

    def expired(self, channel: Channel) -> None:
        channel._fail(
            DeadlineError(
                f"no TLS within {channel.limits.tls_timeout:g} s (tls_timeout); {channel.socket.progress}",
                "tls_timeout",
            )
        )

    def _refuse(self, channel: Channel, error: ConnectionLost) -> None:
        """Tell the peer what was wrong before the channel closes; nothing that was queued goes out."""
        channel._report(error)
        if channel.state is not self:
            return
        if not channel.socket.has_unsent:
            self.close(channel, error)
            return
        channel._make_queue().clear()
        if channel.state is self:  # a producer that was dropped has not closed its channel
            channel._reason = error
            become(channel, "drain")
