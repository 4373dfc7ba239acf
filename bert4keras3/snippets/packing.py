"""Short texts side by side in rows of one length, to train language models without padding."""

import bisect
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PackedRows:
    """Rows that several sequences share.

    Args:
        tokens: int `(rows, length)`.
        numbers: int `(rows, length)`: 1 for tokens of a row's first sequence, 2 for those of
            the second, and so on; 0 for padding.
        positions: int `(rows, length)`, the position of a token in its sequence.
    """

    tokens: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray

    @property
    def inputs(self):
        """What a language model reads: int `(rows, length - 1)`."""
        return self.tokens[:, :-1]

    @property
    def targets(self):
        """What it should say next, of the same shape."""
        return self.tokens[:, 1:]

    @property
    def weights(self):
        """float32, 1 where the target goes on with the sequence of the input; else 0."""
        same = (self.numbers[:, 1:] == self.numbers[:, :-1]) & (self.numbers[:, 1:] > 0)
        return same.astype("float32")


def pack_sequences(sequences, length, value=0, split=False):
    """Put sequences side by side into rows of one length.

    For training, give `length` one more than the model reads:

        rows = pack_sequences(encoded_texts, 513)
        model.fit(rows.inputs, rows.targets, sample_weight=rows.weights)

    A model sees what stands before in its row, other sequences too, unless it is given a
    mask made of `numbers`; the tokens that end texts are what it tells them apart by.

    Args:
        sequences: lists or arrays of ids; empty ones are left out.
        length: tokens a row.
        value: what is filled in.
        split: cut sequences wherever a row is full, in the order given: only the last row
            has padding. Otherwise only those longer than a row are cut, and rows are filled
            best-fit, longest first.

    Returns:
        `PackedRows`; each token of the sequences is in it once.

    Raises:
        ValueError: a length below 1.

    Source: https://arxiv.org/abs/2107.02027
    """
    if length < 1:
        raise ValueError(f"pack_sequences: length: expected at least 1, got {length}")
    arrays = [np.asarray(sequence) for sequence in sequences]
    rows = _in_order(arrays, length) if split else _best_fit(arrays, length)
    shape = (len(rows), length)
    packed = PackedRows(
        np.full(shape, value, "int32"), np.zeros(shape, "int32"), np.zeros(shape, "int32")
    )
    for row, pieces in enumerate(rows):
        start = 0
        for number, piece in enumerate(pieces, 1):
            place = (row, slice(start, start + len(piece)))
            packed.tokens[place] = piece
            packed.numbers[place] = number
            packed.positions[place] = np.arange(len(piece))
            start += len(piece)
    return packed


def _in_order(arrays, length):
    rows, free = [], 0
    for array in arrays:
        while len(array):
            if not free:
                rows.append([])
                free = length
            rows[-1].append(array[:free])
            array, free = array[free:], free - len(rows[-1][-1])
    return rows


def _best_fit(arrays, length):
    pieces = [a[i : i + length] for a in arrays for i in range(0, len(a), length)]
    rows, sizes, with_room = [], [], {}  # free space: rows that have it; sizes in order
    for piece in sorted(pieces, key=len, reverse=True):
        place = bisect.bisect_left(sizes, len(piece))
        if place == len(sizes):
            row, free = [], length
            rows.append(row)
        else:
            free = sizes[place]
            row = with_room[free].pop()
            if not with_room[free]:
                del with_room[free], sizes[place]
        row.append(piece)
        free -= len(piece)
        if free:
            if free not in with_room:
                bisect.insort(sizes, free)
            with_room.setdefault(free, []).append(row)
    return rows
