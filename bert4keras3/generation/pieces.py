"""Text in pieces: from ids that come one by one, and up to a stop string."""

import re

# An incremental decoder forgets old ids when it has this many, and keeps about so many.
MOST_IDS, LEAST_IDS = 48, 16

BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")
# In "it' s" the blank goes when another word follows; see `tokenizers.spacing`.
SHORT_FORM = re.compile(r"(?<=') [a-z]{1,2}\Z")


class IncrementalDecoder:
    """Writes ids as text, piece by piece, and nothing that later ids could change.

    The pieces, joined, are what `tokenizer.decode` makes of all ids at once. Held
    back are half characters, runs of byte tokens such as <0xE4> (invalid ones turn
    into U+FFFD as a whole) and what a blank may yet be taken out of. Costs grow with
    the length, not with its square: only the last tens of ids are decoded again.

    Args:
        tokenizer: one of `bert4keras3.tokenizers`, or another with `decode` and
            `id_to_token`.
        context: ids that stand before; their text is not returned.
    """

    def __init__(self, tokenizer, context=()):
        self._tokenizer = tokenizer
        self._waits = {}  # id: whether decoding waits for the next one
        self._ids = []
        self._places = []  # indices of the ids that do not wait
        self._sent = 0  # characters of the ids' text that have been returned
        self._context = None  # the text of the context, until something is returned
        if len(context):
            for i in context:
                self._append(int(i))
            self._context = self._decode(self._ids)
            self._sent = len(self._context)
            self._forget(self._context)

    def push(self, ids):
        """Take further ids.

        Args:
            ids: an id, or several.

        Returns:
            The text that is certain now, often an empty one.
        """
        ids = [ids] if not hasattr(ids, "__iter__") else ids
        return "".join(self._push(int(i)) for i in ids)

    def finish(self):
        """The rest of the text, after the last id."""
        text = self._decode(self._ids)
        rest = text[self._start(text) :]
        self._ids, self._places, self._sent, self._context = [], [], 0, None
        return rest

    def _push(self, i):
        if self._append(i):
            return ""
        text = self._decode(self._ids)
        start, stop = self._start(text), len(text) - _uncertain(text)
        if stop <= start:
            return ""
        self._sent, self._context = stop, None
        self._forget(text)
        return text[start:stop]

    def _append(self, i):
        """Add an id; True where there is no use in decoding yet."""
        waits = self._waits.get(i)
        if waits is None:
            # A special token has no text; a blank may have none at a text's beginning.
            waits = not self._decode([i]) or _is_byte(self._tokenizer.id_to_token(i))
            self._waits[i] = waits
        if not waits:
            self._places.append(len(self._ids))
        self._ids.append(i)
        return waits

    def _decode(self, ids):
        return self._tokenizer.decode(ids) if ids else ""

    def _start(self, text):
        """Where the text begins that has not been returned."""
        if self._context is None or text.startswith(self._context):
            return self._sent
        # What follows took blanks out of the context.
        left = sum(not char.isspace() for char in self._context)
        for place, char in enumerate(text):
            if not left:
                return place
            left -= not char.isspace()
        return len(text)

    def _forget(self, text):
        """Drop old ids where the others say the same without them."""
        if len(self._places) < MOST_IDS:
            return
        unsent = len(text) - self._sent
        for count in range(LEAST_IDS, MOST_IDS):
            begin, middle = self._places[-count], self._places[LEAST_IDS // 2 - count]
            rest = self._decode(self._ids[begin:])
            # A text may begin otherwise than it goes on: its first half need not agree.
            agreeing = len(rest) - len(self._decode(self._ids[begin:middle]))
            if agreeing > unsent and rest[-agreeing:] == text[-agreeing:]:
                self._ids = self._ids[begin:]
                self._places = [place - begin for place in self._places[-count:]]
                self._sent = len(rest) - unsent
                self._context = None if self._context is None else rest
                return


class StopCutter:
    """Cuts a text that comes in pieces before a stop string.

    Of several it is the one that is complete first; the pieces' borders do not matter.

    Args:
        stops: the strings, none of them empty.

    Attributes:
        found: whether the text has met one.
    """

    def __init__(self, stops):
        self.stops = stops
        self.found = False
        self._held = ""

    def push(self, piece):
        """Take a piece; returns the text that is certain now."""
        text, self._held = self._held + piece, ""
        met = [text.find(stop) for stop in self.stops]
        ends = [(place + len(s), place) for s, place in zip(self.stops, met, strict=True)]
        ends = [end for end in ends if end[1] >= 0]
        if ends:
            self.found = True
            return text[: min(ends)[1]]
        longest = max(map(len, self.stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self.stops):
                self._held = text[-size:]
                return text[:-size]
        return text

    def finish(self):
        """What has been held back, as no stop string can come of it any more."""
        return self._held


def _uncertain(text):
    """Number of characters at the end of a text that the next id may change."""
    if text.endswith("\ufffd"):
        return 1
    short = SHORT_FORM.search(text[-4:])
    return 0 if short is None else len(short.group())


def _is_byte(token):
    return BYTE_TOKEN.fullmatch(token) is not None
