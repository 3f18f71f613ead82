"""What a worker of a program says before it is known to be online."""

from sdcluster.master.host import closing
from sdcluster.wire.messages import Frame

MAX_FRAMES = 1024
MAX_BYTES = 256 * 1024
MAX_DESCRIPTORS = 32
"""As many may be held before no more is read, and what is read in that turn: the rest waits."""


class EarlyFrames:
    """Its frames, with their descriptors, in their order."""

    def __init__(self) -> None:
        self._frames: list[tuple[Frame, list[int]]] = []
        self._bytes = 0
        self._descriptors = 0

    @property
    def is_full(self) -> bool:
        """Whether no more should be read."""
        return (
            len(self._frames) >= MAX_FRAMES
            or self._bytes >= MAX_BYTES
            or self._descriptors >= MAX_DESCRIPTORS
        )

    def add(self, frame: Frame, descriptors: list[int]) -> None:
        """Keep one, and own its descriptors from then on."""
        self._frames.append((frame, descriptors))
        self._bytes += len(frame.body)
        self._descriptors += len(descriptors)

    def take(self) -> list[tuple[Frame, list[int]]]:
        """Take all of them out; their descriptors are the caller's."""
        taken, self._frames = self._frames, []
        self._bytes = self._descriptors = 0
        return taken

    def close(self) -> None:
        """Drop all of them, and close their descriptors."""
        for _, descriptors in self.take():
            closing.close(descriptors)
