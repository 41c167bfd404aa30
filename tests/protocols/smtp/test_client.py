"""The client's channel and the delivery of one message: over real sockets, and over a simulated network with faults."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

import reactor
from protocols.smtp import (
    Credentials,
    Envelope,
    MailClient,
    MailServer,
    Outcome,
    PermanentFailure,
    ProtocolError,
    Reply,
    SessionLimits,
    TemporaryFailure,
    deliver,
)
from reactor.simulation import ALL, World, simulate, torture
from tests.conftest import run_until
from tests.protocols.smtp.talking import lines

LETTER = Envelope("from@example.org", ("to@example.org", "no@example.org"), b"text\r\n")


class Postbox(MailServer):
    """Takes messages, but not for everybody."""

    allows_plaintext_authentication = True
    taken: list[Envelope]

    def handle_recipient(self, recipient: str) -> Reply | None:
        return Reply(550, "no such user here", "5.1.1") if recipient.startswith("no") else None

    def handle_message(self, envelope: Envelope) -> Reply | None:
        self.taken.append(envelope)
        return None

    def handle_authentication(self, name: str, password: str) -> Reply | None:
        return None if password == "right" else Reply(535, "no", "5.7.8")


def postbox(**attributes: Any) -> Any:
    """Return a class of postboxes that share what they have taken."""
    return type("Postbox", (Postbox,), {"taken": [], **attributes})


class Sender(MailClient):
    """Writes down what it was told."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.errors: list[Exception] = []
        self.reasons: list[Exception] = []

    def handle_outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def handle_error(self, error: Exception) -> None:
        self.errors.append(error)

    def handle_close(self, reason: reactor.ReactorError) -> None:
        self.reasons.append(reason)


class Scripted(reactor.Stream):
    """A server that says what is written for it, and listens to nobody."""

    script = b""

    def handle_open(self) -> None:
        self.push(self.script)

    def handle_data(self, data: bytes) -> None:
        pass


def scripted(*replies: str) -> Any:
    return type("Scripted", (Scripted,), {"script": lines(*replies)})


def delivered(
    loop: reactor.Reactor, server: Callable[[], reactor.Channel], envelope: Envelope = LETTER, **options: Any
) -> Outcome:
    """Deliver to a server, and return what became of it."""
    outcomes: list[Outcome] = []
    listener = reactor.Listener(("127.0.0.1", 0), server, reactor=loop)
    client = deliver(listener.address, envelope, outcomes.append, reactor=loop, **options)
    run_until(loop, lambda: client.state.name == "Closed" and outcomes)
    listener.close()
    (outcome,) = outcomes
    return outcome


# One message


def test_message_is_delivered_and_each_recipient_that_was_refused_is_reported(loop: reactor.Reactor) -> None:
    server = postbox()
    outcome = delivered(loop, server)
    assert outcome.delivered == ("to@example.org",)
    assert [str(error) for error in outcome.permanent.values()] == [
        "the recipient <no@example.org> is refused: 550 5.1.1 no such user here"
    ]
    assert outcome.temporary == {}
    (envelope,) = server.taken
    assert (envelope.sender, envelope.recipients, envelope.content) == (LETTER.sender, outcome.delivered, b"text\r\n")
    assert envelope.client_name == "[127.0.0.1]"
    loop.loop(timeout=5)
    assert loop.is_idle()


def test_client_calls_itself_as_it_was_told_to(loop: reactor.Reactor) -> None:
    server = postbox()
    delivered(loop, server, hostname="me.example")
    assert server.taken[0].client_name == "me.example"


@pytest.mark.parametrize(("password", "count"), [("right", 1), ("wrong", 0)])
def test_client_authenticates(loop: reactor.Reactor, password: str, count: int) -> None:
    server = postbox(requires_authentication=True)
    outcome = delivered(loop, server, credentials=Credentials("anna", password), allows_plaintext_authentication=True)
    assert [envelope.user for envelope in server.taken] == ["anna"] * count
    assert len(outcome.delivered) == count


def test_password_is_sent_over_a_unix_socket_without_further_ado(loop: reactor.Reactor, socket_path: str) -> None:
    server = postbox(requires_authentication=True)
    outcomes: list[Outcome] = []
    with reactor.Listener(socket_path, server, reactor=loop):
        deliver(socket_path, LETTER, outcomes.append, credentials=Credentials("anna", "right"), reactor=loop)
        run_until(loop, lambda: outcomes)
    assert [(envelope.user, envelope.client_name) for envelope in server.taken] == [("anna", "localhost")]
    loop.loop(timeout=5)


def test_password_is_not_sent_where_others_can_listen(loop: reactor.Reactor) -> None:
    with pytest.raises(reactor.LocalError, match="listen"):
        deliver(("127.0.0.1", 1), LETTER, print, credentials=Credentials("anna", "x"), reactor=loop)
    assert loop.is_idle()


def test_message_that_cannot_be_sent_at_all_is_refused_at_once(loop: reactor.Reactor) -> None:
    outcomes: list[Outcome] = []
    with pytest.raises(reactor.LocalError, match="address"):
        deliver(("127.0.0.1", 1), Envelope("x", ("a@b",), b""), outcomes.append, reactor=loop)
    loop.loop(timeout=5)
    assert loop.is_idle()
    assert outcomes == []


@pytest.mark.parametrize(
    ("envelope", "words"),
    [
        (Envelope("a@b", ("a@b",), "text"), "content"),  # type: ignore[arg-type]
        (Envelope("a@b", None, b"text"), "recipient"),  # type: ignore[arg-type]
        (Envelope(None, ("a@b",), b"text"), "is text, and not None"),  # type: ignore[arg-type]
        (None, "no attribute"),
    ],
)
def test_delivery_of_what_is_no_message_leaves_no_connection_behind(
    loop: reactor.Reactor, envelope: Any, words: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(AttributeError if envelope is None else reactor.LocalError, match=words):
            deliver(silent.getsockname(), envelope, print, reactor=loop)
        loop.loop(timeout=5)
        assert loop.is_idle()


def test_large_message_is_over_no_limit_of_output(loop: reactor.Reactor) -> None:
    limits = reactor.Limits(low_water=10_000, high_water=100_000, maximum_output=200_000)
    letter = Envelope("", ("a@b",), b".23456789\r\n" * 500_000)
    server = postbox()
    assert delivered(loop, server, letter, limits=limits).delivered == ("a@b",)
    assert server.taken[0].content == letter.content


def test_server_that_is_not_there_is_a_temporary_failure(loop: reactor.Reactor) -> None:
    outcomes: list[Outcome] = []
    with socket.socket() as bound:  # and not listening: nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        deliver(bound.getsockname(), LETTER, outcomes.append, reactor=loop)
        run_until(loop, lambda: outcomes)
    assert [type(error) for error in outcomes[0].temporary.values()] == [reactor.ConnectError] * 2


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (["554 go away"], PermanentFailure),
        (["421 busy"], TemporaryFailure),
        (["SSH-2.0-OpenSSH_9.6"], ProtocolError),
        (["220 host", "250 host", "250 ok", "250 ok", "250 ok", "354 go", "421 bye"], TemporaryFailure),
    ],
)
def test_server_that_refuses_everything_is_told_to_the_channel_too(
    loop: reactor.Reactor, script: list[str], kind: type[Exception]
) -> None:
    with reactor.Listener(("127.0.0.1", 0), scripted(*script), reactor=loop) as listener:
        client = Sender.connect(listener.address, reactor=loop)
        client.deliver(LETTER)
        run_until(loop, lambda: client.reasons)
    assert [type(error) for error in client.errors + client.reasons] == [kind, kind]
    (outcome,) = client.outcomes
    assert {type(error) for error in (outcome.temporary | outcome.permanent).values()} == {kind}
    loop.loop(timeout=5)


def test_server_that_hangs_up_is_a_temporary_failure(loop: reactor.Reactor) -> None:
    class HangingUp(Scripted):
        def handle_data(self, data: bytes) -> None:
            self.close()

    HangingUp.script = lines("220 host")
    outcome = delivered(loop, HangingUp)
    assert all(isinstance(error, reactor.RemoteError) for error in outcome.temporary.values())
    assert len(outcome.temporary) == 2


def test_server_that_is_silent_is_given_up_after_ten_minutes(timed: reactor.Reactor, clock: Any) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), scripted(), reactor=timed)
    client = Sender.connect(listener.address, reactor=timed)
    client.deliver(LETTER)
    run_until(timed, lambda: client.state.name == "Open")
    clock.advance(599)
    timed.poll()
    assert client.state.name == "Open"
    clock.advance(2)
    run_until(timed, lambda: client.reasons)
    assert isinstance(client.reasons[0], reactor.DeadlineError)
    assert [type(error) for error in client.outcomes[0].temporary.values()] == [reactor.DeadlineError] * 2


# Many messages


def test_one_connection_carries_many_messages(loop: reactor.Reactor) -> None:
    server = postbox()
    with reactor.Listener(("127.0.0.1", 0), server, reactor=loop) as listener:
        client = Sender.connect(listener.address, reactor=loop)
        for number in range(3):
            client.deliver(Envelope("", ("a@b",), b"%d\r\n" % number))
        run_until(loop, lambda: len(client.outcomes) == 3)
        client.deliver(Envelope("", ("a@b",), b"3\r\n"))
        client.quit()
        run_until(loop, lambda: client.reasons)
    assert [envelope.content for envelope in server.taken] == [b"0\r\n", b"1\r\n", b"2\r\n", b"3\r\n"]
    assert all(outcome.delivered == ("a@b",) for outcome in client.outcomes)
    assert isinstance(client.reasons[0], reactor.ClosedHere)
    with pytest.raises(reactor.StateError):
        client.deliver(LETTER)
    loop.loop(timeout=5)


def test_outcome_that_is_known_at_once_is_told_from_the_loop_and_not_inside_of_deliver(loop: reactor.Reactor) -> None:
    server = postbox(session_limits=SessionLimits(maximum_message=3))
    with reactor.Listener(("127.0.0.1", 0), server, reactor=loop) as listener:
        client = Sender.connect(listener.address, reactor=loop)
        run_until(loop, lambda: client.state.name == "Open" and client._session.extensions)
        loop.poll(0)
        client.deliver(LETTER)
        assert client.outcomes == []
        run_until(loop, lambda: client.outcomes)
        assert len(client.outcomes[0].permanent) == 2
        client.deliver(LETTER)
        client.close()
        run_until(loop, lambda: len(client.outcomes) == 2)
    loop.loop(timeout=5)
    assert len(client.outcomes) == 2


def test_messages_that_are_left_when_the_channel_is_closed_have_their_outcomes(loop: reactor.Reactor) -> None:
    with reactor.Listener(("127.0.0.1", 0), scripted("220 host"), reactor=loop) as listener:
        client = Sender.connect(listener.address, reactor=loop)
        client.deliver(LETTER)
        client.deliver(LETTER)
        run_until(loop, lambda: client.state.name == "Open")
        client.close()
        run_until(loop, lambda: client.reasons)
    assert len(client.outcomes) == 2
    for outcome in client.outcomes:
        assert outcome.temporary == dict.fromkeys(LETTER.recipients, client.reasons[0])
    assert client.errors == []
    loop.loop(timeout=5)


def test_hook_that_fails_loses_no_outcome(loop: reactor.Reactor) -> None:
    class Failing(Sender):
        def handle_outcome(self, outcome: Outcome) -> None:
            super().handle_outcome(outcome)
            raise ValueError("planted")

    with reactor.Listener(("127.0.0.1", 0), scripted("554 no"), reactor=loop) as listener:
        client = Failing.connect(listener.address, reactor=loop)
        client.deliver(LETTER)
        client.deliver(LETTER)
        run_until(loop, lambda: client.reasons)
    assert len(client.outcomes) == 2
    assert [type(error) for error in client.errors] == [ValueError, ValueError, PermanentFailure]
    loop.loop(timeout=5)


# On a simulated network


def mail_with_harmless_faults(world: World) -> None:
    """Hand three messages over, one of them large, with answers that come at once and later."""
    taken: list[Envelope] = []

    class Slow(MailServer):
        def handle_message(self, envelope: Envelope) -> Reply | None:
            answer = self.answer_later()
            self.reactor.run_in_thread(
                taken.append, envelope, on_result=lambda _: answer.accept(), on_error=lambda _: None
            )
            return None

    world.listen(("server", 25), Slow)
    client = world.connect(("server", 25), Sender)
    letters = [
        Envelope("a@b", ("c@d", "e@f"), line * count) for line, count in ((b"x\r\n", 1), (b".23\r\n", 9000), (b"", 1))
    ]
    for letter in letters:
        client.deliver(letter)
    client.quit()
    world.run(until=lambda: client.reasons, timeout=600)
    assert [envelope.content for envelope in taken] == [letter.content for letter in letters]
    assert [outcome.delivered for outcome in client.outcomes] == [("c@d", "e@f")] * 3
    assert not client.errors


def mail_with_all_faults(world: World) -> None:
    """Try until it is delivered. What the client was told is delivered has been taken, and once or more."""
    taken: list[Envelope] = []
    outcomes: list[Outcome] = []

    class Keeping(MailServer):
        def handle_message(self, envelope: Envelope) -> Reply | None:
            taken.append(envelope)
            return None

    def send(host: Any) -> None:
        deliver(("server", 25), LETTER, told, reactor=host.reactor)

    def told(outcome: Outcome) -> None:
        outcomes.append(outcome)
        assert len(outcome.delivered) + len(outcome.temporary) + len(outcome.permanent) == 2
        if outcome.temporary:
            client.reactor.call_later(5, send, client)

    world.host("server", lambda host: host.listen(25, Keeping))
    client = world.host("client")
    client.on_boot(send)
    world.run(until=lambda: any(outcome.delivered for outcome in outcomes), timeout=100_000)
    assert len(taken) >= sum(bool(outcome.delivered) for outcome in outcomes) >= 1
    assert {envelope.content for envelope in taken} == {LETTER.content}


def test_harmless_faults_are_not_noticed() -> None:
    report = simulate(mail_with_harmless_faults, seeds=60)
    assert report.injected > 100


def test_mail_that_is_tried_again_arrives_whatever_happens() -> None:
    report = simulate(mail_with_all_faults, seeds=60, faults=ALL)
    assert report.injected > 60


def test_mail_arrives_whichever_call_fails() -> None:
    late = {"handler", "segment", "select"}  # which do not fail: they are among all that happens, above
    report = torture(mail_with_all_faults, only=lambda name: name not in late)
    assert report.injected > 300
