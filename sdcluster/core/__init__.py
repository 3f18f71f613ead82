"""DECIDES: what the cluster does next, as a pure function of events and time.

No I/O, no clock, no `os`: events in the past tense go in, actions in the imperative come out, and
the time is an argument. `master` turns the world into events and carries the actions out.
"""
