"""What those who wait for a reload are told of it."""

from types import SimpleNamespace
from typing import Any, cast

from sdcluster.core import actions as act
from sdcluster.core.states import AGENT, QUARANTINE, Generation, ReloadCause, Slot, WorkerId
from sdcluster.master.service.api import Api
from sdcluster.master.service.control import Client
from sdcluster.master.service.service_cluster import Cluster
from sdcluster.wire import varlink


class FakeClient:
    """Takes replies."""

    uid = 0
    is_busy = True

    def __init__(self) -> None:
        self.replies: list[varlink.Reply] = []

    def send(self, reply: varlink.Reply) -> None:
        """Take one."""
        self.replies.append(reply)


def test_total_of_a_reload_is_the_same_from_its_beginning() -> None:
    """The workers and the agent are replaced; those of the quarantine are not waited for."""
    slots = dict.fromkeys((0, 1, AGENT, QUARANTINE, QUARANTINE - 1))
    cluster = SimpleNamespace(
        supervisor=SimpleNamespace(slots=slots, phase=None),
        children=SimpleNamespace(workers={WorkerId(9): SimpleNamespace(pid=1)}),
        feed=lambda _event: None,
    )
    api, client = Api(cast("Cluster", cluster), now=lambda: 0.0), FakeClient()
    call: Any = SimpleNamespace(method=f"{varlink.INTERFACE}.Reload", parameters={}, more=True)
    api.handle(cast("Client", client), call)
    api.began(act.BeginReload(Generation(2), ReloadCause.REQUEST))
    api.progressed(act.ReportProgress(Generation(2), WorkerId(9), Slot(0), 1, 3))
    assert [reply.parameters["total"] for reply in client.replies] == [3, 3]
