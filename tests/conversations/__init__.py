"""Canonical conversations: small programs on a simulated network, each of which holds whatever goes wrong there.

Each one is a function that is given a `World`. It reconnects, and asserts what it may assert under all
faults; where nothing happened but what is harmless (see `is_broken`) it asserts more.
"""

from __future__ import annotations

from reactor.simulation.running import Scenario

from . import (
    anything,
    closing,
    connecting,
    datagrams,
    encryption,
    handshakes,
    introductions,
    listening,
    outages,
    sending,
    storms,
    timeouts,
)

HANDSHAKES: list[Scenario] = [
    handshakes.both_know_the_key,
    handshakes.old_python_calls,
    handshakes.old_python_is_called,
    handshakes.old_python_calls_where_md5_is_not_enough,
    handshakes.client_has_another_key,
    handshakes.client_has_no_key,
    handshakes.client_speaks_http,
    handshakes.server_has_no_key,
    handshakes.challenge_is_reflected,
    handshakes.client_speaks_one_byte_a_second,
    handshakes.client_sends_before_it_is_authenticated,
]
"""Those in which nothing but the handshake is worth mentioning: short enough for all pairs of failures."""

SCENARIOS: list[Scenario] = [
    connecting.stream_connects_and_closes,
    connecting.nobody_listens,
    connecting.nobody_answers,
    connecting.name_is_unknown,
    connecting.name_has_addresses_of_two_families,
    connecting.connect_is_given_up,
    connecting.attempts_are_used_up,
    connecting.reconnecting_is_called_off,
    *HANDSHAKES,
    sending.small_frames_in_flight,
    sending.large_frames,
    sending.empty_frames,
    sending.producers_on_a_stream,
    sending.producers_in_frames,
    sending.producer_without_end,
    sending.peer_reads_late,
    sending.peer_never_reads,
    sending.peer_takes_less_than_is_sent,
    sending.many_frames_come_at_once,
    sending.all_is_sent_before_the_connection_is_there,
    closing.queue_is_sent_before_the_server_closes,
    closing.queue_is_sent_before_the_client_closes,
    closing.client_leaves_in_the_middle,
    closing.server_closes_in_the_middle,
    closing.half_close_is_answered_late,
    closing.both_close_at_once,
    closing.handlers_close_others_of_their_batch,
    closing.hooks_raise,
    closing.peer_sends_on_while_the_server_closes,
    closing.frame_is_too_large,
    closing.frame_makes_no_sense,
    closing.deadlines_fall_together,
    timeouts.peer_says_nothing,
    timeouts.peer_vanishes_from_an_idle_connection,
    timeouts.peer_vanishes_while_much_is_sent_to_it,
    timeouts.peer_vanishes_while_the_server_closes,
    timeouts.peer_vanishes_before_its_last_byte,
    listening.listener_pauses,
    listening.listener_pauses_again_and_again,
    listening.descriptors_run_out,
    listening.connections_are_as_many_as_may_be,
    listening.one_peer_has_as_many_connections_as_it_may,
    listening.silent_peers_take_every_place_of_the_unauthenticated,
    listening.silent_peers_take_every_connection,
    listening.listener_is_choosy,
    listening.listener_closes_while_peers_wait,
    listening.factory_fails_now_and_then,
    outages.server_is_killed_and_restarted,
    outages.network_parts_and_heals,
    outages.client_and_server_are_one_program,
    outages.shutdown_cuts_off_who_does_not_drain,
    outages.shutdown_finds_channels_in_every_state,
    storms.timers_storm,
    storms.calls_storm,
    storms.threads_bring_results,
    *datagrams.SCENARIOS,
    *encryption.SCENARIOS,
    *introductions.SCENARIOS,
    anything.anything_on_streams,
    anything.anything_in_frames,
    anything.anything_with_a_key,
    anything.anything_on_encrypted_streams,
    anything.anything_encrypted_with_a_key,
]
"""All of them, for all faults."""

STRICT: list[Scenario] = SCENARIOS
"""All of them, for harmless faults, of which they notice nothing: nobody needs a second connection."""


def name_of(scenario: Scenario) -> str:
    """Return the name of the function that `scenario` is."""
    return str(getattr(scenario, "__name__", scenario))
