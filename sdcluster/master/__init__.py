"""DOES: the master, the only process that talks to systemd.

It turns the world into events for `core`, carries the actions out, holds the listeners and gives
connections to workers. It runs no code of the user, parses no HTTP, and trusts nothing that comes
from a worker or the control socket.
"""
