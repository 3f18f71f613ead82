"""`cluster.serve`: an app in a program's workers, from its start to its end, and nothing lost."""

import contextlib
import re
import signal
import time
from pathlib import Path
from threading import Thread

import pytest
from conftest import Play
from instance import wait_until
from program import Program
from web import Answer, Connection, connection, dial, fetch, workers_that_answer

APPS = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            say(event, cluster.worker.id, type(asyncio.get_running_loop()).__module__)
            await send({"type": event + ".complete"})
            if event == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        say("slow", cluster.worker.id)
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    body = f"{cluster.worker.id} asgi\\n".encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

def wsgi(environ, start_response):
    body = f"{cluster.worker.id} wsgi\\n".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def serve_by(way, *arguments, **options):
    if way == "uvloop":
        cluster.serve(*arguments, **options)
    else:
        asyncio.run(cluster.aserve(*arguments, **options))

if cluster.is_master:
    narrate()
"""

TWO = """
    cluster.setup_master(scheduling=sys.argv[1])
    cluster.fork()
    cluster.fork()
    cluster.run()
else:
    serve_by(sys.argv[2], {app}, "127.0.0.1:0")
    say("after", cluster.worker.id)
"""
"""Two workers; the arguments are the scheduling and the loop."""

ONE = """
    cluster.setup_master(scheduling=sys.argv[1], drain_timeout_s={drain_timeout_s})
    worker = cluster.fork()

    @cluster.every(0.01)
    def look():
        if os.path.exists("leave") and worker.is_connected:
            os.remove("leave")
            worker.disconnect()

    @cluster.on("exit")
    def ended(worker, code, number):
        say("ended", code, number, worker.exit_reason)

    cluster.run()
else:
    {worker}
"""
"""One worker, which leaves when the file `leave` is there."""

SERVE = """
    cluster.serve(app, "127.0.0.1:0")
    say("after")
"""

scheduled = pytest.mark.parametrize("scheduling", ["round-robin", "shared"])
looped = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


def one_worker(play: Play, worker: str, *, drain_timeout_s: float = 20.0, **how: str) -> Program:
    """Start a program of one worker that does this."""
    source = APPS + ONE.format(worker=worker, drain_timeout_s=drain_timeout_s)
    return play(source, how.get("scheduling", "round-robin"))


def last_answer(client: Connection) -> Answer:
    """Return the first answer that says that it is the last: one once the worker has heard."""

    def ask() -> Answer | None:
        answer = client.fetch()
        return answer if answer.headers.get("connection") == "close" else None

    return wait_until(ask, "an answer that is the last")


class Slow:
    """A request whose answer comes when the file `go` is there."""

    def __init__(self, address: str, **headers: str) -> None:
        self.answers: list[Answer] = []
        self._thread = Thread(target=self._fetch, args=(address, headers))
        self._thread.start()

    def _fetch(self, address: str, headers: dict[str, str]) -> None:
        self.answers.append(fetch(address, "/slow", headers=headers))

    def join(self) -> Answer:
        """Return its answer."""
        self._thread.join()
        return self.answers[0]


@scheduled
@looped
@pytest.mark.parametrize("app", ["app", "wsgi"])
def test_every_worker_serves_until_it_is_to_leave(
    play: Play, scheduling: str, loop: str, app: str
) -> None:
    """ASGI and WSGI are told apart; the program goes on after it, and ends well."""
    program = play(APPS + TWO.format(app=app), scheduling, loop)
    address = program.web()
    program.wait_event("listening", 2)
    kind = {"app": "asgi", "wsgi": "wsgi"}[app]
    assert workers_that_answer(address, 2) == {"1", "2"}
    assert fetch(address).text.split()[1] == kind
    assert program.stop() == 0
    assert sorted(program.lines("after")) == ["1", "2"]
    assert program.wait_event("exit", 1) == program.wait_event("exit", 2) == "0 None"
    if kind == "asgi":
        for event in ("startup", "shutdown"):
            workers, loops = zip(*map(str.split, program.lines(f"lifespan.{event}")), strict=True)
            assert sorted(workers) == ["1", "2"]
            assert all(one.startswith(loop) for one in loops)


def test_worker_listens_when_the_app_has_started(play: Play) -> None:
    """What waits for the event may rely on it."""
    program = one_worker(play, SERVE)
    program.wait_event("listening", 1)
    log = program.log()
    assert log.index("lifespan.startup") < log.index("listening 1")


def test_app_is_served_at_several_addresses(play: Play, tmp_path: Path) -> None:
    """Whatever `listen` takes, and a list of that."""
    where = '[("127.0.0.1", 0), os.path.abspath("web.sock"), "[::1]:0"]'
    program = one_worker(play, f"cluster.serve(app, {where})")
    program.wait_log("listening 1 ('::1'")
    log = program.log()
    for host, form in (("127.0.0.1", "127.0.0.1:{}"), ("::1", "[::1]:{}")):
        found = re.search(rf"listening 1 \('{host}', (\d+)", log)
        assert found is not None
        assert fetch(form.format(found[1])).text == "1 asgi"
    assert fetch(str(tmp_path / "web.sock")).text == "1 asgi"


@scheduled
@looped
def test_rolling_restart_loses_nothing(
    play: Play, tmp_path: Path, scheduling: str, loop: str
) -> None:
    """Each worker leaves when another listens; clients keep their connections, or do not."""
    program = play(
        APPS
        + """
    cluster.setup_master(scheduling=sys.argv[1])
    cluster.fork()
    cluster.fork()

    @cluster.every(0.01)
    def begin():
        if os.path.exists("go"):
            os.remove("go")
            cluster.fork()

    @cluster.on("listening")
    def replace(worker, address):
        if 2 < worker.id:
            cluster.workers[worker.id - 2].disconnect()
        if 2 < worker.id < 8:
            cluster.fork()

    cluster.run()
else:
    serve_by(sys.argv[2], app, "127.0.0.1:0")
""",
        scheduling,
        loop,
    )
    url = f"http://{program.web()}/"
    program.wait_event("listening", 2)
    with (
        program.under_load(close=False, clients=8, url=url) as kept,
        program.under_load(close=True, clients=8, url=url) as closed,
    ):
        (tmp_path / "go").touch()
        for worker in range(1, 7):
            assert program.wait_event("exit", worker) == "0 None"
    for load in (kept, closed):
        assert (load.lost, load.errors) == (0, {})
        assert len(load.by_body) > 2  # Which workers, in shared, is up to them.
    assert program.stop() == 0


@scheduled
def test_kept_connection_gets_one_more_answer(play: Play, tmp_path: Path, scheduling: str) -> None:
    """It says that it is the last; the client is not cut off, and the worker ends after it."""
    program = one_worker(play, SERVE, scheduling=scheduling)
    with connection(program.web()) as client:
        assert "connection" not in client.fetch().headers
        (tmp_path / "leave").touch()
        assert last_answer(client).text == "1 asgi"
    assert program.wait_event("exit", 1) == "0 None"


@scheduled
def test_request_that_is_answered_when_the_worker_leaves_is_finished(
    play: Play, tmp_path: Path, scheduling: str
) -> None:
    """And its connection ends with it."""
    program = one_worker(play, SERVE, scheduling=scheduling)
    address = program.web()
    slow = Slow(address, Connection="keep-alive")
    program.wait_log("\nslow 1")
    with connection(address) as client:
        client.fetch()
        (tmp_path / "leave").touch()
        last_answer(client)
    (tmp_path / "go").touch()
    answer = slow.join()
    assert (answer.text, answer.headers["connection"]) == ("1 asgi", "close")
    assert program.wait_event("exit", 1) == "0 None"


def test_what_waits_at_a_stop_is_answered(play: Play, tmp_path: Path) -> None:
    """Connections that the worker had no time to take are taken still, as there is no other."""
    program = one_worker(
        play,
        """
    async def stand(scope, receive, send):
        if scope["type"] == "http":
            say("stands")
            while not os.path.exists("go"):
                time.sleep(0.01)
        await app(scope, receive, send)

    cluster.serve(stand, "127.0.0.1:0")
""",
    )
    address = program.web()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(address)) for _ in range(150)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        program.wait_log("\nstands")
        program.signal(signal.SIGTERM)
        program.wait_event("disconnect", 1)
        (tmp_path / "go").touch()
        for client in clients:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert program.wait() == 0


@scheduled
def test_drain_has_a_deadline(play: Play, tmp_path: Path, scheduling: str) -> None:
    """A request that does not end is cancelled; the app is shut down all the same."""
    program = one_worker(play, SERVE, scheduling=scheduling, drain_timeout_s=0.5)
    address = program.web()
    with connection(address) as client:
        client.request("GET", "/slow")
        program.wait_log("\nslow 1")
        (tmp_path / "leave").touch()
        program.wait_event("disconnect", 1)
        began = time.monotonic()
        assert program.wait_event("exit", 1) == "0 None"
        assert 0.4 < time.monotonic() - began < 3
    assert program.lines("after") == [""]
    assert program.lines("lifespan.shutdown")
    assert "connections are open at the drain deadline" in program.log()


def test_app_has_time_to_shut_down(play: Play, tmp_path: Path) -> None:
    """The worker is idle then, and is not interrupted for it."""
    program = one_worker(
        play,
        """
    async def slow(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(0.3)
        say("shut down")
        await send({"type": "lifespan.shutdown.complete"})

    cluster.serve(slow, "127.0.0.1:0")
""",
    )
    program.wait_event("listening", 1)
    (tmp_path / "leave").touch()
    assert program.wait_event("exit", 1) == "0 None"
    assert program.lines("shut down") == [""]


def test_program_goes_on_after_it(play: Play, tmp_path: Path) -> None:
    """It is not interrupted, idle as it is, until its time is up."""
    program = one_worker(
        play,
        """
    cluster.serve(app, "127.0.0.1:0")
    time.sleep(0.3)
    say("after")
""",
    )
    program.wait_event("listening", 1)
    (tmp_path / "leave").touch()
    assert program.wait_event("exit", 1) == "0 None"
    assert program.lines("after") == [""]


def test_program_that_does_not_end_after_it_is_interrupted(play: Play, tmp_path: Path) -> None:
    """When its time is up."""
    program = one_worker(
        play, 'cluster.serve(app, "127.0.0.1:0"); time.sleep(60)', drain_timeout_s=0.3
    )
    program.wait_event("listening", 1)
    (tmp_path / "leave").touch()
    assert program.wait_event("exit", 1) == "0 None"
    assert program.lines("ended") == ["0 None stop"]


def test_thread_may_serve(play: Play, tmp_path: Path) -> None:
    """The main thread, which waits for something else, is interrupted when all is answered."""
    program = one_worker(
        play,
        """
    import threading
    threading.Thread(target=cluster.serve, args=(app, "127.0.0.1:0")).start()
    threading.Event().wait()
""",
    )
    with connection(program.web()) as client:
        client.fetch()
        (tmp_path / "leave").touch()
        last_answer(client)
    assert program.wait_event("exit", 1) == "0 None"
    assert program.lines("lifespan.shutdown")


def test_worker_leaves_before_the_app_has_started(play: Play, tmp_path: Path) -> None:
    """It does not wait for that."""
    program = one_worker(
        play,
        """
    async def starting(scope, receive, send):
        say("starting")
        await asyncio.Event().wait()

    cluster.serve(starting, "127.0.0.1:0")
""",
    )
    program.wait_log("\nstarting")
    (tmp_path / "leave").touch()
    assert program.wait_event("exit", 1) == "0 None"
    assert "Traceback" not in program.log()


def test_app_that_fails_to_start_is_an_error(play: Play) -> None:
    """The worker exits with one, and says what the app has said; it never listens."""
    program = one_worker(
        play,
        """
    async def failing(scope, receive, send):
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    cluster.serve(failing, "127.0.0.1:0")
""",
    )
    assert program.wait() == 0
    assert program.lines("ended") == ["1 None crash"]
    assert program.events(1) == ["fork", "online", "disconnect", "exit"]
    log = program.log()
    assert "no database" in log and "the app's lifespan startup failed" in log
    assert log.count("Traceback") == 1 and "SystemExit" not in log


def test_address_in_use_is_an_error(play: Play) -> None:
    """After which the app is shut down, and can be served elsewhere."""
    program = one_worker(
        play,
        """
    taken = cluster.listen("127.0.0.1:0")
    try:
        cluster.serve(app, taken.getsockname())
    except OSError as error:
        say("errno", error.errno)
""",
    )
    assert program.wait() == 0
    assert program.lines("errno") == ["98"]
    assert len(program.lines("lifespan.shutdown")) == 1


def test_end_of_the_coroutine_closes_what_is_open(play: Play) -> None:
    """The program has cancelled it; the worker, which is not to leave, goes on."""
    program = one_worker(
        play,
        """
    async def main():
        task = asyncio.create_task(cluster.aserve(app, "127.0.0.1:0"))
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        say("cancelled", task.cancelled())

    asyncio.run(main())
""",
    )
    with connection(program.web()) as client:
        client.fetch()
        (program.folder / "go").touch()
        assert client.sock.recv(1) == b""
    assert program.wait() == 0
    assert program.lines("cancelled") == ["True"]
    assert len(program.lines("lifespan.shutdown")) == 1


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("cluster.serve(3, 0)", "ClusterError cannot tell whether the app is ASGI or WSGI"),
        ("cluster.serve(app, 0, interface='cgi')", "ValueError interface is auto, asgi or wsgi"),
        ("cluster.serve(app, 'there')", "ValueError 'there' is not an address"),
        (
            "sys.modules.update(uvicorn=None); cluster.serve(app, 0)",
            "ClusterError serving needs uvicorn: ",
        ),
        (
            "sys.modules.update({'a2wsgi': None, 'uvicorn.middleware.wsgi': None});"
            "cluster.serve(wsgi, 0)",
            "ClusterError WSGI needs a2wsgi: ",
        ),
    ],
)
def test_mistakes_are_named(play: Play, call: str, told: str) -> None:
    """Before anything begins; they say what would be right."""
    program = one_worker(
        play,
        f"""
    try:
        {call}
    except (ClusterError, ValueError) as error:
        say("told", type(error).__name__, error)
""",
    )
    assert program.wait() == 0
    (line,) = program.lines("told")
    assert line.startswith(told)
    assert not program.lines("lifespan.startup")


def test_master_does_not_serve(play: Play) -> None:
    """It has no app's code to run."""
    program = play(
        """
try:
    cluster.serve(None, 0)
except ClusterError as error:
    say("told", error)
"""
    )
    assert program.wait() == 0
    assert program.lines("told") == ["serve is for workers; the master accepts on their behalf"]


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHos"], ids=["nothing", "half a head"])
def test_client_that_asks_nothing_keeps_no_worker(play: Play, sent: bytes) -> None:
    """It is closed long before the deadline, and the program ends."""
    program = one_worker(play, SERVE)
    with dial(program.web()) as client:
        client.sendall(sent)
        fetch(program.web())  # So it has been accepted.
        began = time.monotonic()
        assert program.stop() == 0
        assert client.recv(100) == b""
    assert time.monotonic() - began < 4
