"""The state of a connection from a proxy, before the proxy has said who the peer is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import ConnectionLost, DeadlineError, PeerClosed, ProxyError
from .eventloop import READ
from .states import Preparing

if TYPE_CHECKING:
    from .channel import Channel
    from .proxying import HeaderDecoder, ProxyHeader


class Introduction:
    """Stands in for the socket of a connection from a proxy, until the header has come.

    Of the socket it takes the header and nothing else: what stands behind that may be for TLS.

    Arguments:
        sock: the socket itself.
        decoder: what the header is given to.
    """

    __slots__ = ("_decoder", "sock")

    def __init__(self, sock: Any, decoder: HeaderDecoder) -> None:
        self.sock = sock
        self._decoder = decoder

    @property
    def has_begun(self) -> bool:
        """Whether anything of the header has come."""
        return self._decoder.has_begun

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def receive(self) -> ProxyHeader | None:
        """Receive a part of the header, and return the header once it is complete.

        Raises:
            BlockingIOError: nothing has come.
            PeerClosed: the proxy has closed the connection, and said nothing.
            ProxyError: what came is no header, or too little of one.
            OSError: as from the socket.
        """
        data = self.sock.recv(self._decoder.needed)
        if data:
            return self._decoder.feed(data)
        if self.has_begun:
            raise self._decoder.finish()
        raise PeerClosed("the proxy closed the connection, and had said nothing")


class Introducing(Preparing):
    """Waits for the header of a proxy: behind it comes the handshake of TLS, or that with the key, or neither."""

    name = "Introducing"
    reads = READ

    def enter(self, channel: Channel) -> None:
        super().enter(channel)
        channel._want(READ)
        channel._set_deadline(channel.limits.proxy_timeout)

    def readable(self, channel: Channel) -> bool:
        progress = False
        try:
            while (header := channel.socket.receive()) is None:
                progress = True
        except (BlockingIOError, InterruptedError):
            return progress
        except PeerClosed as ended:  # it only looked whether somebody listens here
            self.close(channel, ended)
        except ProxyError as error:
            channel._fail(error)
        except OSError as error:
            lost = ConnectionLost.by(error)
            if channel.socket.has_begun:
                channel._fail(lost)
            else:
                self.close(channel, lost)  # the same, from a proxy that is in a hurry
        else:
            channel.socket = channel.socket.sock
            assert channel._origin is not None
            channel._origin._channel_introduced(channel, header)
        return True

    def expired(self, channel: Channel) -> None:
        channel._fail(
            DeadlineError(
                f"no PROXY header within {channel.limits.proxy_timeout:g} s (proxy_timeout); does this proxy send one?",
                "proxy_timeout",
            )
        )
