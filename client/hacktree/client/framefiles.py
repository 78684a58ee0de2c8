"""The frames of a pack on their way in: files in the staging directory."""

import hashlib
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from hacktree.client.packs import JoinedPack
from hacktree.common.repository.durable import write_all


class FrameFiles:
    """The frames of one range, on disk: each becomes whole, is hashed, and is handed on.

    A frame that a killed pull left whole is not asked for again, and one that it left in part goes
    on where it ended.
    """

    def __init__(self, directory: Path, joined: JoinedPack, frames: Sequence[int]) -> None:
        self._joined = joined
        self._prefix = f"{directory}/frame-{joined.edge.pack.hex()[:16]}-"
        self._frames = deque(frames)
        self._stream: IO[bytes] | None = None
        self._position = 0
        self.whole: deque[int] = deque()
        self._skip_whole()

    def path(self, frame: int) -> Path:
        """Where a frame is, or grows."""
        return Path(f"{self._prefix}{frame}")

    @property
    def start(self) -> int | None:
        """The first byte of the pack that is not here yet, None if none is missing."""
        if not self._frames:
            return None
        frame = self._frames[0]
        start = int(self._joined.pack.offsets[frame])
        part = self.path(frame)
        length = self._joined.pack.head.frames[frame].length
        here = part.stat().st_size if part.exists() else 0
        return start + here if here < length else start

    @property
    def end(self) -> int:
        """Behind the last byte that is wanted."""
        return int(self._joined.pack.offsets[self._frames[-1] + 1])

    def begin(self, start: int) -> None:
        """Bytes from `start` on will follow."""
        self._position = start

    def take(self, piece: bytes) -> None:
        """The next bytes: those of frames that are wanted go to their files."""
        view = memoryview(piece)
        while view and self._frames:
            frame = self._frames[0]
            first, behind = (int(x) for x in self._joined.pack.offsets[frame : frame + 2])
            if self._position < first:
                skipped = min(first - self._position, len(view))
                view, self._position = view[skipped:], self._position + skipped
                continue
            if self._stream is None:
                mode = "ab" if self._position > first else "wb"
                self._stream = self.path(frame).open(mode, buffering=0)
            part = view[: behind - self._position]
            write_all(self._stream.fileno(), part)
            view, self._position = view[len(part) :], self._position + len(part)
            if self._position == behind:
                self.close()
                self._frames.popleft()
                self.whole.append(frame)
                self._skip_whole()

    def close(self) -> None:
        """Close the file that grows."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _skip_whole(self) -> None:
        """Frames that are here already, sound, need no bytes."""
        while self._frames and self.is_sound(self._frames[0]):
            self.whole.append(self._frames.popleft())

    def is_sound(self, frame: int) -> bool:
        """Whether the frame's file is what the head says."""
        info = self._joined.pack.head.frames[frame]
        try:
            with self.path(frame).open("rb", buffering=0) as stream:
                if os.fstat(stream.fileno()).st_size != info.length:
                    return False
                return hashlib.file_digest(stream, "sha256").digest() == info.digest
        except FileNotFoundError:
            return False
