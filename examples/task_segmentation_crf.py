"""Cut running text into verses with a conditional random field, as words are cut: B, M, E, S.

    python examples/task_segmentation_crf.py                    # a small new RoFormer, minutes
    python examples/task_segmentation_crf.py --config bert_config.json \\
        --checkpoint bert_model.ckpt --vocab vocab.txt --data FOLDER    # a BERT, on your texts
    python examples/task_segmentation_crf.py --smoke

    床前明月光疑是地上霜春眠不觉晓 -> 床前明月光 | 疑是地上霜 | 春眠不觉晓

The texts are quatrains of several poems, run together without punctuation, so that verses of five
and of seven characters mix. There is an M for each place within a verse or word, so that the
transitions learn how long these are. F1 is that of clauses found with both their ends, in poems
that were held out. `--data`: lines `{"text": ..., "spans": [[start, end, kind], ...]}` that cover
the text.
"""

from itertools import pairwise

import numpy as np
from poems import arguments, build, build_tokenizer, f1, optimizer, samples, training_ids, verses

from bert4keras3.backend import keras
from bert4keras3.layers import ConditionalRandomField
from bert4keras3.snippets import ViterbiDecoder, sequence_padding, tag_rules

LABELS = list("BMMMMMES")
BEGIN, END, SINGLE = (LABELS.index(name) for name in "BES")
BATCH_SIZE = 32
MAXLEN = 256


def encode(sample, tokenizer):
    """Token ids and labels; [CLS] and [SEP] are words of their own."""
    tokens = tokenizer.tokenize(sample.text, maxlen=MAXLEN)
    starts, ends = ({span[side] - side for span in sample.spans} for side in (0, 1))
    labels = []
    for place in tokenizer.rematch(sample.text, tokens):
        begins = not place or place[0] in starts
        finishes = not place or place[-1] in ends
        if begins:
            labels.append(SINGLE if finishes else BEGIN)
        else:
            labels.append(END if finishes else min(labels[-1] + 1, END - 1))
    return tokenizer.tokens_to_ids(tokens), labels


def cut(texts, tokenizer, model, viterbi):
    """The spans `(start, end)` of each text."""
    rows = [tokenizer.tokenize(text, maxlen=MAXLEN) for text in texts]
    ids = sequence_padding([tokenizer.tokens_to_ids(tokens) for tokens in rows])
    scores = model.predict([ids, np.zeros_like(ids)], verbose=0)
    for text, tokens, nodes in zip(texts, rows, scores, strict=True):
        places = tokenizer.rematch(text, tokens)
        labels = viterbi.decode(nodes[: len(tokens)])
        begins = np.isin(labels, (BEGIN, SINGLE))
        pairs = zip(places, begins, strict=True)
        starts = sorted({0, *(place[0] for place, begin in pairs if place and begin)})
        yield set(pairwise([*starts, len(text)]))


def main():
    args = arguments(__doc__, epochs=3, count=8000, rate=1e-3)
    train, test = samples(args, verses)
    tokenizer = build_tokenizer(args, [sample.text for sample in train])
    transformer = build(args, tokenizer)
    crf = ConditionalRandomField(lr_multiplier=1000 * 2e-5 / args.rate)
    scores = crf(keras.layers.Dense(len(LABELS))(transformer.output))
    model = keras.Model(transformer.inputs, scores)
    model.compile(
        optimizer(args, len(train), BATCH_SIZE), crf.sparse_loss, metrics=[crf.sparse_accuracy]
    )
    ids, labels = zip(*(encode(sample, tokenizer) for sample in train), strict=True)
    ids, labels = training_ids(args, ids, tokenizer), sequence_padding(labels)
    model.fit([ids, np.zeros_like(ids)], labels, BATCH_SIZE, epochs=args.epochs, verbose=2)

    viterbi = ViterbiDecoder(crf.trans, **tag_rules(LABELS))
    texts = [sample.text for sample in test]
    found = list(cut(texts, tokenizer, model, viterbi))
    expected = [{(start, end) for start, end, _ in sample.spans} for sample in test]
    print(f"{len(test)} texts of poems that were held out")
    for name, spans in (
        ("every 5 characters", [every(5, text) for text in texts]),
        ("every 7 characters", [every(7, text) for text in texts]),
        ("the model", found),
    ):
        precision, recall, score = f1(spans, expected)
        print(f"{name:<20} precision {precision:.1%}, recall {recall:.1%}, F1 {score:.1%}")
    for text, spans in zip(texts[:3], found, strict=False):
        print(" | ".join(text[start:end] for start, end in sorted(spans)))


def every(size, text):
    """What takes no learning: to cut after so many characters."""
    return {(i, min(i + size, len(text))) for i in range(0, len(text), size)}


if __name__ == "__main__":
    main()
