"""Lines of UTF-8 text: counted in advance where they lie in a file, and read block by block."""

import hashlib
import io
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace

BOM = b"\xef\xbb\xbf"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Place:
    """A place between two lines, by what lies before it.

    Attributes:
        offset: bytes.
        lines: lines.
        texts: lines that count: all of them, or those that are not blank.
    """

    offset: int = 0
    lines: int = 0
    texts: int = 0


@dataclass(frozen=True)
class Block:
    """Some texts, and the places before and after their lines."""

    texts: list
    start: Place
    end: Place


@dataclass
class Source:
    """Lines to be read from start to end.

    Attributes:
        file: a binary file.
        name: what errors call it.
        skips_blank: whether blank lines count as no texts.
        start, end: where it begins and ends; end is None for a stream.
        digest: of the bytes between them; None for a stream.
    """

    file: object
    name: str
    skips_blank: bool = False
    start: Place = Place()
    end: Place | None = None
    digest: str | None = None

    @property
    def count(self):
        """Number of texts, None for a stream."""
        return None if self.end is None else self.end.texts - self.start.texts

    def blocks(self, size, place=None):
        """Yields `Block`s of so many texts, the first after a place that was a block's end.

        Raises:
            ValueError: a line is no UTF-8, a stream has no texts, or the file is not what it was
                when it was counted.
        """
        start = place = place or self.start
        if self.end is not None:
            if place.offset >= self.end.offset:
                return
            self.file.seek(place.offset)
        texts = []
        for text, length in _decoded(self.file, self.name, place.lines):
            counts = not self.skips_blank or bool(text.strip())
            place = Place(place.offset + length, place.lines + 1, place.texts + counts)
            if counts:
                texts.append(text)
            is_last = self.end is not None and place.offset >= self.end.offset
            if texts and (len(texts) == size or is_last):
                yield Block(texts, start, place)
                texts, start = [], place
            if is_last:
                break
        if texts:
            yield Block(texts, start, place)
        if self.end is None and not place.texts:
            raise self._nothing(place.lines)
        if self.end is not None and place != self.end:
            raise ValueError(f"{self.name}: has changed while it was read")

    def counted(self, shard=(1, 1)):
        """The same, or a shard of it, with its end and its digest; reads the file once.

        A line belongs to the shard in whose share of the bytes it begins, so that shards lie one
        behind the other and need no count of the lines.

        Args:
            shard: (which, of how many), from 1 on.

        Raises:
            ValueError: a line is no UTF-8, or there is no text; a shard may have none.
        """
        which, among = shard
        size = self.file.seek(0, os.SEEK_END)
        begin, end = (self._line_border(size * i // among) for i in (which - 1, which))
        start, digest = self._count(Place(), begin), hashlib.blake2b(digest_size=16)
        end = self._count(start, end, digest)
        if size == 0 or among == 1 and not end.texts:
            raise self._nothing(end.lines)
        return replace(self, start=start, end=end, digest=digest.hexdigest())

    def _nothing(self, lines):
        blank = "no text to continue, all lines are blank"
        return ValueError(f"{self.name}: {blank}") if lines else _empty(self.name)

    def _line_border(self, offset):
        """Where the first line begins that begins at an offset or after it."""
        if offset == 0:
            return 0
        self.file.seek(offset - 1)
        self.file.readline()
        return self.file.tell()

    def _count(self, place, end, digest=None):
        """The place at an offset, from an earlier place on."""
        self.file.seek(place.offset)
        while place.offset < end:
            chunk = self.file.read(min(CHUNK, end - place.offset))
            chunk += self.file.readline() if place.offset + len(chunk) < end else b""
            if not chunk:
                raise ValueError(f"{self.name}: has changed while it was read")
            if digest is not None:
                digest.update(chunk)
            lines, texts = self._count_chunk(chunk, place.lines)
            place = Place(place.offset + len(chunk), place.lines + lines, place.texts + texts)
        return place

    def _count_chunk(self, chunk, before):
        """Numbers of lines and of texts in some whole lines."""
        content = chunk if before else chunk.removeprefix(BOM)
        lines = content.count(b"\n") + (not content.endswith(b"\n") and bool(content))
        try:
            text = content.decode()
        except UnicodeDecodeError:
            # Read them one by one: this names the line.
            for _ in _decoded(io.BytesIO(chunk), self.name, before):
                pass
            raise
        if not self.skips_blank:
            return lines, lines
        return lines, sum(1 for line in text.split("\n") if line.strip())


@contextmanager
def open_lines(path, skips_blank=False):
    """The `Source` of a file; `-` is stdin."""
    if path == "-":
        if sys.stdin.isatty():
            print("reading texts from the terminal, one a line; Ctrl-D ends them", file=sys.stderr)
        yield Source(sys.stdin.buffer, "stdin", skips_blank)
        return
    with open(path, "rb") as file:
        yield Source(file, path, skips_blank)


@contextmanager
def spooled(source):
    """A stream's lines in a temporary file, where they can be counted."""
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(source.file, file)
        yield replace(source, file=file)


def read_lines(path):
    """The lines of a UTF-8 file without their ends; `-` is stdin.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no line, or one that is no UTF-8.
    """
    with open_lines(path) as source:
        lines = [text for text, _ in _decoded(source.file, source.name)]
        if not lines:
            raise _empty(source.name)
    return lines


def _decoded(file, name, before=0):
    """Yields (text, bytes) of the lines from here on, `before` of which lie before.

    Lines end at newlines only: splitlines would also split at characters that are none.
    """
    for number, line in enumerate(file, before + 1):
        content = line if number > 1 else line.removeprefix(BOM)
        if not content:
            return  # nothing but a byte order mark
        try:
            text = content.removesuffix(b"\n").decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}: line {number}: not UTF-8 (byte 0x{content[error.start]:02x} "
                f"at position {error.start + 1})"
            ) from None
        yield text.removesuffix("\r"), len(line)


def _empty(name):
    return ValueError(f"{name}: no text to read, the input is empty")
