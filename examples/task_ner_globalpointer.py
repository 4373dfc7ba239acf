"""Find poets, titles and first lines in running text with GlobalPointer: every span gets a score.

    python examples/task_ner_globalpointer.py                   # a small new RoFormer, minutes
    python examples/task_ner_globalpointer.py --config bert_config.json \\
        --checkpoint bert_model.ckpt --vocab vocab.txt --data FOLDER    # a BERT, on your texts
    python examples/task_ner_globalpointer.py --layer GlobalPointer --smoke

The task, the numbers and the format of `--data` are those of task_ner_crf.py; but here spans may
lie within each other. EfficientGlobalPointer has fewer weights than GlobalPointer.
"""

import numpy as np
from poems import (
    arguments,
    build,
    build_tokenizer,
    catalogue,
    optimizer,
    report,
    samples,
    training_ids,
)

from bert4keras3 import layers
from bert4keras3.backend import keras, multilabel_categorical_crossentropy
from bert4keras3.snippets import sequence_padding

BATCH_SIZE = 16
MAXLEN = 256


def encode(sample, tokenizer, kinds):
    """Token ids, and 0/1 `(kinds, length, length)`: which tokens a span begins and ends with."""
    tokens = tokenizer.tokenize(sample.text, maxlen=MAXLEN)
    places = tokenizer.rematch(sample.text, tokens)
    starts = {place[0]: i for i, place in enumerate(places) if place}
    ends = {place[-1] + 1: i for i, place in enumerate(places) if place}
    spans = np.zeros((len(kinds), len(tokens), len(tokens)), dtype="int8")
    for start, end, kind in sample.spans:
        if start in starts and end in ends:
            spans[kinds.index(kind), starts[start], ends[end]] = 1
    return tokenizer.tokens_to_ids(tokens), spans


def loss(y_true, y_pred):
    """Each kind of a text is a choice of several among all spans."""
    return keras.ops.sum(
        multilabel_categorical_crossentropy(*(_flat(y) for y in (y_true, y_pred))), axis=-1
    )


def _flat(y):
    batch, kinds, length, _ = keras.ops.shape(y)
    return keras.ops.cast(keras.ops.reshape(y, (batch, kinds, length * length)), "float32")


def recognize(texts, tokenizer, model, kinds):
    """The spans `(start, end, kind)` of each text: those that score above 0."""
    rows = [tokenizer.tokenize(text, maxlen=MAXLEN) for text in texts]
    ids = sequence_padding([tokenizer.tokens_to_ids(tokens) for tokens in rows])
    scores = model.predict([ids, np.zeros_like(ids)], batch_size=BATCH_SIZE, verbose=0)
    found = []
    for text, tokens, score in zip(texts, rows, scores, strict=True):
        places = tokenizer.rematch(text, tokens)
        spans = [span for span in np.argwhere(score > 0) if places[span[1]] and places[span[2]]]
        found.append({(places[s][0], places[e][-1] + 1, kinds[kind]) for kind, s, e in spans})
    return found


def main():
    layer = {"help": "default: %(default)s", "choices": ["EfficientGlobalPointer", "GlobalPointer"]}
    args = arguments(__doc__, rate=3e-3, layer={"default": "EfficientGlobalPointer", **layer})
    train, test = samples(args, catalogue)
    kinds = sorted({kind for sample in train for _, _, kind in sample.spans})
    tokenizer = build_tokenizer(args, [sample.text for sample in train])
    transformer = build(args, tokenizer)
    pointer = getattr(layers, args.layer)(heads=len(kinds), head_size=64)
    model = keras.Model(transformer.inputs, pointer(transformer.output))
    model.compile(optimizer(args, len(train), BATCH_SIZE), loss)
    ids, spans = zip(*(encode(sample, tokenizer, kinds) for sample in train), strict=True)
    ids = training_ids(args, ids, tokenizer)
    spans = sequence_padding(spans, length=[len(kinds), *ids.shape[1:] * 2], seq_dims=3)
    model.fit([ids, np.zeros_like(ids)], spans, BATCH_SIZE, epochs=args.epochs, verbose=2)

    found = recognize([sample.text for sample in test], tokenizer, model, kinds)
    report(found, test, train, kinds)


if __name__ == "__main__":
    main()
