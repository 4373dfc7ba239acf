"""Cutting sequences to a length, as many tokens at once as the rule says one by one."""

import operator


def drop_index(truncate_from, has_start, has_end):
    """The place where tokens are dropped, as an index for `list.pop`.

    Args:
        truncate_from: 'right' drops before the end token, 'left' after the start token, an
            integer is the index itself.
        has_start: whether the sequences begin with a start token.
        has_end: whether they end with an end token.
    """
    if truncate_from == "right":
        return -2 if has_end else -1
    if truncate_from == "left":
        return 1 if has_start else 0
    try:
        return operator.index(truncate_from)
    except TypeError:
        raise ValueError(
            f"truncate_from must be 'right', 'left' or an index, found {truncate_from!r}"
        ) from None


def shorten(sequence, length, index):
    """The list after `pop(index)` until at most `length` items are left.

    Where an index reaches beyond a short list, the item nearest to it goes.
    """
    surplus = len(sequence) - length
    if surplus <= 0:
        return sequence
    if index >= 0:
        head = min(index, length)
        return sequence[:head] + sequence[head + surplus :]
    head = max(length - (-index - 1), 0)
    return sequence[:head] + sequence[head + surplus :]


def share(first, second, room):
    """Lengths left of two when the longer one loses an item (the first, if equal) until they fit.

    Args:
        first, second: the lengths.
        room: what their sum may be.

    Returns:
        The pair of lengths.
    """
    half = room // 2
    return min(first, max(half, room - second)), min(second, max(room - half, room - first))


def check_maxlen(maxlen):
    """Raise unless this is None or an integer from 0 on."""
    if maxlen is None:
        return
    if not hasattr(maxlen, "__index__"):
        raise TypeError(f"maxlen must be an integer or None, found {maxlen!r}")
    if maxlen < 0:
        raise ValueError(f"maxlen must not be negative, found {maxlen}")
