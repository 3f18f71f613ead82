"""Which part of a cluster this process is: worker and agent know themselves; others are masters.

While a mold imports an app, that is a worker to be: the handlers that it adds are its workers'.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdcluster.worker.messages.agent import Agent
    from sdcluster.worker.messages.member import Member

member: "Member | None" = None
"""The worker that this process is."""
agent: "Agent | None" = None
"""The agent that this process is."""
