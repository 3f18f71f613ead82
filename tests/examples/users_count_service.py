"""As users_count.py, in a service: its agent asks the database, and tells all workers.

sdcluster run users_count_service:app --agent users_count_service:agent
"""

import os

from sdcluster import cluster

PERIOD_S = 10

users_count = None


@cluster.on_message
def update(message):
    """Take note, in each worker, of what the agent has found."""
    global users_count
    users_count = message["usersCount"]


def app(environ, start_response):
    """Answer with what is known, which takes no query."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"Process {os.getpid()}\nUsers: {users_count}\n".encode()]


def agent():
    """Ask once for all."""
    count = 5

    def number_of_users_in_db():
        """Stand in for a database: 25 users, then 625, and so on, up to a billion."""
        nonlocal count
        count = min(count * count, 1_000_000_000)
        print(f"A query to the database: {count} users", flush=True)
        return count

    @cluster.every(PERIOD_S)
    def update_workers():
        cluster.broadcast({"usersCount": number_of_users_in_db()})

    update_workers()
