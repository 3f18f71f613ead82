"""Unix sockets of a program's workers: relative paths, and long ones, as in Node."""

import pytest
from conftest import Play
from instance import wait_until
from web import workers_that_answer

both = pytest.mark.parametrize("scheduling", ["round-robin", "shared"])

PATHS = ['"./app.sock"', '"app.sock"', '"unix:app.sock"', 'Path("app.sock")', '"../work/app.sock"']

TWO = """
from pathlib import Path

if cluster.is_master:
    narrate()
    cluster.setup_master(scheduling=sys.argv[1])
    cluster.fork()
    cluster.fork()
    cluster.run()
else:
"""


@both
@pytest.mark.parametrize("path", PATHS)
def test_relative_path_is_that_of_the_worker(play: Play, scheduling: str, path: str) -> None:
    """In the folder where it is when it listens; the master, and later folders, do not count."""
    program = play(
        TWO
        + f"""
    os.makedirs("work", exist_ok=True)
    os.chdir("work")
    listener = cluster.listen({path})
    say("name", listener.getsockname())
    os.chdir("/")
    asyncio.run(serve(listener))
""",
        scheduling,
    )
    found = program.folder / "work" / "app.sock"
    assert program.wait_event("listening", 1) == program.wait_event("listening", 2) == str(found)
    assert workers_that_answer(str(found), 2) == {"1", "2"}
    assert program.lines("name") == [str(found)] * 2
    assert program.stop() == 0
    assert not found.exists()


def test_relative_paths_of_two_folders_are_two_sockets(play: Play) -> None:
    """Each worker has its own there."""
    program = play(
        TWO
        + """
    os.mkdir(str(cluster.worker.id))
    os.chdir(str(cluster.worker.id))
    serve_at("./app.sock")
""",
        "round-robin",
    )
    for one in ("1", "2"):
        program.wait_event("listening", int(one))
        assert workers_that_answer(str(program.folder / one / "app.sock"), 1) == {one}


def test_relative_path_of_datagrams(play: Play) -> None:
    """As of streams."""
    program = play(
        TWO
        + """
    say("name", cluster.listen("./app.sock", datagrams=True).getsockname())
    time.sleep(60)
""",
        "round-robin",
    )
    wait_until(lambda: len(program.lines("name")) == 2, "the names")
    assert program.lines("name") == [str(program.folder / "app.sock")] * 2
    assert program.stop() == 0
    assert not (program.folder / "app.sock").exists()


@both
def test_long_path_is_bound_where_it_is_short_from_the_master(
    play: Play, monkeypatch: pytest.MonkeyPatch, scheduling: str
) -> None:
    """As Node binds it: the name from the master's folder fits, though the whole does not."""
    program = play(
        TWO
        + """
    os.makedirs("sub", exist_ok=True)
    os.chdir("sub")
    listener = cluster.listen("./" + "a" * 84)
    say("name", listener.getsockname(), os.path.exists("a" * 84))
    asyncio.run(serve(listener))
""",
        scheduling,
    )
    found = program.folder / "sub" / ("a" * 84)
    assert len(str(found)) > 107
    assert program.wait_event("listening", 1) == program.wait_event("listening", 2) == str(found)
    wait_until(lambda: len(program.lines("name")) == 2, "the names")
    assert program.lines("name") == [f"{found} True"] * 2
    monkeypatch.chdir(program.folder)
    # A leading slash tells the client that it is a path, which is relative all the same.
    assert workers_that_answer("/proc/self/cwd/sub/" + "a" * 84, 2) == {"1", "2"}
    assert program.stop() == 0
    assert not found.exists()


def test_path_that_is_too_long_is_told(play: Play) -> None:
    """With its length, what is allowed, and an error number; the worker goes on."""
    program = play(
        TWO
        + """
    deep = "d" * 60 + "/" + "e" * 60
    os.makedirs(deep, exist_ok=True)
    os.chdir(deep)
    for path in ("./" + "a" * 50, "./" + "a" * 200, "/tmp/" + "a" * 200):
        try:
            cluster.listen(path)
        except (OSError, ValueError) as error:
            say("long", type(error).__name__, getattr(error, "errno", None), error)
    asyncio.run(serve(cluster.listen("127.0.0.1:0")))
""",
        "round-robin",
    )
    wait_until(lambda: len(program.lines("long")) == 6, "the errors")
    program.wait_event("listening", 1)
    lines = sorted(program.lines("long"))[1::2]
    assert lines[0].startswith("OSError 36 [Errno 36] cannot listen on /")
    assert "bytes; a Unix socket's path has 107" in lines[0]
    for line in lines[1:]:
        assert line.startswith("ValueError None ")
        assert "bytes; a Unix socket's path has 107" in line


def test_bare_word_is_no_path(play: Play) -> None:
    """It may be a host whose port was forgotten; the error says how a path is written."""
    program = play(
        TWO
        + """
    for word in ("localhost", "", "unix:", "./", "there"):
        try:
            cluster.listen(word)
        except ValueError as error:
            say("no", error)
""",
        "round-robin",
    )
    assert program.wait() == 0
    lines = program.lines("no")
    assert len(lines) == 10
    assert "'localhost' is not an address; give HOST:PORT" in program.log()
