"""What the examples on poems share: reading them, labelled texts made of them, F1, small models.

    《静夜思》李白: 床前明月光，疑是地上霜。…  ->  "床前明月光疑是地上霜出自李白的静夜思…"

Poems are in the training texts or in the test texts, never in both.
"""

import argparse
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import POEMS, SPECIAL_TOKENS, make_optimizer

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import sequence_padding
from bert4keras3.tokenizers import Tokenizer

SIZES = {
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "hidden_act": "gelu",
    "max_position": 512,
    "dropout_rate": 0.1,
}
TINY = {**SIZES, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24}
# The running text, without punctuation: often the words alone say where a title or line ends.
TEMPLATES = (
    "{poet}{title}{line}",
    "{poet}作{title}云{line}",
    "{poet}在{title}里写道{line}",
    "{line}出自{poet}的{title}",
    "{line}是{poet}{title}的首句",
    "{title}是{poet}的诗首句为{line}",
)
LONGEST_TITLE = 10  # as all texts are padded to the longest one


class Poem(NamedTuple):
    """A poem: its title and poet, and its clauses, without punctuation."""

    title: str
    poet: str
    clauses: list

    @property
    def line(self):
        """The first line: two clauses."""
        return "".join(self.clauses[:2])


class Sample(NamedTuple):
    """A text, its spans `(start, end, kind)` (`text[start:end]`), and triples of strings."""

    text: str
    spans: list = []
    triples: list = []


def read_poems(path=POEMS):
    """The poems of a file: `《title》`, `作者：poet`, lines, and a blank line after each."""
    poems = []
    for block in re.split(r"\n\s*\n", Path(path).read_text(encoding="utf-8").strip()):
        heading, author, *lines = block.splitlines()
        title = "".join(filter(str.isalpha, re.search("《(.+?)》", heading).group(1)))
        poet = re.match(r"作者[：:](\w+)", author).group(1)
        body = "".join(line for line in lines if not re.fullmatch("其.", line))
        poems.append(Poem(title, poet, re.findall(r"\w+", body)))
    return poems


def split(poems, share=5):
    """(training, held out): a fifth of the titles with all their poems is held out."""
    names = [re.sub("其.$", "", poem.title) for poem in poems]
    order = np.random.default_rng(0).permutation(sorted(set(names)))
    kept = set(order[::share])
    pairs = list(zip(names, poems, strict=True))
    return [p for name, p in pairs if name not in kept], [p for name, p in pairs if name in kept]


def catalogue(poems, count, rng):
    """Texts of two entries each, with spans TITLE, POET and LINE, and triples."""
    poems = [poem for poem in poems if len(poem.title) <= LONGEST_TITLE]
    for _ in range(count):
        text, spans, triples = "", [], []
        for i in rng.choice(len(poems), 2, replace=False):
            poem = poems[i]
            for part in re.split("[{}]", TEMPLATES[rng.integers(len(TEMPLATES))]):
                words = getattr(poem, part) if part in ("title", "poet", "line") else part
                if words is not part:
                    spans.append((len(text), len(text) + len(words), part.upper()))
                text += words
            triples += [(poem.poet, "wrote", poem.title), (poem.title, "begins", poem.line)]
        yield Sample(text, spans, triples)


def verses(poems, count, rng):
    """Texts of clauses run together, four each of three poems: a span CLAUSE each."""
    for _ in range(count):
        clauses = []
        for i in rng.choice(len(poems), 3, replace=False):
            first = 2 * rng.integers(max(1, len(poems[i].clauses) // 2 - 1))
            clauses += poems[i].clauses[first : first + 4]
        ends = np.cumsum([len(clause) for clause in clauses])
        starts = [0, *ends[:-1]]
        yield Sample(
            "".join(clauses), [(s, e, "CLAUSE") for s, e in zip(starts, ends, strict=True)]
        )


def arguments(doc, epochs=4, count=6000, rate=2e-3, data=True, **more):
    """The command line of an example, parsed; `--smoke` makes everything small.

    Args:
        doc: what `--help` says.
        epochs, count: defaults; a count of None where no texts are made.
        rate: the learning rate of a new model.
        data: whether labelled texts can take the place of those made of poems.
        **more: further arguments, name: options of `add_argument`.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--texts", default=POEMS, metavar="FILE", help="poems; by default the package's")
    if data:
        add("--data", type=Path, metavar="FOLDER", help="train.jsonl and test.jsonl to use instead")
    add("--config", metavar="FILE", help="configuration of a model to start from, or its folder")
    add("--checkpoint", metavar="FILE", help="its weights; by default a small new model is trained")
    add("--vocab", metavar="FILE", help="its vocab.txt")
    add("--model", help="its family; by default what the configuration says")
    add("--rate", type=float, help=f"learning rate; {rate} for a new model, 2e-5 for a given one")
    add("--epochs", type=int, default=epochs, help="default: %(default)s")
    if count:
        add("--count", type=int, default=count, help="texts made to train on; default: %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--smoke", action="store_true", help="a tiny model, a few texts: seconds, to see it run")
    for name, options in more.items():
        add(f"--{name}", **options)
    args = parser.parse_args()
    args.rate = args.rate or (2e-5 if args.config else rate)
    if args.smoke:
        args.epochs, args.count = 1, 16
    keras.utils.set_random_seed(args.seed)
    return args


def samples(args, make, kind=Sample):
    """(training samples, test samples): those of `--data`, or made by `make` from the poems."""
    if args.data:
        return tuple(
            [kind(**json.loads(row)) for row in (args.data / f"{name}.jsonl").open("rb")]
            for name in ("train", "test")
        )
    rng = np.random.default_rng(args.seed)
    known, new = split(read_poems(args.texts))
    return list(make(known, args.count, rng)), list(make(new, min(args.count, 300), rng))


def build_tokenizer(args, texts):
    """The tokenizer of the vocabulary given, or one of the characters of the texts."""
    tokens = (*SPECIAL_TOKENS, *sorted(set("".join(texts))))
    return Tokenizer(args.vocab or {t: i for i, t in enumerate(tokens)}, do_lower_case=True)


def build(args, tokenizer, **options):
    """The model given, or a small new RoFormer."""
    if args.config is None:
        sizes = {**(TINY if args.smoke else SIZES), "vocab_size": tokenizer._vocab_size}
        options = {"model": args.model or "roformer", **sizes, **options}
    else:
        options = {"model": args.model, **options}
    return build_transformer_model(
        args.config, args.checkpoint, return_keras_model=False, **options
    )


def training_ids(args, rows, tokenizer, most=0.8):
    """Ids, padded; a new model reads [UNK] for up to so many of them, as it will in other poems.

    It would know a few hundred poems by heart otherwise, and nothing about others.
    """
    ids = sequence_padding(rows)
    if args.config is None:
        rng = np.random.default_rng(args.seed)
        hidden = rng.random(ids.shape) < most * rng.random((len(ids), 1))
        ids[hidden & (ids >= len(SPECIAL_TOKENS))] = tokenizer._token_unk_id
    return ids


def optimizer(args, texts, batch_size):
    """AdamW with a short warm-up, then falling to nothing."""
    return make_optimizer(args.rate, args.epochs * -(-texts // batch_size), warmup=20)


def f1(found, expected):
    """Precision, recall and F1 of sets, one a text: an item counts if all of it is right."""
    right = sum(len(f & e) for f, e in zip(found, expected, strict=True))
    precision = right / max(sum(map(len, found)), 1)
    recall = right / max(sum(map(len, expected)), 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def report(found, test, train, kinds):
    """Print precision, recall and F1 of the spans of each kind; and of what a list would find.

    The list has the words of all spans of the training texts. New are those that are not on it:
    their recall tells what was learnt from what was learnt by heart.
    """
    seen = {(s.text[start:end], kind) for s in train for start, end, kind in s.spans}
    longest = max(len(words) for words, _ in seen)
    expected = [{tuple(span) for span in sample.spans} for sample in test]
    new = [
        {span for span in spans if (sample.text[span[0] : span[1]], span[2]) not in seen}
        for sample, spans in zip(test, expected, strict=True)
    ]
    print(f"{'':<10}{'precision':>10}{'recall':>10}{'F1':>10}{'spans':>8}{'recall of new':>16}")
    for kind in ("all", *kinds):
        sets = [
            [{span for span in spans if kind in ("all", span[2])} for spans in side]
            for side in (found, expected, new)
        ]
        numbers = "".join(f"{number:>10.1%}" for number in f1(*sets[:2]))
        _, recall, _ = f1(sets[0], sets[2])
        count = sum(map(len, sets[2]))
        print(f"{kind:<10}{numbers}{sum(map(len, sets[1])):>8}{recall:>8.1%} of {count}")
    listed = [
        {
            (start, end, kind)
            for start in range(len(sample.text))
            for end in range(start + 1, min(start + longest, len(sample.text)) + 1)
            for kind in kinds
            if (sample.text[start:end], kind) in seen
        }
        for sample in test
    ]
    print(f"{'a list':<10}" + "".join(f"{number:>10.1%}" for number in f1(listed, expected)))
