"""The agent and messages in a service: `from sdcluster import cluster` in an app and its agent."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from conftest import Start
from instance import Instance, wait_until
from web import connection, fetch, fetch_many

SERVER = """
import asyncio
import json
import os
import time
from urllib.parse import unquote

from sdcluster import cluster

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # In one piece.

heard = []

async def act(word):
    return heard

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    word = unquote(scope["query_string"].decode())
    try:
        result = await globals()[scope["path"].strip("/") or "act"](word)
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    body = json.dumps(result).encode() + b"\\n"
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

@cluster.on_message
def hear(message):
    heard.append(message)
    say("heard", cluster.worker.id, json.dumps(message))

async def ask(word):
    return await cluster.agent.request(word, timeout_s=5)
"""
"""An app that answers /FUNCTION?WORD with what its function returns, and says what it hears."""

AGENT = """
def agent():
    say("agent", os.getpid())

    @cluster.on_message
    def hear(worker, message):
        say("told", worker.id, worker.slot, json.dumps(message))

    @cluster.on_request
    async def answer(worker, message):
        if message == "die":
            os._exit(3)
        if message == "hang":
            await asyncio.sleep(3600)
        if message == "block":
            time.sleep(3600)
        if message == "raise":
            raise LookupError("no such user")
        if message == "ask back":
            return await worker.request(message)
        if message == "workers":
            return sorted([one.slot, one.pid, one.generation] for one in cluster.workers.values())
        if message == "tell all":
            return cluster.broadcast(message)
        return [os.getpid(), message]
"""
CONFIG = 'app = "app:app"\nagent = "app:agent"\nworkers = 2\nreload_probation_s = 0\n'


def get(instance: Instance, target: str) -> object:
    """Send one request and return what its answer says."""
    return json.loads(fetch(instance.address, target).body)


def heard(instance: Instance) -> list[tuple[int, object]]:
    """Return the messages that workers have heard, each with the worker's number."""
    found = re.findall(r"^heard (\d+) (.*)$", instance.log(), re.MULTILINE)
    return [(int(worker), json.loads(message)) for worker, message in found]


def agents(instance: Instance) -> list[int]:
    """Return the pids of all agents that there were, in order."""
    return [int(pid) for pid in re.findall(r"^agent (\d+)$", instance.log(), re.MULTILINE)]


def wait_agents(instance: Instance, count: int) -> list[int]:
    """Wait until so many agents have been started."""
    wait_until(lambda: len(agents(instance)) == count, f"agent number {count}")
    return agents(instance)


@pytest.mark.parametrize("preload", [True, False])
def test_worker_asks_the_agent(start: Start, preload: bool) -> None:
    """It is one process, which gets no connections, whatever worker asks."""
    config = CONFIG + f"preload = {str(preload).lower()}\n"
    instance = start(SERVER + AGENT, config=config)
    answers = [one.text for one in fetch_many(instance.address, 8, "/ask?hello")]
    (pid,) = agents(instance)
    assert answers == [json.dumps([pid, "hello"])] * 8
    assert pid not in instance.worker_pids()[1:]


def test_agent_asks_a_worker(start: Start) -> None:
    """The one that has asked it, say."""
    handler = """
@cluster.on_request
def reply(message):
    return os.getpid()
"""
    instance = start(SERVER + handler + AGENT, config=CONFIG)
    assert get(instance, "/ask?ask%20back") in instance.worker_pids()


def test_agent_knows_the_workers(start: Start) -> None:
    """Those that serve, also after a crash and a reload."""
    instance = start(SERVER + AGENT, config=CONFIG)

    def known() -> bool:
        own = [one for one in instance.status()["workers"] if one["slot"] >= 0]
        wanted = sorted([one["slot"], one["pid"], one["generation"]] for one in own)
        return len(wanted) == 2 and get(instance, "/ask?workers") == wanted

    wait_until(known, "both workers are known")
    os.kill(instance.worker_pids()[-1], signal.SIGKILL)
    wait_until(known, "the replacement is known")
    assert instance.reload().returncode == 0
    wait_until(known, "the new generation is known")


def test_agent_hears_that_workers_come_and_go(start: Start) -> None:
    """`online` and `disconnect`, once for each."""
    agent = """
def agent():
    cluster.on("online")(lambda worker: say("online", worker.id, worker.slot))
    cluster.on("disconnect")(lambda worker: say("gone", worker.id, worker.is_connected))
"""
    instance = start(SERVER + agent, config=CONFIG)
    instance.wait_log("online 2 0\n")
    instance.wait_log("online 3 1\n")
    os.kill(instance.worker_pids()[1], signal.SIGKILL)
    log = instance.wait_log("gone 2 False\n")
    assert log.count("\ngone ") == 1
    instance.wait_log("online 4 0\n")


def test_message_to_the_agent_names_its_worker(start: Start) -> None:
    """A handler of the agent's is given the worker, as in the master of a program."""
    source = SERVER + "\nasync def tell(word):\n    return cluster.agent.send(word)\n" + AGENT
    instance = start(source, config=CONFIG)
    assert get(instance, "/tell?hello") is True
    told = instance.wait_log('"hello"\n')
    assert re.search(r'^told (2 0|3 1) "hello"$', told, re.MULTILINE)


@pytest.mark.parametrize("preload", [True, False])
def test_handlers_of_the_app_are_not_the_agents(start: Start, preload: bool) -> None:
    """Also when the agent imports the app for itself, as it is in that module."""
    tell = """
async def tell(word):
    return cluster.agent.send(word)

cluster.on_request(lambda message: "a worker's")
"""
    agent = """
def agent():
    cluster.on_message(lambda worker, message: say("told", worker.id))
"""
    config = CONFIG + f"preload = {str(preload).lower()}\n"
    instance = start(SERVER + tell + agent, config=config)
    assert get(instance, "/tell?hello") is True
    log = instance.wait_log("told ")
    assert "heard " not in log and "a handler of 'message' failed" not in log
    assert "nobody answers requests there" in str(get(instance, "/ask?hello"))


@pytest.mark.parametrize("who", ["the agent", "a worker"])
def test_broadcast_reaches_every_worker(start: Start, who: str) -> None:
    """Whoever sends it, and the one that sends it as well."""
    source = SERVER + "\nasync def tell(word):\n    return cluster.broadcast(word)\n" + AGENT
    instance = start(source, config=CONFIG.replace("workers = 2", "workers = 3"))
    target = "/ask?tell%20all" if who == "the agent" else "/tell?tell%20all"
    assert get(instance, target) is True
    wait_until(lambda: len(heard(instance)) >= 3, "three workers hear it")
    assert sorted(heard(instance)) == [(worker, "tell all") for worker in (2, 3, 4)]


def test_workers_tell_each_other_without_an_agent(start: Start) -> None:
    """A broadcast needs none; what is for the agent is an error that says what to do."""
    source = SERVER + "\nasync def tell(word):\n    return cluster.broadcast(word)\n"
    instance = start(source, config=CONFIG.replace('agent = "app:agent"', ""))
    assert get(instance, "/tell?hello") is True
    wait_until(lambda: len(heard(instance)) == 2, "both workers hear it")
    assert str(get(instance, "/ask?hello")).startswith("ClusterError: the service has no agent;")


def test_job_is_done_once_every_period(start: Start) -> None:
    """By one agent, however many workers there are, and by the next one after a reload."""
    agent = """
def agent():
    @cluster.every(0.05)
    async def query():
        say("query", os.getpid())
        cluster.broadcast({"users": 25})
"""
    instance = start(SERVER + agent, config=CONFIG)
    wait_until(lambda: len(heard(instance)) >= 20, "both workers hear it ten times")
    queries = len(re.findall(r"^query \d+$", instance.log(), re.MULTILINE))
    assert 2 * queries >= len(heard(instance)) >= 20
    assert instance.reload().returncode == 0
    pids = re.findall(r"^query (\d+)$", instance.log(), re.MULTILINE)
    wait_until(
        lambda: pids[0] != re.findall(r"^query (\d+)$", instance.log(), re.MULTILINE)[-1],
        "the new agent does it",
    )
    done = re.findall(r"^query (\d+)$", instance.log(), re.MULTILINE)
    assert done == sorted(done, key=list(dict.fromkeys(done)).index), "both did it at a time"


def test_job_under_way_keeps_the_next_agent_waiting(start: Start) -> None:
    """Two agents never do it at a time, however long the old one still takes."""
    agent = """
def agent():
    say("agent", os.getpid())

    @cluster.every(0.01)
    async def work():
        say("begins", os.getpid())
        await asyncio.sleep(0.5)
        say("ends", os.getpid())
"""
    instance = start(SERVER + agent, config=CONFIG)
    for count in range(1, 4):
        instance.wait_log(f"begins {wait_agents(instance, count)[-1]}\n")
        assert instance.reload().returncode == 0
    lines = re.findall(r"^(begins|ends) (\d+)$", instance.log(), re.MULTILINE)
    for begun, ended in zip(lines[::2], lines[1::2], strict=False):
        assert (begun, ended) == (("begins", begun[1]), ("ends", begun[1]))


def test_job_that_takes_long_does_not_pile_up(start: Start) -> None:
    """A time that comes while the job still runs is left out."""
    agent = """
def agent():
    runs = []

    @cluster.every(0.01)
    async def work():
        runs.append(1)
        say("runs", len(runs))
        await asyncio.sleep(0.1)
        runs.pop()
"""
    instance = start(SERVER + agent, config=CONFIG)
    wait_until(lambda: instance.log().count("runs 1\n") >= 5, "the job runs five times")
    assert "runs 2\n" not in instance.log()


def test_agent_may_be_a_coroutine_function(start: Start) -> None:
    """It runs until the service ends, and then has time to clean up."""
    agent = """
async def agent():
    try:
        while True:
            cluster.broadcast("again")
            await asyncio.sleep(0.05)
    finally:
        await asyncio.sleep(0.01)
        say("cleaned up")
"""
    instance = start(SERVER + agent, config=CONFIG)
    wait_until(lambda: len(heard(instance)) >= 6, "it goes on")
    assert instance.stop() == 0
    assert "cleaned up\n" in instance.log()


def test_agent_that_crashes_is_replaced(start: Start) -> None:
    """Who waits for its answer is told at once, and the next request finds the next agent."""
    instance = start(SERVER + AGENT, config=CONFIG)
    told = get(instance, "/ask?die")
    assert told == "ClusterError: the agent ended before it answered"
    first, second = wait_agents(instance, 2)
    assert get(instance, "/ask?hello") == [second, "hello"] != [first, "hello"]
    log = instance.wait_log("(the agent) is gone (crash): exit status 3")
    assert "restarts" in log
    assert instance.status()["ready"] == 2


def test_request_waits_for_an_agent_that_is_restarted(start: Start) -> None:
    """It is answered by the next one: nothing is lost between the two."""
    instance = start(SERVER + AGENT, config=CONFIG)
    (first,) = agents(instance)
    gone = "(the agent) is gone (crash): SIGKILL"
    for number in range(2, 5):
        os.kill(agents(instance)[-1], signal.SIGKILL)
        # What the dead one had been asked is an error: it may have done that.
        wait_until(lambda: instance.log().count(gone) == number - 1, "its death")
        assert isinstance(get(instance, "/ask?hello"), list)
        wait_agents(instance, number)
    assert get(instance, "/ask?hello") != [first, "hello"]


def test_agent_that_does_not_answer_is_a_time_out(start: Start) -> None:
    """The worker gets an error, and the agent goes on."""
    source = SERVER + "\nasync def ask(word):\n    "
    source += "return await cluster.agent.request(word, timeout_s=0.2)\n" + AGENT
    instance = start(source, config=CONFIG)
    assert get(instance, "/ask?hang") == "TimeoutError: "
    assert get(instance, "/ask?hello") == [agents(instance)[0], "hello"]


def test_agent_whose_loop_is_blocked_is_replaced(start: Start) -> None:
    """Like a worker that hangs: its stacks are logged, and another one takes its place."""
    instance = start(SERVER + AGENT, config=CONFIG + "heartbeat_timeout_s = 1\n")
    assert get(instance, "/ask?block") == "ClusterError: the agent ended before it answered"
    assert get(instance, "/ask?hello") == [wait_agents(instance, 2)[1], "hello"]
    assert "time.sleep(3600)" in instance.log() or "in answer" in instance.log()


def test_error_of_the_agents_handler_reaches_who_asked(start: Start) -> None:
    """With its text; the traceback is in the log."""
    instance = start(SERVER + AGENT, config=CONFIG)
    assert get(instance, "/ask?raise") == "ClusterError: LookupError: no such user"
    assert "raise LookupError" in instance.wait_log("LookupError: no such user")


def test_agent_that_fails_at_the_start_fails_the_start(start: Start) -> None:
    """With the reason, and its traceback."""
    agent = "\ndef agent():\n    raise OSError('no database')\n"
    instance = start(SERVER + agent, config=CONFIG, wait=False)
    assert instance.wait() == 70
    log = instance.log()
    assert "cannot start: worker 1 did not become ready: app:agent failed: OSError: no" in log
    assert 'in agent\n    raise OSError("no database")' in log.replace("'", '"')
    assert "sdcluster/worker" not in log


@pytest.mark.parametrize("prefix", ["", "async "])
def test_agent_that_is_a_generator_is_told(start: Start, prefix: str) -> None:
    """It would be there, and do nothing."""
    agent = f"\n{prefix}def agent():\n    yield\n"
    instance = start(SERVER + agent, config=CONFIG, wait=False)
    assert instance.wait() == 70
    assert "app:agent is a generator, and none of it would run" in instance.log()


def test_agent_that_fails_later_is_replaced(start: Start) -> None:
    """A coroutine function that raises ends the agent, with its reason."""
    agent = """
async def agent():
    say("agent", os.getpid())
    await asyncio.sleep(0)
    if os.path.exists("twice"):
        await asyncio.sleep(3600)
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    open("twice", "w").close()
    raise OSError("no database")
"""
    instance = start(SERVER + agent, config=CONFIG)
    Path(instance._log.parent, "go").touch()
    log = instance.wait_log("(the agent) is gone (crash)")
    assert "(the agent) is gone (crash): app:agent failed: OSError: no database" in log
    wait_agents(instance, 2)


@pytest.mark.parametrize(
    ("agent", "reason"),
    [
        ("app:nothing", "has no attribute 'nothing'"),
        ("jobs:agent", "there is no module 'jobs'"),
        ("app:heard", "app:heard: a list is no agent; name a function"),
    ],
)
def test_agent_that_is_not_there_is_told(start: Start, agent: str, reason: str) -> None:
    """Before anything is served."""
    config = CONFIG.replace("app:agent", agent)
    instance = start(SERVER, config=config, wait=False)
    assert instance.wait() == 70
    assert reason in instance.log()


def test_reload_replaces_the_agent(start: Start) -> None:
    """With its code, before the workers."""
    instance = start(SERVER + AGENT, config=CONFIG)
    changed = (SERVER + AGENT).replace("[os.getpid(), message]", '["new", message]')
    Path(instance._log.parent, "app.py").write_text(changed)
    reload = instance.reload()
    assert reload.returncode == 0
    lines = [line for line in reload.stdout.splitlines() if line.startswith("replaced: ")]
    assert lines[0].startswith("replaced: the agent: worker 4 ")
    assert lines[0].endswith("serves (1/3)")
    assert get(instance, "/ask?hello") == ["new", "hello"]


def test_reload_to_an_agent_that_fails_changes_nothing(start: Start) -> None:
    """The old agent and the old workers go on."""
    instance = start(SERVER + AGENT, config=CONFIG)
    pids = instance.worker_pids()
    broken = SERVER + "\ndef agent():\n    raise OSError('no database')\n"
    Path(instance._log.parent, "app.py").write_text(broken)
    reload = instance.reload()
    assert reload.returncode == 69
    assert "app:agent failed: OSError: no database" in reload.stderr
    assert instance.worker_pids() == pids
    assert get(instance, "/ask?hello") == [agents(instance)[0], "hello"]


def test_reload_adds_and_drops_the_agent(start: Start) -> None:
    """As the config says."""
    instance = start(SERVER + AGENT, config=CONFIG.replace('agent = "app:agent"', ""))
    assert agents(instance) == []
    config = Path(instance._log.parent, "test0.toml")
    config.write_text(CONFIG)
    assert instance.reload().returncode == 0
    assert get(instance, "/ask?hello") == [agents(instance)[0], "hello"]
    config.write_text(CONFIG.replace('agent = "app:agent"', ""))
    assert instance.reload().returncode == 0
    instance.wait_status(lambda one: all(worker["slot"] >= 0 for worker in one["workers"]))
    assert str(get(instance, "/ask?hello")).startswith("ClusterError: the service has no agent")


def test_requests_to_the_agent_survive_reloads(start: Start) -> None:
    """Nothing that is asked while the agent is replaced goes without its answer."""
    instance = start(SERVER + AGENT, config=CONFIG)
    with instance.under_load(close=False, path="ask?hello") as result:
        for _ in range(3):
            assert instance.reload().returncode == 0
    assert result.lost == 0, result
    answers = [one.text for one in fetch_many(instance.address, 4, "/ask?hello")]
    assert answers == [json.dumps([agents(instance)[-1], "hello"])] * 4


def test_agent_takes_what_it_was_sent_before_it_ends(start: Start) -> None:
    """However much that is, and it answers: the next agent knows nothing of it."""
    source = """
async def tell(word):
    for number in range(300):
        cluster.agent.send([number, "x" * 10_000])
    say("sent")
    return len(await cluster.agent.request("y" * 900_000, timeout_s=15))

async def block(word):
    return cluster.agent.send("block")

def agent():
    say("agent", os.getpid())

    @cluster.on_message
    def hear(worker, message):
        while message == "block" and not os.path.exists("go"):
            time.sleep(0.01)
        say("told", os.getpid(), message[0])

    cluster.on_request(lambda worker, message: message)
"""
    instance = start(SERVER + source, config=CONFIG)
    (old,) = agents(instance)
    assert get(instance, "/block") is True
    with connection(instance.address) as client:
        client.request("GET", "/tell")
        instance.wait_log("sent\n")
        reload = instance.begin_reload()
        wait_agents(instance, 2)
        instance.wait_log(") is retired: reload")
        Path(instance._log.parent, "go").touch()
        assert json.loads(client.getresponse().read()) == 900_000
    assert reload.wait() == 0
    told = re.findall(r"^told (\d+) (\d+)$", instance.log(), re.MULTILINE)
    assert sorted(int(number) for _, number in told) == list(range(300))
    assert told[0][0] == str(old)


def test_worker_sends_what_it_has_said_before_it_ends(start: Start) -> None:
    """What it says as the very last thing, too."""
    source = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        cluster.agent.send("x" * 1_000_000)
        cluster.agent.send("bye")
        await send({"type": "lifespan.shutdown.complete"})
"""
    agent = """
def agent():
    cluster.on_message(lambda worker, message: say("told", worker.id, message[-3:]))
"""
    instance = start(SERVER + source + agent, config=CONFIG)
    assert instance.stop() == 0
    told = re.findall(r"^told \d (\w+)$", instance.log(), re.MULTILINE)
    assert sorted(told) == ["bye", "bye", "xxx", "xxx"]


def test_agent_is_there_until_the_last_worker_has_left(start: Start) -> None:
    """A request that drains may still ask it."""
    source = (
        SERVER
        + """
async def slow(word):
    say("slow")
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    return await ask(word)
"""
    )
    instance = start(source + AGENT, config=CONFIG)
    with connection(instance.address) as client:
        client.request("GET", "/slow?hello")
        instance.wait_log("slow\n")
        instance.signal(signal.SIGTERM)
        instance.wait_log("stopping: the workers drain")
        Path(instance._log.parent, "go").touch()
        assert json.loads(client.getresponse().read()) == [agents(instance)[0], "hello"]
    assert instance.wait() == 0


def test_agent_is_shown_in_the_status(start: Start) -> None:
    """As what it is, and not among the workers that are counted."""
    instance = start(SERVER + AGENT, config=CONFIG)
    status = instance.status()
    assert status["ready"] == status["wanted"] == 2
    assert [one["slot"] for one in status["workers"]] == [-1, 0, 1]
    assert "2/2 workers ready" in status["status"]


def test_agent_that_is_told_to_stop_is_replaced_first(start: Start) -> None:
    """SIGTERM from somebody else: it answers until the next one does."""
    instance = start(SERVER + AGENT, config=CONFIG)
    with instance.under_load(close=False, path="ask?hello") as result:
        os.kill(agents(instance)[0], signal.SIGTERM)
        wait_agents(instance, 2)
        instance.wait_log("worker 1 (the agent) is gone (recycle)")
    assert result.lost == 0, result


def test_master_that_is_killed_takes_the_agent_along(start: Start) -> None:
    """It ends by itself: nobody asks it any more."""
    instance = start(SERVER + AGENT, config=CONFIG)
    instance.signal(signal.SIGKILL)
    instance.wait()
    wait_until(lambda: not instance.processes(), "the end of all processes")


def test_connection_goes_to_the_agent_and_back(start: Start) -> None:
    """Who holds one of its ends speaks to who has got the other, wherever that is."""
    source = """
async def lend(word):
    ours, theirs = socket.socketpair()
    cluster.agent.send(word, theirs)
    theirs.close()
    ours.setblocking(False)
    return (await asyncio.get_running_loop().sock_recv(ours, 100)).decode()

def lent(message, connection):
    connection.sendall(b"hello from a worker")
    connection.close()

cluster.on_message(lent)

def agent():
    @cluster.on_message
    def take(worker, message, connection):
        worker.send(message, connection)
        connection.close()
"""
    instance = start(
        "import socket\n" + SERVER.split("@cluster.on_message")[0] + source, config=CONFIG
    )
    descriptors = Path(f"/proc/{instance.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        assert get(instance, "/lend?it") == "hello from a worker"
    # The master may close its copy when the answer is there already.
    wait_until(lambda: len(list(descriptors.iterdir())) == before, "the master has none left")


WSGI = """
import os
from urllib.parse import unquote

from sdcluster import cluster

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    word = unquote(environ["QUERY_STRING"])
    return [str(cluster.agent.ask(word)).encode()]

def agent():
    cluster.on_request(lambda worker, message: f"{message} from {os.getpid()}")
"""


def test_wsgi_app_asks_the_agent_from_its_threads(start: Start) -> None:
    """`ask` waits where there is no event loop."""
    instance = start(WSGI, config=CONFIG)
    answers = {one.text for one in fetch_many(instance.address, 16, "/?hello")}
    (answer,) = answers
    assert answer.startswith("hello from ")


def test_mistakes_are_named(start: Start) -> None:
    """What is for the master, or for others, is an error that says so."""
    source = (
        SERVER
        + """
async def act(word):
    result = eval(word)
    return await result if asyncio.iscoroutine(result) else str(result)
"""
        + AGENT
    )
    instance = start(source, config=CONFIG)
    for mistake, error in {
        "cluster.fork()": "ClusterError: fork is for the master, and this is worker ",
        "cluster.run()": "ClusterError: run is for the master, and this is worker ",
        "cluster.every(1)(print)": "ClusterError: every is for the master, and this is worker ",
        "cluster.listen(8000)": "ClusterError: the service listens for its workers",
        "cluster.aserve(None, 8000)": "ClusterError: the service serves for its workers",
        "cluster.on('fork')": "ValueError: there is no event 'fork'; known are message",
        "cluster.agent.send({1, 2})": "ClusterError: a message has to be JSON",
        "cluster.agent.send('x' * 2_000_000)": "ClusterError: cannot send to the master: a mess",
        "cluster.agent.ask(1)": "ClusterError: ask waits, and would hold the event loop up",
        "cluster.agent.request({1, 2})": "ClusterError: a message has to be JSON",
    }.items():
        told = get(instance, f"/act?{mistake.replace(' ', '%20')}")
        assert str(told).startswith(error), (mistake, told)
    assert get(instance, "/act?cluster.is_worker,cluster.is_master,cluster.is_agent") == (
        "(True, False, False)"
    )


def test_worker_that_does_not_read_holds_nobody_up(start: Start) -> None:
    """The master keeps little for it, the others hear all, and the journal says what is dropped."""
    source = """
import asyncio
import os
import time

from sdcluster import cluster

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError
    say("blocked", cluster.worker.id)
    while not os.path.exists("unblock"):
        time.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})

@cluster.on_message
def hear(message):
    if message[0] in (0, 1999, "last"):
        say("heard", cluster.worker.id, message[0])

async def agent():
    while len(cluster.workers) < 2 or not os.path.exists("go"):
        await asyncio.sleep(0.01)
    first = cluster.broadcast([0])
    for number in range(1, 2_000):
        cluster.broadcast([number, "x" * 10_000])
        await asyncio.sleep(0)
    say("has room", first, cluster.broadcast([1999]))
    await next(iter(cluster.workers.values())).drain()
    say("has room again", cluster.broadcast(["last"]))
"""
    instance = start(source, config=CONFIG + "heartbeat_timeout_s = 0\n")
    folder = Path(instance._log.parent)
    with connection(instance.address) as client:
        client.request("GET", "/")
        stuck = re.findall(r"^blocked (\d)$", instance.wait_log("blocked "), re.MULTILINE)[0]
        free = "2" if stuck == "3" else "3"
        (folder / "go").touch()
        log = instance.wait_log(f"heard {free} 1999\n")
        assert f"heard {stuck} 1999\n" not in log
        instance.wait_log("has room True False\n")
        instance.wait_log(f"worker {stuck} does not read its messages: some are dropped")
        status = Path(f"/proc/{instance.pid}/status").read_text()
        assert int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) < 60_000
        assert "has room again" not in instance.log()
        (folder / "unblock").touch()
        client.getresponse().read()
    instance.wait_log("has room again True\n")
    instance.wait_log(f"heard {stuck} last\n")


@pytest.mark.parametrize("who", ["worker 2", "the agent"])
def test_child_of_a_process_has_no_messages(start: Start, who: str) -> None:
    """It has the channel as well, and would write into what the process itself writes there."""
    source = """
def fork(word):
    pid = os.fork()
    if pid == 0:
        for everywhere in (False, True):
            try:
                cluster.broadcast(word, everywhere=everywhere)
            except BaseException as error:
                say("child:", error)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

async def tell(word):
    return fork(word)

def agent():
    cluster.on_request(lambda worker, message: fork(message))
"""
    config = CONFIG.replace("workers = 2", "workers = 1")
    instance = start(SERVER + source, config=config, env={"SDCLUSTER_CACHE": "redis://127.0.0.1:1"})
    assert get(instance, "/ask?hello" if who == "the agent" else "/tell?hello") == 0
    error = f"child: this process is not {who}, but was forked by it\n"
    assert instance.log().count(error) == 2
    assert heard(instance) == []


UNREADABLE = """
import socket
from sdcluster.wire.messages import ALL, MASTER, Frame, Kind, encode

cluster.on_request(lambda message: "pong")

def write(kind, peer, fds=()):
    data = encode(Frame(kind, b"nonsense", peer, 77, len(fds)))
    socket.send_fds(cluster.worker._messenger._sock, [data], fds)

async def deep(word):
    body = b"[" * 200_000 + b"]" * 200_000
    for kind, peer in ((Kind.MESSAGE, MASTER), (Kind.MESSAGE, ALL), (Kind.REQUEST, MASTER)):
        cluster.worker._send(Frame(kind, body, peer, 77))

async def garbage(word):
    for kind, peer in ((Kind.MESSAGE, MASTER), (Kind.MESSAGE, ALL), (Kind.REQUEST, MASTER)):
        write(kind, peer)

async def files(word):
    with open("/dev/null") as file:
        for peer in (MASTER, ALL):
            write(Kind.MESSAGE, peer, [file.fileno()])
            write(Kind.MESSAGE, peer, [file.fileno()] * 2)

async def tell(word):
    return cluster.broadcast(word)
"""
"""Workers that send what nobody can read."""


@pytest.mark.parametrize("what", ["deep", "garbage"])
def test_message_that_cannot_be_read_is_dropped(start: Start, what: str) -> None:
    """Whoever it is for goes on, as the master does, which reads none of them."""
    instance = start(SERVER + UNREADABLE + AGENT, config=CONFIG)
    pids = instance.processes()
    assert get(instance, f"/{what}") is None
    assert get(instance, "/ask?hello") == [agents(instance)[0], "hello"]
    assert get(instance, "/tell?hello") is True
    wait_until(lambda: len(heard(instance)) == 2, "both workers hear what comes later")
    assert instance.log().count("a message is dropped: ") >= 3
    assert instance.processes() == pids


def test_worker_whose_messages_have_files_is_replaced(start: Start) -> None:
    """Only a connection can go with a message; nobody else gets anything of that."""
    instance = start(SERVER + UNREADABLE + AGENT, config=CONFIG)
    (agent,) = agents(instance)
    before = instance.worker_pids()
    assert get(instance, "/files") is None
    instance.wait_log("broke the protocol: a message with what is not one connection")
    wait_until(lambda: len(set(before) - set(instance.worker_pids())) == 1, "it is replaced")
    assert get(instance, "/ask?hello") == [agent, "hello"]
    assert get(instance, "/tell?hello") is True
    wait_until(lambda: len(heard(instance)) == 2, "both workers hear what comes later")
    assert instance.log().count("broke the protocol") == 1
