"""Becomes a command that is given open descriptors, the way systemd does it: sd_listen_fds(3).

    python3 activate.py FD,FD NAME:NAME COMMAND [ARGUMENT...]

LISTEN_FDS and LISTEN_PID stay as they are where they are set already.
"""

import fcntl
import os
import sys

FIRST_FD = 3

fds = [int(word) for word in sys.argv[1].split(",")]
high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in fds]
for fd in fds:
    os.close(fd)
for index, fd in enumerate(high):
    os.dup2(fd, FIRST_FD + index, inheritable=True)
os.environ.setdefault("LISTEN_FDS", str(len(fds)))
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
if sys.argv[2]:
    os.environ["LISTEN_FDNAMES"] = sys.argv[2]
os.execvp(sys.argv[3], sys.argv[3:])
