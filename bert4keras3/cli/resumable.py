"""An output that grows block by block, and goes on where it was when its process was killed."""

import json
import os
from pathlib import Path

from bert4keras3.weights.atomic import atomic_path, flush_folder

try:
    import fcntl
except ImportError:  # Windows: nothing tells two runs apart
    fcntl = None


class ResumableFile:
    """A file that is put in place when it is complete, and lies beside it until then.

    PATH.part has what has been written, and PATH.part.json, the journal, says by which run, and
    how much of it counts: that is replaced as a whole after every block, when the block is on
    disk. What a killed process has written behind is cut off by the next one.

        with ResumableFile("vectors.npy", run) as file:
            for block in what_follows(file.progress):
                file.write(...)
                file.commit(progress)
            file.finish()

    An error before the first commit leaves nothing behind.

    Args:
        path: the file to write.
        run: dictionary by which a run is known: name of what matters -> value.
        kept: dictionary of what an unfinished run goes on with.
        restart: forget an unfinished run.

    Attributes:
        progress: what the last commit was given; None before the first.
        kept: that of the unfinished run, else as given.
        is_finished: whether there is nothing left to write.

    Raises:
        ValueError: an unfinished run of another kind is there, or files that are no such run's,
            or another process that is writing it.
    """

    def __init__(self, path, run, kept, restart=False):
        self.path = Path(path)
        self.part = Path(f"{path}.part")
        self.journal = Path(f"{path}.part.json")
        self._run, self._bytes = run, 0
        self.progress, self.kept, self.is_finished = None, kept, False
        found = None if restart else self._read_journal()
        if found and not self._adopt(found):
            found = None
        if self.is_finished:
            return
        if not found:
            if self.part.exists() and not self.journal.exists() and not restart:
                raise ValueError(
                    f"{self.part}: is in the way, and no unfinished run has left it "
                    f"(there is no {self.journal.name}): move it, or overwrite it by --restart"
                )
            self._write_journal()
        self._file = open(self.part, "r+b" if found else "ab")
        self._lock()
        self._file.truncate(self._bytes)
        self._file.seek(self._bytes)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.is_finished:
            return
        self._file.close()
        if self.progress is None:
            self.part.unlink(missing_ok=True)
            self.journal.unlink(missing_ok=True)

    def write(self, data):
        """Write bytes, which count from the next commit on."""
        self._file.write(data)

    def commit(self, progress):
        """What has been written is not lost any more; `progress` is where to go on."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._bytes, self.progress = self._file.tell(), progress
        self._write_journal()

    def finish(self):
        """Put the file in place; only `forget` removes the journal."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._bytes = self._file.tell()
        self._write_journal(finished=True)
        self._file.close()
        self._put_in_place()

    def forget(self):
        """Remove the journal of a finished file: the next run begins anew."""
        self.journal.unlink(missing_ok=True)

    def _put_in_place(self):
        os.replace(self.part, self.path)
        flush_folder(self.path.parent)
        self.is_finished = True

    def _adopt(self, found):
        """Go on as the journal says; False where there is nothing to go on with."""
        size = self.part.stat().st_size if self.part.exists() else None
        if found["finished"] and size is None:
            # It was killed, or asked to stop, between the file and its journal.
            if not self.path.is_file() or self.path.stat().st_size != found["bytes"]:
                return False
        elif size is None or found["progress"] is None:
            return False
        differences = _differences(found["run"], self._run)
        if differences:
            raise ValueError(
                f"{self.journal}: the unfinished run had another {', '.join(differences)}; "
                "run it as before to go on, or add --restart to begin anew"
            )
        if size is not None and size < found["bytes"]:
            raise ValueError(
                f"{self.part}: expected {found['bytes']} bytes at least, found {size}; "
                "add --restart to begin anew"
            )
        self.progress, self.kept, self._bytes = found["progress"], found["kept"], found["bytes"]
        if found["finished"]:
            if size is not None:
                self._put_in_place()
            self.is_finished = True
        return True

    def _read_journal(self):
        if not self.journal.exists():
            return None
        try:
            found = json.loads(self.journal.read_text(encoding="utf-8"))
            fits = found.keys() == self._record(False).keys() and isinstance(found["run"], dict)
        except (ValueError, AttributeError):
            fits = False
        if not fits:
            raise ValueError(
                f"{self.journal}: expected the journal of an unfinished run, found something else; "
                "move it, or begin anew by --restart"
            )
        return found

    def _write_journal(self, finished=False):
        with atomic_path(self.journal) as temporary:
            text = json.dumps(self._record(finished), ensure_ascii=False, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")

    def _record(self, finished):
        return {
            "run": self._run,
            "kept": self.kept,
            "progress": self.progress,
            "bytes": self._bytes,
            "finished": finished,
        }

    def _lock(self):
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(f"{self.part}: another process is writing it") from None
        except OSError:
            pass  # a file system without locks


class PlainFile:
    """The same form for what cannot go on: a pipe, or what is read from one."""

    progress, is_finished = None, False

    def __init__(self, file, kept):
        self._file, self.kept = file, kept

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def write(self, data):
        """Write bytes."""
        self._file.write(data)

    def commit(self, progress):
        """What has been written goes out."""
        self._file.flush()

    def finish(self):
        """There is nothing to do: whoever has opened the file closes it."""

    forget = finish


def _differences(old, new):
    """What a run had otherwise: `--option old (now new)`, `--model (names of the files)`."""
    found = []
    for name in sorted({*old, *new}):
        before, now = old.get(name), new.get(name)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            parts = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
            found.append(f"{name} ({', '.join(parts[:3])}{' ...' * (len(parts) > 3)})")
        else:
            found.append(f"{name} {_shown(before)} (now {_shown(now)})")
    return found


def _shown(value):
    return "none" if value in (None, False, []) else str(value)
