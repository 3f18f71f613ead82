"""Smaller things that programs know from Node's cluster, and find here."""

from conftest import Play


def test_each_setup_is_told_with_its_settings(play: Play) -> None:
    """Those that were there then, however soon they were changed again."""
    program = play(
        """
if cluster.is_master:
    cluster.on("setup")(lambda settings: say("setup", *settings.get("args", ())))
    cluster.setup_master(args=["a"])
    kept = cluster.settings
    cluster.setup_master(args=["b", "b"], ready="online")
    cluster.setup_master(drain_timeout_s=5)
    say("kept", dict(kept), dict(cluster.settings))
    try:
        cluster.settings["args"] = ["c"]
    except TypeError:
        say("refused")
    cluster.fork()
    cluster.run()
else:
    say("worker", *sys.argv[1:])
"""
    )
    assert program.wait() == 0
    assert program.lines("setup") == ["a", "b b", "b b"]
    assert program.lines("kept") == [
        "{'args': ['a']} {'args': ['b', 'b'], 'ready': 'online', 'drain_timeout_s': 5}"
    ]
    assert program.lines("refused") == [""]
    assert program.lines("worker") == ["b b"]


def test_worker_knows_whether_its_master_is_there(play: Play) -> None:
    """It is connected from its start until the master is gone, and never dead to itself."""
    program = play(
        """
if cluster.is_master:
    cluster.fork()
    cluster.on("message")(lambda worker, message: os.kill(os.getpid(), signal.SIGKILL))
    cluster.run()
else:
    say("at first", cluster.worker.is_connected, cluster.worker.is_dead)
    if os.fork() == 0:
        say("copy", cluster.worker.is_connected)
        os._exit(0)
    os.wait()
    cluster.worker.send("go")
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        while cluster.worker.is_connected:
            time.sleep(0.01)
        say("at last", cluster.worker.is_connected, cluster.worker.is_dead)
"""
    )
    program.wait()
    program.wait_log("at last False False")
    assert "at first True False" in program.log()
    assert program.lines("copy") == ["False"]


def test_address_that_is_not_ours_is_an_error_of_the_worker(play: Play) -> None:
    """With the kernel's number, as any other; the worker and the master go on."""
    program = play(
        """
if cluster.is_master:
    cluster.fork()
    cluster.run()
else:
    for where in ("192.0.2.1:0", "[2001:db8::1]:0", "./missing/app.sock", "/proc/app.sock"):
        for options in ({}, {"exclusive": True}, {"datagrams": True}):
            try:
                cluster.listen(where, **options)
            except OSError as error:
                say("error", where, error.errno)
    say("then", cluster.listen("127.0.0.1:0").getsockname()[0])
"""
    )
    assert program.wait() == 0
    assert len(program.lines("error")) == 12
    numbers = {line.split()[1] for line in program.lines("error")[:6]}
    assert numbers <= {"99", "97"}  # Nor is there an IPv6 at all everywhere.
    assert {line.split()[1] for line in program.lines("error")[6:9]} == {"2"}
    assert program.lines("then") == ["127.0.0.1"]


def test_disconnect_without_workers_is_done(play: Play) -> None:
    """Later than the call, and so is that of workers which are dead already."""
    program = play(
        """
if cluster.is_master:
    async def leave(when):
        done = cluster.disconnect()
        say("at once", when, done.done())
        await done
        say("done", when)

    cluster.on("exit")(lambda worker, code, signal: leave("after"))
    cluster.on("disconnect")(lambda worker: leave("while"))
    cluster.on_signal(signal.SIGUSR1)(lambda: leave("without"))
    os.kill(os.getpid(), signal.SIGUSR1)
    cluster.fork()
    cluster.run()
else:
    sys.exit(3)
"""
    )
    assert program.wait() == 0
    assert sorted(program.lines("done")) == ["after", "while", "without"]
    assert sorted(program.lines("at once")) == ["after False", "while False", "without False"]
