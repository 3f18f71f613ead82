"""A worker that runs a program of the user's, as `python FILE` or `python -m MODULE` would."""

import atexit
import os
import runpy
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable, Sequence

from sdcluster.wire.frames import Fork
from sdcluster.worker.messages import side
from sdcluster.worker.program.program_worker import NUDGE, ProgramMember

EXIT_FAILED = 1
EXIT_INTERRUPTED = 128 + signal.SIGINT
"""What a shell makes of a program that Ctrl-C has ended."""


def run(
    script: Sequence[str],
    order: Fork,
    control: socket.socket,
    *,
    messages_fd: int,
    folder: str,
    drain_timeout_s: float,
) -> int:
    """Run the program to its end and return its exit status.

    Its module is looked for in `folder` first, or in that where the process is.
    """
    _restore_signals()
    channel = socket.socket(fileno=messages_fd)
    member = ProgramMember(order.worker, control, channel, drain_timeout_s=drain_timeout_s)
    side.member = member

    def program() -> None:
        member.start()
        _run(script, folder)

    try:
        status = _status(program)
        member.at_end()
        _status(threading._shutdown)  # type: ignore[attr-defined]
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # There is nothing to interrupt any more.
    except KeyboardInterrupt:
        status = 0  # In between.
    atexit._run_exitfuncs()
    return status


def _restore_signals() -> None:
    """Undo what the mold has set up for itself."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN and number != signal.SIGPIPE:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(NUDGE, lambda *_: None)


def _status(program: Callable[[], None]) -> int:
    """Run something of the user's and return the exit status that its end means."""
    try:
        program()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt as error:
        if side.member is not None and side.member.is_leaving:
            return 0
        _print(error)
        return EXIT_INTERRUPTED
    except BaseException as error:
        _print(error)
        return EXIT_FAILED
    return 0


def _print(error: BaseException) -> None:
    """Print an exception as the interpreter would, without what is ours in its traceback."""
    trace = error.__traceback__
    ours = {__file__, runpy.__file__, "<frozen runpy>"}
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def _run(script: Sequence[str], folder: str) -> None:
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    if script[0] == "-m":
        sys.argv[:] = ["-m", *script[2:]]
        if folder and not sys.flags.safe_path:
            sys.path[0] = folder
        runpy._run_module_as_main(script[1])  # type: ignore[attr-defined]
        return
    path = os.path.abspath(script[0])
    sys.argv[:] = list(script)
    if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
        sys.path[0] = path
        runpy.run_path(path, run_name="__main__")
        return
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    main.__file__ = path
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, main.__dict__)
