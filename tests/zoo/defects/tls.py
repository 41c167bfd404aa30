"""Defects in what is encrypted: handshakes, records, the last word, and the way from plaintext to TLS."""

from __future__ import annotations

from reactor.simulation import HARMLESS
from tests.zoo.catching import Defect, Simulated, Tortured
from tests.zoo.planting import Change
from tests.zoo.scenarios.tls import (
    command_behind_a_slow_starttls,
    command_with_starttls,
    crowd,
    damage,
    encrypted_conversation,
    farewell,
    plaintext,
    question_in_advance,
    silence,
    truncation,
)

SEND_FAULTS = {"send EAGAIN", "send EINTR", "send short"}
"""With which the last word is not said: a channel that closes at once waits for nothing."""

CONVERSATION = Simulated(encrypted_conversation, seeds=20)
EVERY_SEND_FAILS = Tortured(encrypted_conversation, only=frozenset({"send"}), faults=HARMLESS)
QUESTION_IN_ADVANCE = Simulated(question_in_advance, seeds=20)
FAREWELL = Simulated(farewell, seeds=20, faults=frozenset(HARMLESS) - SEND_FAULTS)
DAMAGE = Simulated(damage, seeds=20)
TRUNCATION = Simulated(truncation, seeds=20)
SILENCE = Simulated(silence, seeds=20)
CROWD = Simulated(crowd, seeds=10)
PLAINTEXT = Simulated(plaintext, seeds=20)
COMMAND_WITH_STARTTLS = Simulated(command_with_starttls, seeds=20)
COMMAND_BEHIND_A_SLOW_STARTTLS = Simulated(command_behind_a_slow_starttls, seeds=20)

DEFECTS: dict[str, list[Defect]] = {
    "TLS data decrypted but invisible to select": [
        Defect(
            "one-record-a-receive",
            "what stands behind the first record stays in the buffer",
            Change("reactor.tls:TlsSocket._decrypt", "if not incoming.pending:", "if True:"),
            by=CONVERSATION,
            seen="a buffer that all connections share is not empty",
        ),
        Defect(
            "record-read-in-part",
            "a record that is larger than what is read at once stays in OpenSSL",
            Change("reactor.tls:TlsSocket._decrypt", "read(RECORD)", "read(1000)"),
            by=CONVERSATION,
            seen="NotInTime|what is delivered is not what was sent",
        ),
        Defect(
            "behind-the-handshake-forgotten",
            "what comes in one packet with the end of the handshake is dropped",
            Change("reactor.tls:TlsSocket._shake_hands", "self._rest = self._incoming.read()", "self._incoming.read()"),
            by=QUESTION_IN_ADVANCE,
            seen="NotInTime|TlsError",
        ),
        Defect(
            "behind-the-handshake-unseen",
            "what comes in one packet with the end of the handshake waits for the socket, which is silent",
            Change("reactor.sending:Open.enter", "if channel._has_input:", "if False:"),
            by=QUESTION_IN_ADVANCE,
            seen="NotInTime",
        ),
        Defect(
            "challenge-behind-the-handshake-unseen",
            "a challenge that comes in one packet with the end of the handshake waits for the socket, which is silent",
            Change("reactor.connection:Authenticating.enter", "if channel._has_input:", "if False:"),
            by=CONVERSATION,
            seen="NotInTime",
        ),
        Defect(
            "fault-behind-data-unseen",
            "what is wrong behind a record is kept until the socket has something more",
            Change("reactor.tls:TlsSocket._decrypt", "channel.reactor.resume_soon(channel)", "pass"),
            by=DAMAGE,
            seen="NotInTime",
        ),
    ],
    "TLS handshake at 100 % CPU": [
        Defect(
            "handshake-always-wants-to-write",
            "a socket is watched for room although nothing waits for it",
            Change("reactor.securing:Securing._want_what_is_next", "(WRITE if sock.has_unsent else 0)", "WRITE"),
            by=SILENCE,
            seen="the loop spins",
        ),
        Defect(
            "handshake-does-not-want-to-write",
            "a socket that was full is not watched for room",
            Change("reactor.securing:Securing._want_what_is_next", "(WRITE if sock.has_unsent else 0)", "0"),
            by=EVERY_SEND_FAILS,
            seen="NotInTime|tls_timeout|NoneType",
        ),
    ],
    "plaintext trusted before the handshake": [
        Defect(
            "no-handshake-at-all",
            "a listener with TLS takes connections without",
            Change("reactor.channel:Channel._start", "if tls is None:", "if True:"),
            by=PLAINTEXT,
            seen="what was not encrypted is delivered",
        ),
        Defect(
            "open-before-the-handshake",
            "a channel is open as soon as something has come",
            Change(
                "reactor.securing:Securing.readable",
                "if channel.socket.handshake():",
                "if channel.socket.handshake() or True:",
            ),
            by=CONVERSATION,
            seen="what was not encrypted is delivered|NotInTime|AssertionError|escaped",
        ),
        Defect(
            "open-after-a-failed-handshake",
            "a handshake that has failed is taken for one that is done, and the channel waits for ever",
            Change(
                "reactor.securing:Securing.readable",
                "self._refuse(channel, ConnectionLost.by(error))",
                "channel._secured()",
            ),
            by=PLAINTEXT,
            seen="NotInTime",
        ),
    ],
    "plaintext left over at STARTTLS is executed": [
        Defect(
            "held-input-kept",
            "what came in one piece with the request for TLS is executed",
            Change("reactor.channel:Channel.start_tls", "dropped = self._drop_input()", "dropped = 0"),
            by=COMMAND_WITH_STARTTLS,
            seen="it was executed",
        ),
        Defect(
            "waiting-input-kept",
            "what came while the channel made up its mind about TLS is taken for a part of the handshake",
            Change("reactor.channel:Channel.start_tls", "data = self.socket.recv(RECEIVE_SIZE)", 'data = b""'),
            by=COMMAND_BEHIND_A_SLOW_STARTTLS,
            seen="it was not dropped",
        ),
        Defect(
            "encrypted-too-early",
            "what was queued in front of the request for TLS leaves behind it",
            Change(
                "reactor.producers:OutputQueue.append_turning_point",
                "self._entries.append(",
                "self._entries.appendleft(",
            ),
            by=COMMAND_WITH_STARTTLS,
            seen="it was not dropped: DeadlineError",
        ),
    ],
    "tail of a short write lost or reordered": [
        Defect(
            "encrypted-tail-counts-as-sent",
            "what is encrypted counts as sent although a part of it has not left",
            Change("reactor.tls:TlsSocket._send_unsent", "max(min(sent, self.begun - 1), 0)", "self.begun"),
            by=EVERY_SEND_FAILS,
            seen="NotInTime|what is delivered is not what was sent|AssertionError|escaped",
        ),
        Defect(
            "encrypted-twice",
            "what was refused by the socket is encrypted once more",
            Change("reactor.tls:TlsSocket.send", "if self._unsent:\n            told", "if False:\n            told"),
            by=EVERY_SEND_FAILS,
            seen="TlsError|NotInTime|AssertionError",
        ),
        Defect(
            "ciphertext-counts-as-plaintext",
            "as many bytes count as sent as the socket took, which are more than were encrypted",
            Change(
                "reactor.tls:TlsSocket._send_unsent",
                "told, self.begun, self._unsent = self.begun",
                "told, self.begun, self._unsent = sent",
            ),
            by=CONVERSATION,
            seen="AssertionError|IndexError|NotInTime|escaped|what is delivered",
        ),
        Defect(
            "begun-is-not-counted-down",
            "what was told of as sent is told of once more",
            Change("reactor.tls:TlsSocket._send_unsent", "self.begun -= told", "pass"),
            by=EVERY_SEND_FAILS,
            seen="AssertionError|IndexError|NotInTime|escaped|what is delivered",
        ),
        Defect(
            "truncation-is-an-end",
            "a connection that somebody has cut off has ended in good order",
            Change("reactor.tls:TlsSocket.recv", "raise TruncatedError(", "return b'' and ("),
            by=TRUNCATION,
            seen="it was taken for the end",
        ),
        Defect(
            "no-last-word",
            "a connection ends without the last word of TLS, as if somebody had cut it off",
            Change("reactor.tls:TlsSocket.shutdown", "self._end()", "pass"),
            by=QUESTION_IN_ADVANCE,
            seen="the end was taken for something else",
        ),
        Defect(
            "no-goodbye",
            "a channel that is closed at once does so without the last word of TLS",
            Change("reactor.channel:Channel._finish", "self.socket.say_goodbye()", "pass"),
            by=FAREWELL,
            seen="the end was taken for something else",
        ),
    ],
    "slow loris": [
        Defect(
            "handshake-of-tls-without-deadline",
            "a peer that says nothing in the handshake of TLS is waited for",
            Change("reactor.securing:Securing.enter", "channel._set_deadline(channel.limits.tls_timeout)", "pass"),
            by=SILENCE,
            seen="NotInTime",
        ),
    ],
    "one silent or keyless peer blocks all": [
        Defect(
            "handshakes-of-tls-without-cap",
            "any number of peers may be in the handshake of TLS",
            Change("reactor.channel:Channel._is_let_in", "self._origin._channel_authenticating(self)", "pass"),
            by=CROWD,
            seen="NotInTime",
        ),
    ],
}
