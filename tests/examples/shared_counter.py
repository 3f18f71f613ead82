"""Workers share no memory, but a cache: a count of all requests, whoever answers them."""

import os

from sdcluster import cache, cluster

if cluster.is_master:
    for _ in range(os.cpu_count()):
        cluster.fork()
    cluster.run()
else:

    def app(environ, start_response):
        """Answer with how many requests there were."""
        count = cache.incr("requests")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"Request {count}, handled by process {os.getpid()}\n".encode()]

    cluster.serve(app, "127.0.0.1:8080")
