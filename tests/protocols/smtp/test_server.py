"""The server's channel: its hooks, answers that come later, timeouts, and peers of every kind."""

from __future__ import annotations

import logging
import select
import smtplib
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

import reactor
from protocols.smtp import Answer, Envelope, MailServer, Reply, SessionLimits
from tests.conftest import Accepting, FakeClock, raw_client, run_until
from tests.protocols.smtp.talking import lines

LETTER = ["EHLO me.example", "MAIL FROM:<from@example.org>", "RCPT TO:<to@example.org>", "DATA", "text", "."]
InThread = Callable[..., threading.Thread]


class Postbox(MailServer):
    """Takes every message, and writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.reasons: list[Exception] = []
        self.received = 0

    def handle_data(self, data: bytes) -> None:
        self.received += len(data)
        super().handle_data(data)

    def handle_sender(self, sender: str, options: Any) -> Reply | None:
        self.asked.append(sender)
        return None

    def handle_recipient(self, recipient: str) -> Reply | None:
        self.asked.append(recipient)
        return Reply(550, "no such user here", "5.1.1") if recipient.startswith("no") else None

    def handle_message(self, envelope: Envelope) -> Reply | None:
        self.asked.append(envelope)
        return None

    def handle_close(self, reason: reactor.ReactorError) -> None:
        self.reasons.append(reason)


class LatePostbox(Postbox):
    """Answers for messages when it is told to."""

    answer: Answer

    def handle_message(self, envelope: Envelope) -> Reply | None:
        self.asked.append(envelope)
        self.answer = self.answer_later()
        return None


def connected(
    loop: reactor.Reactor, kind: Callable[[], MailServer], address: Any = ("127.0.0.1", 0)
) -> tuple[Any, socket.socket]:
    """Return a server's channel, and a socket at the other end that has read the greeting."""
    accepted = Accepting(kind)
    listener = reactor.Listener(address, accepted, reactor=loop)
    client = raw_client(listener.address)
    run_until(loop, lambda: accepted.channels)
    loop.poll(0)
    listener.close()
    loop.poll(0)
    client.setblocking(False)
    channel = accepted.channels[0]
    assert replies(loop, client, 1) == ["220"]
    return channel, client


def replies(loop: reactor.Reactor, client: socket.socket, count: int) -> list[str]:
    """Run the loop until so many replies came, and return their codes."""
    received = b""

    def complete() -> bool:
        nonlocal received
        try:
            received += client.recv(65536)
        except BlockingIOError:
            pass
        return len(codes()) >= count

    def codes() -> list[str]:
        return [line[:3].decode() for line in received.split(b"\r\n")[:-1] if line[3:4] != b"-"]

    if count:
        run_until(loop, complete)
    return codes()


def talk(loop: reactor.Reactor, client: socket.socket, *commands: str) -> list[str]:
    """Say commands one after the other, and return the codes that come back."""
    found = []
    for command in commands:
        client.sendall(lines(command))
        found += replies(loop, client, 0 if command == "text" else 1)
    return found


def test_message_reaches_the_hook_with_all_that_is_known(loop: reactor.Reactor) -> None:
    channel, client = connected(loop, Postbox)
    with client:
        assert talk(loop, client, *LETTER) == ["250", "250", "250", "354", "250"]
        sender, recipient, envelope = channel.asked
        assert (sender, recipient) == ("from@example.org", "to@example.org")
        assert envelope == Envelope(
            sender, (recipient,), b"text\r\n", {}, client.getsockname(), "me.example", "ESMTP", ""
        )
        assert channel.session.client_name == "me.example"


def test_all_that_is_pipelined_is_answered_in_one_piece(loop: reactor.Reactor) -> None:
    _, client = connected(loop, Postbox)
    with client:
        client.sendall(lines(*LETTER, "QUIT"))
        run_until(loop, lambda: select.select([client], [], [], 0)[0])
        received = client.recv(65536).splitlines()
        assert [line[:3] for line in received if line[3:4] == b" "] == [
            b"250", b"250", b"250", b"354", b"250", b"221",
        ]  # fmt: skip


def test_hooks_refuse_with_replies_of_their_own(loop: reactor.Reactor) -> None:
    _, client = connected(loop, Postbox)
    with client:
        assert talk(loop, client, "EHLO x", "MAIL FROM:<a@b>", "RCPT TO:<no@b>", "DATA") == ["250", "250", "550", "554"]


def test_server_whose_hooks_are_not_written_takes_no_mail(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    _, client = connected(loop, MailServer)
    with client:
        assert talk(loop, client, *LETTER)[-1] == "554"
    assert "handle_message is not written" in caplog.text


def test_quit_closes_the_connection_in_good_order(loop: reactor.Reactor) -> None:
    channel, client = connected(loop, Postbox)
    with client:
        assert talk(loop, client, "QUIT") == ["221"]
        client.setblocking(True)
        assert client.recv(1) == b""
    run_until(loop, lambda: channel.reasons)
    assert isinstance(channel.reasons[0], reactor.ClosedHere)
    assert loop.is_idle()


def test_client_that_leaves_without_a_word_is_forgotten_and_its_half_message_too(loop: reactor.Reactor) -> None:
    channel, client = connected(loop, Postbox)
    with client:
        talk(loop, client, *LETTER[:5])
    run_until(loop, lambda: channel.reasons)
    assert not any(isinstance(question, Envelope) for question in channel.asked)
    assert loop.is_idle()


def test_client_that_says_all_and_shuts_its_side_down_is_answered(loop: reactor.Reactor) -> None:
    channel, client = connected(loop, LatePostbox)
    with client:
        client.sendall(lines(*LETTER))
        client.shutdown(socket.SHUT_WR)
        run_until(loop, lambda: len(channel.asked) == 3)
        loop.poll(0)
        channel.answer.accept()
        run_until(loop, lambda: channel.reasons)
        client.setblocking(True)
        assert client.makefile("rb").readlines()[-1] == b"250 2.0.0 message accepted\r\n"


def test_server_calls_itself_by_the_address_at_which_it_was_reached(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), Postbox, reactor=loop)
    with raw_client(listener.address) as client:
        loop.loop(timeout=0.05)
        assert client.recv(100) == b"220 [127.0.0.1] ESMTP\r\n"


def test_server_calls_itself_as_it_was_told_to(loop: reactor.Reactor, socket_path: str) -> None:
    class Named(Postbox):
        hostname = "mail.example.org"

    listener = reactor.Listener(socket_path, Named, reactor=loop)
    with raw_client(socket_path) as client:
        loop.loop(timeout=0.05)
        assert client.recv(100) == b"220 mail.example.org ESMTP\r\n"
    listener.close()
    loop.loop(timeout=0.05)


# Hooks that fail


@pytest.mark.parametrize("mistake", [ValueError("planted"), Reply(354, "go on"), "250 OK", True])
def test_hook_that_fails_has_the_client_try_again_later_and_the_session_goes_on(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture, mistake: Any
) -> None:
    class Failing(Postbox):
        def handle_message(self, envelope: Envelope) -> Reply | None:
            if isinstance(mistake, Exception):
                raise mistake
            return mistake  # type: ignore[no-any-return]

    _, client = connected(loop, Failing)
    with client:
        assert talk(loop, client, *LETTER, "NOOP")[-2:] == ["451", "250"]
    assert "a hook failed" in caplog.text


def test_hook_that_fails_behind_answer_later_is_answered_for_at_once(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(LatePostbox):
        def handle_message(self, envelope: Envelope) -> Reply | None:
            super().handle_message(envelope)
            raise ValueError("planted")

    channel, client = connected(loop, Failing)
    with client:
        assert talk(loop, client, *LETTER)[-1] == "451"
        channel.answer.accept()
        assert talk(loop, client, "NOOP") == ["250"]


@pytest.mark.parametrize("how", ["close", "close_when_done"])
def test_hook_may_close_the_channel_and_is_asked_nothing_more(loop: reactor.Reactor, how: str) -> None:
    class Closing(Postbox):
        def handle_recipient(self, recipient: str) -> Reply | None:
            self.asked.append(recipient)
            getattr(self, how)()
            return None

    channel, client = connected(loop, Closing)
    with client:
        client.sendall(lines(*LETTER, *LETTER))
        client.shutdown(socket.SHUT_WR)
        run_until(loop, lambda: channel.reasons)
    assert channel.asked == ["from@example.org", "to@example.org"]
    assert loop.is_idle()


# Answers that come later


def test_answer_may_come_later_and_what_is_pipelined_behind_it_waits(loop: reactor.Reactor) -> None:
    channel, client = connected(loop, LatePostbox)
    with client:
        client.sendall(lines(*LETTER, "NOOP"))
        assert replies(loop, client, 4)[-1] == "354"
        for _ in range(5):
            loop.poll(0)
        assert channel.state.name == "Paused"
        assert channel.session.is_waiting
        channel.answer.accept(Reply(250, "queued", "2.6.0"))
        assert replies(loop, client, 2) == ["250", "250"]
        assert channel.state.name == "Open"


def test_answer_from_a_thread_is_given_on_the_loop(loop: reactor.Reactor) -> None:
    class Threaded(Postbox):
        def handle_message(self, envelope: Envelope) -> Reply | None:
            answer = self.answer_later()
            loop.run_in_thread(len, envelope.content, on_result=lambda size: answer.accept(Reply(250, f"{size} bytes")))
            return None

    _, client = connected(loop, Threaded)
    with client:
        assert talk(loop, client, *LETTER) == ["250", "250", "250", "354", "250"]


def test_answer_that_is_known_inside_of_the_hook_may_be_given_there(loop: reactor.Reactor) -> None:
    class Hasty(LatePostbox):
        def handle_message(self, envelope: Envelope) -> Reply | None:
            super().handle_message(envelope)
            self.answer.refuse(Reply(554, "spam", "5.7.1"))
            return None

    channel, client = connected(loop, Hasty)
    with client:
        client.sendall(lines(*LETTER, *LETTER, "QUIT"))
        assert replies(loop, client, 11)[-8:] == ["354", "554", "250", "250", "250", "354", "554", "221"]
        assert len(channel.asked) == 6


def test_every_question_may_be_answered_later(loop: reactor.Reactor) -> None:
    class Slow(Postbox):
        allows_plaintext_authentication = True

        def later(self, *_: Any) -> Reply | None:
            answer = self.answer_later()
            self.reactor.call_soon(answer.accept)
            return Reply(550, "this has no meaning")

        handle_sender = handle_recipient = handle_message = handle_authentication = later

    _, client = connected(loop, Slow)
    with client:
        dialogue = [LETTER[0], "AUTH PLAIN AGEAYg==", *LETTER[1:]]
        assert talk(loop, client, *dialogue) == ["250", "235", "250", "250", "354", "250"]


def test_answer_that_is_given_twice_is_a_mistake_of_this_program(loop: reactor.Reactor) -> None:
    channel, client = connected(loop, LatePostbox)
    with client:
        client.sendall(lines(*LETTER))
        run_until(loop, lambda: len(channel.asked) == 3)
        with pytest.raises(reactor.LocalError, match="accepting"):
            channel.answer.refuse(Reply(354, "x"))
        channel.answer.accept()
        with pytest.raises(reactor.StateError, match="answered before"):
            channel.answer.accept()


def test_answer_for_a_client_that_is_gone_has_no_effect(loop: reactor.Reactor) -> None:
    channel, client = connected(loop, LatePostbox)
    with client:
        client.sendall(lines(*LETTER))
        run_until(loop, lambda: len(channel.asked) == 3)
    channel.close()
    channel.answer.accept()
    run_until(loop, lambda: channel.reasons)
    loop.poll(0)
    assert loop.is_idle()


# The reactor shuts down


def test_client_is_told_that_the_service_goes_down(loop: reactor.Reactor) -> None:
    channel, client = connected(loop, Postbox)
    with client:
        talk(loop, client, *LETTER[:4])
        shutdown = loop.shutdown()
        assert replies(loop, client, 1) == ["421"]
        client.setblocking(True)
        assert client.recv(1) == b""
    run_until(loop, lambda: shutdown.is_complete)
    assert (shutdown.cut, len(channel.asked)) == ([], 2)


@pytest.mark.parametrize("behind", [[], LETTER, ["QUIT"]])
def test_message_that_waits_for_its_answer_gets_it_before_the_service_goes_down(
    loop: reactor.Reactor, behind: list[str]
) -> None:
    channel, client = connected(loop, LatePostbox)
    with client:
        client.sendall(lines(*LETTER, *behind))
        run_until(loop, lambda: len(channel.asked) == 3)
        shutdown = loop.shutdown()
        loop.poll(0)
        assert channel.state.name == "Paused"
        channel.answer.accept()
        codes = replies(loop, client, 6)
        assert codes[3:5] == ["354", "250"]
        assert codes[-1] == ("221" if behind == ["QUIT"] else "421")
    run_until(loop, lambda: shutdown.is_complete)
    assert (shutdown.cut, len(channel.asked)) == ([], 3)


def test_client_that_does_not_read_is_cut_off_when_the_service_goes_down(
    timed: reactor.Reactor, clock: FakeClock
) -> None:
    channel, client = connected(timed, LatePostbox)
    with client:
        client.sendall(lines(*LETTER))
        run_until(timed, lambda: len(channel.asked) == 3)
        shutdown = timed.shutdown(grace=5)
        clock.advance(6)
        run_until(timed, lambda: shutdown.is_complete)
        channel.answer.accept()  # too late
        timed.poll()
    assert len(channel.reasons) == 1


# Timeouts


def timed_out(timed: reactor.Reactor, clock: FakeClock, client: socket.socket, seconds: float) -> bool:
    """Let so many seconds pass; return whether the client was told that it took too long."""
    clock.advance(seconds)
    timed.poll()
    timed.poll()
    try:
        return client.recv(1000).startswith(b"421 4.4.2")
    except BlockingIOError:
        return False


def say(timed: reactor.Reactor, channel: Any, client: socket.socket, word: str) -> None:
    """Say what nobody answers, and let the server read it."""
    expected = channel.received + len(lines(word))
    client.sendall(lines(word))
    run_until(timed, lambda: channel.received == expected)


@pytest.fixture
def patient(timed: reactor.Reactor) -> tuple[Any, socket.socket]:
    return connected(timed, LatePostbox)


def test_client_that_says_nothing_is_shown_the_door(timed: reactor.Reactor, clock: FakeClock, patient: Any) -> None:
    channel, client = patient
    with client:
        assert not timed_out(timed, clock, client, 299)
        assert timed_out(timed, clock, client, 2)
    run_until(timed, lambda: channel.reasons)
    assert timed.is_idle()


def test_command_that_comes_byte_by_byte_gives_no_more_time(
    timed: reactor.Reactor, clock: FakeClock, patient: Any
) -> None:
    _, client = patient
    with client:
        for _ in range(29):
            client.sendall(b"x")
            assert not timed_out(timed, clock, client, 10)
        client.sendall(b"x")
        assert timed_out(timed, clock, client, 11)


def test_each_whole_command_gives_new_time(timed: reactor.Reactor, clock: FakeClock, patient: Any) -> None:
    _, client = patient
    with client:
        for _ in range(10):
            assert talk(timed, client, "NOOP") == ["250"]
            assert not timed_out(timed, clock, client, 299)
        assert timed_out(timed, clock, client, 2)


def test_message_has_more_time_and_the_command_behind_it_no_more_than_others(
    timed: reactor.Reactor, clock: FakeClock, patient: Any
) -> None:
    channel, client = patient
    with client:
        talk(timed, client, *LETTER[:4])
        for _ in range(10):
            assert not timed_out(timed, clock, client, 299)
            say(timed, channel, client, "text")
        client.sendall(lines("."))
        run_until(timed, lambda: len(channel.asked) == 3)
        channel.answer.accept()
        assert replies(timed, client, 1) == ["250"]
        assert not timed_out(timed, clock, client, 299)
        assert timed_out(timed, clock, client, 2)


def test_message_that_takes_for_ever_is_given_up(timed: reactor.Reactor, clock: FakeClock, patient: Any) -> None:
    channel, client = patient
    with client:
        talk(timed, client, *LETTER[:4])
        for _ in range(35):
            say(timed, channel, client, "x")
            assert not timed_out(timed, clock, client, 100)
        say(timed, channel, client, "x")
        assert timed_out(timed, clock, client, 101)
    assert len(channel.asked) == 2


def test_client_that_falls_silent_inside_of_a_message_is_shown_the_door(
    timed: reactor.Reactor, clock: FakeClock, patient: Any
) -> None:
    channel, client = patient
    with client:
        talk(timed, client, *LETTER[:4])
        assert not timed_out(timed, clock, client, 299)
        say(timed, channel, client, "text")
        assert not timed_out(timed, clock, client, 299)
        assert timed_out(timed, clock, client, 2)
    run_until(timed, lambda: channel.reasons)
    assert timed.is_idle()


def test_answer_that_does_not_come_has_the_client_try_again_later(
    timed: reactor.Reactor, clock: FakeClock, patient: Any, caplog: pytest.LogCaptureFixture
) -> None:
    channel, client = patient
    with client:
        client.sendall(lines(*LETTER, "NOOP"))
        assert replies(timed, client, 4)[-1] == "354"
        clock.advance(299)
        timed.poll()
        assert channel.session.is_waiting
        clock.advance(2)
        assert replies(timed, client, 2) == ["451", "250"]
        channel.answer.accept()  # too late
        assert talk(timed, client, "NOOP") == ["250"]
    assert "no answer was given within 300 s (answer_timeout)" in caplog.text


def test_idle_client_costs_no_timer_for_each_command(timed: reactor.Reactor, patient: Any) -> None:
    channel, client = patient
    with client:
        talk(timed, client, "NOOP")
        before = channel._timer
        talk(timed, client, *["NOOP"] * 20)
        assert channel._timer is before


# AUTH


class Guarded(Postbox):
    """Lets in who has the password."""

    requires_authentication = True

    def handle_authentication(self, name: str, password: str) -> Reply | None:
        self.asked.append((name, password))
        return None if password == "right" else Reply(535, "no", "5.7.8")


class GuardedInTheClear(Guarded):
    allows_plaintext_authentication = True


def test_auth_is_offered_on_a_unix_socket_to_which_nobody_can_listen(loop: reactor.Reactor, socket_path: str) -> None:
    _, client = connected(loop, Guarded, socket_path)
    with client:
        assert talk(loop, client, "EHLO x", "MAIL FROM:<a@b>", "AUTH PLAIN AGEAcmlnaHQ=", "MAIL FROM:<a@b>") == [
            "250", "530", "235", "250",
        ]  # fmt: skip


def test_auth_over_the_network_has_to_be_asked_for(loop: reactor.Reactor) -> None:
    for kind, code in ((Postbox, "502"), (Guarded, "538"), (GuardedInTheClear, "235")):
        _, client = connected(loop, kind)
        with client:
            assert talk(loop, client, "EHLO x", "AUTH PLAIN AGEAcmlnaHQ=") == ["250", code]


def test_auth_is_refused_where_it_is_offered_and_says_no_by_default(loop: reactor.Reactor) -> None:
    class Forwarding(GuardedInTheClear):
        def handle_authentication(self, name: str, password: str) -> Reply | None:
            return MailServer.handle_authentication(self, name, password)

    _, client = connected(loop, Forwarding)
    with client:
        assert talk(loop, client, "EHLO x", "AUTH PLAIN AGEAcmlnaHQ=") == ["250", "535"]


# Limits, and many peers


def test_limits_of_the_session_are_those_of_the_class(loop: reactor.Reactor) -> None:
    class Small(Postbox):
        session_limits = SessionLimits(maximum_message=3)

    _, client = connected(loop, Small)
    with client:
        assert talk(loop, client, *LETTER)[-1] == "552"


def test_client_that_goes_on_far_above_the_size_is_told_so_and_cut_off(loop: reactor.Reactor) -> None:
    class Small(Postbox):
        session_limits = SessionLimits(maximum_message=1000)

    channel, client = connected(loop, Small)
    with client:
        talk(loop, client, *LETTER[:4])
        for _ in range(30):
            client.sendall(b"x" * 98 + b"\r\n")
        assert replies(loop, client, 1) == ["552"]
        client.setblocking(True)
        assert client.recv(1) == b""
    run_until(loop, lambda: channel.reasons)
    assert isinstance(channel.reasons[0], reactor.ClosedHere)


def test_flood_is_answered_in_bounds_and_hurts_nobody(loop: reactor.Reactor, in_thread: InThread) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), Postbox, reactor=loop)

    def flood() -> None:
        with raw_client(listener.address) as client:
            try:
                for _ in range(500):
                    client.sendall(b"\0\xff\r\n" * 10_000)
            except OSError:
                pass  # it was shown the door

    flooding = in_thread(flood)
    _, client = connected(loop, Postbox)
    with client:
        assert talk(loop, client, *LETTER)[-1] == "250"
    run_until(loop, lambda: not flooding.is_alive())


def test_many_clients_of_the_standard_library_are_served_at_once(loop: reactor.Reactor, in_thread: InThread) -> None:
    taken: list[Envelope] = []

    class Collecting(MailServer):
        def handle_message(self, envelope: Envelope) -> Reply | None:
            taken.append(envelope)
            return None

    listener = reactor.Listener(("127.0.0.1", 0), Collecting, reactor=loop)

    def send(number: int) -> None:
        with smtplib.SMTP(*listener.address, local_hostname=f"client{number}.example", timeout=20) as client:
            for letter in range(5):
                client.sendmail("from@example.org", "to@example.org", b"%d.%d\r\n" % (number, letter))

    threads = [in_thread(send, number) for number in range(10)]
    run_until(loop, lambda: not any(thread.is_alive() for thread in threads), 30)
    assert sorted(envelope.content for envelope in taken) == sorted(
        b"%d.%d\r\n" % (number, letter) for number in range(10) for letter in range(5)
    )


def test_what_a_client_said_is_not_in_the_log_with_its_password(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(GuardedInTheClear):
        def handle_authentication(self, name: str, password: str) -> Reply | None:
            raise ValueError("planted")

    caplog.set_level(logging.DEBUG, "reactor")
    _, client = connected(loop, Failing)
    with client:
        assert talk(loop, client, "EHLO x", "AUTH PLAIN AGEAcmlnaHQ=") == ["250", "451"]
    assert "right" not in caplog.text
    assert "AGEA" not in caplog.text
