"""Which side of a cluster this process is on: a worker knows itself, all others may be a master."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdcluster.worker.member import Member

member: "Member | None" = None
"""The worker that this process is."""
