"""Defects in what happens to descriptors: ready, closed, reused, inherited, run out, left behind."""

from __future__ import annotations

from reactor.simulation import ALL
from tests.zoo.catching import Defect, RowTest, Simulated, Tortured
from tests.zoo.planting import Change
from tests.zoo.scenarios.descriptors import doorstep, rivalry, too_few_descriptors
from tests.zoo.scenarios.traffic import conversation, endurance

MISSING = "tests/zoo/test_missing.py"
CONVERSATION = Simulated(conversation)
RIVALRY = Simulated(rivalry)
TOO_FEW_DESCRIPTORS = Simulated(too_few_descriptors)
ACCEPT_ERRORS = Tortured(doorstep, only=frozenset({"accept"}))
DOORSTEP = Simulated(doorstep, faults=ALL)
TWO_THOUSAND_DESCRIPTORS = RowTest("test_reactor_serves_two_thousand_descriptors_by_default", MISSING)
HANDSHAKE_TORTURED = Tortured(endurance, only=frozenset({"recv", "send", "setsockopt"}))

DEFECTS: dict[str, list[Defect]] = {
    "event reaches a channel closed, or a descriptor reused, in the same batch": [
        Defect(
            "stale-state",
            "the loop gives events to the state that a channel had when the batch began",
            Change(
                "reactor.eventloop:Reactor.loop",
                "for key, events in ready:\n",
                "for key, events, state in [(key, events, key.data.state) for key, events in ready]:\n",
                "channel.state.readable(channel)",
                "state.readable(channel)",
            ),
            by=RIVALRY,
            seen="it was closed, and still hears something|a hook is called after handle_close",
        ),
        Defect(
            "descriptor-freed-in-its-batch",
            "a channel that closes gives its descriptor back at once",
            Change("reactor.states:Closed.enter", "channel.reactor.finish_soon(channel)", "channel._finish()"),
            by=RIVALRY,
            seen="a descriptor is closed inside of its batch",
        ),
    ],
    "descriptor closed before it was unregistered; its successor is never armed": [
        Defect(
            "close-before-unregister",
            "a channel that closes is still registered when its descriptor is given back",
            Change("reactor.states:Closed.enter", "channel._want(0)", "pass"),
            by=RIVALRY,
            seen="a descriptor is closed before it is unregistered",
        ),
        Defect(
            "socket-handed-on-while-registered",
            "a socket goes from the connect to the channel without leaving the selector in between",
            Change("reactor.channel:Channel._take_socket", "self._want(0)", "self._interest = 0"),
            by=CONVERSATION,
            seen="is registered already",
        ),
    ],
    "accept spins at EMFILE": [
        Defect(
            "accept-spins",
            "a listener without descriptors tries again at once",
            Change(
                "reactor.listener:Listener._rest",
                'become(self, "pause")\n        self._set_deadline(PAUSE_AFTER_ERROR)',
                "pass",
            ),
            by=TOO_FEW_DESCRIPTORS,
            seen="the loop spins",
        ),
    ],
    "listener closes for good at EMFILE": [
        Defect(
            "listener-closes-at-emfile",
            "a listener without descriptors gives up",
            Change("reactor.listener:Listener._rest", 'become(self, "pause")', "return self.close()"),
            by=TOO_FEW_DESCRIPTORS,
            seen="NotInTime",
        ),
        Defect(
            "listener-rests-for-ever",
            "a listener without descriptors waits for somebody to wake it",
            Change("reactor.listener:Listener._rest", "self._set_deadline(PAUSE_AFTER_ERROR)", "pass"),
            by=TOO_FEW_DESCRIPTORS,
            seen="NotInTime",
        ),
    ],
    "an errno from accept kills the server": [
        Defect(
            "accept-error-escapes",
            "an error of accept that is no lack of descriptors comes out of it",
            Change("reactor.listener:Listener._accept_some", "self._rest(error)", "raise"),
            by=ACCEPT_ERRORS,
            seen="an exception escaped: OSError",
        ),
        Defect(
            "accept-error-closes",
            "a listener closes for an error about one peer",
            Change(
                "reactor.listener:Listener._accept_some",
                "if error.errno in PEER_ERRORS:\n                    continue",
                "if error.errno in PEER_ERRORS:\n                    return self.close()",
            ),
            by=ACCEPT_ERRORS,
            seen="NotInTime",
        ),
    ],
    "peer gone between accept and getpeername/setsockopt": [
        Defect(
            "getpeername-is-trusted",
            "what getpeername says of a peer that is gone is taken for an error of accept, and its socket is forgotten",
            Change(
                "reactor.listener:Listener._accept_some",
                "sock, peer = self.socket.accept()",
                "sock, _ = self.socket.accept(); peer = sock.getpeername()",
            ),
            by=DOORSTEP,
            seen="the server has more than its waker and its listener|a descriptor is left open",
        ),
        Defect(
            "setsockopt-is-trusted",
            "an option that cannot be set on a connection that broke is an error of the program",
            Change("reactor.binding:acknowledge_at_once", "with contextlib.suppress(OSError):", "if True:"),
            by=HANDSHAKE_TORTURED,
            seen="an exception escaped: OSError",
        ),
    ],
    "descriptors above 1023": [
        Defect(
            "select-is-believed",
            "a descriptor that select cannot watch is given to it all the same, and select raises for everybody",
            Change("reactor.eventloop:Reactor.register", "fileobj.fileno() > self._largest", "False"),
            by=RowTest("test_descriptor_too_large_for_select_is_refused_and_the_loop_goes_on"),
            seen="ValueError: filedescriptor out of range",
        ),
        Defect(
            "every-selector-ends-at-1023",
            "the limit of select is held against every selector",
            Change(
                "reactor.eventloop:Reactor.__init__",
                "1023 if isinstance(self._selector, selectors.SelectSelector) else None",
                "1023",
            ),
            by=TWO_THOUSAND_DESCRIPTORS,
            seen="AssertionError",
        ),
        Defect(
            "select-by-default",
            "a reactor that is given no selector takes select",
            Change("reactor.eventloop:Reactor.__init__", "selectors.DefaultSelector()", "selectors.SelectSelector()"),
            by=TWO_THOUSAND_DESCRIPTORS,
            seen="AssertionError",
        ),
    ],
    "cycles and tracebacks hold sockets": [
        Defect(
            "traceback-in-the-reason",
            "the error for which a channel closes holds the frames in which it was raised, and they hold the channel",
            Change(
                "reactor.channel:Channel._report", "error.__traceback__ = None", "error.frames = error.__traceback__"
            ),
            Change("reactor.channel:Channel._finish", "del self._reason", "pass"),
            by=RowTest("test_channel_and_its_descriptor_die_without_the_collector[garbage]"),
            seen="AssertionError: assert .* == \\[\\]",
        ),
        Defect(
            "loop-holds-the-last-channel",
            "the loop sleeps with the channel of the last event in a variable",
            Change("reactor.eventloop:Reactor.loop", "ready = key = channel = None", "pass"),
            by=RowTest("test_sleeping_loop_holds_no_channel_that_is_closed", MISSING),
            seen="AssertionError: assert .* == \\[\\]",
        ),
        Defect(
            "spin-guard-holds-its-suspects",
            "a channel that was ready for nothing once is remembered for ever",
            Change("reactor.guards:SpinGuard.__init__", "weakref.WeakKeyDictionary()", "{}"),
            Change("reactor.guards:SpinGuard.forget", "self._suspects.pop(channel, None)", "pass"),
            by=RowTest("test_channel_that_was_ready_for_nothing_once_dies_all_the_same"),
            seen="AssertionError: assert .* == \\[\\]",
        ),
    ],
    "fork shares the epoll": [
        Defect(
            "fork-is-not-noticed",
            "the child of a fork goes on with its parent's selector",
            Change("reactor.eventloop:_abandon_after_fork", "for reactor in list(_reactors):", "for reactor in ():"),
            by=RowTest("test_child_of_a_fork_is_refused_and_the_parent_is_unharmed"),
            seen="AssertionError",
        ),
        Defect(
            "fork-answers-for-its-parent",
            "the turn in which a fork happens is finished in the child too, on the parent's connections",
            Change("reactor.eventloop:_abandon_after_fork", "channel._abandon()", "pass"),
            by=RowTest("test_child_of_a_fork_is_refused_and_the_parent_is_unharmed"),
            seen="the child spoke on the parent's connection",
        ),
    ],
    "stale Unix socket file": [
        Defect(
            "stale-file-blocks",
            "the file that a dead process left is an address in use",
            Change("reactor.binding:_bind_file", "error.errno != errno.EADDRINUSE or endpoint.is_abstract", "True"),
            by=RowTest("test_stale_socket_file_is_taken_over"),
            seen="OSError: .*Address already in use",
        ),
        Defect(
            "live-file-is-taken",
            "a file is taken over without asking whether somebody listens",
            Change("reactor.binding:remove_stale", "probe.connect(path)", "raise ConnectionRefusedError"),
            by=RowTest("test_live_socket_file_is_a_clear_error_and_stays[free]"),
            seen="DID NOT RAISE",
        ),
        Defect(
            "any-file-is-removed",
            "whatever stands at the address is removed",
            Change("reactor.binding:remove_stale", "not stat.S_ISSOCK(os.lstat(path).st_mode)", "False"),
            by=RowTest("test_another_s_file_is_never_removed[file]"),
            seen="DID NOT RAISE",
        ),
        Defect(
            "successor-s-file-is-removed",
            "a listener that closes removes whatever has its path by now",
            Change("reactor.binding:SocketFile.remove", "if _identity(self._path) == self._identity:", "if True:"),
            by=RowTest("test_file_of_a_successor_is_not_removed_at_close"),
            seen="FileNotFoundError",
        ),
        Defect(
            "file-is-left-behind",
            "a listener that closes leaves its file",
            Change("reactor.binding:SocketFile.remove", "os.unlink(self._path)", "pass"),
            by=RowTest("test_stale_socket_file_is_taken_over"),
            seen="AssertionError: assert not True",
        ),
    ],
}
