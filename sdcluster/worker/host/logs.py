"""Where the app's output goes: each process logs for itself, to the journal or to stderr.

What the app prints goes through the stream it has inherited, and the journal sees who wrote it.
What it logs goes to the journal natively, with its priority and the SDCLUSTER_ fields, if stderr is
the journal. The root logger is left alone, or `logging.basicConfig` in the app would do nothing.
"""

import logging
import socket
import sys
from collections.abc import Mapping
from io import TextIOWrapper

from sdcluster.system import process
from sdcluster.wire import journal

MAX_MESSAGE_BYTES = 48 * 1024
"""What surely fits in a datagram to the journal; a longer message is cut."""

_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (0, 7),
)


class JournalHandler(logging.Handler):
    """Sends records to the journal, with `fields` added."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self._fields = dict(fields)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            text = self.format(record).encode("utf-8", "replace")[:MAX_MESSAGE_BYTES]
            priority = next(value for level, value in _PRIORITIES if record.levelno >= level)
            fields = {
                "MESSAGE": text.decode("utf-8", "ignore"),
                "PRIORITY": str(priority),
                "LOGGER": record.name,
                "THREAD_NAME": str(record.threadName),
                "CODE_FILE": record.pathname,
                "CODE_LINE": str(record.lineno),
                "CODE_FUNC": record.funcName or "",
            }
            data = journal.encode(fields | self._fields)
            self._socket.sendto(data, socket.MSG_NOSIGNAL, journal.SOCKET_PATH)
        except Exception:
            self.handleError(record)


def set_up(fields: Mapping[str, str], who: str, *, access_log: bool) -> None:
    """Prepare the output of this process; `who` names it on a terminal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    handler: logging.Handler
    if process.stderr_is_journal():
        handler = JournalHandler(fields)
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"{who}: %(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)
    logging.lastResort = handler
    logging.getLogger("sdcluster").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    access = logging.getLogger("uvicorn.access")
    access.setLevel(logging.INFO if access_log else logging.WARNING)
    if access_log and not access.hasHandlers():
        access.addHandler(handler)
    promote()


def promote() -> None:
    """Let handlers that the app has put on stderr or stdout send to the journal instead."""
    handler = logging.lastResort
    if not isinstance(handler, JournalHandler):
        return
    loggers = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        if not isinstance(logger, logging.Logger):
            continue
        for index, old in enumerate(logger.handlers):
            if type(old) is logging.StreamHandler and old.stream in (sys.stdout, sys.stderr):
                new = JournalHandler(handler._fields)
                new.setLevel(old.level)
                if old.formatter is not None:
                    new.setFormatter(old.formatter)
                logger.handlers[index] = new
