"""The master asks the database, and tells all workers: one query, however many they are."""

import os

from sdcluster import cluster

PERIOD_S = 10

if cluster.is_master:
    count = 5

    def number_of_users_in_db():
        """Stand in for a database: 25 users, then 625, and so on, up to a billion."""
        global count
        count = min(count * count, 1_000_000_000)
        print(f"A query to the database: {count} users", flush=True)
        return count

    @cluster.every(PERIOD_S)
    def update_workers():
        """Ask once for all."""
        cluster.broadcast({"usersCount": number_of_users_in_db()})

    for _ in range(os.cpu_count()):
        cluster.fork()
    update_workers()
    cluster.run()
else:
    users_count = None

    @cluster.on_message
    def update(message):
        """Take note of what the master has found."""
        global users_count
        users_count = message["usersCount"]

    def app(environ, start_response):
        """Answer with what is known, which takes no query."""
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"Process {os.getpid()}\nUsers: {users_count}\n".encode()]

    cluster.serve(app, "127.0.0.1:8080")
