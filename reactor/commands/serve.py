"""``python -m reactor serve``: Run a server: make HANDLER, a class of yours, for each connection.

SIGTERM and Ctrl-C end it in good order, and at once if they come a second time. SIGHUP makes it read the certificate
anew, or ends it where it runs at a terminal; with --workers, it replaces the workers, which read everything anew, the
program too.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

from ..addresses import format_address
from ..daemons import PidFile, Readiness, SyslogHandler, daemonize, drop_privileges, find_user, raise_descriptor_limit
from ..defaults import use_reactor
from ..errors import AlreadyRunningError, LocalError
from ..eventloop import Reactor
from ..inheriting import descriptor_in, inheritance
from ..listener import Listener
from ..notifying import Notifier
from ..settings import Settings
from .console import (
    GREY,
    RED,
    YELLOW,
    ExitCode,
    Failure,
    Parser,
    add_settings,
    coloured,
    complain,
    in_words,
    settings_of,
    tell_problems,
)
from .material import check_trust, find_handler, load_key, load_tls

log = logging.getLogger("reactor")

EXAMPLES = """examples:
  python -m reactor serve examples.calculator:Calculator --listen tcp://localhost:6000 --authkey-file key
  python -m reactor serve --config server.toml --daemon --pid-file /run/server.pid --syslog

"""

BACKLOG = 1024


def add_options(parser: Parser) -> None:
    """Describe the command line."""
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until somebody ends it; return the exit code."""
    settings, problems = settings_of(options)
    if tell_problems(problems):
        return ExitCode.MISTAKE
    readiness = None
    if settings.daemon:
        with blaming(settings, "log-file"):
            kept = [descriptor_in(url) for url in settings.listen or ()]
            readiness = daemonize(output=settings.log_file, keep=[number for number in kept if number is not None])
    code: int = ExitCode.FAILED
    try:
        Service(settings, readiness).run()
        code = ExitCode.DONE
    except Failure as failure:
        if str(failure):
            complain(failure)
        code = failure.code
    except SystemExit as end:  # the workers could not be kept up
        complain("the server has ended; the log says why")
        code = end.code if isinstance(end.code, int) else ExitCode.FAILED
    finally:
        if readiness is not None:
            readiness.failed(code)
    return code


@contextlib.contextmanager
def blaming(settings: Settings, name: str, value: str = "") -> Iterator[None]:
    """Say of whatever goes wrong inside that it is due to the setting `name`, or to this one of its values."""
    place = f"{settings.place(name)}: {value}" if value else settings.place(name)
    try:
        yield
    except AlreadyRunningError as error:
        raise Failure(f"{place}: {error}", ExitCode.RUNS_ALREADY) from None
    except LocalError as error:
        code = ExitCode.FAILED if isinstance(error, OSError) else ExitCode.MISTAKE
        raise Failure(f"{place}: {in_words(error)}", code) from None
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise Failure(f"{place}: {what}{in_words(error)}") from None


class Service:
    """A server that runs as its settings say.

    Arguments:
        settings: all of which make sense.
        readiness: whom to tell that it is up; None in the foreground.
    """

    def __init__(self, settings: Settings, readiness: Readiness | None) -> None:
        self.settings = settings
        self.readiness = readiness

    def run(self) -> None:
        """Serve, and return when somebody has ended it.

        Raises:
            Failure: it cannot, or not any more.
        """
        settings = self.settings
        with contextlib.ExitStack() as stack:
            if settings.pid_file is not None:
                with blaming(settings, "pid-file"):
                    stack.enter_context(PidFile(settings.pid_file))
            log_setting = "log-file" if settings.log_file else "syslog-address" if settings.syslog_address else "syslog"
            with blaming(settings, log_setting):
                stack.callback(start_log(settings))
            with blaming(settings, "user" if settings.user else "group"):
                find_user(settings.user, settings.group)
            if not settings.listen and not len(inheritance()):
                where = settings.place("listen")
                raise Failure(
                    f"{where}: systemd passes no socket to this process; say where to listen", ExitCode.MISTAKE
                )
            raise_descriptor_limit()
            if settings.workers is None:
                self.run_here()
            else:
                self.run_workers(settings.workers)

    def load(self) -> dict[str, Any]:
        """Read what may be for root alone, and return the options of the listeners."""
        settings = self.settings
        with blaming(settings, "authkey-file"):
            authkey = load_key(settings)
        with blaming(settings, "tls-cert"):
            tls = load_tls(settings)
        return {"authkey": authkey, "tls": tls, "proxies": settings.proxies, "limits": settings.limits}

    def become_less(self, addresses: Iterable[Any]) -> None:
        """Give up what only root needs, now that the addresses are bound."""
        settings = self.settings
        if settings.user is None and settings.group is None:
            return
        with blaming(settings, "user" if settings.user else "group"):
            uid, gid, _ = find_user(settings.user, settings.group)
            files = [address for address in addresses if isinstance(address, str)]  # those of Unix sockets
            for file in (*files, settings.log_file):
                if file and os.geteuid() == 0:
                    os.chown(file, uid, gid)
            drop_privileges(settings.user, settings.group)
            if not os.access(os.__file__, os.R_OK):
                raise LocalError(f"this user may not read Python itself ({os.__file__}); nothing could be imported")

    def find_handler(self, options: dict[str, Any]) -> Any:
        """Return what makes the channels. It runs code of the user's, so privileges are dropped by now."""
        assert self.settings.handler is not None
        with blaming(self.settings, "handler"):
            found = find_handler(self.settings.handler)
            check_trust(self.settings, found, options["authkey"])
            return found

    def came_up(self, addresses: Iterable[Any]) -> None:
        """Everything is there: say so."""
        if self.readiness is None:
            for address in addresses:
                print(f"listening on {format_address(address)}", flush=True)
        else:
            self.readiness.ready()

    # In this process

    def run_here(self) -> None:
        """Serve in this very process."""
        from ..workers.sharing import Share, open_shares

        with Reactor() as loop:
            before = use_reactor(loop)  # for what the program calls when it is imported
            shares: list[Share] = []
            try:
                for url in self.settings.listen or [""]:
                    with blaming(self.settings, "listen", url):
                        shares += open_shares([url] if url else None, 1, inheritance(), loop, BACKLOG)
                options = self.load()
                self.become_less([share.address for share in shares])
                factory = self.find_handler(options)
                for share in shares:
                    with blaming(self.settings, "handler"):
                        Listener(None, factory, sock=share.sockets[0], reactor=loop, **options)
                inheritance().close()
                notifier = Notifier()
                self.heed_signals(loop, notifier, options["tls"])
                self.came_up([share.address for share in shares])
                notifier.ready("it serves")
                loop.loop()
            finally:
                for share in shares:
                    with contextlib.suppress(OSError):  # the directory may not be ours any more
                        share.remove_file()
                    share.close()
                use_reactor(before)

    def heed_signals(self, loop: Reactor, notifier: Notifier, tls: Any) -> None:
        """Have signals and systemd answered on the loop."""
        grace = self.settings.grace

        def end() -> None:
            if loop.is_shutting_down:
                loop.shutdown().cut_off()
            else:
                notifier.stopping("it comes to its end", grace)
                loop.shutdown(grace)

        def renew() -> None:
            if tls is None:
                log.warning("SIGHUP: there is no certificate to read anew; with --workers, it would replace those")
                return
            try:
                tls.reload()
            except LocalError as error:
                log.error("SIGHUP: the certificate stays as it was: %s", error)
            else:
                log.info("SIGHUP: the certificate was read anew")

        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.on_signal(signum, end)
        is_at_terminal = self.readiness is None and sys.stdin.isatty()  # then SIGHUP says that it was closed
        loop.on_signal(signal.SIGHUP, end if is_at_terminal else renew)
        if notifier.watchdog is not None:
            loop.call_every(notifier.watchdog / 2, notifier.alive)

    # In workers

    def run_workers(self, count: int) -> None:
        """Serve in processes that this one watches."""
        from ..workers import Worker, serve

        def setup(worker: Worker) -> None:
            try:
                options = self.load()
                self.become_less(worker.addresses)
                worker.listen(self.find_handler(options), **options)
            except Failure as failure:
                log.error("%s: %s", worker, failure)
                raise SystemExit(failure.code) from None
            if self.readiness is not None:
                self.readiness.leave_terminal()

        self.rehearse()
        with blaming(self.settings, "listen", ", ".join(self.settings.listen or ())):
            serve(
                setup,
                count,
                listen=self.settings.listen or None,
                grace=self.settings.grace,
                handover=self.settings.handover,
                on_ready=self.came_up,
            )

    def rehearse(self) -> None:
        """Find out in a process of its own whether a worker could do its part, and have it said once if not.

        Raises:
            Failure: it could not, and has said so.
        """
        sys.stdout.flush()
        child = os.fork()
        if not child:
            code: int = ExitCode.FAILED
            try:
                options = self.load()
                self.become_less(())
                self.find_handler(options)
                code = ExitCode.DONE
            except Failure as failure:
                complain(failure)
                code = failure.code
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            raise Failure("", code if code > 0 else ExitCode.FAILED)


# The log


class Formatter(logging.Formatter):
    """Puts time, level and process in front of a line, in colour where somebody sees it."""

    COLOURS = {logging.WARNING: YELLOW, logging.ERROR: RED, logging.CRITICAL: RED}  # noqa: RUF012

    def __init__(self, is_on_terminal: bool) -> None:
        super().__init__("%(asctime)s %(level)s [%(process)d] %(message)s")
        self._is_on_terminal = is_on_terminal

    def format(self, record: logging.LogRecord) -> str:
        record.level = record.levelname
        if self._is_on_terminal:
            record.level = coloured(record.levelname, self.COLOURS.get(record.levelno, GREY), sys.stderr)
        return super().format(record)


class LogFile(logging.FileHandler):
    """A log file that finds out when somebody has renamed it, and makes a new one.

    Where it cannot, it goes on with the old one: this user may not, perhaps, or the descriptors have run out.
    """

    def emit(self, record: logging.LogRecord) -> None:
        before = self.stream
        with contextlib.suppress(OSError):
            if before is not None and not is_at(before.fileno(), self.baseFilename):
                self.stream = self._open()
                before.close()
        super().emit(record)


def is_at(descriptor: int, path: str) -> bool:
    """Return whether the file `descriptor` is the one that `path` names now."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def start_log(settings: Settings) -> Any:
    """Send what is logged where the settings say; return what takes that back."""
    handler: logging.Handler
    if settings.syslog or settings.syslog_address is not None:
        handler = SyslogHandler(settings.syslog_address, (settings.handler or "reactor").partition(":")[0])
    elif settings.log_file is not None:
        handler = LogFile(settings.log_file)
        handler.setFormatter(Formatter(is_on_terminal=False))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(Formatter(is_on_terminal=True))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(settings.log_level)

    def stop() -> None:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()

    return stop
