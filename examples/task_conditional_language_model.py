"""A language model that is told what to write: conditional layer norms give it a class.

    python examples/task_conditional_language_model.py          # a small new RoFormer, minutes
    python examples/task_conditional_language_model.py --config bert_config.json \\
        --checkpoint bert_model.ckpt --vocab vocab.txt          # a BERT goes on learning
    python examples/task_conditional_language_model.py --smoke

The class is the metre, verses of five or of seven characters; it enters each layer norm as a vector
that moves gamma and beta. Does the model obey? Of poems that it begins and ends itself, those are
counted whose verses all have the length that was asked for; and beside them, how many it would be
if it did not listen, and wrote each metre as often as it has read it.

Source: https://kexue.fm/archives/7124
"""

import re

import numpy as np
from poems import arguments, build, build_tokenizer, optimizer, read_poems
from task_language_model import BATCH_SIZE, CrossEntropy, lines

from bert4keras3.backend import keras
from bert4keras3.snippets import AutoRegressiveDecoder, sequence_padding

METRES = (5, 7)
LENGTH = 80


def by_metre(poems):
    """Poems all of whose clauses have five or seven characters, with the number of their class."""
    for poem in poems:
        lengths = set(map(len, poem.clauses))
        if len(lengths) == 1 and lengths <= set(METRES):
            yield lines(poem), METRES.index(lengths.pop())


class Poems(AutoRegressiveDecoder):
    """Poems of a class, drawn at random, up to `rows` together."""

    def __init__(self, model, rows, **options):
        super().__init__(**options)
        self.model = model
        # Of one shape, which JAX compiles once: what is right of a token does not change it.
        self.ids = np.zeros((rows, self.maxlen), "int32")

    @AutoRegressiveDecoder.wraps(default_rtype="probas")
    def predict(self, inputs, output_ids, states):
        rows, length = output_ids.shape
        self.ids[:rows, :length] = output_ids
        self.ids[:, length:] = 0
        label = np.full((len(self.ids), 1), inputs[0][0, 0])
        probas = self.model.predict_on_batch([self.ids, np.zeros_like(self.ids), label])
        return probas[:rows, length - 1]


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

    np.random.seed(args.seed)
    length, count = (8, 2) if args.smoke else (LENGTH, 32)
    start, end = tokenizer._token_start_id, tokenizer._token_end_id
    writer = Poems(transformer.model, count, start_id=start, end_id=end, maxlen=length)
    for number, metre in enumerate(METRES):
        poems = [tokenizer.decode(ids) for ids in writer.random_sample([[number]], count, topp=0.5)]
        right = sum(obeys(poem, metre) for poem in poems)
        deaf = count * labels.count(number) / len(labels)
        print(f"asked for verses of {metre}: {right} of {count} poems have them throughout")
        print(f"    ({deaf:.1f} if the model did not listen)")
        print(*(f"    {poem}" for poem in poems[:2]), sep="\n")


if __name__ == "__main__":
    main()
