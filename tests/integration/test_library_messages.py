"""Messages and requests between a program's master and its workers; and mistakes of programs."""

import os
import signal

import pytest
from conftest import Play
from instance import wait_until
from processes import is_stopped, memory_mb
from program import Program

MASTER = """
if cluster.is_master:
    def attempt(what):
        try:
            say("result", what())
        except (ClusterError, ValueError, TimeoutError) as error:
            say(type(error).__name__, error)

    async def attempt_async(what):
        try:
            say("result", await what)
        except (ClusterError, ValueError, TimeoutError) as error:
            say(type(error).__name__, error)

    narrate()
"""


def played(play: Play, master: str, worker: str, forks: int = 1) -> Program:
    """Start a program of a master's and a worker's source, which are indented as in a function."""
    fork = "    cluster.fork()\n" * forks
    return play(f"{MASTER}{master}\n{fork}    cluster.run()\nelse:\n{worker}")


ECHO = """
    async def main():
        left = asyncio.Event()

        @cluster.on("message")
        async def echo(message):
            await asyncio.sleep(0)
            cluster.worker.send(message)

        await left.wait()

    asyncio.run(main())
"""
"""A worker that sends every message back."""


def test_messages_go_both_ways(play: Play) -> None:
    """From the fork on, whatever JSON has, in order."""
    program = played(
        play,
        """
    values = [None, True, 1.5, "\\u00e4\\U0001f600", [], {"a": [1, {"b": None}]}, 2**64]

    @cluster.on("fork")
    def send(worker):
        for value in values:
            assert worker.send(value)

    got = []

    @cluster.on("message")
    def receive(worker, message):
        got.append(message)
        if len(got) == len(values):
            say("same", got == values)
            worker.disconnect()
""",
        ECHO,
    )
    assert program.wait() == 0
    assert program.lines("same") == ["True"]


def test_message_of_800_kb_arrives(play: Play) -> None:
    """And comes back."""
    program = played(
        play,
        """
    big = "x" * 800_000
    cluster.on("online")(lambda worker: worker.send(big))

    @cluster.on("message")
    def receive(worker, message):
        say("same", message == big)
        worker.disconnect()
""",
        ECHO,
    )
    assert program.wait() == 0
    assert program.lines("same") == ["True"]


def test_message_that_is_sent_before_there_is_a_handler_waits(play: Play) -> None:
    """Handlers that have no event loop run in a thread of the worker's."""
    program = played(
        play,
        """
    cluster.on("fork")(lambda worker: (worker.send("first"), worker.send("second")))
    cluster.on("message")(lambda worker, message: worker.send("third"))
""",
        """
    import threading
    done = threading.Event()
    time.sleep(0.2)

    @cluster.on("message")
    def got(message):
        say("got", message)
        if message == "third":
            done.set()

    cluster.worker.send("ready")
    done.wait()
""",
    )
    assert program.wait() == 0
    assert program.lines("got") == ["first", "second", "third"]


def test_last_words_of_a_worker_are_heard(play: Play) -> None:
    """All that it has sent before it ended comes before its exit."""
    program = played(
        play,
        """
    cluster.on("message")(lambda worker, message: say("got", message))
    cluster.on("exit")(lambda worker, code, signal: say("got", "exit", code))
""",
        """
    for number in range(50):
        cluster.worker.send(number)
    os._exit(3)
""",
    )
    assert program.wait() == 0
    assert program.lines("got") == [*map(str, range(50)), "exit 3"]


def test_messages_that_cannot_be_sent_are_errors(play: Play) -> None:
    """For the caller alone, on both sides; each says what is wrong."""
    tries = """
    attempt(lambda: {end}.send(object()))
    attempt(lambda: {end}.send("x" * 2_000_000))
    attempt(lambda: {end}.send("\\ud800"))
    nested = []
    for _ in range(100_000):
        nested = [nested]
    attempt(lambda: {end}.send(nested))
"""
    attempt = MASTER.split("\n    async def")[0].replace("if cluster.is_master:", "")
    program = played(
        play,
        """
    @cluster.on("exit")
    def ended(worker, code, signal):
        attempt(lambda: worker.send("late"))
    worker = cluster.fork()
"""
        + tries.format(end="worker"),
        attempt + tries.format(end="cluster.worker"),
        forks=0,
    )
    assert program.wait() == 0
    errors = sorted(program.lines("ClusterError"))
    assert errors[0] == "a message has to be JSON: 'utf-8' codec can't encode character " + (
        r"'\ud800' in position 1: surrogates not allowed"
    )
    counts = [
        ("Object of type object is not JSON serializable", 2),
        ("surrogates", 2),
        ("recursion", 2),
        ("1048576 are the most", 2),
        ("cannot send to worker 1: the other end is gone", 1),
    ]
    for text, count in counts:
        assert sum(text in one for one in errors) == count, (text, errors)
    assert len(errors) == 9
    assert program.lines("result") == []


def test_worker_that_does_not_read_holds_nobody_up(play: Play) -> None:
    """First `send` says that it is slow, then it is an error; the others get theirs."""
    program = played(
        play,
        """
    @cluster.on("message")
    async def fill(worker, message):
        if message == "stopped":
            worker.kill(signal.SIGSTOP)
            while open(f"/proc/{worker.pid}/stat").read().split()[2] != "T":
                await asyncio.sleep(0.01)
            counts = {True: 0, False: 0}
            try:
                while sum(counts.values()) < 1000:
                    counts[worker.send("x" * 50_000)] += 1
            except ClusterError as error:
                say("ClusterError", error)
            say("counts", counts[True] > 0, counts[False] > 0)
            say("all", cluster.workers[2].send("hello"))
        else:
            say("got", worker.id, message)
""",
        """
    if cluster.worker.id == 1:
        cluster.worker.send("stopped")
        time.sleep(60)
"""
        + ECHO,
        forks=2,
    )
    wait_until(lambda: program.lines("got"), "the other's message")
    assert program.lines("got") == ["2 hello"]
    assert program.lines("counts") == ["True True"]
    assert program.lines("all") == ["True"]
    (error,) = program.lines("ClusterError")
    assert error.startswith("cannot send to worker 1: ")
    assert memory_mb(program.pid) < 100
    (stopped,) = [pid for pid in program.processes() if is_stopped(pid)]
    os.kill(stopped, signal.SIGKILL)
    assert program.wait_event("exit", 1) == "None SIGKILL"
    assert program.stop() == 0


def test_worker_without_handlers_keeps_few_messages(play: Play) -> None:
    """It has the last of them when it begins to listen."""
    program = played(
        play,
        """
    @cluster.on("message")
    def flood(worker, message):
        for number in range(3000):
            worker.send(number)
        worker.send("end")
""",
        """
    cluster.worker.send("go")
    time.sleep(0.5)
    got = []

    @cluster.on("message")
    def take(message):
        got.append(message)
        if message == "end":
            say("got", len(got) <= 3001, got[-2])
            cluster.worker.disconnect()

    time.sleep(60)
""",
    )
    assert program.wait() == 0
    assert program.lines("got") == ["True 2999"]


def test_drain_waits_until_messages_are_read(play: Play) -> None:
    """On both sides; and it ends when the other one is gone."""
    pour = """
    async def pour(end):
        for _ in range(200):
            if not end.send("x" * 50_000):
                await end.drain()
                assert end.send("")
        say("poured")
"""
    program = played(
        play,
        pour
        + """
    sizes = []

    @cluster.on("message")
    async def turn(worker, message):
        sizes.append(len(message))
        if message == "end":
            say("got", sum(sizes) > 200 * 50_000)
            await pour(worker)
            worker.kill(signal.SIGSTOP)
            while worker.send("x" * 50_000):
                pass
            asyncio.get_running_loop().call_later(0.1, worker.kill, signal.SIGKILL)
            await worker.drain()
            say("gone")
""",
        pour
        + """
    async def main():
        cluster.on("message")(lambda message: None)
        await pour(cluster.worker)
        cluster.worker.send("end")
        await asyncio.Event().wait()

    asyncio.run(main())
""",
    )
    assert program.wait() == 0
    assert program.lines("poured") == ["", ""]
    assert program.lines("got") == ["True"]
    assert program.lines("gone") == [""]


def test_broadcast_reaches_every_worker(play: Play) -> None:
    """And only them."""
    program = played(
        play,
        """
    ready = []

    @cluster.on("message")
    def count(worker, message):
        say("got", worker.id, message)
        ready.append(worker)
        if len(ready) == 3:
            say("sent", cluster.broadcast("all"))
        if len(ready) == 6:
            cluster.disconnect()
""",
        ECHO.replace("        await left", '        cluster.worker.send("up")\n        await left'),
        forks=3,
    )
    assert program.wait() == 0
    assert sorted(program.lines("got")) == ["1 all", "1 up", "2 all", "2 up", "3 all", "3 up"]
    assert program.lines("sent") == ["True"]


def test_broadcast_reaches_the_others_when_one_does_not_read(play: Play) -> None:
    """That one is the first, and as much waits for it as may; the caller is told of it."""
    program = played(
        play,
        """
    first, second = cluster.fork(), cluster.fork()
    online, failed, sent = [], [], []

    @cluster.on("online")
    def begin(worker):
        online.append(worker)
        if len(online) == 2:
            first.kill(signal.SIGSTOP)
            send()

    def send():
        sent.append(1)
        try:
            cluster.broadcast("x" * 1_000_000)
        except ClusterError as error:
            failed.append(error)
        second.send("count")

    @second.on("message")
    def count(number):
        if len(failed) < 3:
            send()
        else:
            say("failed", failed[-1])
            say("missed", len(sent) - number)
            first.kill(signal.SIGKILL)
            second.kill()
""",
        """
    import time
    count = 0

    @cluster.on_message
    def hear(message):
        global count
        if message == "count":
            cluster.worker.send(count)
        else:
            count += 1

    time.sleep(60)
""",
        forks=0,
    )
    program.wait()
    (failed,) = program.lines("failed")
    assert failed.startswith("cannot send to worker 1")
    assert program.lines("missed") == ["0"]


ASK_ALL = """
    import logging
    logging.basicConfig(level=logging.CRITICAL)

    async def show(end, *message, **options):
        try:
            say("answer", await end.request(*message, **options))
        except (ClusterError, TimeoutError) as error:
            say("answer", type(error).__name__, error)

    async def ask_all(end):
        await show(end, "echo")
        await show(end, "raise")
        await show(end, "object")
        await show(end, "big")
        await show(end, "never", timeout_s=0.1)
        many = await asyncio.gather(*(end.request(one) for one in range(100)))
        say("answer", many == [*range(100)])

    async def reply(*arguments):
        *who, message = arguments
        if message == "raise":
            raise ValueError("not that")
        if message == "object":
            return object()
        if message == "big":
            return "x" * 2_000_000
        if message == "never":
            await asyncio.sleep(60)
        if isinstance(message, int):
            await asyncio.sleep((message * 7 % 10) / 1000)
            return message
        return [message, *(one.id for one in who)]
"""

ANSWERS = [
    "ClusterError ValueError: not that",
    "ClusterError a message has to be JSON: Object of type object is not JSON serializable",
    "TimeoutError ",
    "True",
]


def assert_answers(program: Program, *, echo: str) -> None:
    """Check that it ended well, and what its requests came to; `echo` is the first one's answer."""
    assert program.wait() == 0
    answers = program.lines("answer")
    assert answers[0] == echo
    assert "1048576 are the most" in answers[3]
    assert [*answers[1:3], *answers[4:]] == ANSWERS


def test_worker_asks_the_master(play: Play) -> None:
    """Each request gets its own answer, or says why there is none."""
    program = played(
        play,
        ASK_ALL + "\n    cluster.on_request(reply)",
        ASK_ALL + "\n    asyncio.run(ask_all(cluster.worker))",
    )
    assert_answers(program, echo="['echo', 1]")


def test_master_asks_a_worker(play: Play) -> None:
    """The same in the other direction, with a handler on the worker's own loop."""
    program = played(
        play,
        ASK_ALL
        + """
    @cluster.on("message")
    async def ask(worker, message):
        await ask_all(worker)
        worker.disconnect()
""",
        ASK_ALL
        + """
    async def main():
        cluster.on_request(reply)
        cluster.worker.send("ready")
        await asyncio.Event().wait()

    asyncio.run(main())
""",
    )
    assert_answers(program, echo="['echo']")


def test_request_without_a_handler_fails_at_once(play: Play) -> None:
    """On both sides; and one to a worker that dies fails when it does."""
    program = played(
        play,
        ASK_ALL
        + """
    @cluster.on("message")
    async def ask(worker, message):
        if message == "ready":
            await show(worker, "nobody")
            worker.send("answer now")
        else:
            await show(worker, "die")
            await show(worker, "late")
""",
        ASK_ALL
        + """
    asyncio.run(show(cluster.worker, "nobody"))
    cluster.worker.send("ready")

    @cluster.on("message")
    def begin(message):
        cluster.on_request(lambda message: os._exit(9))
        cluster.worker.send("set")

    time.sleep(60)
""",
    )
    assert program.wait() == 0
    nobody = (
        "ClusterError nobody answers requests there; the program has to call cluster.on_request"
    )
    assert program.lines("answer")[:2] == [nobody, nobody]
    assert program.lines("answer")[2] == "ClusterError worker 1 is gone"
    assert program.lines("answer")[3].startswith("ClusterError cannot send to worker 1: ")


def test_request_of_a_worker_whose_master_dies_fails(play: Play) -> None:
    """It does not wait for the time-out."""
    program = played(
        play,
        """
    @cluster.on_request
    def die(worker, message):
        os.kill(os.getpid(), signal.SIGKILL)
""",
        ASK_ALL + '\n    asyncio.run(show(cluster.worker, "die"))',
    )
    program.wait()
    wait_until(lambda: program.lines("answer"), "an answer")
    assert program.lines("answer") == ["ClusterError the master is gone"]


def test_mistakes_are_named(play: Play) -> None:
    """Each is an error with a text that says what is wrong; nothing else happens."""
    program = played(
        play,
        """
    attempt(lambda: cluster.listen(0))
    attempt(lambda: cluster.on("exot"))
    attempt(lambda: cluster.setup_master(scheduling="random"))
    attempt(lambda: cluster.worker)
    cluster.on("online")(lambda worker: attempt(cluster.run))
    import threading
    thread = threading.Thread(target=attempt, args=[cluster.run])
    thread.start()
    thread.join()
    cluster.fork()
    attempt(lambda: cluster.setup_master(scheduling="shared"))
    cluster.run()
    attempt(cluster.fork)
    attempt(cluster.run)
    os._exit(0)
""",
        MASTER.replace("if cluster.is_master:", "").replace("    narrate()", "")
        + """
    attempt(cluster.fork)
    attempt(cluster.run)
    attempt(lambda: cluster.workers)
    attempt(lambda: cluster.on("online"))
    attempt(lambda: cluster.listen("nonsense"))
    attempt(lambda: cluster.listen(70000))
    attempt(lambda: cluster.listen(("example.org", 80)))
    attempt(lambda: cluster.listen("/"))
""",
        forks=0,
    )
    assert program.wait() == 0
    errors = program.lines("ClusterError")
    assert errors == [
        "listen is for workers; the master accepts on their behalf",
        "there is no scheduling 'random'; known are round-robin and shared",
        "run is for the main thread, which hears the signals",
        "the scheduling is set before the first fork, and stays",
        *["run was called before"] * errors.count("run was called before"),
        "fork is for the master, and this is worker 1",
        "run is for the master, and this is worker 1",
        "workers is for the master, and this is worker 1",
        "the cluster has ended: run has returned",
        "the cluster has ended: run has returned",
    ]
    assert errors.count("run was called before") == 1
    values = program.lines("ValueError")
    assert values[0].startswith("there is no event 'exot'; known are setup, fork, online")
    assert values[1] == "there is no event 'online'; known are message, disconnect"
    assert values[2].startswith("'nonsense' is not an address")
    assert len(values) == 6
    assert program.lines("result") == ["None"]


def test_program_that_is_no_file_is_told(play: Play) -> None:
    """Workers could not run it."""
    code = "from sdcluster import cluster; cluster.fork()"
    program = play("", command=["-c", code])
    assert program.wait() == 1
    assert "this program is no file that workers could run; name one" in program.log()


@pytest.mark.parametrize("garbage", ["b'x' * 100", "bytes([1, 0, 0, 0, 1] + [0] * 11) + b'{'"])
def test_garbage_on_the_channel_ends_its_worker_alone(play: Play, garbage: str) -> None:
    """It is told, and the others go on."""
    program = played(
        play,
        "    cluster.on('message')(lambda worker, message: say('got', worker.id, message))",
        f"""
    if cluster.worker.id == 1:
        cluster.worker._channel.send({garbage})
    elif cluster.worker.id == 2:
        while not os.path.exists("go"):
            time.sleep(0.01)
        cluster.worker.send("alive")
    time.sleep(60)
""",
        forks=2,
    )
    assert program.wait_event("exit", 1) == "None SIGKILL"
    program.wait_log("sdcluster: worker 1 broke the protocol: ")
    (program.folder / "go").touch()
    wait_until(lambda: program.lines("got"), "the other's message")
    assert program.lines("got") == ["2 alive"]
    assert program.stop() == 0


# The loop that reads.


TALK = """
    heard = []

    @cluster.on("message")
    def hear(worker, message):
        heard.append(message)
        say("heard", message)
        worker.send(len(heard))

    @cluster.on_request
    def answer(worker, message):
        return message
"""


def test_messages_come_after_the_loop_has_ended(play: Play) -> None:
    """Those of the next loop are heard there, and between the two in our thread."""
    program = played(
        play,
        TALK,
        """
    import threading

    came = threading.Event()

    async def main(name):
        changed = asyncio.Event()

        @cluster.on("message")
        def hear(message):
            changed.set()
            came.set()

        for number in range(3):
            changed.clear()
            cluster.worker.send([name, number])
            await asyncio.wait_for(changed.wait(), 10)

    asyncio.run(main("one"))
    came.clear()
    cluster.worker.send(["between", 0])
    assert came.wait(10)
    assert cluster.worker.ask("in a thread") == "in a thread"
    asyncio.run(main("two"))
    cluster.worker.disconnect()
    time.sleep(60)
""",
    )
    assert program.wait() == 0
    expected = [*(f"['one', {number}]" for number in range(3)), "['between', 0]"]
    assert program.lines("heard")[:4] == expected
    assert program.lines("heard")[4:] == [f"['two', {number}]" for number in range(3)]


def test_thread_is_answered_while_the_loop_waits_for_it(play: Play) -> None:
    """And so is the loop itself, when it waits without turning."""
    program = played(
        play,
        TALK,
        """
    import threading

    async def main():
        heard = asyncio.Event()
        cluster.on("message")(lambda message: heard.set())
        cluster.worker.send("begin")
        await heard.wait()
        listener = cluster.listen(("127.0.0.1", 0))
        assert cluster.worker.ask("by the loop") == "by the loop"
        assert await cluster.worker.request("in the loop") == "in the loop"
        thread = threading.Thread(
            target=lambda: cluster.worker.send(cluster.worker.ask("by a thread"))
        )
        thread.start()
        thread.join()
        heard.clear()
        cluster.worker.send("end")
        await heard.wait()
        cluster.worker.disconnect()
        await asyncio.sleep(60)

    asyncio.run(main())
""",
    )
    assert program.wait() == 0
    assert program.lines("heard") == ["begin", "by a thread", "end"]


def test_loop_of_another_thread_is_answered(play: Play) -> None:
    """While the one that has read before is held up."""
    program = played(
        play,
        TALK,
        """
    import threading

    async def ask():
        cluster.worker.send(await cluster.worker.request("by another loop"))

    async def main():
        cluster.on("message")(print)
        thread = threading.Thread(target=asyncio.run, args=(ask(),))
        thread.start()
        thread.join()
        cluster.worker.disconnect()
        await asyncio.sleep(60)

    asyncio.run(main())
""",
    )
    assert program.wait() == 0
    assert program.lines("heard") == ["by another loop"]


def test_requests_in_numbers_are_answered_in_both_directions(play: Play) -> None:
    """Each with its own answer, whoever asks."""
    program = played(
        play,
        """
    @cluster.on_request
    def answer(worker, message):
        return message

    @cluster.on("message")
    async def ask(worker, message):
        numbers = list(range(500))
        answers = await asyncio.gather(*(worker.request(number) for number in numbers))
        say("same", answers == numbers)
        worker.disconnect()
""",
        """
    async def main():
        @cluster.on_request
        async def answer(message):
            await asyncio.sleep(0)
            return message

        numbers = list(range(500))
        answers = await asyncio.gather(*(cluster.worker.request(one) for one in numbers))
        cluster.worker.send(answers == numbers)
        await asyncio.sleep(60)

    asyncio.run(main())
""",
    )
    assert program.wait() == 0
    assert program.lines("same") == ["True"]


def test_fork_of_a_worker_takes_none_of_its_messages(play: Play) -> None:
    """Though it has a loop, with a handler, before the worker itself has."""
    program = played(
        play,
        TALK,
        """
    ready, tell_ready = os.pipe()

    async def fork():
        cluster.on("message")(lambda message: os._exit(7))
        os.write(tell_ready, b"1")
        await asyncio.sleep(60)

    async def main():
        child = os.fork()
        if not child:
            asyncio.run(fork())
        os.read(ready, 1)
        heard = asyncio.Event()
        cluster.on("message")(lambda message: heard.set())
        for number in range(20):
            heard.clear()
            cluster.worker.send(number)
            await asyncio.wait_for(heard.wait(), 10)
        os.kill(child, signal.SIGKILL)
        cluster.worker.send(os.waitpid(child, 0)[1])
        cluster.worker.disconnect()
        await asyncio.sleep(60)

    asyncio.run(main())
""",
    )
    assert program.wait() == 0
    assert program.lines("heard") == [*map(str, range(20)), "9"]
