"""A language model that is told what to write: conditional layer norms give it a class.

    python examples/task_conditional_language_model.py          # a small new RoFormer, minutes
    python examples/task_conditional_language_model.py --config bert_config.json \\
        --checkpoint bert_model.ckpt --vocab vocab.txt          # a BERT goes on learning
    python examples/task_conditional_language_model.py --smoke

The class is the metre, verses of five or of seven characters; it enters each layer norm as a vector
that moves gamma and beta. Does the model obey? Of poems that it begins and ends itself, those are
counted whose verses all have the length that was asked for.

Source: https://kexue.fm/archives/7124
"""

import re

import numpy as np
from poems import arguments, build, build_tokenizer, optimizer, read_poems
from task_language_model import BATCH_SIZE, CrossEntropy, lines

from bert4keras3.backend import keras
from bert4keras3.snippets import sequence_padding

METRES = (5, 7)
LENGTH = 80


def by_metre(poems):
    """Poems all of whose clauses have five or seven characters, with the number of their class."""
    for poem in poems:
        lengths = set(map(len, poem.clauses))
        if len(lengths) == 1 and lengths <= set(METRES):
            yield lines(poem), METRES.index(lengths.pop())


def write(generator, tokenizer, label, count):
    """Poems of a class."""
    ids = np.zeros((count, LENGTH), "int32")
    ids[:, 0] = tokenizer._token_start_id
    labels = np.full((count, 1), label)
    found = generator.predict([ids, np.zeros_like(ids), labels], batch_size=count, verbose=0)
    return [tokenizer.decode(row[row != 0]) for row in found]


def obeys(text, metre):
    """Whether there are verses, and all of this length."""
    verses = re.findall(r"\w+", text)
    return bool(verses) and all(len(verse) == metre for verse in verses)


def main():
    args = arguments(__doc__, epochs=20, count=None, data=False)
    texts, labels = zip(*by_metre(read_poems(args.texts)), strict=True)
    if args.smoke:
        texts, labels = texts[:8], labels[:8]
    tokenizer = build_tokenizer(args, texts)
    label = keras.Input((1,), dtype="int32", name="Label")
    vector = keras.layers.Flatten()(keras.layers.Embedding(len(METRES), 128)(label))
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

    end, count = tokenizer._token_end_id, 2 if args.smoke else 100
    generator = transformer.build_cache_model(
        [LENGTH, LENGTH, 1], end, search_mode="topp", k=0.9, seed=args.seed
    )
    for number, metre in enumerate(METRES):
        poems = write(generator, tokenizer, number, count)
        right = sum(obeys(poem, metre) for poem in poems)
        print(f"asked for verses of {metre}: {right} of {count} poems have them throughout")
        print(*(f"    {poem}" for poem in poems[:2]), sep="\n")


if __name__ == "__main__":
    main()
