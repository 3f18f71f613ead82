"""The master sends messages to its workers, to each its own and one to all."""

import os

from hello import app

from sdcluster import cluster

if cluster.is_master:
    for _ in range(os.cpu_count()):
        cluster.fork()
    for worker in cluster.workers.values():
        worker.send(f"Hello Worker {worker.id}")
    cluster.broadcast("Hello everyone")
    cluster.run()
else:

    @cluster.on_message
    def show(message):
        """Print what the master says."""
        print(f"Worker {cluster.worker.id}, message from master: {message}", flush=True)

    cluster.serve(app, "127.0.0.1:8080")
