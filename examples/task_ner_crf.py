"""Find poets, titles and first lines in running text with a conditional random field: B, I, O.

    python examples/task_ner_crf.py                             # a small new RoFormer, minutes
    python examples/task_ner_crf.py --config bert_config.json \\
        --checkpoint bert_model.ckpt --vocab vocab.txt --data FOLDER    # a BERT, on your texts
    python examples/task_ner_crf.py --smoke

    床前明月光疑是地上霜出自李白的静夜思
    LINE 床前明月光疑是地上霜   POET 李白   TITLE 静夜思

F1 is that of spans found with both ends and kind, in texts on poems that were held out. Their
sentences are made like those of training, and most of their poets were seen there; what was not is
counted apart. `--data`: lines `{"text": ..., "spans": [[start, end, kind], ...]}`.
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

from bert4keras3.backend import keras
from bert4keras3.layers import ConditionalRandomField
from bert4keras3.snippets import sequence_padding, tag_rules

BATCH_SIZE = 16
MAXLEN = 256


def encode(sample, tokenizer, labels):
    """Token ids, and a label each."""
    tokens = tokenizer.tokenize(sample.text, maxlen=MAXLEN)
    kinds = {}
    for start, end, kind in sample.spans:
        kinds.update({i: f"{'I' if i > start else 'B'}-{kind}" for i in range(start, end)})
    places = tokenizer.rematch(sample.text, tokens)
    names = [kinds.get(place[0], "O") if place else "O" for place in places]
    return tokenizer.tokens_to_ids(tokens), [labels.index(name) for name in names]


def spans_of(names, places):
    """The spans `(start, end, kind)` that the labels of tokens name."""
    spans = []
    for name, place in zip(names, places, strict=True):
        if name.startswith("B") and place:
            spans.append([place[0], place[-1] + 1, name[2:]])
        elif name.startswith("I") and place and spans:
            spans[-1][1] = place[-1] + 1
    return {tuple(span) for span in spans}


def recognize(texts, tokenizer, tagger, labels):
    """The spans of each text."""
    tokens = [tokenizer.tokenize(text, maxlen=MAXLEN) for text in texts]
    ids = sequence_padding([tokenizer.tokens_to_ids(row) for row in tokens])
    found = tagger.predict([ids, np.zeros_like(ids)], verbose=0)
    return [
        spans_of([labels[i] for i in row[: len(words)]], tokenizer.rematch(text, words))
        for text, words, row in zip(texts, tokens, found, strict=True)
    ]


def main():
    args = arguments(__doc__)
    train, test = samples(args, catalogue)
    kinds = sorted({kind for sample in train for _, _, kind in sample.spans})
    labels = ["O", *(f"{place}-{kind}" for kind in kinds for place in "BI")]
    tokenizer = build_tokenizer(args, [sample.text for sample in train])
    transformer = build(args, tokenizer)
    # The transitions learn much faster than a given model should.
    crf = ConditionalRandomField(lr_multiplier=0.02 / args.rate, **tag_rules(labels))
    scores = crf(keras.layers.Dense(len(labels))(transformer.output))
    model = keras.Model(transformer.inputs, scores)
    model.compile(
        optimizer(args, len(train), BATCH_SIZE), crf.sparse_loss, metrics=[crf.sparse_accuracy]
    )
    ids, targets = zip(*(encode(sample, tokenizer, labels) for sample in train), strict=True)
    ids, targets = training_ids(args, ids, tokenizer), sequence_padding(targets)
    model.fit([ids, np.zeros_like(ids)], targets, BATCH_SIZE, epochs=args.epochs, verbose=2)

    tagger = keras.Model(transformer.inputs, crf(scores, decode=True))
    found = recognize([sample.text for sample in test], tokenizer, tagger, labels)
    report(found, test, train, kinds)


if __name__ == "__main__":
    main()
