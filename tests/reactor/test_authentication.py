"""The challenge handshake: against peers old and new, against itself, and against those who have no key."""

from __future__ import annotations

import functools
import gc
import hmac
import os
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from multiprocessing import AuthenticationError as StandardAuthenticationError
from multiprocessing.connection import answer_challenge, deliver_challenge
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import authentication
from reactor.authentication import ChallengeSpotter, Handshake, ShortKeyWarning, check_authkey
from reactor.errors import AuthenticationError, FrameError, LocalError
from reactor.framing import LONG, LONG_MARK, SHORT, FrameDecoder, encode_frame
from tests.conftest import KEY
from tests.properties import cuts, every_way, peak_memory, pieces, steady

CHALLENGE, WELCOME, FAILURE = b"#CHALLENGE#", b"#WELCOME#", b"#FAILURE#"
RANDOM = bytes(range(32))
OTHER_ROLE = {"listener": "client", "client": "listener"}
TAGS = {"listener": b"listener", "client": b"client: "}
OURS = {role: b"{sha256}" + tag + RANDOM for role, tag in TAGS.items()}
"""What a machine of each role challenges with, when its random bytes are `RANDOM`."""

OLD_MESSAGE = b"0123456789abcdefghij"
NEW_MESSAGE = b"{sha256}0123456789abcdefghijklmnopqrstuvwxyzABCD"
DIGESTS = ["md5", "sha256", "sha384", "sha3_256", "sha3_384"]


def fixed_random(count: int) -> bytes:
    return RANDOM[:count]


def machine(role: str, key: bytes = KEY, **options: Any) -> Handshake:
    return Handshake(role, key, fixed_random, **options)


def mac(name: str, message: bytes, key: bytes = KEY) -> bytes:
    return hmac.new(key, message, name).digest()


def prefixed(name: str, message: bytes, key: bytes = KEY) -> bytes:
    return b"{%s}" % name.encode() + mac(name, message, key)


def joined(*frames: bytes) -> bytes:
    return b"".join(map(encode_frame, frames))


def cut_frames(data: bytes) -> list[bytes]:
    decoder = FrameDecoder(1 << 20)
    frames = decoder.feed(data)
    assert decoder.finish() is None
    return frames


def scripted(role: str, answer: bytes, challenge: bytes) -> bytes:
    """Return what a peer of a machine of `role` sends in a handshake that succeeds."""
    if role == "listener":
        return joined(answer, CHALLENGE + challenge, WELCOME)
    return joined(CHALLENGE + challenge, WELCOME, answer)


def replies(role: str, response: bytes) -> list[bytes]:
    """Return the frames that a machine of `role` sends in a handshake that succeeds."""
    if role == "listener":
        return [CHALLENGE + OURS[role], WELCOME, response]
    return [response, CHALLENGE + OURS[role], WELCOME]


def converse(handshake: Handshake, parts: list[bytes]) -> tuple[bytes, bool, bytes, str | None]:
    """Feed `parts` to a machine; return all that it sent, whether it is done, what came behind, and its error.

    As a channel does, this feeds nothing more once it is done or has failed, and sends the error's reply.
    """
    sent = handshake.start()
    behind = b""
    for part in parts:
        if handshake.done:
            behind += part
            continue
        try:
            sent += handshake.receive(part)
        except AuthenticationError as error:
            return sent + error.reply, handshake.done, b"", str(error)
        behind = handshake.trailing
    return sent, handshake.done, behind, None


def refusal(handshake: Handshake, data: bytes) -> str:
    """Return why the machine refuses `data`; it must, and must say so to the peer."""
    handshake.start()
    with pytest.raises(AuthenticationError) as caught:
        handshake.receive(data)
    assert cut_frames(caught.value.reply)[-1] == FAILURE
    assert not handshake.done
    assert KEY not in str(caught.value).encode()
    return str(caught.value)


# Vectors: what each CPython answers to our challenges, and challenges with. Recorded with CPython 2.7.18, 3.6.15,
# 3.8.18 and 3.11.7 (which agree) and with 3.12.1 and 3.13.0 (which agree), their os.urandom replaced.
RECORDED = {
    ("old", "listener"): bytes.fromhex("dfd88b402db23d0b41ef3ef3a55aad11"),
    ("old", "client"): bytes.fromhex("5179bc24502c7dfc3b323a25506008cb"),
    ("new", "listener"): bytes.fromhex(
        "7b7368613235367dab7c5a72868132d7ab0bb81b57fb53d408412c39314f27b7f30470a0648df18f"
    ),
    ("new", "client"): bytes.fromhex(
        "7b7368613235367d8eff403fde165db61f0b82dbfee6ff22d9609c100cdb6675fd11d23b0cca55c5"
    ),
}
CHALLENGES = {"old": OLD_MESSAGE, "new": NEW_MESSAGE}
RESPONSES = {"old": mac("md5", OLD_MESSAGE), "new": prefixed("sha256", NEW_MESSAGE)}


@pytest.mark.parametrize("age", ["old", "new"])
@pytest.mark.parametrize("role", ["listener", "client"])
def test_handshake_is_that_of_recorded_interpreters(role: str, age: str) -> None:
    stream = scripted(role, RECORDED[age, role], CHALLENGES[age])
    sent, done, behind, error = converse(machine(role), [stream + b"behind"])
    assert (cut_frames(sent), done, behind, error) == (replies(role, RESPONSES[age]), True, b"behind", None)


@pytest.mark.parametrize("name", DIGESTS)
@pytest.mark.parametrize("role", ["listener", "client"])
def test_every_digest_of_the_protocol_is_answered_and_accepted(role: str, name: str) -> None:
    message = b"{%s}" % name.encode() + RANDOM + b"8 bytes."
    stream = scripted(role, prefixed(name, OURS[role]), message)
    sent, done, _, error = converse(machine(role), [stream])
    assert (cut_frames(sent), done, error) == (replies(role, prefixed(name, message)), True, None)


CONVERSATIONS = {
    "old peer": lambda role: scripted(role, RECORDED["old", role], OLD_MESSAGE) + b"trailing",
    "new peer": lambda role: scripted(role, RECORDED["new", role], NEW_MESSAGE) + joined(b"first", b""),
    "longest challenge": lambda role: scripted(role, RECORDED["new", role], b"{sha256}" + b"x" * 237),
    "wrong answer": lambda role: scripted(role, prefixed("sha256", OURS[role], b"another key"), NEW_MESSAGE),
    "answer that is none": lambda role: scripted(role, b"?", NEW_MESSAGE),
    "short challenge": lambda role: scripted(role, RECORDED["new", role], b"short"),
    "unknown digest": lambda role: scripted(role, RECORDED["new", role], b"{sha1}" + b"x" * 40),
    "reflected challenge": lambda role: scripted(role, RECORDED["new", role], OURS[role]),
    "refused": lambda role: (
        joined(RECORDED["new", role]) * (role == "listener") + joined(CHALLENGE + NEW_MESSAGE, FAILURE)
    ),
    "no welcome": lambda role: (
        joined(RECORDED["new", role]) * (role == "listener") + joined(CHALLENGE + NEW_MESSAGE, b"?")
    ),
    "oversize": lambda role: SHORT.pack(257) + b"x" * 257,
    "empty frame": lambda role: SHORT.pack(0) + b"more",
    "long header": lambda role: LONG_MARK + LONG.pack(20) + b"x" * 20,
    "bad frame behind good ones": lambda role: (
        scripted(role, RECORDED["new", role], NEW_MESSAGE)[:-13] + SHORT.pack(-3)
    ),
    "HTTP request": lambda role: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "cut off": lambda role: scripted(role, RECORDED["new", role], NEW_MESSAGE)[:-1],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("role", ["listener", "client"])
def test_conversation_is_the_same_cut_at_every_byte_and_fed_a_byte_at_a_time(role: str, name: str) -> None:
    stream = CONVERSATIONS[name](role)
    # All but the frame that refuses is settled by what a peer that waits for each answer would see.
    expected = converse(machine(role), [stream[i : i + 1] for i in range(len(stream))])
    assert expected[1] == (name in ("old peer", "new peer", "longest challenge"))
    for parts in every_way(stream):
        assert converse(machine(role), parts) == expected


@pytest.mark.parametrize("role", ["listener", "client"])
def test_who_takes_what_is_needed_takes_nothing_behind_the_handshake(role: str) -> None:
    stream = scripted(role, RECORDED["new", role], NEW_MESSAGE) + joined(b"first")
    handshake = machine(role)
    handshake.start()
    position = 0
    while not handshake.done:
        assert handshake.needed >= 1
        piece = stream[position : position + handshake.needed]
        position += len(piece)
        handshake.receive(piece)
    assert stream[position:] == joined(b"first")
    assert handshake.trailing == b""


@steady
@given(st.sampled_from(["listener", "client"]), st.sampled_from(sorted(CONVERSATIONS)), cuts)
def test_conversation_is_the_same_wherever_it_is_cut(role: str, name: str, places: list[int]) -> None:
    stream = CONVERSATIONS[name](role)
    assert converse(machine(role), pieces(stream, places)) == converse(machine(role), [stream])


@steady
@given(st.sampled_from(["listener", "client"]), st.binary(max_size=300), cuts)
def test_any_bytes_are_refused_or_waited_on_the_same_way_wherever_they_are_cut(
    role: str, stream: bytes, places: list[int]
) -> None:
    sent, done, behind, error = converse(machine(role), pieces(stream, places))
    assert (sent, done, behind, error) == converse(machine(role), [stream])
    assert not done
    assert WELCOME not in sent


@steady
@given(st.lists(st.one_of(st.binary(min_size=1, max_size=80), st.binary(max_size=60).map(CHALLENGE.__add__),
                          st.sampled_from([WELCOME, FAILURE])), max_size=5),
       st.sampled_from(["listener", "client"]))  # fmt: skip
def test_no_frames_that_are_made_without_the_key_get_a_peer_in(frames: list[bytes], role: str) -> None:
    _, done, _, _ = converse(machine(role), [joined(*frames)])
    assert not done


class Link:
    """Two machines, and the bytes that are under way between them."""

    def __init__(self, listener: Handshake, client: Handshake) -> None:
        self.machines = {"listener": listener, "client": client}
        self.sent = {"listener": listener.start(), "client": client.start()}
        self.moved = {"listener": 0, "client": 0}
        self.errors: dict[str, str] = {}

    def move(self, sender: str, count: int) -> bool:
        """Carry up to `count` bytes away from `sender`; return whether there were any."""
        receiver = OTHER_ROLE[sender]
        start = self.moved[sender]
        data = self.sent[sender][start : start + count]
        self.moved[sender] += len(data)
        if data and receiver not in self.errors and not self.machines[receiver].done:
            try:
                self.sent[receiver] += self.machines[receiver].receive(data)
            except AuthenticationError as error:
                self.errors[receiver] = str(error)
                self.sent[receiver] += error.reply
        return bool(data)

    def run(self, steps: list[tuple[str, int]] = []) -> Link:  # noqa: B006
        for sender, count in steps:
            self.move(sender, count)
        while self.move("listener", 1000) or self.move("client", 1000):
            pass
        return self


policies = st.sampled_from(["md5", "sha256"])
steps = st.lists(st.tuples(st.sampled_from(["listener", "client"]), st.integers(1, 70)), max_size=30)


@steady
@given(steps, policies, policies)
def test_two_of_ours_authenticate_over_any_link_and_never_use_md5(
    steps: list[tuple[str, int]], first: str, second: str
) -> None:
    link = Link(Handshake("listener", KEY, os.urandom, first), Handshake("client", KEY, os.urandom, second)).run(steps)
    assert link.errors == {}
    for role, handshake in link.machines.items():
        assert handshake.done
        assert handshake.trailing == b""
        challenges = [frame for frame in cut_frames(link.sent[role]) if frame.startswith(CHALLENGE)]
        answers = [frame for frame in cut_frames(link.sent[role]) if frame.startswith(b"{")]
        assert [frame[:19] for frame in challenges] == [CHALLENGE + b"{sha256}"]
        assert [frame[:8] for frame in answers] == [b"{sha256}"]


@steady
@given(steps)
def test_two_of_ours_with_different_keys_both_fail(steps: list[tuple[str, int]]) -> None:
    link = Link(machine("listener"), machine("client", b"another secret key")).run(steps)
    assert not any(handshake.done for handshake in link.machines.values())
    assert "wrong authkey" in link.errors["listener"]
    assert "the authkeys differ" in link.errors["client"]


def test_challenge_has_32_fresh_random_bytes_behind_the_tag_of_its_role() -> None:
    asked = []

    def random(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    first, second = (cut_frames(Handshake("listener", KEY, random).start())[0] for _ in range(2))
    assert asked == [32, 32]
    assert len(first) == len(CHALLENGE) + 8 + 8 + 32
    assert first[:27] == second[:27] == CHALLENGE + b"{sha256}listener"
    assert first != second
    client = machine("client")
    client.start()
    sent = client.receive(joined(CHALLENGE + NEW_MESSAGE, WELCOME))
    assert cut_frames(sent)[1].startswith(CHALLENGE + b"{sha256}client: ")


class InMemoryConnection:
    """What the standard library's functions take for a connection; a machine of ours answers at once."""

    def __init__(self, handshake: Handshake) -> None:
        self.handshake = handshake
        self.error: AuthenticationError | None = None
        self.waiting = deque(cut_frames(handshake.start()))

    def send_bytes(self, data: bytes) -> None:
        try:
            self.waiting.extend(cut_frames(self.handshake.receive(encode_frame(data))))
        except AuthenticationError as error:
            self.error = error
            self.waiting.extend(cut_frames(error.reply))

    def recv_bytes(self, maxlength: int) -> bytes:
        if not self.waiting:
            raise EOFError
        frame = self.waiting.popleft()
        assert len(frame) <= maxlength
        return frame


STANDARD: dict[str, list[Callable[[Any, bytes], None]]] = {
    "listener": [answer_challenge, deliver_challenge],
    "client": [deliver_challenge, answer_challenge],
}
"""What the standard library does opposite a machine of each role."""


@pytest.mark.parametrize("name", DIGESTS)
def test_challenge_asks_for_the_digest_that_was_chosen(name: str) -> None:
    (challenge,) = cut_frames(machine("listener", digest=name).start())
    assert challenge.startswith(CHALLENGE + b"{%s}listener" % name.encode())


def test_half_of_a_handshake_that_stands_alone_has_no_role() -> None:
    drawn = [RANDOM, b"no role!"]
    half = Handshake("either", KEY, lambda count: drawn.pop()[:count])._deliver(b"")
    (challenge,) = cut_frames(next(half))
    assert challenge == CHALLENGE + b"{sha256}no role!" + RANDOM
    with pytest.raises(StopIteration) as end:
        half.send(prefixed("sha256", challenge[len(CHALLENGE) :]))
    assert cut_frames(end.value.value) == [WELCOME]


@pytest.mark.parametrize("message", [*OURS.values(), NEW_MESSAGE, OLD_MESSAGE])
def test_half_of_a_handshake_that_stands_alone_answers_whoever_asks(message: bytes) -> None:
    half = machine("either")._answer(b"")
    assert next(half) == b""
    (response,) = cut_frames(half.send(CHALLENGE + message))
    assert response == (mac("md5", message) if message == OLD_MESSAGE else prefixed("sha256", message))


@pytest.mark.parametrize("role", ["listener", "client"])
def test_standard_library_authenticates_with_ours(role: str) -> None:
    connection = InMemoryConnection(Handshake(role, KEY, os.urandom))
    for step in STANDARD[role]:
        step(connection, KEY)
    assert connection.handshake.done
    assert connection.error is None
    assert not connection.waiting


@pytest.mark.parametrize("name", DIGESTS)
@pytest.mark.parametrize("role", ["listener", "client"])
def test_standard_library_authenticates_with_ours_whatever_digest_it_prefers(role: str, name: str) -> None:
    if "digest_name" not in deliver_challenge.__code__.co_varnames:
        pytest.skip("this interpreter's standard library knows nothing but MD5")
    connection = InMemoryConnection(machine(role))
    for step in STANDARD[role]:
        if step is deliver_challenge:
            step = functools.partial(deliver_challenge, digest_name=name)  # noqa: PLW2901
        step(connection, KEY)
    assert connection.handshake.done


@pytest.mark.parametrize("role", ["listener", "client"])
def test_standard_library_with_a_wrong_key_is_refused_and_told(role: str) -> None:
    connection = InMemoryConnection(machine(role))
    with pytest.raises(StandardAuthenticationError):
        for step in STANDARD[role]:
            step(connection, KEY + b"!")
    assert not connection.handshake.done
    assert "authkey" in str(connection.error)
    assert not connection.waiting


# Refusals


def test_listener_refuses_answer_made_with_another_key() -> None:
    assert "wrong authkey" in refusal(machine("listener"), joined(prefixed("sha256", OURS["listener"], b"other")))


def test_listener_refuses_answer_whose_length_does_not_fit_its_digest() -> None:
    answers = [prefixed(name, OURS["listener"]) for name in DIGESTS]
    for wrong in [wrong for answer in answers for wrong in (answer[:-1], answer + b"x")]:
        assert "this is no answer to our challenge" in refusal(machine("listener"), joined(wrong))


@pytest.mark.parametrize("answer", [b"x", b"{sha1}" + bytes(20), b"{}" + bytes(32), bytes(32), b"{sha256", WELCOME])
def test_listener_refuses_answer_without_a_digest_that_it_knows(answer: bytes) -> None:
    assert "this is no answer to our challenge" in refusal(machine("listener"), joined(answer))


@pytest.mark.parametrize("length", [0, 1, 16, 19])
def test_client_refuses_challenge_that_is_too_short(length: int) -> None:
    data = joined(CHALLENGE + b"x" * length)
    assert f"a challenge of {length} bytes is too short" in refusal(machine("client"), data)


@pytest.mark.parametrize("message", [b"x" * 21, b"{sha1}" + b"x" * 40, b"{sha256" + b"x" * 40, b"{SHA256}" + b"x" * 40])
def test_client_refuses_challenge_that_names_no_digest_known_here(message: bytes) -> None:
    assert "names no digest known here" in refusal(machine("client"), joined(CHALLENGE + message))


def test_client_refuses_what_is_no_challenge_and_says_when_it_was_refused_itself() -> None:
    assert refusal(machine("client"), joined(b"hello")).startswith("a challenge was expected, the peer sent b'hello'")
    assert refusal(machine("client"), joined(FAILURE)).endswith(": it refused us")


def test_client_that_is_refused_says_nothing_more() -> None:
    client = machine("client")
    client.start()
    client.receive(joined(CHALLENGE + NEW_MESSAGE))
    with pytest.raises(AuthenticationError, match="the authkeys differ") as caught:
        client.receive(joined(FAILURE))
    assert caught.value.reply == b""


@pytest.mark.parametrize("role", ["listener", "client"])
def test_machine_refuses_challenge_issued_by_its_own_role(role: str) -> None:
    """Whatever digest a reflector writes in front: the tag behind it gives the challenge away."""
    proof = joined(RECORDED["new", role]) if role == "listener" else b""
    for name in DIGESTS:
        message = b"{%s}" % name.encode() + TAGS[role] + os.urandom(32)
        assert "somebody reflects" in refusal(machine(role), proof + joined(CHALLENGE + message))


def test_client_refuses_challenge_issued_by_a_client() -> None:
    """A false server has one client prove itself to another: without the tags, it would get in."""
    asking, answering = machine("client"), machine("client")
    asking.start()
    (_, challenge) = cut_frames(asking.receive(joined(CHALLENGE + NEW_MESSAGE, WELCOME)))
    assert "somebody reflects" in refusal(answering, joined(challenge))


def test_listener_refuses_its_own_outstanding_challenge() -> None:
    listener = machine("listener")
    (challenge,) = cut_frames(listener.start())
    with pytest.raises(AuthenticationError):
        listener.receive(joined(challenge))
    again = machine("listener")
    (challenge,) = cut_frames(again.start())
    with pytest.raises(AuthenticationError, match="somebody reflects"):
        again.receive(joined(prefixed("sha256", OURS["listener"]), challenge))


# Downgrades


@pytest.mark.parametrize("raw", [True, False])
def test_listener_refuses_md5_answer_from_a_peer_whose_challenge_is_ours(raw: bool) -> None:
    answer = mac("md5", OURS["listener"]) if raw else prefixed("md5", OURS["listener"])
    message = b"{sha256}" + TAGS["client"] + RANDOM
    assert "somebody stands in between" in refusal(machine("listener"), joined(answer, CHALLENGE + message))


def test_client_refuses_challenge_of_ours_that_asks_for_md5() -> None:
    message = b"{md5}" + TAGS["listener"] + RANDOM
    assert "somebody stands in between" in refusal(machine("client"), joined(CHALLENGE + message))


@pytest.mark.parametrize("raw", [True, False])
def test_client_refuses_md5_answer_from_a_peer_whose_challenge_is_ours(raw: bool) -> None:
    answer = mac("md5", OURS["client"]) if raw else prefixed("md5", OURS["client"])
    message = b"{sha256}" + TAGS["listener"] + RANDOM
    assert "somebody stands in between" in refusal(machine("client"), joined(CHALLENGE + message, WELCOME, answer))


@pytest.mark.parametrize("answer", [mac("md5", OURS["listener"]), prefixed("md5", OURS["listener"])])
def test_listener_of_minimum_sha256_refuses_md5_answer(answer: bytes) -> None:
    reason = refusal(machine("listener", minimum_digest="sha256"), joined(answer))
    assert "minimum_digest is 'sha256'" in reason


@pytest.mark.parametrize("message", [OLD_MESSAGE, b"{md5}" + b"x" * 40])
def test_client_of_minimum_sha256_refuses_md5_challenge(message: bytes) -> None:
    reason = refusal(machine("client", minimum_digest="sha256"), joined(CHALLENGE + message))
    assert "minimum_digest is 'sha256'" in reason


@pytest.mark.parametrize("role", ["listener", "client"])
def test_minimum_sha256_serves_every_digest_but_md5(role: str) -> None:
    for name in DIGESTS[1:]:
        message = b"{%s}" % name.encode() + b"x" * 40
        stream = scripted(role, prefixed(name, OURS[role]), message)
        assert converse(machine(role, minimum_digest="sha256"), [stream])[1]


def test_unknown_minimum_digest_is_refused() -> None:
    with pytest.raises(LocalError, match="minimum_digest is 'sha1'; give 'md5' or 'sha256'"):
        machine("listener", minimum_digest="sha1")


# A system that forbids MD5


@pytest.fixture
def fips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `hmac.digest` refuse MD5, as OpenSSL does in FIPS mode."""
    allowed = hmac.digest

    def digest(key: bytes, message: bytes, name: str) -> bytes:
        if name == "md5":
            raise ValueError("[digital envelope routines] unsupported")
        return allowed(key, message, name)

    monkeypatch.setattr(hmac, "digest", digest)


@pytest.mark.usefixtures("fips")
@pytest.mark.parametrize("minimum_digest", ["md5", "sha256"])
@pytest.mark.parametrize("role", ["listener", "client"])
def test_new_peer_is_served_where_the_system_forbids_md5(role: str, minimum_digest: str) -> None:
    stream = scripted(role, RECORDED["new", role], NEW_MESSAGE)
    assert converse(machine(role, minimum_digest=minimum_digest), [stream])[1]


@pytest.mark.usefixtures("fips")
def test_old_peer_is_refused_with_a_reason_where_the_system_forbids_md5() -> None:
    reasons = [
        refusal(machine("client"), joined(CHALLENGE + OLD_MESSAGE)),
        refusal(machine("listener"), joined(RECORDED["old", "listener"])),
    ]
    for reason in reasons:
        assert "this system forbids MD5" in reason
        assert "unsupported" in reason


# The bounds of a frame


@pytest.mark.parametrize("role", ["listener", "client"])
@pytest.mark.parametrize("header", [SHORT.pack(0), SHORT.pack(257), SHORT.pack(-2), SHORT.pack(0x7FFFFFFF), LONG_MARK])
def test_frame_below_1_or_above_256_bytes_or_with_a_long_header_ends_the_handshake(role: str, header: bytes) -> None:
    assert "frame" in refusal(machine(role), header + bytes(8))


def test_refusal_of_what_is_no_frame_has_that_for_its_cause() -> None:
    handshake = machine("listener")
    handshake.start()
    with pytest.raises(AuthenticationError, match="this is an HTTP request") as caught:
        handshake.receive(b"GET / HTTP/1.1\r\n\r\n")
    assert isinstance(caught.value.__cause__, FrameError)


def test_frame_of_256_bytes_is_taken() -> None:
    message = b"{sha256}" + b"x" * (256 - len(CHALLENGE) - 8)
    client = machine("client")
    client.start()
    assert cut_frames(client.receive(joined(CHALLENGE + message))) == [prefixed("sha256", message)]


def test_header_bombs_in_a_thousand_handshakes_take_no_memory() -> None:
    machines = [machine("listener") for _ in range(1000)]
    for handshake in machines:
        handshake.start()
    bomb = SHORT.pack(0x7FFFFFFF) + b"x" * 1000

    def explode() -> None:
        for handshake in machines:
            with pytest.raises(AuthenticationError):
                handshake.receive(bomb)

    assert peak_memory(explode) < 1024 * 1024


@pytest.mark.parametrize("role", ["listener", "client"])
def test_flood_behind_the_final_frame_is_kept_as_it_came(role: str) -> None:
    flood = os.urandom(64 * 1024)
    stream = scripted(role, RECORDED["new", role], NEW_MESSAGE)
    handshake = machine(role)
    handshake.start()
    handshake.receive(stream + flood)
    assert handshake.done
    assert handshake.trailing == flood


# The life of a machine


@pytest.mark.parametrize("role", ["listener", "client"])
def test_machine_says_what_it_waits_for(role: str) -> None:
    handshake = machine(role)
    handshake.start()
    answer, challenge = RECORDED["new", role], CHALLENGE + NEW_MESSAGE
    script = [answer, challenge, WELCOME] if role == "listener" else [challenge, WELCOME, answer]
    expected = {answer: "answer to our challenge", challenge: "the peer's challenge", WELCOME: "the peer's welcome"}
    for frame in script:
        assert expected[frame] in handshake.expectation
        handshake.receive(encode_frame(frame))
    assert handshake.done


def test_machine_that_has_refused_stays_refused() -> None:
    for role in ("listener", "client"):
        handshake = machine(role)
        refusal(handshake, joined(b"wrong"))
        for data in (joined(b"again"), scripted(role, RECORDED["new", role], NEW_MESSAGE), SHORT.pack(-2)):
            with pytest.raises(AuthenticationError):
                handshake.receive(data)
            assert not handshake.done


def test_machine_that_was_abandoned_is_never_done() -> None:
    handshake = machine("listener")
    handshake.start()
    handshake.abandon()
    with pytest.raises(AuthenticationError):
        handshake.receive(joined(b"late"))
    assert not handshake.done


def test_empty_input_changes_nothing() -> None:
    handshake = machine("listener")
    handshake.start()
    assert handshake.receive(b"") == b""
    assert handshake.receive(scripted("listener", RECORDED["new", "listener"], NEW_MESSAGE)) != b""
    assert handshake.done


@pytest.mark.parametrize("end", ["done", "failed", "abandoned"])
def test_machine_at_its_end_is_freed_without_the_garbage_collector(end: str) -> None:
    gc.disable()
    try:
        handshake = machine("listener")
        handshake.start()
        if end == "done":
            handshake.receive(scripted("listener", RECORDED["new", "listener"], NEW_MESSAGE))
            assert handshake.done
        elif end == "failed":
            try:
                handshake.receive(joined(b"wrong"))
            except AuthenticationError as error:
                error.__traceback__ = None
        else:
            handshake.abandon()
        gone = weakref.ref(handshake)
        del handshake
        assert gone() is None
    finally:
        gc.enable()


# Keys


@pytest.fixture
def short_keys_not_yet_seen() -> None:
    """Let the warning that is given once in a process be given once in this test."""
    authentication._warn_of_short_key.cache_clear()


@pytest.mark.parametrize("key", ["a secret of characters", 12345678901234567890, memoryview(KEY), ["k"]])
def test_key_that_is_no_bytes_is_refused_without_being_shown(key: Any) -> None:
    with pytest.raises(LocalError, match=f"an authkey is bytes, not {type(key).__name__}") as caught:
        check_authkey(key)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", [b"", bytearray()])
def test_empty_key_is_refused(key: Any) -> None:
    with pytest.raises(LocalError, match="an empty authkey protects nothing"):
        check_authkey(key)


def test_key_is_copied_so_that_nobody_can_change_it_later() -> None:
    key = bytearray(KEY)
    checked = check_authkey(key)
    key[:] = bytes(len(key))
    assert checked == KEY
    assert type(checked) is bytes


@pytest.mark.usefixtures("short_keys_not_yet_seen")
def test_short_key_warns_once() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_authkey(b"x" * 16)
        assert caught == []
        assert [check_authkey(b"x" * 15), check_authkey(b"short")] == [b"x" * 15, b"short"]
    assert [warning.category for warning in caught] == [ShortKeyWarning]
    assert "shorter than 16 bytes" in str(caught[0].message)


# A connection without a key, and a peer that demands one


def test_spotter_says_that_the_peer_demands_a_key_wherever_its_challenge_is_cut() -> None:
    for message in (OLD_MESSAGE, NEW_MESSAGE):
        for parts in every_way(joined(CHALLENGE + message)):
            spotter = ChallengeSpotter(1 << 20)
            assert [frame for part in parts for frame in spotter.feed(part)] == []
            assert isinstance(spotter.failure, AuthenticationError)
            assert "demands an authkey, and none was given" in str(spotter.failure)


def test_spotter_gives_nothing_out_once_it_has_spotted_a_challenge() -> None:
    spotter = ChallengeSpotter(1 << 20)
    assert spotter.feed(joined(CHALLENGE + NEW_MESSAGE, b"message")) == []
    assert spotter.feed(joined(b"another message")) == []
    assert isinstance(spotter.failure, AuthenticationError)


def test_spotter_takes_a_later_challenge_for_a_message() -> None:
    frames = [b"first", CHALLENGE + NEW_MESSAGE]
    for parts in every_way(joined(*frames)):
        spotter = ChallengeSpotter(1 << 20)
        assert [frame for part in parts for frame in spotter.feed(part)] == frames
        assert spotter.failure is None


def test_spotter_takes_a_frame_that_is_too_long_for_a_challenge_for_a_message() -> None:
    for length, is_message in ((256, False), (257, True)):
        spotter = ChallengeSpotter(1 << 20)
        frame = CHALLENGE + b"x" * (length - len(CHALLENGE))
        assert spotter.feed(joined(frame)) == [frame] * is_message
