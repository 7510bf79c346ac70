"""Standard input that can be read again by a child that starts anew."""

import io
import os
import stat
import sys
from typing import Any

_CHUNK = 2**16


class Replay(io.RawIOBase):
    """A stream of what a file descriptor gives, from the beginning in every process.

    Create it before `supervised`, read it in the work: each child reads all of it, although a pipe
    gives its bytes only once. A regular file is simply read again. Anything else passes through
    a temporary file without a name, which grows as it is read.

    For systems that fork; the descriptor must be open. Linux moves the bytes from a pipe to the
    file within the kernel, so that no crash can lose any. Elsewhere a crash between reading a
    chunk and writing it, some microseconds, loses that chunk.
    """

    def __init__(self, fd: int = 0) -> None:
        super().__init__()
        self._source = fd
        self._at = 0  # how much this process has read
        mode = os.fstat(fd).st_mode
        self._splice = stat.S_ISFIFO(mode)
        if stat.S_ISREG(mode):
            self._copy, self._offset = fd, os.lseek(fd, 0, os.SEEK_CUR)
        else:
            import tempfile

            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this stream
            self._copy, self._offset = self._file.fileno(), 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer as far as there are bytes; 0 at the end. Waits for the first ones."""
        if self._copy != self._source and os.fstat(self._copy).st_size <= self._at:
            self._pull()
        data = os.pread(self._copy, len(buffer), self._offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _pull(self) -> None:
        """One more chunk from the source into the copy."""
        if self._splice and sys.platform == "linux":
            try:
                os.splice(self._source, self._copy, _CHUNK, offset_dst=self._at)
            except OSError:  # a file system that cannot
                self._splice = False
            else:
                return
        data = memoryview(os.read(self._source, _CHUNK))
        at = self._at
        while data:
            written = os.pwrite(self._copy, data, at)
            at, data = at + written, data[written:]

    def close(self) -> None:
        """Closes the copy, never the source."""
        if not self.closed and self._copy != self._source:
            self._file.close()
        super().close()
