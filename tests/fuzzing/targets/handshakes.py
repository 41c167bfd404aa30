"""The handshake, against hostile peers, over a hostile link, and among machines that are played against one another."""

from __future__ import annotations

from collections.abc import Callable

from reactor.authentication import Handshake
from reactor.errors import AuthenticationError
from reactor.framing import encode_frame
from tests.fuzzing.decisions import Cutting, Decisions
from tests.fuzzing.models import (
    CHALLENGE,
    DIGEST_SIZES,
    FAILURE,
    LONGEST_HANDSHAKE_FRAME,
    TAGS,
    WELCOME,
    HandshakeModel,
    read_frames,
    signed,
)
from tests.fuzzing.targets.texts import assert_readable

KEY = b"the key that all of us have in common"
OTHER_KEY = b"the key of somebody who guesses wrong"
ROLES = ("listener", "client")
POLICIES = ("md5", "sha256")
DIGESTS = tuple(DIGEST_SIZES)


def random_of(role: str, number: int) -> Callable[[int], bytes]:
    """Return a source of random bytes that gives each machine others, and the same ones every time."""
    return lambda count: f"{number} {role}".encode().ljust(count, b"~")


def message_of(role: str, number: int) -> bytes:
    """Return what the challenge of that machine asks the peer to sign."""
    return b"{sha256}" + TAGS[role] + random_of(role, number)(32)


def frames_of(data: bytes) -> list[bytes]:
    """Return the frames that one of our machines sent; it sends whole ones, as short as a handshake has them."""
    reading = read_frames(data, 1, LONGEST_HANDSHAKE_FRAME, long_headers=False)
    assert reading.consumed == len(data)
    return reading.frames


# A hostile peer


def handshake(data: bytes) -> None:
    """A peer gets exactly as far as the rules say, without the key nowhere, however its bytes are cut."""
    decisions = Decisions(data)
    role = ROLES[decisions.below(2)]
    policy = POLICIES[decisions.below(2)]
    key = (KEY, OTHER_KEY)[decisions.below(2)]
    cutting = decisions.cutting()
    stream = any_script(decisions, key, message_of(role, 0))
    expected = HandshakeModel(role, KEY, message_of(role, 0), policy == "md5").converse(stream)
    assert key is KEY or not expected.done
    texts = set()
    for way in (Cutting(), cutting):
        machine = Handshake(role, KEY, random_of(role, 0), policy)
        sent, behind, error = converse(machine, way.pieces(stream))
        assert frames_of(sent) == expected.sent
        assert machine.done == expected.done
        assert behind == expected.behind
        assert (error is not None) == expected.failed
        assert_readable(machine.expectation)
        if error is not None:
            assert_readable(str(error))
            assert KEY.decode() not in str(error)
            assert_stays_refused(machine, error)
        texts.add(str(error))
    assert len(texts) == 1, texts


def any_script(decisions: Decisions, key: bytes, asked: bytes) -> bytes:
    """Return all that a peer sends who has `key`, and who knows from the start that it is `asked` to sign."""
    stream = b""
    while decisions and len(stream) < 4096:
        match decisions.below(9):
            case 0:
                stream += decisions.string()
            case 1:
                stream += encode_frame(decisions.string())
            case 2:
                name = DIGESTS[decisions.below(len(DIGESTS))]
                answer = b"{%s}" % name.encode() + signed(name, key, asked)
                stream += encode_frame(answer[: len(answer) - decisions.below(3)])
            case 3:
                stream += encode_frame(signed("md5", key, asked))
            case 4:
                name = DIGESTS[decisions.below(len(DIGESTS))]
                stream += encode_frame(CHALLENGE + b"{%s}" % name.encode() + decisions.string())
            case 5:
                stream += encode_frame(CHALLENGE + decisions.take(20).ljust(20, b"."))
            case 6:
                stream += encode_frame(WELCOME)
            case 7:
                stream += encode_frame(FAILURE)
            case 8:
                stream += encode_frame(CHALLENGE + message_of(ROLES[decisions.below(2)], decisions.below(2)))
    return stream


def converse(machine: Handshake, parts: list[bytes]) -> tuple[bytes, bytes, AuthenticationError | None]:
    """Feed `parts` as a channel does; return all that was sent, what came behind the handshake, and the error."""
    sent = machine.start()
    behind = b""
    for part in parts:
        if machine.done:
            behind += part
            continue
        try:
            sent += machine.receive(part)
        except AuthenticationError as error:
            return sent + error.reply, b"", error
        behind = machine.trailing
    return sent, behind, None


def assert_stays_refused(machine: Handshake, error: AuthenticationError) -> None:
    """Assert that a machine that has failed fails again, and says nothing more to the peer."""
    again = None
    try:
        machine.receive(encode_frame(WELCOME))
    except AuthenticationError as repeated:
        again = repeated
    assert again is not None
    assert str(again) == str(error)
    assert again.reply == b""


# A hostile link


class Wire:
    """What goes from one machine to the other, past somebody who changes it.

    Arguments:
        edits: by the place of a byte in what is sent, what becomes of that byte.

    Attributes:
        sent: what was sent, whole.
        delivered: what of it has arrived, changed.
    """

    def __init__(self, edits: dict[int, Callable[[int], bytes]]) -> None:
        self._edits = edits
        self._carried = 0
        self.sent = b""
        self.delivered = b""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is under way."""
        return self._carried == len(self.sent)

    def carry(self, count: int) -> bytes:
        """Return what arrives of the next `count` bytes."""
        arriving = b""
        for byte in self.sent[self._carried : self._carried + count]:
            edit = self._edits.get(self._carried)
            arriving += bytes([byte]) if edit is None else edit(byte)
            self._carried += 1
        self.delivered += arriving
        return arriving


def any_edits(decisions: Decisions) -> dict[int, Callable[[int], bytes]]:
    """Return up to three changes to a stream, by their places in it."""
    return {decisions.number(): any_edit(decisions) for _ in range(decisions.below(4))}


def any_edit(decisions: Decisions) -> Callable[[int], bytes]:
    """Return a change to a byte: it becomes another one, is left out, or gets others in front of it."""
    kind, value = decisions.below(3), decisions.number()
    if kind == 0:
        return lambda byte: bytes([byte ^ value])
    if kind == 1:
        return lambda byte: b""
    return lambda byte: bytes([value, byte])


class Side:
    """A machine at one end of the link; once it is done it sends a first message, as a connection would.

    Attributes:
        behind: what arrived behind the handshake.
    """

    def __init__(self, role: str, policy: str, outgoing: Wire, incoming: Wire) -> None:
        self.machine = Handshake(role, KEY, random_of(role, 0), policy)
        self.message = encode_frame(b"the first message of the " + role.encode())
        self.behind = b""
        self._outgoing = outgoing
        self._incoming = incoming
        self._has_failed = False
        outgoing.sent += self.machine.start()

    def receive(self, count: int) -> None:
        """Take what arrives of the next `count` bytes."""
        data = self._incoming.carry(count)
        if self._has_failed or not data:
            return
        if self.machine.done:
            self.behind += data
            return
        try:
            self._outgoing.sent += self.machine.receive(data)
        except AuthenticationError as error:
            assert_readable(str(error))
            self._has_failed = True
            self._outgoing.sent += error.reply
        if self.machine.done:
            self.behind = self.machine.trailing
            self._outgoing.sent += self.message


def link(data: bytes) -> None:
    """Two of ours both finish over any link, but never both if a byte of their handshake was changed."""
    decisions = Decisions(data)
    down, up = Wire(any_edits(decisions)), Wire(any_edits(decisions))
    listener = Side("listener", POLICIES[decisions.below(2)], down, up)
    client = Side("client", POLICIES[decisions.below(2)], up, down)
    while decisions:
        step = decisions.number()
        (listener, client)[step % 2].receive(1 + step // 2)
    while not (down.is_empty and up.is_empty):
        listener.receive(1 << 10)
        client.receive(1 << 10)
    both_done = listener.machine.done and client.machine.done
    assert both_done or down.delivered != down.sent or up.delivered != up.sent
    if both_done:
        for sender, wire, receiver in ((listener, down, client), (client, up, listener)):
            spoken = wire.sent.removesuffix(sender.message)
            assert wire.delivered == spoken + receiver.behind
            assert all(frame.startswith((CHALLENGE + b"{sha256}", b"{sha256}", WELCOME)) for frame in frames_of(spoken))


# Machines played against one another


def reflection(data: bytes) -> None:
    """Nobody without the key gets in by carrying frames between our ends, but to relay a whole handshake."""
    decisions = Decisions(data)
    policy = POLICIES[decisions.below(2)]
    names = [(role, number) for number in range(2) for role in ROLES]
    machines = [Handshake(role, KEY, random_of(role, number), policy) for role, number in names]
    said = [frames_of(machine.start()) for machine in machines]
    heard: list[list[bytes]] = [[] for _ in machines]
    while decisions:
        place = decisions.below(len(machines))
        frame = any_frame(decisions, said)
        if machines[place].done:
            continue
        heard[place].append(frame)
        try:
            said[place] += frames_of(machines[place].receive(encode_frame(frame)))
        except AuthenticationError as error:
            said[place] += frames_of(error.reply)
    for place, (role, number) in enumerate(names):
        challenge = CHALLENGE + message_of(role, number)
        assert not machines[place].done or any(
            challenge in heard[peer] and set(said[peer]) & set(heard[place]) - {WELCOME, FAILURE}
            for peer, (peer_role, _) in enumerate(names)
            if peer_role != role
        ), f"a {role} lets in somebody who has no key"


def any_frame(decisions: Decisions, said: list[list[bytes]]) -> bytes:
    """Return a frame of somebody without a key: what a machine has said, some of it, or something new."""
    kind = decisions.below(6)
    if kind == 0:
        return WELCOME
    if kind == 1:
        return decisions.string()
    frames = said[decisions.below(len(said))]
    frame = frames[decisions.below(len(frames))] if frames else b""
    if kind < 4:
        return frame
    start = CHALLENGE if kind == 4 else decisions.string()
    return start + frame[decisions.number() % (len(frame) + 1) :]
