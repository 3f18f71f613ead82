"""The same app in a process for each CPU: this file is the master's program and the workers'."""

import os

from hello import app

from sdcluster import cluster

if cluster.is_master:
    print(f"Forking for {os.cpu_count()} CPUs")
    for _ in range(os.cpu_count()):
        cluster.fork()
    cluster.run()
else:
    cluster.serve(app, "127.0.0.1:8080")
