"""How much faster is `Tokenizer.encode_batch` than one `encode` after the other?

Run from the repository root: python benchmarks/tokenizer.py --help
"""

import argparse
import statistics
import time
from pathlib import Path

from bert4keras3.tokenizers import Tokenizer

SAMPLE = """\
Tokenization splits a text into the units that a model knows. 分词把一段文本切分成模型认识的单元。
In 2018 BERT came with a vocabulary of WordPieces: frequent words are whole, rare ones are put
together from pieces like ##ing or ##ization. 中文没有空格，所以每一个汉字都单独成为一个词，
标点符号也是如此；英文、数字（如3.14、50%）和网址https://example.com/path?q=1则按空格和标点切开。
The naïve café owner said: "It's 10°C outside!" 今天天气不错，我们去公园散步吧。
"""


def main():
    args = parse_arguments()
    texts = make_texts(read_sample(args.text), args.texts, args.length)
    vocabulary = args.vocab or make_vocabulary(texts)
    characters = sum(map(len, texts))
    print(f"{len(texts)} texts, {characters} characters")

    slow, expected = measure(args.runs, lambda: encode_each(vocabulary, args.cased, texts))
    report("encode, one by one", slow, characters)
    cold, got = measure(args.runs, lambda: make(vocabulary, args.cased).encode_batch(texts))
    report("encode_batch, first call", cold, characters, slow)
    tokenizer = make(vocabulary, args.cased)
    warm, again = measure(args.runs, lambda: tokenizer.encode_batch(texts), warm_up=True)
    report("encode_batch, later calls", warm, characters, slow)
    if not expected == got == again:
        raise SystemExit("FAILED: the results differ")
    print("results are equal")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--text", help="UTF-8 file to take the texts from (default: a sample)")
    parser.add_argument("--vocab", help="vocab.txt (default: made from the characters and words)")
    parser.add_argument("--texts", type=int, default=100, help="number of texts")
    parser.add_argument("--length", type=int, default=4000, help="characters of each text")
    parser.add_argument("--runs", type=int, default=5, help="runs of which the median counts")
    parser.add_argument("--cased", action="store_true", help="do not lower the case")
    return parser.parse_args()


def read_sample(path):
    return Path(path).read_text(encoding="utf-8") if path else SAMPLE


def make_texts(sample, count, length):
    """Different cuts of the sample, repeated as often as it takes."""
    sample *= length // max(len(sample), 1) + 2
    step = max((len(sample) - length) // count, 1)
    starts = [i * step % (len(sample) - length + 1) for i in range(count)]
    return [sample[start : start + length] for start in starts]


def make_vocabulary(texts):
    """Every character alone and as a continuation, and half of the words."""
    characters = sorted(set("".join(texts).lower()) - set(" \n\t\r"))
    words = sorted(set("".join(texts).lower().split()))[::2]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *words]
    tokens += ["##" + char for char in characters]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def make(vocabulary, cased):
    return Tokenizer(vocabulary, do_lower_case=not cased)


def encode_each(vocabulary, cased, texts):
    tokenizer = make(vocabulary, cased)
    return [tokenizer.encode(text) for text in texts]


def measure(runs, function, warm_up=False):
    """Median seconds of some runs, and the last result."""
    if warm_up:
        function()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def report(name, seconds, characters, reference=None):
    ratio = f", {reference / seconds:.1f} times as fast" if reference else ""
    print(f"{name}: {characters / seconds / 1e6:.2f} million characters a second{ratio}")


if __name__ == "__main__":
    main()
