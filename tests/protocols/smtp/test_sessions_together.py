"""Client and server on a link without sockets, which cuts what it carries anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from protocols.smtp.client_session import ClientSession, Finished, Outcome
from protocols.smtp.envelope import Envelope
from protocols.smtp.limits import SessionLimits
from protocols.smtp.lines import canonical
from protocols.smtp.mechanisms import Credentials
from protocols.smtp.questions import Encryption, Ended, Recipient, Sender, StartTls
from protocols.smtp.replies import Reply
from protocols.smtp.server_session import Authentication, ServerSession
from tests.properties import steady
from tests.test_laws import IMPURE, imports_of, modules_of, package_of

ANNA = Credentials("anna", "pass")


class Link:
    """A client and a server, and the bytes that are under way between them.

    Arguments:
        amounts: how many bytes to carry, each time; the last one goes on for ever.
        late: whether the answers of the server's program come after a while.
        credentials: the client's.
        encryption: of the server; where it is offered, the client wants it.
    """

    def __init__(
        self,
        amounts: list[int],
        late: bool = False,
        credentials: Credentials | None = None,
        encryption: Encryption = Encryption.MISSING,
    ) -> None:
        self.amounts = self._endless(amounts)
        self.late = late
        self.server = ServerSession(
            "host.example",
            authentication=Authentication.ALWAYS if encryption is Encryption.MISSING else Authentication.WHEN_SECURE,
            limits=SessionLimits(maximum_message=2000),
            encryption=encryption,
        )
        self.client = ClientSession(
            "me.example",
            credentials=credentials,
            starttls=encryption is Encryption.OFFERED,
            allows_plaintext_authentication=encryption is not Encryption.OFFERED,
        )
        self.to_server = b""
        self.to_client = b""
        self.taken: list[Envelope] = []
        self.outcomes: list[Outcome] = []
        self.events: list[Any] = []

    def _endless(self, amounts: list[int]) -> Iterator[int]:
        yield from amounts
        while True:
            yield 1000

    def verdict(self, question: Any) -> Reply | None:
        """Refuse what says so; take the rest."""
        match question:
            case Sender(address) | Recipient(address) if address.startswith("no"):
                return Reply(550, "no", "5.1.1")
            case Recipient(address) if address.startswith("later"):
                return Reply(450, "later", "4.2.1")
            case Envelope(content=content) if content.startswith(b"no"):
                return Reply(554, "no", "5.6.0")
            case Envelope():
                self.taken.append(question)
            case Credentials() if question != ANNA:
                return Reply(535, "no", "5.7.8")
        return None

    def run(self) -> None:
        """Carry bytes to and fro until nothing is under way."""
        waiting: list[Any] = []
        while True:
            self.to_server += self.client.data_to_send()
            self.to_client += self.server.data_to_send()
            amount = next(self.amounts)
            if waiting and (not self.late or not (self.to_server or self.to_client)):
                question = waiting.pop()
                waiting = [event for event in self.server.answer(self.verdict(question)) if event != Ended()]
            elif self.to_server:
                data, self.to_server = self.to_server[:amount], self.to_server[amount:]
                waiting += [event for event in self.server.feed(data) if event not in (Ended(), StartTls())]
            elif self.to_client:
                data, self.to_client = self.to_client[:amount], self.to_client[amount:]
                events = self.client.feed(data)
                if StartTls() in events:
                    events.remove(StartTls())
                    self.server.secured()
                    self.client.secured()
                self.events += events
            else:
                return


names = st.sampled_from(["a@x", "b@x", "no@x", "later@x", "ä@x", '"a b"@[127.0.0.1]'])
contents = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.\r\n", b"text", b"no", b"\xff", b": ", "ä".encode()]),
    max_size=20,
).map(b"".join)
envelopes = st.builds(
    Envelope,
    st.sampled_from(["", "a@x", "no@x", "ä@x"]),
    st.lists(names, min_size=1, max_size=4).map(tuple),
    contents | st.just(b"x" * 70 + b"\r\n").map(lambda line: line * 30),
)


@steady
@given(
    st.lists(envelopes, min_size=1, max_size=4),
    st.lists(st.integers(1, 40), max_size=40),
    st.booleans(),
    st.sampled_from(Encryption),
)
def test_what_the_client_says_was_delivered_is_what_the_server_took(
    letters: list[Envelope], amounts: list[int], late: bool, encryption: Encryption
) -> None:
    link = Link(amounts, late, encryption=encryption)
    for letter in letters:
        link.events += link.client.deliver(letter)
    link.events += link.client.quit()
    link.run()
    assert link.events[-1] == Finished(None)
    outcomes = [event for event in link.events if isinstance(event, Outcome)]
    assert sorted(map(id, letters)) == sorted(id(outcome.envelope) for outcome in outcomes)
    delivered = [outcome for outcome in outcomes if outcome.delivered]
    assert [(envelope.sender, envelope.recipients, envelope.content) for envelope in link.taken] == [
        (outcome.envelope.sender, outcome.delivered, canonical(outcome.envelope.content)) for outcome in delivered
    ]
    for outcome in outcomes:
        letter = outcome.envelope
        if letter.sender == "no@x" or canonical(letter.content).startswith(b"no") or len(letter.content) > 2000:
            assert not outcome.delivered
        else:
            assert set(outcome.delivered) == {name for name in letter.recipients if name[:2] not in ("no", "la")}
            assert set(outcome.temporary) == {name for name in letter.recipients if name[:2] == "la"}


@steady
@given(
    st.lists(st.integers(1, 40), max_size=60),
    st.sampled_from([ANNA, Credentials("anna", "wrong")]),
    st.sampled_from(Encryption),
)
def test_mail_is_delivered_with_the_right_password_only(
    amounts: list[int], credentials: Credentials, encryption: Encryption
) -> None:
    link = Link(amounts, credentials=credentials, encryption=encryption)
    link.client.deliver(Envelope("a@x", ("b@x",), b"text"))
    link.client.quit()
    link.run()
    outcome, end = link.events
    assert bool(outcome.delivered) is (end.error is None) is (credentials is ANNA)
    assert len(link.taken) == len(outcome.delivered)


@steady
@given(contents, st.lists(st.integers(1, 10), max_size=60))
def test_no_content_is_taken_for_more_or_less_than_one_message(content: bytes, amounts: list[int]) -> None:
    link = Link(amounts)
    link.client.deliver(Envelope("a@x", ("b@x",), b"x" + content))
    link.client.quit()
    link.run()
    assert [envelope.content for envelope in link.taken] == [canonical(b"x" + content)]


def test_sessions_and_what_they_stand_on_get_hold_of_no_socket_clock_or_thread() -> None:
    channels = {"smtp.server", "smtp.client", "smtp.__init__"}
    modules = {name: tree for name, tree in modules_of("protocols").items() if name.startswith("smtp.")}
    assert {"smtp.server_session", "smtp.client_session"} <= set(modules) - channels
    for name in set(modules) - channels:
        found = imports_of(modules[name], package_of("protocols", name))
        assert not {imported.partition(".")[0] for imported in found} & IMPURE, name
        assert all(imported.startswith("reactor.errors.") for imported in found if imported.startswith("reactor")), name
