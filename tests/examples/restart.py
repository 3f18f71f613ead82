"""Put new code live without losing a request: change what it says, and kill -USR2 the master."""

import os
import signal

from sdcluster import cluster


def replace(workers):
    """Replace workers one at a time: the new one listens before the old one leaves."""
    if workers:
        old, *others = workers

        new = cluster.fork()

        @new.on("listening", once=True)
        def leave(address):
            surplus = new if old.exited_after_disconnect else old  # Two signals may have come.
            surplus.disconnect()
            replace(others)


def app(environ, start_response):
    """Answer any request."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"Version 1 from process {os.getpid()}\n".encode()]


if cluster.is_master:
    print(f"Master PID: {os.getpid()}", flush=True)
    for _ in range(os.cpu_count()):
        cluster.fork()

    @cluster.on_signal(signal.SIGUSR2)
    def restart():
        """Replace all workers that are to stay."""
        replace([one for one in cluster.workers.values() if not one.exited_after_disconnect])

    @cluster.on("exit")
    def refork(worker, code, signal):
        """Tell of the end of a worker, and replace one that has crashed."""
        print(f"Exited process {worker.pid}", flush=True)
        if code != 0 and not worker.exited_after_disconnect:
            cluster.fork()

    cluster.run()
else:
    cluster.serve(app, "127.0.0.1:8080")
