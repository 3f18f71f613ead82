"""What a keeper does when its worker is dead, and when it cannot be made."""

import errno
import os
import platform
import socket
from typing import Any, cast

import pytest

from sdcluster.system.process import Label
from sdcluster.worker.moving import keeper as module
from sdcluster.worker.moving.keeper import Keeping
from sdcluster.worker.moving.ledger import layout_for


class FullChannel:
    """Takes a frame only after it has refused some for want of room."""

    def __init__(self, *errors: int) -> None:
        self.errors = list(errors)
        self.sent: list[bytes] = []

    def sendmsg(self, buffers: list[bytes], _rights: Any, _flags: int) -> None:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        self.sent += buffers


def test_keeper_waits_for_room() -> None:
    """A user may have so many descriptors under way, and no more: ETOOMANYREFS, unix(7)."""
    control = FullChannel(errno.ETOOMANYREFS, errno.ENOBUFS, errno.ETOOMANYREFS)
    module._send(cast(socket.socket, control), b"frame", [0])
    assert control.sent == [b"frame"]


def test_keeper_does_not_wait_for_a_master_that_is_dead() -> None:
    """Any other error is one."""
    control = FullChannel(errno.EPIPE)
    with pytest.raises(BrokenPipeError):
        module._send(cast(socket.socket, control), b"frame", [])
    assert control.sent == []


def test_there_is_no_keeper_where_clone_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no process, and no descriptor more."""
    monkeypatch.setattr(platform, "machine", lambda: "abacus")
    with pytest.raises(OSError, match=r"clone\(2\) on abacus is not known"):
        Keeping(Label(""), layout_for(4096), replay="never", drain_timeout_s=1.0)
