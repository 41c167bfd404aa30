"""Every target on its corpus, defects that each of them must see, and the command as far as it needs no atheris."""

from __future__ import annotations

import ast
import heapq
import hmac
import importlib.util
import io
import json
import pickle
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from protocols.smtp import client_session, replies, server_session
from protocols.smtp import errors as smtp_errors
from protocols.smtp.client_session import ClientSession
from protocols.smtp.lines import ContentDecoder, Input
from protocols.smtp.replies import Reply, ReplyDecoder
from protocols.smtp.server_session import ServerSession
from protocols.telnet import session, wire
from protocols.telnet.lines import LineSplitter
from protocols.telnet.options import WORDS, Cause, Negotiator, State
from protocols.telnet.wire import Decoder, Verb
from reactor import addresses, authentication, connection, framing, producers, proxying, splitting, timers, tls
from reactor.authentication import ChallengeSpotter, Handshake, HandshakeDecoder
from reactor.codecs import BytesCodec, JsonCodec, _AllowListUnpickler
from reactor.errors import TruncatedError
from reactor.framing import FrameDecoder
from reactor.producers import OutputQueue, Producer
from reactor.proxying import HeaderDecoder
from reactor.splitting import Splitter
from reactor.timers import DeadlineGroup, Deadlines, TimerQueue
from reactor.tls import TlsSocket
from tests.fuzzing import __main__ as command
from tests.fuzzing import running
from tests.fuzzing.decisions import Cutting, Decisions
from tests.fuzzing.running import CORPUS, LONGEST_INPUT, MOST_FILES, Mistake, Run
from tests.fuzzing.seeds import SEEDS
from tests.fuzzing.targets import TARGETS, Target, codecs, texts

LARGEST_CORPUS = 200 * 1024
"""Of all targets together, in bytes."""


def seeds_of(target: Target) -> Iterator[tuple[str, bytes]]:
    """Yield the seeds of a target, each with a name."""
    for number, seed in enumerate(SEEDS[target.name]()):
        yield f"seed {number} of {target.name}", seed


def inputs_of(target: Target) -> Iterator[tuple[str, bytes]]:
    """Yield the seeds and the corpus of a target, each input with a name."""
    yield from seeds_of(target)
    for path in corpus_of(target):
        yield str(path), path.read_bytes()


def corpus_of(target: Target) -> list[Path]:
    """Return the files of the corpus of a target: none where its seeds reach everything."""
    return sorted((CORPUS / target.name).glob("*"))


# The corpus


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_target_holds_on_its_seeds_and_its_corpus(target: Target) -> None:
    for name, data in inputs_of(target):
        try:
            target.check(data)
        except Exception as error:
            error.add_note(f"the input is {name}")
            raise


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_target_takes_no_bytes_and_any_single_byte(target: Target) -> None:
    for data in (b"", *(bytes([byte]) for byte in range(256))):
        target.check(data)


def test_every_target_has_seeds_and_a_small_corpus() -> None:
    assert list(SEEDS) == list(TARGETS)
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= set(TARGETS)
    total = 0
    for target in TARGETS.values():
        sizes = [path.stat().st_size for path in corpus_of(target)]
        assert len(sizes) <= MOST_FILES, target.name
        assert max([*sizes, *(len(seed) for _, seed in seeds_of(target))]) <= LONGEST_INPUT, target.name
        total += sum(sizes)
    assert total <= LARGEST_CORPUS


# Each target can fail


def what_follows_lost(self: FrameDecoder, data: Any, frames: list[bytes], whole: Any = FrameDecoder._continue) -> bytes:
    whole(self, data, frames)
    return b""


class Hoard(io.BytesIO):
    """Takes memory before any bytes came."""

    def __init__(self) -> None:
        super().__init__()
        self._more = bytes(1 << 20)

    def __sizeof__(self) -> int:
        return super().__sizeof__() + len(self._more)


def trailing_lost(self: Handshake, data: bytes, whole: Any = Handshake.receive) -> bytes:
    output: bytes = whole(self, data)
    self.trailing = b""
    return output


def any_challenge_answered(self: Handshake, challenge: bytes) -> bytes:
    message = challenge.removeprefix(authentication.CHALLENGE)
    return b"{sha256}" + Handshake._digest(self, "sha256", message)


def any_digest_allowed(self: Handshake, name: str, message: bytes) -> bytes:
    return hmac.digest(self._authkey, message, name)


TRUSTING = SimpleNamespace(digest=hmac.digest, compare_digest=lambda first, second: True)
"""Stands for the module `hmac`, and finds that every answer is right."""


def said_again(self: Handshake, error: Any, output: list[bytes]) -> Any:
    error.reply = b"".join((*output, error.reply))
    self._failure = error
    return error


def module_alone_is_checked(self: Any, module: str, name: str) -> Any:
    if module not in {allowed.rpartition(".")[0] for allowed in self._allowed}:
        raise pickle.UnpicklingError("not allowed")
    return pickle.Unpickler.find_class(self, module, name)


def looked_up_before_checked(self: Any, module: str, name: str, whole: Any = _AllowListUnpickler.find_class) -> Any:
    pickle.Unpickler.find_class(self, module, name)
    return whole(self, module, name)


def host_without_brackets(address: Any, whole: Any = addresses.format_address) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else whole(address)


def port_unchecked(address: Any) -> addresses.Endpoint:
    return addresses.Endpoint(socket.AF_UNSPEC, (address[0] or "", *address[1:]))


def counted_twice(self: OutputQueue, sent: int, whole: Any = OutputQueue.advance) -> None:
    whole(self, sent)
    self.size -= sent


def put_last(self: OutputQueue, data: bytes) -> None:
    self._entries.append(data)
    self.size += len(data)


def pulled_without_end(self: OutputQueue, whole: Any = OutputQueue.next_buffers) -> Any:
    limits, self._limits = self._limits, SimpleNamespace(low_water=1 << 30)  # type: ignore[assignment]
    try:
        return whole(self)
    finally:
        self._limits = limits


def set_for_the_past(self: TimerQueue, timer: timers.Timer) -> None:
    self.latest += 1
    heapq.heappush(self._heap, (timer.deadline, self.latest, timer))
    self.next_due = min(self.next_due, timer.deadline)


def only_counted(self: TimerQueue, timer: timers.Timer) -> None:
    self._cancelled += 1


def left_with_its_timer(self: DeadlineGroup, owner: timers.Expiring) -> None:
    owner._deadline_group = None
    del self.members[owner]


def others_forgotten(self: Deadlines, group: DeadlineGroup) -> None:
    self.groups.pop(group.due, None)
    for owner in list(group.members):
        owner._deadline_group = None
        owner._expire()


def started_over(self: Splitter, terminator: bytes) -> bytes:
    matched, self._matched = self._matched, 0
    return terminator[:matched]


def held_for_the_old_one(self: Splitter, terminator: Any, whole: Any = Splitter.set_terminator) -> None:
    self._matched = 0
    whole(self, terminator)


def lines_kept(self: Splitter) -> None:
    self._buffer = b""
    self._position = self._matched = self._since = 0


def kept_whatever_its_size(self: Decoder, data: bytes, tokens: list[Any]) -> None:
    if self._content is None:
        tokens.append(data)
    else:
        self._content += data


def any_line_is_begun(self: LineSplitter, data: bytes, found: list[Any]) -> None:
    self._begun += data


def said_each_time(self: Negotiator, side: Any, option: int, cause: Any, whole: Any = Negotiator.step) -> Verb:
    whole(self, side, option, cause)
    return WORDS[side, self.state(side, option) is State.YES]


def said_at_once(self: Negotiator, side: Any, option: int, cause: Any, whole: Any = Negotiator.step) -> Any:
    if cause in (Cause.WANTED, Cause.UNWANTED):  # without waiting for what was said before to be answered
        self._states.pop((side, option), None)
    return whole(self, side, option, cause)


def ended_by_any_line_end(self: ContentDecoder, data: bytes, whole: Any = ContentDecoder.feed) -> bytes | None:
    return whole(self, re.sub(rb"(?<!\r)\n", b"\r\n", data))


def line_ended_by_a_line_feed(self: Input, maximum: int, whole: Any = Input.take_line) -> Any:
    end = self._buffer.find(b"\n")
    if end < 1 or self._buffer[end - 1] == 0x0D:
        return whole(self, maximum)
    line = bytes(self._buffer[:end])
    del self._buffer[: end + 1]
    return line


def refused_ones_too(self: ServerSession, reply: Reply | None, whole: Any = ServerSession.settle_recipient) -> None:
    whole(self, reply)
    if self._asked_about not in self.transaction.recipients:
        self.transaction.recipients.append(self._asked_about)


def left_untold(self: ClientSession, error: Any, whole: Any = ClientSession._end) -> None:
    self._queue.clear()
    whole(self, error)


def kept_for_nobody(self: ClientSession, data: bytes, whole: Any = ClientSession.feed) -> list[Any]:
    events: list[Any] = whole(self, data)
    self._replies.feed(data * (self._conversation is None))
    return events


def told_of_all(self: TlsSocket, whole: Any = TlsSocket._send_unsent) -> int:
    told = whole(self)
    told, self.begun = told + self.begun, 0
    return told


def cut_off_is_the_end(self: TlsSocket, size: int, whole: Any = TlsSocket.recv) -> bytes:
    try:
        data: bytes = whole(self, size)
    except TruncatedError:
        return b""
    return data


def resumed_by_nobody(self: TlsSocket, data: bytes, whole: Any = TlsSocket._decrypt) -> bytes:
    part: bytes = whole(self, data)
    self.has_more = False
    return part


def encrypted_at_once(self: OutputQueue, sock: Any) -> None:
    self._entries.appendleft(producers.TurningPoint(sock))


def open_at_once(self: TlsSocket, whole: Any = TlsSocket.handshake) -> bool:
    whole(self)
    return True


DEFECTS: list[tuple[str, Any, str, Any]] = [
    ("frames", FrameDecoder, "_continue", what_follows_lost),
    ("frames", FrameDecoder, "finish", lambda self: None),
    ("frames", FrameDecoder, "needed", property(lambda self: 5)),
    ("frames", FrameDecoder, "long_headers", False),
    ("frames", HandshakeDecoder, "minimum", 0),
    ("frames", ChallengeSpotter, "feed", FrameDecoder.feed),
    ("frames", framing, "io", SimpleNamespace(BytesIO=Hoard)),
    ("frames", framing, "excerpt", lambda data: data.decode("latin-1")),
    ("handshake", Handshake, "_verify", lambda self, message, response: None),
    ("handshake", Handshake, "_respond", any_challenge_answered),
    ("handshake", Handshake, "_digest", any_digest_allowed),
    ("handshake", Handshake, "_failed", said_again),
    ("handshake", Handshake, "receive", trailing_lost),
    ("handshake", Handshake, "_peer_is_ours", property(lambda self: False, lambda self, value: None)),
    ("handshake", authentication, "LONGEST_FRAME", 300),
    ("link", authentication, "hmac", TRUSTING),
    ("link", Handshake, "_expect_welcome", lambda self, verdict: None),
    ("link", Handshake, "receive", trailing_lost),
    ("reflection", Handshake, "_respond", any_challenge_answered),
    ("reflection", authentication, "hmac", TRUSTING),
    ("proxy_header", HeaderDecoder, "needed", property(lambda self: 108)),
    ("proxy_header", HeaderDecoder, "_feed_block", lambda self, head: proxying.parse_block(head)),
    ("proxy_header", proxying, "check_sum", lambda block, places: None),
    ("proxy_header", proxying, "check_kind", lambda head: None),
    ("proxy_header", proxying, "plain", lambda host: host),
    ("proxy_header", proxying, "as_path", lambda data: data.decode("latin-1").rstrip("\0")),
    ("proxy_header", proxying, "LINE", re.compile(proxying.LINE.pattern.replace(b"0|[1-9]", b"[0-9]"))),
    ("proxy_header", proxying, "excerpt", lambda data: data.decode("latin-1")),
    ("json_codec", JsonCodec, "_encode", json.JSONEncoder().encode),
    ("json_codec", JsonCodec, "_encode", json.JSONEncoder(allow_nan=False, indent=1).encode),
    ("json_codec", JsonCodec, "loads", staticmethod(lambda data: ast.literal_eval(data.decode("latin-1")))),
    ("bytes_codec", BytesCodec, "dumps", staticmethod(bytearray)),
    ("bytes_codec", BytesCodec, "loads", staticmethod(lambda data: bytes(bytearray(data)))),
    ("restricted_pickle", _AllowListUnpickler, "find_class", module_alone_is_checked),
    ("restricted_pickle", _AllowListUnpickler, "find_class", looked_up_before_checked),
    ("restricted_pickle", connection, "printable", lambda text: text + "\n"),
    ("addresses", addresses, "format_address", host_without_brackets),
    ("addresses", addresses, "_parse_inet", port_unchecked),
    ("addresses", texts, "numeric", lambda endpoint: endpoint),
    ("excerpts", texts, "printable", str),
    ("excerpts", texts, "excerpt", lambda data: repr(data[:60])),
    ("excerpts", texts, "format_address", str),
    ("output_queue", OutputQueue, "advance", counted_twice),
    ("output_queue", OutputQueue, "put_first", put_last),
    ("output_queue", OutputQueue, "seal", lambda self: None),
    ("output_queue", OutputQueue, "renew_marks", lambda self: None),
    ("output_queue", OutputQueue, "next_buffers", pulled_without_end),
    ("output_queue", Producer, "close", lambda self: None),
    ("output_queue", producers, "_chunks_of", lambda iterator: lambda: next(iterator, b"")),
    ("output_queue", producers, "BUFFERS_PER_CALL", 1 << 20),
    ("timers", TimerQueue, "_push", set_for_the_past),
    ("timers", TimerQueue, "forget", only_counted),
    ("timers", timers, "next_run", lambda deadline, interval, now: now + interval),
    ("deadlines", Deadlines, "GRAINS", 4),
    ("deadlines", DeadlineGroup, "leave", left_with_its_timer),
    ("deadlines", Deadlines, "expire", others_forgotten),
    ("splitter", splitting, "overlap", lambda data, start, terminator, table: 0),
    ("splitter", splitting, "borders", lambda terminator: [0] * len(terminator)),
    ("splitter", Splitter, "_resume", started_over),
    ("splitter", Splitter, "_is_within", lambda self, size: True),
    ("splitter", Splitter, "take_rest", lambda self: b""),
    ("terminators", Splitter, "set_terminator", held_for_the_old_one),
    ("terminators", Splitter, "clear", lines_kept),
    ("terminators", Splitter, "take_end", lambda self: self._end_is_due),
    ("telnet", wire, "_DOUBLED", re.compile(rb"(?!)")),
    ("telnet", wire, "_CODES", frozenset(range(256))),
    ("telnet", Decoder, "_take", kept_whatever_its_size),
    ("telnet", LineSplitter, "_extend", any_line_is_begun),
    ("telnet", session, "_is_terminal_type", lambda name: True),
    ("telnet", wire, "_BARE_RETURN", re.compile(rb"(?!)")),
    ("telnet_link", Negotiator, "step", said_each_time),
    ("telnet_link", Negotiator, "step", said_at_once),
    ("smtp_server", ContentDecoder, "feed", ended_by_any_line_end),
    ("smtp_server", ContentDecoder, "fault", None),
    ("smtp_server", server_session, "LAST_STRAWS", frozenset()),
    ("smtp_server", Input, "take_line", line_ended_by_a_line_feed),
    ("smtp_server", ServerSession, "is_spent", lambda self, limit: False),
    ("smtp_server", ServerSession, "settle_recipient", refused_ones_too),
    ("smtp_server", replies, "_harmless", lambda line: line),
    ("smtp_server", replies, "LONGEST_LINE", 4096),
    ("smtp_client", client_session, "encode_content", lambda content: content + b".\r\n"),
    ("smtp_client", Reply, "is_positive", property(lambda self: self.code < 400)),
    ("smtp_client", ReplyDecoder, "failure", property(lambda self: None, lambda self, value: None)),
    ("smtp_client", ClientSession, "_end", left_untold),
    ("smtp_client", ClientSession, "feed", kept_for_nobody),
    ("smtp_client", smtp_errors, "printable", lambda text: text + "\n"),
    ("tls_socket", TlsSocket, "_send_unsent", told_of_all),
    ("tls_socket", TlsSocket, "recv", cut_off_is_the_end),
    ("tls_socket", TlsSocket, "_decrypt", resumed_by_nobody),
    ("tls_socket", TlsSocket, "_end", lambda self: None),
    ("tls_socket", TlsSocket, "handshake", open_at_once),
    ("tls_socket", tls, "RECORD", 1000),
    ("start_tls", OutputQueue, "append_turning_point", encrypted_at_once),
    ("start_tls", TlsSocket, "handshake", open_at_once),
    ("start_tls", TlsSocket, "_send_unsent", told_of_all),
]
"""A target, and what is exchanged for what in the engine, so that the target must complain."""


def is_refused(check: Callable[[bytes], None], data: bytes) -> bool:
    """Whether a target complains of what the engine does with `data`."""
    try:
        check(data)
    except Exception:
        return True
    return False


@pytest.mark.parametrize(
    ("name", "owner", "attribute", "defect"),
    DEFECTS,
    ids=[f"{name}-{owner.__name__}.{attribute}-{number}" for number, (name, owner, attribute, _) in enumerate(DEFECTS)],
)
def test_target_complains_of_a_defect(
    monkeypatch: pytest.MonkeyPatch, name: str, owner: Any, attribute: str, defect: Any
) -> None:
    target = TARGETS[name]
    # With its defect a restricted pickle may call what is named in it: only what we wrote ourselves goes in there.
    chosen = seeds_of(target) if name == "restricted_pickle" else inputs_of(target)
    inputs = [data for _, data in chosen if not is_refused(target.check, data)]
    monkeypatch.setattr(owner, attribute, defect, raising=False)  # some are attributes of the instances
    assert any(is_refused(target.check, data) for data in inputs)


def test_every_target_is_shown_to_fail() -> None:
    assert {name for name, _, _, _ in DEFECTS} == set(TARGETS)


def test_pickle_that_would_take_all_memory_is_recognised() -> None:
    is_bomb = codecs.is_memory_bomb
    assert is_bomb(b"Nr\xff\xff\xff\x7f.")
    assert is_bomb(b"Np999999999\n.")
    assert not is_bomb(pickle.dumps(list(range(100)), 1))


# Decisions


def test_decisions_run_out_into_zeros() -> None:
    decisions = Decisions(b"\x05\x01\x02\x02ab" + b"rest")
    assert (decisions.below(3), decisions.number(2), decisions.string()) == (2, 0x0102, b"ab")
    assert decisions
    assert decisions.rest() == b"rest"
    assert not decisions
    assert (decisions.number(4), decisions.flag(), decisions.string(), decisions.take(3)) == (0, False, b"", b"")
    assert decisions.cutting().pieces(b"whole") == [b"whole"]


@pytest.mark.parametrize("cutting", [Cutting(), Cutting(stride=3), Cutting(places=[4, 4, 700, 0])])
def test_pieces_are_what_was_cut(cutting: Cutting) -> None:
    data = bytes(range(10))
    assert b"".join(cutting.pieces(data)) == data
    assert Cutting(stride=4).pieces(data) == [data[:4], data[4:8], data[8:]]
    assert Cutting(places=[4, 4, 15]).pieces(data) == [data[:4], b"", data[4:4], data[4:]]


# The command

REPORT = """\
INFO: Using built-in libfuzzer
#2      INITED cov: 10 ft: 10 corp: 1/1b exec/s: 0 rss: 50Mb
#16384  pulse  cov: 51 ft: 201 corp: 81/9Kb lim: 176 exec/s: 8192 rss: 50Mb
#282716 DONE   cov: 53 ft: 241 corp: 91/12713b lim: 1024 exec/s: 25701 rss: 50Mb
Done 282716 runs in 11 second(s)
stat::number_of_executed_units: 282716
stat::average_exec_per_sec:     25701
stat::new_units_added:          210
"""
TRACEBACK = """\

 === Uncaught Python exception: ===
AssertionError: what is wrong
Traceback (most recent call last):
  File "tests/fuzzing/targets/framing.py", line 46, in frames
    check(found)
  File "tests/fuzzing/targets/framing.py", line 90, in check
    assert found == expected
AssertionError

==31== ERROR: libFuzzer: fuzz target exited
"""


def test_figures_are_the_last_ones_that_the_fuzzer_reports() -> None:
    run = Run.read(TARGETS["frames"], REPORT, ())
    assert (run.executions, run.rate, run.edges, run.findings, run.cause) == (282716, 25701, 53, (), "")


def test_finding_is_shown_with_its_error_and_its_line_of_code(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.read(TARGETS["frames"], REPORT + TRACEBACK, (Path("crash-1"),))
    assert run.cause == "AssertionError: what is wrong; at assert found == expected"
    command.show(run)
    assert capsys.readouterr().out.splitlines() == [
        "frames                    282716       25701      53         1",
        "  crash-1: AssertionError: what is wrong; at assert found == expected",
    ]


def test_input_that_takes_too_long_is_shown_as_the_fuzzer_says() -> None:
    run = Run.read(TARGETS["frames"], "==31== ERROR: libFuzzer: timeout after 10 seconds\n", (Path("timeout-1"),))
    assert run.cause == "libFuzzer: timeout after 10 seconds"


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["fuzzing", *arguments])
    return command.main()


@pytest.mark.parametrize("arguments", [[], ["frames"], ["--minimize"]])
def test_command_without_atheris_says_in_one_line_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run_command(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: atheris is not installed: python -m pip install -e '.[test,fuzz]'\n"


def test_command_refuses_an_unknown_target_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_command(monkeypatch, "frams")
    assert "there is no target 'frams'; there are frames, handshake," in capsys.readouterr().err


def test_command_returns_1_if_something_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"frames": (Path("crash-1"),), "link": ()}

    def fuzz(target: Target, seconds: int) -> Run:
        assert seconds == 5
        return Run(target, 1, 1, 1, found[target.name], "")

    monkeypatch.setattr(command, "check_atheris", lambda: None)
    monkeypatch.setattr(command, "fuzz", fuzz)
    assert run_command(monkeypatch, "frames", "link", "--seconds", "5", "--jobs", "2") == 1
    assert run_command(monkeypatch, "link", "--seconds", "5") == 0


def test_finding_is_replayed_without_atheris(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(command, "limit_memory", lambda: None)
    finding = tmp_path / "crash-1"
    finding.write_bytes(b"GET / HTTP/1.1")
    assert run_command(monkeypatch, "excerpts", "--replay", str(finding)) == 0
    assert capsys.readouterr().out == f"{finding}: all is well\n"
    monkeypatch.setattr(texts, "excerpt", lambda data: "b''")
    with pytest.raises(AssertionError):
        run_command(monkeypatch, "excerpts", "--replay", str(finding))
    assert run_command(monkeypatch, "--replay", str(finding)) == 2


@pytest.fixture
def own_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Directories for what is found, for this test alone."""
    for name in ("CORPUS", "FOUND", "FINDINGS"):
        monkeypatch.setattr(running, name, tmp_path / name.lower())
    return tmp_path


@pytest.mark.usefixtures("own_directories")
def test_fuzzer_that_cannot_run_is_a_mistake_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "under_atheris", lambda target, arguments: "no such option")
    with pytest.raises(Mistake, match="frames could not be fuzzed:\nno such option"):
        running.fuzz(TARGETS["frames"], 1)
    with pytest.raises(Mistake, match="the corpus of frames could not be made smaller:\nno such option"):
        running.minimize(TARGETS["frames"])


def test_target_is_fuzzed_and_its_corpus_made_small(own_directories: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed")
    target = TARGETS["excerpts"]
    run = running.fuzz(target, 1)
    assert run.executions > 100
    assert run.edges > 5
    assert run.findings == ()
    (own_directories / "found" / "excerpts" / "one more").write_bytes(b"a\nb" * 100)
    files, size = running.minimize(target)
    kept = list((own_directories / "corpus" / "excerpts").glob("*"))
    assert (files, size) == (len(kept), sum(path.stat().st_size for path in kept))
    for path in kept:
        target.check(path.read_bytes())
