"""Defects in the turns of the loop: shares, callbacks, exceptions, time, threads."""

from __future__ import annotations

from tests.zoo.catching import Defect, RowTest, Simulated
from tests.zoo.planting import Change
from tests.zoo.scenarios.traffic import conversation, slow_loris
from tests.zoo.scenarios.turns import fair_shares, nesting, raising_hooks, timetable

MISSING = "tests/zoo/test_missing.py"
CONVERSATION = Simulated(conversation)
FAIR_SHARES = Simulated(fair_shares, seeds=10)
NESTING = Simulated(nesting)
RAISING_HOOKS = Simulated(raising_hooks)
SLOW_LORIS = Simulated(slow_loris)
TIMETABLE = Simulated(timetable)

DEFECTS: dict[str, list[Defect]] = {
    "a fast peer starves the others": [
        Defect(
            "all-frames-at-once",
            "all frames of a receive are delivered in one turn",
            Change("reactor.connection:OpenForMessages.readable", "len(found) > FRAMES_PER_TURN", "False"),
            by=FAIR_SHARES,
            seen="frames took",
        ),
        Defect(
            "reads-until-nothing-is-left",
            "a channel reads for as long as something comes",
            Change(
                "reactor.sending:Open.readable",
                "channel.handle_data(data)\n",
                "channel.handle_data(data)\n            return self.readable(channel)\n",
            ),
            by=FAIR_SHARES,
            seen="bytes took",
        ),
        Defect(
            "accepts-until-nobody-is-left",
            "a listener accepts for as long as somebody comes",
            Change("reactor.listener:Listener._accept_some", "range(ACCEPTS_PER_TURN)", "iter(int, 1)"),
            by=FAIR_SHARES,
            seen="connections took",
        ),
        Defect(
            "calls-until-none-is-left",
            "calls that are set by a call run in the same turn",
            Change("reactor.eventloop:Reactor._run_calls", "for _ in range(len(self._soon)):", "while self._soon:"),
            by=FAIR_SHARES,
            seen="calls took",
        ),
        Defect(
            "timers-until-none-is-due",
            "timers that are set by a timer for the past run in the same turn",
            Change("reactor.eventloop:Reactor._run_timers", "self._timers.latest", "float('inf')"),
            by=FAIR_SHARES,
            seen="timers took",
        ),
    ],
    "recursion through callbacks": [
        Defect(
            "calls-at-once",
            "a call that is to happen soon happens at once",
            Change("reactor.eventloop:Reactor.call_soon", "self._soon.append(call)", "callback(*args)"),
            by=NESTING,
            seen="the stack grows|an exception escaped: RecursionError",
        ),
        Defect(
            "hooks-at-once",
            "a hook that is to be called after the batch is called at once",
            Change(
                "reactor.eventloop:Reactor.hook_soon", "self._soon.append(Call(hook, args, channel))", "hook(*args)"
            ),
            by=NESTING,
            seen="handle_.* runs inside",
        ),
        Defect(
            "closing-at-once",
            "what a hook closes is told so inside that hook",
            Change("reactor.eventloop:Reactor.finish_soon", "if not self._running:", "if True:"),
            by=NESTING,
            seen="handle_close runs inside|a descriptor is closed inside of its batch",
        ),
    ],
    "a handler's exception ends the process": [
        Defect(
            "hook-of-an-event-ends-it",
            "what a hook raises comes out of the loop, unless it is an error of the system",
            Change(
                "reactor.eventloop:Reactor.loop",
                'self._spin_guard.count(channel, "writable")\n                    except Exception as error:',
                'self._spin_guard.count(channel, "writable")\n                    except OSError as error:',
            ),
            by=RAISING_HOOKS,
            seen="an exception of a handler came out of the loop",
        ),
        Defect(
            "timer-ends-it",
            "what the callback of a timer raises comes out of the loop",
            Change("reactor.eventloop:Reactor._run_timers", "except Exception:", "except OSError:"),
            by=RAISING_HOOKS,
            seen="an exception of a handler came out of the loop",
        ),
        Defect(
            "call-ends-it",
            "what a call raises comes out of the loop",
            Change("reactor.eventloop:Reactor._run_calls", "except Exception as error:", "except OSError as error:"),
            by=RAISING_HOOKS,
            seen="an exception of a handler came out of the loop",
        ),
        Defect(
            "handle_close-ends-it",
            "what handle_close raises comes out of the loop",
            Change(
                "reactor.eventloop:Reactor._finish_closed", "except Exception as error:", "except OSError as error:"
            ),
            by=RAISING_HOOKS,
            seen="an exception of a handler came out of the loop",
        ),
        Defect(
            "handle_error-ends-it",
            "what handle_error raises comes out of the loop",
            Change("reactor.channel:Channel._hook_failed", "except Exception as second:", "except OSError as second:"),
            by=RAISING_HOOKS,
            seen="an exception of a handler came out of the loop",
        ),
        Defect(
            "factory-ends-it",
            "what the factory of a listener raises closes the listener",
            Change("reactor.listener:Listener._accept_some", "self._hook_failed(error)", "self.close(error)"),
            by=RowTest("test_exception_in_a_hook_of_a_listener_refuses_that_connection_alone[factory]"),
            seen="assert 'Closed' == 'Listening'",
        ),
    ],
    "wall clock jumps": [
        Defect(
            "wall-clock-in-the-loop",
            "the loop looks at the wall clock",
            Change("reactor.eventloop:Reactor.__init__", "self.clock = clock", "self.clock = lambda: time.time()"),
            by=RowTest("test_jump_of_the_wall_clock_moves_no_timer_and_no_deadline[10]"),
            seen="AssertionError|BrokenPipeError",
        ),
        Defect(
            "wall-clock-by-default",
            "the clock of the reactor is the wall's",
            Change("reactor.eventloop:Reactor.__init__", "self.clock = clock", "self.clock = time.time"),
            by=TIMETABLE,
            seen="NotInTime|before its time|too early",
        ),
        Defect(
            "wall-clock-in-the-deadlines",
            "deadlines are kept by the wall clock",
            Change("reactor.timers:Deadlines.set", "self._clock()", "__import__('time').time()"),
            by=SLOW_LORIS,
            seen="NotInTime",
        ),
    ],
    "timer order, timer overflow": [
        Defect(
            "timers-last-in-first-out",
            "of timers that are due together the last one runs first",
            Change("reactor.timers:TimerQueue._push", "(due, self.latest, timer)", "(due, -self.latest, timer)"),
            by=TIMETABLE,
            seen="timers run out of order",
        ),
        Defect(
            "loop-waits-for-another-timer",
            "the loop waits for a timer that is not the first one",
            Change("reactor.timers:TimerQueue._settle", "heap[0][0] if heap", "heap[-1][0] if heap"),
            by=TIMETABLE,
            seen="timers run out of order|NotInTime",
        ),
        Defect(
            "timer-overflows",
            "the wait of a timer in the far future goes to the system as it is",
            Change("reactor.eventloop:Reactor._time_to_wait", "min(left, LONGEST_WAIT)", "left"),
            by=RowTest("test_loop_that_waits_for_a_timer_in_the_far_future_is_woken", MISSING),
            seen="OverflowError|the loop raised",
        ),
    ],
    "wakeup from a thread is lost": [
        Defect(
            "flag-cleared-too-late",
            "a call that comes while the queue is emptied finds the wakeup sent already",
            Change(
                "reactor.eventloop:Reactor._take_calls",
                "self._waker.drain()\n        self._wakeup_sent = False\n",
                "self._wakeup_sent = False\n        self._waker.drain()\n",
            ),
            by=RowTest("test_call_behind_a_race_with_the_draining_wakes_the_loop", MISSING),
            seen="AssertionError: the loop would sleep on",
        ),
        Defect(
            "wakeup-is-not-sent",
            "a call from another thread does not wake a loop that sleeps",
            Change("reactor.eventloop:Reactor.call_threadsafe", "self._waker.wake()", "pass"),
            by=CONVERSATION,
            seen="NotInTime",
        ),
    ],
}
