"""What two sequences have in common, and how long sequences get shorter."""


def longest_common_substring(source, target):
    """The longest run of items that two sequences share.

    Args:
        source, target: strings or lists.

    Returns:
        `(length, (start, end, start in target, end in target))`, ends exclusive; of equally
        long runs the first one in source, then in target. 0 and zeros where there is none.
    """
    best, found = 0, (0, 0, 0, 0)
    lengths = [0] * (len(target) + 1)  # of the runs that end before each place of target
    for i, item in enumerate(source, 1):
        previous = lengths
        lengths = [0] * (len(target) + 1)
        for j, other in enumerate(target, 1):
            if item == other:
                lengths[j] = previous[j - 1] + 1
                if lengths[j] > best:
                    best = lengths[j]
                    found = (i - best, i, j - best, j)
    return best, found


def longest_common_subsequence(source, target):
    """The longest sequence of items that two sequences share in order, with gaps.

    Args:
        source, target: strings or lists.

    Returns:
        `(length, [(place in source, place in target), ...])`.
    """
    rows = [[0] * (len(target) + 1)]
    for item in source:
        above, row = rows[-1], [0]
        for j, other in enumerate(target, 1):
            row.append(above[j - 1] + 1 if item == other else max(above[j], row[-1]))
        rows.append(row)
    i, j, pairs = len(source), len(target), []
    while rows[i][j]:
        if source[i - 1] == target[j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif rows[i][j - 1] > rows[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return rows[-1][-1], pairs[::-1]


def truncate_sequences(maxlen, indices, *sequences):
    """Take items out of the longest of several lists, until they fit together.

    Args:
        maxlen: what the sum of their lengths may be.
        indices: the place an item is taken from (an index of `list.pop`), or a list of one
            such place a sequence.
        *sequences: lists, which are changed; empty ones and None are left out.

    Returns:
        The list of sequences.
    """
    sequences = [s for s in sequences if s]
    if not isinstance(indices, (list, tuple)):
        indices = [indices] * len(sequences)
    if len(indices) != len(sequences):
        raise ValueError(
            f"truncate_sequences: {len(indices)} indices for {len(sequences)} sequences"
        )
    while sum(map(len, sequences)) > maxlen:
        longest = max(range(len(sequences)), key=lambda i: len(sequences[i]))
        sequences[longest].pop(indices[longest])
    return sequences
