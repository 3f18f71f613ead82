"""DOES: the master, the only process that talks to systemd.

It turns the world into events for `core`, carries the actions out, holds the listeners and gives
connections to workers. It parses no HTTP, and trusts nothing that comes from a worker or the
control socket. It runs no code of the user, but for a program of the library's, whose master is the
program itself: `program`.
"""
