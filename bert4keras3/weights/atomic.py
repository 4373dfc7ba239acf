"""Files that are replaced whole or not at all."""

import os
import secrets
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path):
    """A temporary path to write to, which takes the place of `path` on success.

    The temporary file lies in the same folder and its name ends like the name of
    `path`, so that writers that look at the suffix (`.weights.h5`) accept it. When
    the block raises, or the process is killed, the old file is left as it was.

    Args:
        path: the file to create or replace.

    Yields:
        The `pathlib.Path` that the block must write.

    Raises:
        FileNotFoundError: the block ended without writing the file.
    """
    with atomic_group() as group:
        yield group.add(path)


@contextmanager
def atomic_group():
    """Several files that belong together and are put in place together.

    The block calls `group.add(path)` for each file, in any number, and writes to the
    temporary paths it gets. On success all are flushed to disk and then renamed in
    the order added, the index last. When the block raises, nothing is changed.

    The old version of a file added with `is_index=True` is removed before the first
    rename, so that a process killed between two renames leaves a checkpoint that is
    refused for want of its index, never an old index over new data.

    Yields:
        The `AtomicGroup`.

    Raises:
        FileNotFoundError: the block ended without writing one of the files.
    """
    group = AtomicGroup()
    try:
        yield group
        group.commit()
    finally:
        group.discard()


class AtomicGroup:
    """The files of one `atomic_group` block."""

    def __init__(self):
        self._moves = []
        self._indexes = []
        self._stale = []

    def add(self, path, is_index=False):
        """A temporary path in the folder of `path`, to be renamed to `path` at the end.

        Args:
            path: the file to create or replace.
            is_index: whether the others are of no use without this one.
        """
        path = Path(path)
        # The tail of a very long name is kept: names have 255 bytes on most systems.
        temporary = path.with_name(f".{secrets.token_hex(6)}.tmp-{path.name[-120:]}")
        self._moves.append((temporary, path))
        if is_index:
            self._indexes.append(path)
        return temporary

    def remove_after(self, paths):
        """Remove these old files once the new ones are in place."""
        self._stale.extend(Path(path) for path in paths)

    def commit(self):
        """Flush every file to disk, then rename them in the order added."""
        for temporary, _ in self._moves:
            _flush(temporary)
        for path in self._indexes:
            path.unlink(missing_ok=True)
        for temporary, path in self._moves:
            os.replace(temporary, path)
        for path in self._stale:
            path.unlink(missing_ok=True)
        for folder in {path.parent for _, path in self._moves}:
            flush_folder(folder)

    def discard(self):
        """Remove the temporary files that are still there."""
        for temporary, _ in self._moves:
            temporary.unlink(missing_ok=True)


def _flush(path):
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def flush_folder(folder):
    """A rename is on disk only when its folder is; Windows cannot open a folder."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
