"""Workers crash at random times, and the master forks others in their place."""

import os
import random
import threading

from hello import app

from sdcluster import cluster

LIFETIME_S = 10

if cluster.is_master:
    for _ in range(os.cpu_count()):
        cluster.fork()

    @cluster.on("exit")
    def refork(worker, code, signal):
        """Replace a worker that nobody has told to go."""
        if code != 0 and not worker.exited_after_disconnect:
            print(f"Worker {worker.id} crashed. Starting a new worker...", flush=True)
            cluster.fork()

    cluster.run()
else:
    crash = threading.Timer(random.random() * LIFETIME_S, os._exit, [1])
    crash.daemon = True
    crash.start()
    cluster.serve(app, "127.0.0.1:8080")
