"""Defects in what happens to bytes: queues, frames, handshakes, and the ends of connections."""

from __future__ import annotations

from reactor.simulation import HARMLESS
from tests.zoo.catching import Defect, RowTest, Simulated, Tortured
from tests.zoo.planting import Change
from tests.zoo.scenarios.traffic import (
    conversation,
    deaf_peer,
    deserters,
    empty_promises,
    endless_input,
    half_close,
    impostor,
    last_word,
    silent_peers,
    slow_loris,
)

MISSING = "tests/zoo/test_missing.py"
CONVERSATION = Simulated(conversation)
EVERY_CALL_FAILS = Tortured(conversation, only=frozenset({"accept", "recv", "send"}), faults=HARMLESS)
DEAF_PEER = Simulated(deaf_peer, seeds=20)
ENDLESS_INPUT = Simulated(endless_input, seeds=20)
EMPTY_PROMISES = Simulated(empty_promises, seeds=10)
HALF_CLOSE = Simulated(half_close)
LAST_WORD = Simulated(last_word)
DESERTERS = Simulated(deserters)
SLOW_LORIS = Simulated(slow_loris)
SILENT_PEERS = Simulated(silent_peers)
IMPOSTOR = Simulated(impostor)

DEFECTS: dict[str, list[Defect]] = {
    "output queue without bound": [
        Defect(
            "no-maximum-output",
            "nothing looks at how much waits",
            Change("reactor.states:Preparing.check_output", "channel.output_size <= limit", "True"),
            by=DEAF_PEER,
            seen="a queue is over its limit: .* maximum_output",
        ),
        Defect(
            "no-backpressure",
            "a peer that takes no answers is still read from",
            Change("reactor.sending:Open.throttle", 'become(channel, "throttle")', "pass"),
            by=DEAF_PEER,
            seen="a queue is over its limit: .* high_water, and it reads on",
        ),
        Defect(
            "producer-is-not-held-back",
            "a producer is pulled although much waits",
            Change(
                "reactor.producers:OutputQueue.next_buffers", "self._limits.low_water", "16 * self._limits.low_water"
            ),
            by=DEAF_PEER,
            seen="bytes were pulled",
        ),
    ],
    "tail of a short write lost or reordered": [
        Defect(
            "tail-lost",
            "what a send did not take is dropped",
            Change(
                "reactor.sending:Sending.flush",
                "channel._make_queue().append(memoryview(data)[sent:])",
                "channel._make_queue()",
            ),
            by=EVERY_CALL_FAILS,
            seen="what is delivered is not what was sent|NotInTime",
        ),
        Defect(
            "tail-reordered",
            "what a send did not take goes to the end of the queue",
            Change(
                "reactor.producers:OutputQueue.advance",
                "entries[0] = memoryview(first)[sent:]",
                "entries.popleft(); entries.append(memoryview(first)[sent:])",
            ),
            by=CONVERSATION,
            seen="what is delivered is not what was sent|a frame of|NotInTime",
        ),
        Defect(
            "tail-sent-twice",
            "a send that took a part is made again with the whole",
            Change(
                "reactor.producers:OutputQueue.advance", "memoryview(first)[sent:]", "memoryview(first)[sent - 1 :]"
            ),
            by=EVERY_CALL_FAILS,
            seen="what is delivered is not what was sent|a frame of|NotInTime",
        ),
        Defect(
            "refused-send-counts-as-sent",
            "a send that took nothing is taken for one that took all",
            Change("reactor.sending:Sending.flush", "sent = 0", "sent = len(data)"),
            by=EVERY_CALL_FAILS,
            seen="what is delivered is not what was sent|NotInTime",
        ),
    ],
    "input without a terminator": [
        Defect(
            "frames-without-bound",
            "a frame may be as large as its header says",
            Change("reactor.framing:FrameDecoder.feed", "if not minimum <= size <= maximum:", "if size < minimum:"),
            by=ENDLESS_INPUT,
            seen="NotInTime",
        ),
        Defect(
            "handshake-without-bound",
            "a stranger may send as much as he likes in front of his answer",
            Change(
                "reactor.authentication:Handshake.__init__",
                "HandshakeDecoder(LONGEST_FRAME)",
                "HandshakeDecoder(2**31)",
            ),
            by=ENDLESS_INPUT,
            seen="NotInTime|DeadlineError",
        ),
    ],
    "allocation by announced length": [
        Defect(
            "room-made-in-advance",
            "the memory for a frame is taken when its header comes",
            Change("reactor.framing:FrameDecoder.feed", "io.BytesIO()", "io.BytesIO(bytes(size))"),
            by=EMPTY_PROMISES,
            seen="bytes were allocated at once",
        ),
    ],
    "half-close spins or loses the reply": [
        Defect(
            "half-close-spins",
            "a channel whose peer has ended its side is still watched for input",
            Change(
                "reactor.sending:Sending.enter", "self.reads | channel._interest & WRITE", "READ | channel._interest"
            ),
            by=HALF_CLOSE,
            seen="the loop spins",
        ),
        Defect(
            "half-close-is-told-again",
            "the end of the input is read again and again",
            Change("reactor.sending:Open.end_of_input", 'become(channel, "end")', "pass"),
            by=HALF_CLOSE,
            seen="it was told twice of one end",
        ),
        Defect(
            "half-close-loses-the-reply",
            "the peer's end of stream closes the channel, whatever waits for it",
            Change(
                "reactor.sending:HalfClosed.drain",
                "super().drain(channel, reason)",
                "super().close(channel, reason)",
            ),
            by=HALF_CLOSE,
            seen="a reply was lost",
        ),
        Defect(
            "close-resets-the-reply",
            "a channel closes as soon as its last byte has left, and a reset destroys what is on its way",
            Change(
                "reactor.sending:Closing.drained",
                "channel.socket.shutdown(socket.SHUT_WR)",
                "raise OSError",
            ),
            by=LAST_WORD,
            seen="bytes were lost|Connection reset",
        ),
    ],
    "EINTR, SIGPIPE": [
        Defect(
            "interrupted-receive",
            "a receive that a signal interrupts is taken for the end of the connection",
            Change(
                "reactor.connection:OpenForMessages.readable",
                "except (BlockingIOError, InterruptedError):",
                "except BlockingIOError:",
            ),
            by=EVERY_CALL_FAILS,
            seen="NotInTime",
        ),
        Defect(
            "interrupted-send",
            "a send that a signal interrupts is taken for the end of the connection",
            Change(
                "reactor.sending:Sending.flush",
                "except (BlockingIOError, InterruptedError):",
                "except BlockingIOError:",
            ),
            Change(
                "reactor.sending:Sending._send_some",
                "except (BlockingIOError, InterruptedError):",
                "except BlockingIOError:",
            ),
            by=EVERY_CALL_FAILS,
            seen="NotInTime",
        ),
        Defect(
            "interrupted-accept",
            "an accept that a signal interrupts stops the listener for a while, with an error in the log",
            Change(
                "reactor.listener:Listener._accept_some",
                "except (BlockingIOError, InterruptedError):\n                return progress",
                "except BlockingIOError:\n                return progress\n            except InterruptedError:\n"
                "                return self.close()",
            ),
            by=EVERY_CALL_FAILS,
            seen="NotInTime",
        ),
        Defect(
            "broken-pipe-is-tried-again",
            "a send to a peer that has gone is taken for one to a peer that is slow",
            Change(
                "reactor.sending:Sending.flush",
                "except (BlockingIOError, InterruptedError):",
                "except (BlockingIOError, InterruptedError, BrokenPipeError, ConnectionResetError):",
            ),
            Change(
                "reactor.sending:Sending._send_some",
                "except (BlockingIOError, InterruptedError):",
                "except (BlockingIOError, InterruptedError, BrokenPipeError, ConnectionResetError):",
            ),
            by=DESERTERS,
            seen="the loop spins|NotInTime|AssertionError: .*(PeerClosed|DeadlineError)",
        ),
        Defect(
            "sigpipe-ends-the-process",
            "the signal that comes with a broken pipe does what it does by default",
            Change(
                "reactor.eventloop:Reactor.__init__",
                "self.clock = clock",
                "self.clock = clock; signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
            ),
            by=RowTest("test_send_into_a_broken_pipe_is_an_error_and_no_signal", MISSING),
            seen="AssertionError: the next line but three would end this process",
        ),
    ],
    "slow loris": [
        Defect(
            "byte-stretches-the-handshake",
            "each byte of a handshake gives it all of its time again",
            Change(
                "reactor.connection:Authenticating.readable",
                "handshake = channel._handshake\n",
                "handshake = channel._handshake; channel._set_deadline(channel.limits.authentication_timeout)\n",
            ),
            by=SLOW_LORIS,
            seen="NotInTime",
        ),
        Defect(
            "own-output-stretches-the-stall",
            "whatever is pushed gives a peer that takes nothing all of its time again",
            Change("reactor.sending:Sending.flush_queue", "if not channel._interest & WRITE:", "if True:"),
            by=SLOW_LORIS,
            seen="NotInTime",
        ),
        Defect(
            "byte-stretches-the-closing",
            "each byte from a peer that takes nothing gives its closing all of its time again",
            Change(
                "reactor.sending:Closing.readable",
                "if data:\n",
                "if data:\n            channel._set_deadline(channel.limits.drain_timeout)\n",
            ),
            by=SLOW_LORIS,
            seen="NotInTime",
        ),
        Defect(
            "no-deadline-for-the-handshake",
            "a peer may be in the handshake for ever",
            Change(
                "reactor.connection:Authenticating.enter",
                "channel._set_deadline(channel.limits.authentication_timeout)",
                "channel._set_deadline(None)",
            ),
            by=SLOW_LORIS,
            seen="NotInTime",
        ),
    ],
    "one silent or keyless peer blocks all": [
        Defect(
            "silent-peers-stay",
            "peers in the handshake are not counted",
            Change(
                "reactor.listener:Listener._channel_authenticating",
                "len(self._unauthenticated) >= self.limits.maximum_unauthenticated",
                "False",
            ),
            by=SILENT_PEERS,
            seen="a queue is over its limit: .* maximum_unauthenticated",
        ),
        Defect(
            "silent-peers-fill-the-listener",
            "a listener that silent peers have filled accepts nobody until they go",
            Change("reactor.listener:Listener._accept_some", "and not self._unauthenticated", "and True"),
            by=SILENT_PEERS,
            seen="NotInTime",
        ),
        Defect(
            "silent-peers-have-no-deadline",
            "a peer that says nothing is waited for",
            Change("reactor.connection:Authenticating.expired", "channel._fail(", "str("),
            by=SILENT_PEERS,
            seen="NotInTime",
        ),
    ],
    "decoding split across packets": [
        Defect(
            "split-header-lost",
            "the first bytes of a header that is cut by a packet are dropped",
            Change("reactor.framing:FrameDecoder.feed", "self._head = data[position:]", 'self._head = b""'),
            by=EVERY_CALL_FAILS,
            seen="what is delivered is not what was sent|a frame of|NotInTime",
        ),
        Defect(
            "message-behind-the-welcome-lost",
            "what comes in one packet with the end of the handshake is dropped",
            Change("reactor.connection:Connection._authenticated", "if trailing:", "if False:"),
            by=CONVERSATION,
            seen="what is delivered is not what was sent|a frame of|NotInTime",
        ),
        Defect(
            "split-answer-refused",
            "a message of the handshake that is cut by a packet is taken for a whole one",
            Change("reactor.authentication:Handshake.receive", "data[:needed], data[needed:]", 'data, b""'),
            by=CONVERSATION,
            seen="NotInTime",
        ),
    ],
    "log injection": [
        Defect(
            "excerpt-is-raw",
            "what a peer sent is logged as it is",
            Change("reactor.errors:excerpt", "return repr(bytes(data))", 'return data.decode("latin-1")'),
            by=RowTest("test_control_bytes_of_a_peer_make_one_bounded_line_in_the_log[frame garbage]"),
            seen="isprintable",
        ),
        Defect(
            "cause-is-raw",
            "what an unpickler says of what a peer sent is logged as it is",
            Change("reactor.errors:printable", "if not text.isprintable():", "if False:"),
            by=RowTest("test_name_that_a_pickle_must_not_load_stays_on_one_line", MISSING),
            seen="isprintable",
        ),
        Defect(
            "excerpt-is-endless",
            "all that a peer sent is logged",
            Change("reactor.errors:excerpt", "len(data) <= EXCERPT", "True"),
            by=RowTest("test_control_bytes_of_a_peer_make_one_bounded_line_in_the_log[no pickle]"),
            seen="AssertionError: assert \\d+ < 700",
        ),
    ],
    "predictable or abstract socket and pickle": [
        Defect(
            "predictable-directory",
            "the socket of the system's choice stands in a directory that others can make, and enter",
            Change(
                "reactor.binding:fastest_endpoint",
                'tempfile.mkdtemp(prefix="reactor-")',
                'os.path.join(tempfile.gettempdir(), f"reactor-{os.getpid()}"); os.mkdir(directory)',
            ),
            by=RowTest("test_socket_of_the_system_s_choice_is_private"),
            seen="AssertionError: assert 511 == 448",
        ),
        Defect(
            "abstract-socket",
            "the socket of the system's choice has no file, so nothing says who may connect to it",
            Change("reactor.binding:fastest_endpoint", 'os.path.join(directory, "socket")', '"\\0" + directory'),
            by=RowTest("test_socket_of_the_system_s_choice_is_a_file", MISSING),
            seen="AssertionError",
        ),
        Defect(
            "socket-for-everybody",
            "everybody on the machine can connect to a Unix socket",
            Change("reactor.binding:_bind_file", "0o600", "0o777"),
            by=RowTest("test_socket_of_the_system_s_choice_is_private"),
            seen="AssertionError: assert 511 == 384",
        ),
        Defect(
            "strangers-are-unpickled",
            "pickles are taken from whoever can connect",
            Change("reactor.codecs:Trust.check", "self.needs_known_peer and not peer_is_this_user", "False"),
            by=RowTest("test_unpickling_is_refused_where_nothing_says_who_the_peer_is"),
            seen="DID NOT RAISE",
        ),
        Defect(
            "any-key-fits",
            "the answer to our challenge is not looked at",
            Change("reactor.authentication:Handshake._verify", "not hmac.compare_digest", "(lambda *_: False)"),
            by=IMPOSTOR,
            seen="NotInTime|a stranger got a message through",
        ),
        Defect(
            "messages-in-front-of-the-handshake",
            "a listener that has a key takes messages without asking for it",
            Change(
                "reactor.connection:Connection._begin",
                "if trust.authkey is not None:",
                'if trust.authkey is not None and self._origin._role == "client":',
            ),
            by=IMPOSTOR,
            seen="NotInTime|a stranger got a message through",
        ),
    ],
}
