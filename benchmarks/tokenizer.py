"""How much faster is `Tokenizer.encode_batch` than one `encode` after the other?

Run from the repository root: python benchmarks/tokenizer.py --help

The first call of a fresh tokenizer, on texts it has not seen, and later calls on the same texts are
timed apart. Words and characters are drawn by Zipf's law, so that texts have the common and the
rare; one word in ten is not in the vocabulary and has to be cut.
"""

import argparse
import random
import statistics
import time
from itertools import islice
from pathlib import Path

from bert4keras3.tokenizers import Tokenizer, load_vocab

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SYLLABLES = [first + vowel for first in "bcdfghklmnprstvw" for vowel in "aeiou"]


def main():
    args = parse_arguments()
    rng = random.Random(args.seed)
    vocabulary = load_vocab(args.vocab) if args.vocab else make_vocabulary(rng)
    chinese, english = chinese_parts(vocabulary, rng), english_parts(vocabulary, rng)
    samples = {
        "Chinese": chinese,
        "English": english,
        "mixed": mixed_parts(chinese, english, rng),
    }
    size = args.texts * args.length
    for name, parts in samples.items():
        compare(name, cut(take(parts, size), args.length), vocabulary, args)
    for path in args.files:
        text = Path(path).read_text(encoding="utf-8")
        compare(Path(path).name, cut(text[:size], args.length), vocabulary, args)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="UTF-8 files to take further texts from")
    parser.add_argument("--vocab", help="vocab.txt (default: one that is made up)")
    parser.add_argument("--texts", type=int, default=100, help="number of texts")
    parser.add_argument("--length", type=int, default=4000, help="characters of each text")
    parser.add_argument("--runs", type=int, default=5, help="runs of which the median counts")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn")
    parser.add_argument("--cased", action="store_true", help="do not lower the case")
    return parser.parse_args()


def make_vocabulary(rng):
    """Some 28000 tokens: ideographs, signs, letters, and words and endings made of syllables."""
    ideographs = map(chr, range(0x4E00, 0x4E00 + 7000))
    signs = [*map(chr, range(0x21, 0x7F)), *"，。！？、：；《》"]
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(20000)]
    ends = ["##" + letter for letter in "abcdefghijklmnopqrstuvwxyz"]
    ends += ["##" + syllable for syllable in SYLLABLES]
    tokens = dict.fromkeys([*SPECIAL, *ideographs, *signs, *words, *ends])
    return {token: number for number, token in enumerate(tokens)}


def chinese_parts(vocabulary, rng):
    """Endless ideographs, with a sign after every ten or so."""
    ideographs = [token for token in vocabulary if "\u4e00" <= token <= "\u9fff"]
    for char in draw(ideographs, rng):
        yield char
        if rng.random() < 0.1:
            yield rng.choice("，。，。！？、：")


def english_parts(vocabulary, rng):
    """Endless words, one in ten with an ending and one in ten with a sign after it."""
    words = [token for token in vocabulary if token.isascii() and token.isalpha()]
    ends = [token[2:] for token in vocabulary if token.isascii() and token[2:].isalpha()]
    for word in draw(words, rng):
        sign = rng.choice(",.,.;!?") if rng.random() < 0.1 else ""
        yield word + (rng.choice(ends) if rng.random() < 0.1 else "") + sign + " "


def mixed_parts(chinese, english, rng):
    while True:
        yield from islice(chinese, rng.randint(5, 40))
        yield from islice(english, rng.randint(1, 8))


def draw(items, rng):
    """Endless draws by Zipf's law."""
    rng.shuffle(items)
    weights = [1 / rank for rank in range(1, len(items) + 1)]
    while True:
        yield from rng.choices(items, weights, k=1000)


def take(parts, size):
    """A text of so many characters."""
    text = ""
    while len(text) < size:
        text += "".join(islice(parts, 10000))
    return text[:size]


def cut(text, length):
    return [text[start : start + length] for start in range(0, len(text), length)]


def compare(name, texts, vocabulary, args):
    """Time the three ways by turns, so that a busy machine is as bad for each."""
    slow, cold, warm = [], [], []
    for _ in range(args.runs):
        tokenizer = Tokenizer(vocabulary, do_lower_case=not args.cased)
        expected = timed(slow, lambda use=tokenizer: [use.encode(text) for text in texts])
        for seconds in (cold, warm):
            if timed(seconds, lambda use=tokenizer: use.encode_batch(texts)) != expected:
                raise SystemExit(f"FAILED: the results differ ({name})")
    slow, cold, warm = map(statistics.median, (slow, cold, warm))
    characters = sum(map(len, texts))
    print(
        f"{name}: {characters} characters, encode {slow / characters * 1e9:.0f} ns each; "
        f"encode_batch, first call {cold / characters * 1e9:.0f} ns ({slow / cold:.1f} times as "
        f"fast), later calls {warm / characters * 1e9:.0f} ns ({slow / warm:.1f} times)"
    )


def timed(seconds, function):
    start = time.perf_counter()
    result = function()
    seconds.append(time.perf_counter() - start)
    return result


if __name__ == "__main__":
    main()
