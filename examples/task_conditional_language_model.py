"""A language model that is told what to write: conditional layer norms give it a class.

    python examples/task_conditional_language_model.py          # a small new RoFormer, minutes
    python examples/task_conditional_language_model.py --config bert_config.json \\
        --checkpoint bert_model.ckpt --vocab vocab.txt          # a BERT goes on learning
    python examples/task_conditional_language_model.py --smoke

The class is the metre, verses of five or of seven characters; it enters each layer norm as a vector
that moves gamma and beta. Does the model obey? Of poems that it begins and ends itself, the verses
are counted that have the length that was asked for; and beside them, how many it would be if it did
not listen, and wrote each length as often as it has read it.

Source: https://kexue.fm/archives/7124
"""

import re

import numpy as np
from poems import arguments, build, build_tokenizer, optimizer, read_poems
from task_language_model import BATCH_SIZE, CrossEntropy, lines

from bert4keras3.backend import keras
from bert4keras3.layers import Embedding
from bert4keras3.snippets import sequence_padding

METRES = (5, 7)
LENGTH = 80


def by_metre(poems):
    """Poems all of whose clauses have five or seven characters, with the number of their class."""
    for poem in poems:
        lengths = set(map(len, poem.clauses))
        if len(lengths) == 1 and lengths <= set(METRES):
            yield lines(poem), METRES.index(lengths.pop())


def share(poems, metre):
    """Which part of the verses has this length."""
    verses = [verse for poem in poems for verse in re.findall(r"\w+", poem)]
    return sum(len(verse) == metre for verse in verses) / max(len(verses), 1)


def main():
    args = arguments(__doc__, epochs=40, count=None, data=False)
    texts, labels = zip(*by_metre(read_poems(args.texts)), strict=True)
    if args.smoke:
        texts, labels = texts[:8], labels[:8]
    tokenizer = build_tokenizer(args, texts)
    label = keras.Input((1,), dtype="int32", name="Label")
    vector = keras.layers.Flatten()(Embedding(len(METRES), 128)(label))
    transformer = build(
        args,
        tokenizer,
        application="lm",
        layer_norm_cond=vector,
        layer_norm_cond_hidden_size=128,
        layer_norm_cond_hidden_act="swish",
        additional_input_layers=label,
    )
    output = CrossEntropy(1)([transformer.inputs[0], transformer.output])
    model = keras.Model(transformer.inputs, output)
    model.compile(optimizer(args, len(texts), BATCH_SIZE))
    ids = sequence_padding([tokenizer.encode(t, maxlen=LENGTH)[0] for t in texts], LENGTH)
    inputs = [ids, np.zeros_like(ids), np.array(labels)[:, None]]
    model.fit(inputs, None, BATCH_SIZE, args.epochs, verbose=2)

    length, count = (8, 2) if args.smoke else (LENGTH, 32)
    start, end = tokenizer._token_start_id, tokenizer._token_end_id
    options = {"end_token": end, "top_p": 0.5, "num_samples": count, "seed": args.seed}
    for number, metre in enumerate(METRES):
        found = transformer.generate([start], length - 1, conditions=number, **options)
        poems = [tokenizer.decode(ids) for ids in found]
        print(f"asked for verses of {metre}: {share(poems, metre):.1%} of them have that length")
        print(f"    ({share(texts, metre):.1%} if the model did not listen)")
        print(*(f"    {poem}" for poem in poems[:2]), sep="\n")


if __name__ == "__main__":
    main()
