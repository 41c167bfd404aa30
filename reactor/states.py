"""The states of a channel and the table of transitions: the only place where one can happen.

A state is an object without data of its own, shared by all channels that are in it. The loop calls
its `readable`, `writable` and `flush`; they return whether there was progress. Here stand the table and the
states in which nothing is sent; those in which output goes out stand in `sending`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ClosedHere, DeadlineError, LimitError, ReactorError, StateError
from .producers import DISCARD

if TYPE_CHECKING:
    from .channel import Channel

TRANSITIONS = {
    ("New", "listen"): "Listening",
    ("New", "connect"): "Connecting",
    ("New", "introduce"): "Introducing",
    ("New", "secure"): "Securing",
    ("New", "authenticate"): "Authenticating",
    ("New", "open"): "Open",
    ("New", "close"): "Closed",
    ("Listening", "pause"): "Resting",
    ("Listening", "fill"): "Full",
    ("Listening", "close"): "Closed",
    ("Full", "resume"): "Listening",
    ("Full", "pause"): "Resting",
    ("Full", "close"): "Closed",
    ("Resting", "resume"): "Listening",
    ("Resting", "close"): "Closed",
    ("Connecting", "secure"): "Securing",
    ("Connecting", "authenticate"): "Authenticating",
    ("Connecting", "open"): "Open",
    ("Connecting", "close"): "Closed",
    ("Introducing", "secure"): "Securing",
    ("Introducing", "authenticate"): "Authenticating",
    ("Introducing", "open"): "Open",
    ("Introducing", "close"): "Closed",
    ("Securing", "authenticate"): "Authenticating",
    ("Securing", "open"): "Open",
    ("Securing", "drain"): "Closing",
    ("Securing", "close"): "Closed",
    ("Authenticating", "open"): "Open",
    ("Authenticating", "drain"): "Closing",
    ("Authenticating", "close"): "Closed",
    ("Open", "pause"): "Paused",
    ("Open", "throttle"): "Throttled",
    ("Open", "end"): "HalfClosed",
    ("Open", "upgrade"): "Upgrading",
    ("Open", "drain"): "Closing",
    ("Open", "close"): "Closed",
    ("Paused", "resume"): "Open",
    ("Paused", "upgrade"): "Upgrading",
    ("Paused", "drain"): "Closing",
    ("Paused", "close"): "Closed",
    ("Throttled", "release"): "Open",
    ("Throttled", "pause"): "Paused",
    ("Throttled", "upgrade"): "Upgrading",
    ("Throttled", "drain"): "Closing",
    ("Throttled", "close"): "Closed",
    ("Upgrading", "secure"): "Securing",
    ("Upgrading", "close"): "Closed",
    ("HalfClosed", "drain"): "Closing",
    ("HalfClosed", "close"): "Closed",
    ("Closing", "close"): "Closed",
}
"""(state, event) -> the state that follows. What stands not here cannot happen."""

MEANINGS = {
    "New": "made, and not yet attached to a socket",
    "Listening": "accepts connections",
    "Resting": "accepts none for now: paused by the user, or out of descriptors",
    "Full": "accepts none until a connection closes: maximum_connections is reached",
    "Connecting": "resolves the name and tries the addresses",
    "Introducing": "waits for the proxy to say who the peer is",
    "Securing": "in the handshake of TLS",
    "Authenticating": "in the challenge handshake",
    "Open": "messages go both ways",
    "Paused": "the user reads no more for now; what is queued goes out",
    "Throttled": "the peer does not take what was sent to it, so nothing is read from it",
    "Upgrading": "what was queued in front of TLS goes out, in plaintext",
    "HalfClosed": "the peer has sent its last byte; what is queued goes out",
    "Closing": "what is queued goes out, then the channel closes",
    "Closed": "gone; whatever still arrives is ignored",
}


def become(channel: Channel, event: str) -> None:
    """Make the transition that `event` stands for, and enter the state that follows.

    Raises:
        StateError: the table has no such transition.
    """
    before = channel.state.name
    after = TRANSITIONS.get((before, event))
    if after is None:
        raise StateError(f"{channel}: {event!r} is not possible for a channel that is {before}")
    state = channel.state = channel._states[after]
    state.enter(channel)


def abandon(channel: Channel) -> None:
    """Take `channel` out of use without a word to its peer: after a fork, it is somebody else's."""
    channel.state = channel._states["Closed"]
    channel._output = DISCARD


def draw() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> New"]
    lines += [f"    {before} --> {after}: {event}" for (before, event), after in TRANSITIONS.items()]
    return "\n".join([*lines, "    Closed --> [*]"])


class State:
    """What every state does unless it says otherwise: nothing, without harm."""

    name = "New"
    reads = 0
    """READ in the states that want input, else 0."""

    def enter(self, channel: Channel) -> None:
        """The transition into this state has happened."""

    def readable(self, channel: Channel) -> bool:
        """The socket can be read. Return whether there was progress."""
        return False

    def writable(self, channel: Channel) -> bool:
        """The socket can be written. Return whether there was progress."""
        return False

    def flush(self, channel: Channel) -> bool:
        """Something was queued in this turn. Return whether there was progress."""
        return False

    def expired(self, channel: Channel) -> None:
        """The deadline that was set for the channel has passed."""

    def pressed(self, channel: Channel) -> None:
        """What waits for the peer has passed a mark. Called by whoever pushes: no hook may run here."""
        channel.reactor.flush_soon(channel)

    def relieved(self, channel: Channel) -> None:
        """There is room again: for output, or for connections."""

    def pause(self, channel: Channel) -> None:
        """The user wants no input for now."""
        raise StateError(f"{channel}: a channel that is {self.name} does not read, so it cannot pause")

    def resume(self, channel: Channel) -> None:
        """The user wants input again."""

    def drain(self, channel: Channel, reason: ReactorError) -> None:
        """Close when everything has been sent."""
        self.close(channel, reason)

    def close(self, channel: Channel, reason: ReactorError) -> None:
        """Close now."""
        channel._reason = reason
        become(channel, "close")

    def shutdown(self, channel: Channel) -> None:
        """The reactor shuts down."""
        self.close(channel, ClosedHere("the reactor was shut down"))


class New(State):
    """Made, and not yet given to anything: there is nothing to do, and nothing to close."""

    def pressed(self, channel: Channel) -> None:
        """What is pushed in front of everything waits; the limit is looked at when the channel connects."""

    def close(self, channel: Channel, reason: ReactorError) -> None:
        if channel._is_attached:
            super().close(channel, reason)


class Preparing(State):
    """What the states before `Open` have in common: what is pushed waits, within its limit."""

    def enter(self, channel: Channel) -> None:
        channel._make_queue()

    def flush(self, channel: Channel) -> bool:
        return self.check_output(channel)

    def check_output(self, channel: Channel) -> bool:
        """Fail the channel if more waits than its limits allow; return whether it did."""
        limit = channel.limits.maximum_output
        if channel.output_size <= limit:
            return False
        channel._fail(
            LimitError(
                f"{channel.output_size} bytes wait for a peer that does not take them; "
                f"the limit is {limit} (maximum_output)",
                "maximum_output",
            )
        )
        return True

    def drain(self, channel: Channel, reason: ReactorError) -> None:
        # What was pushed before the channel is open still wants to go out; Open looks for the seal.
        channel._reason = reason
        channel._make_queue().seal()


class Connecting(Preparing):
    """Resolves the name and tries the addresses: the channel's origin does, and the channel waits."""

    name = "Connecting"

    def expired(self, channel: Channel) -> None:
        assert channel._origin is not None
        channel._fail(
            DeadlineError(
                f"no connection within {channel.limits.connect_timeout:g} s (connect_timeout); "
                + channel._origin._progress(),
                "connect_timeout",
            )
        )


class Closed(State):
    """Has callbacks that do nothing, so that a stale event is harmless."""

    name = "Closed"

    def enter(self, channel: Channel) -> None:
        channel._want(0)
        channel._set_deadline(None)
        channel._held = None
        if channel._output:
            channel._output.clear()
        channel._output = DISCARD
        # Not now: the number of a descriptor that is closed in the middle of a batch can come back,
        # with another meaning, in the same batch; and no hook runs inside another.
        channel.reactor.finish_soon(channel)

    def pause(self, channel: Channel) -> None:
        """It reads no more."""

    def close(self, channel: Channel, reason: ReactorError) -> None:
        """It is closed already."""

    def shutdown(self, channel: Channel) -> None:
        """It is closed already."""

    def pressed(self, channel: Channel) -> None:
        """Nothing waits in a closed channel."""
