"""The challenge handshake of ``multiprocessing.connection``. Bytes in, bytes out; no I/O, no clock.

The listening side challenges first, then answers; the connecting side answers, then challenges.
Source: the comment above ``_create_response`` in CPython 3.13's ``Lib/multiprocessing/connection.py``;
Python 3.8 to 3.11 challenge with 20 raw bytes and know no digest but MD5.

What is added here is compatible on the wire. The 40 bytes behind ``{sha256}`` are not all random:
the first eight name the role of the side that issued the challenge. So a challenge that is
reflected at another one of our ends is recognised, and refused instead of answered.

Over TLS they also say so, and then the answer covers a value that only the two ends of one TLS connection know
(RFC 5929): who relays between two connections cannot pass the answer on. Peers that are not ours answer as ever.
"""

from __future__ import annotations

import functools
import hmac
import warnings
from collections.abc import Callable, Generator

from .errors import AuthenticationError, LocalError, excerpt
from .framing import FrameDecoder, encode_frame

CHALLENGE = b"#CHALLENGE#"
WELCOME = b"#WELCOME#"
FAILURE = b"#FAILURE#"

LONGEST_FRAME = 256
LEGACY_CHALLENGE = 20
RANDOM_BYTES = 32
TAG_BYTES = 8
ROLE_TAGS = {"listener": b"listener", "client": b"client: "}
BOUND_TAGS = {"listener": b"lstn+tls", "client": b"clnt+tls"}
OUR_TAGS = {*ROLE_TAGS.values(), *BOUND_TAGS.values()}
DIGEST_SIZES = {"md5": 16, "sha256": 32, "sha384": 48, "sha3_256": 32, "sha3_384": 48}
MINIMUM_DIGESTS = ("md5", "sha256")
SHORTEST_KEY = 16
KEYLESS = "a peer without an authkey begins like this"


class ShortKeyWarning(UserWarning):
    """An authkey is so short that it can be guessed from one recorded handshake."""


def check_authkey(authkey: bytes) -> bytes:
    """Return `authkey` as bytes.

    Raises:
        LocalError: it is no bytes object, or it is empty.
    """
    if not isinstance(authkey, bytes | bytearray):
        raise LocalError(f"an authkey is bytes, not {type(authkey).__name__}")
    if not authkey:
        raise LocalError("an empty authkey protects nothing; give at least 16 bytes, best secrets.token_bytes(32)")
    if len(authkey) < SHORTEST_KEY:
        _warn_of_short_key()
    return bytes(authkey)


def check_minimum_digest(minimum_digest: str) -> None:
    """Raise LocalError where `minimum_digest` is neither ``"md5"`` nor ``"sha256"``."""
    if minimum_digest not in MINIMUM_DIGESTS:
        raise LocalError(f"minimum_digest is {minimum_digest!r}; give 'md5' or 'sha256'")


@functools.cache
def _warn_of_short_key() -> None:
    warnings.warn(
        f"an authkey is shorter than {SHORTEST_KEY} bytes; it can be guessed from one recorded handshake",
        ShortKeyWarning,
        stacklevel=4,
    )


class HandshakeDecoder(FrameDecoder):
    """Cuts out the frames of the handshake: short, never empty, never with a long header."""

    __slots__ = ()

    minimum = 1
    limit = "for the handshake"
    long_headers = False


class Handshake:
    """One side of the handshake, as a machine.

    `start` returns the first bytes to send, `receive` takes what came and returns what goes out.
    When `done` is true, `trailing` holds the bytes that came behind the final welcome: they belong
    to the open connection. `expectation` says, for whoever reads the log, what is waited for.

    Arguments:
        role: ``"listener"`` or ``"client"``, for the side that listened and the one that connected; ``"either"``
            for who uses one half of the handshake alone.
        authkey: the shared key, as `check_authkey` returned it.
        random: gives so many random bytes, as `os.urandom` does.
        minimum_digest: ``"md5"`` serves Python up to 3.11, which knows nothing else; ``"sha256"``
            neither answers nor accepts MD5.
        digest: what our challenge asks for.
        binding: what the two ends of this very TLS connection know, and nobody else; None without TLS.

    Raises:
        LocalError: `minimum_digest` is neither of the two.
    """

    def __init__(
        self,
        role: str,
        authkey: bytes,
        random: Callable[[int], bytes],
        minimum_digest: str = "md5",
        digest: str = "sha256",
        binding: bytes | None = None,
    ) -> None:
        check_minimum_digest(minimum_digest)
        self._challenge_digest = digest.encode()
        self.role = role
        self.done = False
        self.trailing = b""
        self._authkey = authkey
        self._random = random
        self._allows_md5 = minimum_digest == "md5"
        self.expectation = ""
        self._failure: AuthenticationError | None = None
        self._peer_is_ours = False
        self._peer_used_md5 = False
        self._binding = binding
        # A client finds out from the listener's challenge: in front of that there may be a proxy that ends the TLS.
        self._is_bound = role == "listener" and binding is not None
        self._peer_is_unbound = False
        self._decoder = HandshakeDecoder(LONGEST_FRAME)
        self._conversation = self._listener() if role == "listener" else self._client()

    def start(self) -> bytes:
        """Return the bytes that this side sends first: a challenge, or nothing."""
        return next(self._conversation)

    def receive(self, data: bytes) -> bytes:
        """Take bytes from the peer and return the bytes to send to it.

        Raises:
            AuthenticationError: the peer is not who it should be, or does not speak this protocol.
                Its `reply` is to be sent before closing.
        """
        if self._failure is not None:
            raise self._failure
        output: list[bytes] = []
        while data and not self.done:
            needed = self._decoder.needed
            piece, data = data[:needed], data[needed:]
            for frame in self._decoder.feed(piece):
                try:
                    output.append(self._conversation.send(frame))
                except StopIteration as end:
                    output.append(end.value)
                    self.done = True
                except AuthenticationError as error:
                    # What was said before still goes out in front, however the peer's bytes were cut.
                    raise self._failed(error, output) from None
            failure = self._decoder.failure
            if failure is not None:
                raise self._failed(self._refusal(str(failure)), output) from failure
        self.trailing = data
        return b"".join(output)

    @property
    def needed(self) -> int:
        """How many bytes, at least one, belong to the handshake for certain."""
        return self._decoder.needed

    def abandon(self) -> None:
        """Give the handshake up: the channel closes."""
        self._conversation.close()
        self._failure = AuthenticationError("the handshake was given up")

    def _listener(self) -> Generator[bytes, bytes, bytes]:
        welcome = yield from self._deliver(b"")
        verdict = yield from self._answer(welcome)
        self._expect_welcome(verdict)
        return b""

    def _client(self) -> Generator[bytes, bytes, bytes]:
        verdict = yield from self._answer(b"")
        self._expect_welcome(verdict)
        return (yield from self._deliver(b""))

    def _deliver(self, pending: bytes) -> Generator[bytes, bytes, bytes]:
        """Challenge the peer; return the welcome that it has earned."""
        tags = BOUND_TAGS if self._is_bound else ROLE_TAGS
        tag = tags.get(self.role) or self._random(TAG_BYTES)
        message = b"{%s}" % self._challenge_digest + tag + self._random(RANDOM_BYTES)
        self.expectation = "the answer to our challenge, which a peer without an authkey never sends"
        response = yield pending + encode_frame(CHALLENGE + message)
        self._verify(message, response)
        return encode_frame(WELCOME)

    def _answer(self, pending: bytes) -> Generator[bytes, bytes, bytes]:
        """Wait for the peer's challenge, answer it, and return the verdict."""
        self.expectation = "the peer's challenge, which a peer without an authkey never sends"
        challenge = yield pending
        response = self._respond(challenge)
        self.expectation = "the peer's welcome"
        return (yield encode_frame(response))

    def _respond(self, challenge: bytes) -> bytes:
        if not challenge.startswith(CHALLENGE):
            hint = "it refused us" if challenge == FAILURE else KEYLESS
            raise self._refusal(f"a challenge was expected, the peer sent {excerpt(challenge)}: {hint}")
        message = challenge[len(CHALLENGE) :]
        if len(message) < LEGACY_CHALLENGE:
            raise self._refusal(f"a challenge of {len(message)} bytes is too short to be answered safely")
        if len(message) == LEGACY_CHALLENGE:
            return self._digest("md5", message)
        name = _digest_name(message)
        if name is None:
            raise self._refusal(f"the challenge names no digest known here: {excerpt(message)}")
        prefix = b"{%s}" % name.encode()
        tag = message[len(prefix) : len(prefix) + TAG_BYTES]
        if tag in (ROLE_TAGS.get(self.role), BOUND_TAGS.get(self.role)):
            raise self._refusal("the peer sent back a challenge of our own kind: somebody reflects our handshake")
        self._peer_is_ours = tag in OUR_TAGS
        if self._peer_is_ours and (self._peer_used_md5 or name == "md5"):
            raise self._refusal("the peer can do better than MD5, yet MD5 was used: somebody stands in between")
        if self._peer_is_ours and self._peer_is_unbound:
            raise self._refusal("the peer's answer was not bound to this TLS connection: somebody stands in between")
        is_bound = tag in BOUND_TAGS.values()
        if is_bound and self._binding is None:
            raise self._refusal("the peer speaks TLS, and this side does not: somebody stands in between")
        if self.role == "client":
            self._is_bound = is_bound
        return prefix + self._digest(name, message, is_bound)

    def _verify(self, message: bytes, response: bytes) -> None:
        if len(response) == DIGEST_SIZES["md5"]:
            name, mac = "md5", response
        else:
            name = _digest_name(response) or ""
            mac = response[len(name) + 2 :]
            if len(mac) != DIGEST_SIZES.get(name, -1):
                raise self._refusal(f"this is no answer to our challenge: {excerpt(response)}: {KEYLESS}")
        if name == "md5":
            self._peer_used_md5 = True
            if self._peer_is_ours:
                raise self._refusal("the peer can do better than MD5, yet MD5 was used: somebody stands in between")
        if self._is_bound and hmac.compare_digest(mac, self._digest(name, message, True)):
            return
        if not hmac.compare_digest(mac, self._digest(name, message)):
            other = ", or it came by way of another TLS connection" if self._is_bound else ""
            raise self._refusal(f"wrong authkey: the peer's answer to our challenge does not fit our key{other}")
        self._peer_is_unbound = self._is_bound
        if self._peer_is_unbound and self._peer_is_ours:
            raise self._refusal("the peer's answer was not bound to this TLS connection: somebody stands in between")

    def _expect_welcome(self, verdict: bytes) -> None:
        if verdict == FAILURE:
            raise AuthenticationError("the peer refused our answer to its challenge: the authkeys differ")
        if verdict != WELCOME:
            raise self._refusal(f"a welcome was expected, the peer sent {excerpt(verdict)}")

    def _digest(self, name: str, message: bytes, is_bound: bool = False) -> bytes:
        if name == "md5" and not self._allows_md5:
            raise self._refusal("the peer (Python 3.11 or older) knows MD5 alone, and minimum_digest is 'sha256'")
        try:
            return hmac.digest(self._authkey, message + (self._binding or b"") if is_bound else message, name)
        except ValueError as error:  # a system in FIPS mode
            raise self._refusal(f"this system forbids {name.upper()}: {error}") from None

    def _failed(self, error: AuthenticationError, output: list[bytes]) -> AuthenticationError:
        self._failure = AuthenticationError(str(error))
        error.reply = b"".join((*output, error.reply))
        return error

    def _refusal(self, message: str) -> AuthenticationError:
        error = AuthenticationError(message)
        error.reply = encode_frame(FAILURE)
        return error


class ChallengeSpotter(FrameDecoder):
    """The decoder of a connection without an authkey: tells when the peer demands one.

    The peer's challenge would otherwise be taken for the first message, and both sides would wait.
    """

    __slots__ = ("_past_first",)

    def __init__(self, maximum: int) -> None:
        super().__init__(maximum)
        self._past_first = False

    def feed(self, data: bytes) -> list[bytes]:
        frames = super().feed(data)
        if frames and not self._past_first:
            self._past_first = True
            if frames[0].startswith(CHALLENGE) and len(frames[0]) <= LONGEST_FRAME:
                self.failure = AuthenticationError("the peer demands an authkey, and none was given here")
                self._between = False
                self._head, self._body = b"", None  # nor is anything kept that came together with it
                return []
        return frames


def _digest_name(message: bytes) -> str | None:
    """Return the digest that `message` names between braces in front, or None."""
    for name in DIGEST_SIZES:
        if message.startswith(b"{%s}" % name.encode()):
            return name
    return None
