"""What answers in the place of the master is not obeyed: the terminal stays whole."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from instance import sdcluster

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u2028\x7f\r\bend"
"""Sets the title, clears the screen, colours, and turns the direction of writing."""

WORKER: dict[str, Any] = {
    "slot": 0,
    "worker": 1,
    "pid": 2,
    "generation": 1,
    "state": ESCAPES,
    "connections": ESCAPES,
    "requests": 1,
    "uptime_s": 1.0,
    "status": ESCAPES,
}
STATUS: dict[str, Any] = {
    "name": ESCAPES,
    "pid": ESCAPES,
    "state": ESCAPES,
    "status": ESCAPES,
    "scheduling": ESCAPES,
    "listen": [ESCAPES],
    "workers": [WORKER],
    "last_exits": [{"slot": 1, "worker": 1, "reason": ESCAPES, "status": ESCAPES}],
    ESCAPES: 1,
}
STEP = {"event": ESCAPES, "message": ESCAPES, "done": 1, "total": 2, "generation": 1}
FAILURE = {"error": "io.sdcluster.Control.ReloadFailed", "parameters": {"reason": ESCAPES}}


def encoded(reply: object) -> bytes:
    """Return what is sent of a reply."""
    return json.dumps(reply).encode() + b"\0"


@contextmanager
def answering(folder: Path, *replies: Any) -> Iterator[str]:
    """Answer the first call to an instance, whose name is returned, with these.

    Whoever asks for the status asks for the version as well.
    """
    place = folder / "sdcluster" / "shop"
    place.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "control"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                call = connection.recv(65536)
                connection.sendall(b"".join(map(encoded, replies)))
                if b".Status" in call and connection.recv(65536):
                    connection.sendall(encoded({"parameters": {"version": ESCAPES}}))

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield "shop"
        finally:
            thread.join()


def is_plain(text: str) -> bool:
    """Tell whether there is nothing in a text but what can be seen, and ends of lines."""
    return all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize(
    ("command", "replies"),
    [
        (["status"], [{"parameters": STATUS}]),
        (["status", "--json"], [{"parameters": STATUS}]),
        (["status"], [{"error": ESCAPES}]),
        (["reload"], [{"parameters": STEP, "continues": True}, FAILURE]),
        (["reload"], [{"parameters": STEP}]),
        (["scale", "2"], [{"parameters": {"workers": ESCAPES}}]),
    ],
)
def test_no_command_writes_what_a_terminal_would_obey(
    runtime_folder: Path, command: list[str], replies: list[Any]
) -> None:
    """The service's user can put a socket of its own there, and root asks."""
    with answering(runtime_folder, *replies) as name:
        done = sdcluster(command[0], name, *command[1:])
    assert "end" in done.stdout + done.stderr
    assert is_plain(done.stdout) and is_plain(done.stderr), (done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("command", "parameters"),
    [
        (["status"], {}),
        (["status"], {**STATUS, "workers": 7}),
        (["status"], {**STATUS, "workers": [{**WORKER, "uptime_s": "long"}]}),
        (["status"], {**STATUS, "last_exits": [[]]}),
        (["status"], {**STATUS, "listen": [1]}),
        (["status"], {**STATUS, "pid": "[link=http://x]y[/link][/]"}),
        (["reload"], {}),
        (["reload"], {**STEP, "done": []}),
        (["scale", "2"], {}),
    ],
)
def test_answers_that_make_no_sense_are_told_in_a_line(
    runtime_folder: Path, command: list[str], parameters: dict[str, Any]
) -> None:
    """Not by a traceback; and text that looks like markup is text."""
    with answering(runtime_folder, {"parameters": parameters}) as name:
        done = sdcluster(command[0], name, *command[1:])
    assert "Traceback" not in done.stderr
    assert is_plain(done.stdout) and is_plain(done.stderr)
    if done.returncode:
        assert done.stderr == "sdcluster: what answers for shop makes no sense\n"
    else:
        assert "[link=http://x]y[/link][/]" in done.stdout
