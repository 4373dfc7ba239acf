"""Text files by lines: iterated, or indexed without being read as a whole."""

import builtins
import codecs
import json
import os

from bert4keras3.weights.atomic import atomic_path

_open_ = builtins.open


class open:
    """A file; of one that is `indexable`, `f[i]` is a line and `len(f)` their number.

    Args:
        name: the path.
        mode: as of Python's `open`.
        encoding: of a text file, UTF-8 by default.
        errors: what to do about bytes that are no text, as of Python's `open`.
        indexable: True finds where lines begin, with a progress bar; a path keeps what was
            found in that file and reads it from there the next time, as long as the text
            has not changed since.

    Raises:
        ValueError: lines that are not of this encoding, named by their number; an encoding
            whose lines cannot be found by their bytes (UTF-16, UTF-32).
    """

    def __init__(self, name, mode="r", encoding=None, errors="strict", indexable=False):
        self.name = name
        self.mode = mode
        self.encoding = None if "b" in mode else encoding or "utf-8"
        self.errors = errors
        self.indexable = indexable
        text = {} if self.encoding is None else {"encoding": self.encoding, "errors": errors}
        self.file = _open_(name, mode, **text)
        self._iterator = None
        if indexable:
            self._bytes = _open_(name, "rb")
            self.offsets = self._find_lines()

    def _find_lines(self):
        if self.encoding and "\n".encode(self.encoding) != b"\n":
            raise ValueError(f"{self.name}: a file in {self.encoding} cannot be indexable")
        kept = self.indexable if isinstance(self.indexable, (str, os.PathLike)) else None
        if kept is not None and os.path.exists(kept):
            offsets = self._read_offsets(kept)
            if offsets is not None:
                return offsets
        offsets = self._scan()
        if kept is not None:
            with atomic_path(kept) as path, _open_(path, "w") as file:
                json.dump(offsets, file)
        return offsets

    def _read_offsets(self, path):
        """Kept offsets, unless they are older than the text or of another one."""
        if os.path.getmtime(path) < os.path.getmtime(self.name):
            return None
        with _open_(path) as file:
            offsets = json.load(file)
        is_list = isinstance(offsets, list) and all(isinstance(n, int) for n in offsets)
        return offsets if is_list and offsets[-1:] == [os.path.getsize(self.name)] else None

    def _scan(self):
        """Where lines begin, and where the last one ends."""
        from tqdm import tqdm

        offsets, size = [0], os.path.getsize(self.name)
        with tqdm(total=size, desc="indexing", unit="B", unit_scale=True) as bar:
            for line in self._bytes:
                offsets.append(offsets[-1] + len(line))
                bar.update(len(line))
        return offsets

    def __len__(self):
        self._need_index()
        return len(self.offsets) - 1

    def __getitem__(self, index):
        self._need_index()
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        self._bytes.seek(self.offsets[position])
        line = self._bytes.read(self.offsets[position + 1] - self.offsets[position])
        if self.encoding is None:
            return line
        try:
            line = codecs.decode(line, self.encoding, self.errors)
        except UnicodeDecodeError as error:
            raise self._wrong_encoding(error, position + 1) from error
        return line.replace("\r\n", "\n")

    def _need_index(self):
        if not self.indexable:
            raise TypeError(f"{self.name}: open it with indexable=True to ask for lines by number")

    def _wrong_encoding(self, error, line):
        wrong = error.object[error.start : error.start + 1].hex()
        return ValueError(
            f"{self.name}: line {line} is not {self.encoding} (byte 0x{wrong}); if the file has "
            "another encoding, such as 'gb18030', pass encoding="
        )

    def __iter__(self):
        number = 0
        try:
            for number, line in enumerate(self.file, 1):  # noqa: B007
                yield line
        except UnicodeDecodeError as error:
            # Python decodes whole blocks: the line is found by looking again.
            raise self._wrong_encoding(error, self._undecodable_line() or number + 1) from error

    def _undecodable_line(self):
        decoder = codecs.getincrementaldecoder(self.encoding)()
        with _open_(self.name, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    decoder.decode(line)
                except UnicodeDecodeError:
                    return number
        return None

    def next(self):
        """The next line."""
        return next(self)

    def __next__(self):
        if self._iterator is None:
            self._iterator = iter(self)
        return next(self._iterator)

    def read(self, size=-1):
        """All that is left, or so many characters (bytes of a binary file)."""
        return self.file.read(size)

    def readline(self):
        """The next line; empty at the end."""
        return self.file.readline()

    def readlines(self):
        """The lines that are left."""
        return list(self)

    def write(self, text):
        """Write, and return how much was written."""
        return self.file.write(text)

    def flush(self):
        """Hand what was written to the system."""
        self.file.flush()

    def tell(self):
        """Where the next `read` begins."""
        return self.file.tell()

    def seek(self, offset=0, whence=0):
        """Go to a place that `tell` named."""
        self._iterator = None
        return self.file.seek(offset, whence)

    def close(self):
        """Close the file."""
        self.file.close()
        if self.indexable:
            self._bytes.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
