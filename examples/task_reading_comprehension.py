"""Answer questions about a text: the model points to where the answer begins and ends.

    python examples/task_reading_comprehension.py               # a small new RoFormer, minutes
    python examples/task_reading_comprehension.py --config bert_config.json \\
        --checkpoint bert_model.ckpt --vocab vocab.txt --data FOLDER    # a BERT, on your texts
    python examples/task_reading_comprehension.py --smoke

    静夜思的作者是谁 / 床前明月光疑是地上霜出自李白的静夜思王维作鹿柴云空山不见人但闻人语响 -> 李白

Every text is about two poems, so that who knows a poet's name when he sees one is right every other
time. The answers counted are those without a wrong character, about poems that were held out. A new
model is told which characters of the text the question has, too (by segment 2), as it would need
far more texts to learn to compare them.
`--data`: lines `{"text": ..., "question": ..., "answer": [start, end]}`, with text[start:end].

Source of the told characters: https://arxiv.org/abs/1704.00051
"""

from itertools import islice
from typing import NamedTuple

import numpy as np
from poems import (
    arguments,
    build,
    build_tokenizer,
    catalogue,
    optimizer,
    samples,
    training_ids,
)

from bert4keras3.backend import keras
from bert4keras3.snippets import sequence_padding

QUESTIONS = {"POET": "{TITLE}的作者是谁", "LINE": "{TITLE}怎样开头", "TITLE": "哪首诗开头是{LINE}"}
BATCH_SIZE = 32
MAXLEN = 128


class Question(NamedTuple):
    """A question, and the part `text[start:end]` of a text that answers it."""

    text: str
    question: str
    answer: tuple


def questions(poems, count, rng):
    """A question about one of the two poems of each text."""
    for sample in catalogue(poems, count, rng):
        first = 3 * rng.integers(2)  # each poem has three spans
        spans = {kind: (start, end) for start, end, kind in sample.spans[first : first + 3]}
        words = {kind: sample.text[start:end] for kind, (start, end) in spans.items()}
        kind = rng.choice(list(QUESTIONS))
        yield Question(sample.text, QUESTIONS[kind].format(**words), spans[kind])


def encode(row, tokenizer, told):
    """Token ids, segment ids, and for each token the characters of the text it stands for."""
    ids, segments = map(np.array, tokenizer.encode(row.question, row.text, maxlen=MAXLEN))
    if told:
        segments += (segments == 1) & np.isin(ids, ids[segments == 0])
    question = len(tokenizer.tokenize(row.question))
    places = tokenizer.rematch(row.text, tokenizer.tokenize(row.text))[1:]
    return ids, segments, ([[]] * question + places)[: len(ids)]


def target(row, places):
    """First and last token of the answer; (0, 0) where it was cut off."""
    first = [i for i, place in enumerate(places) if place and place[0] == row.answer[0]]
    last = [i for i, place in enumerate(places) if place and place[-1] + 1 == row.answer[1]]
    return (first[0], last[0]) if first and last else (0, 0)


def loss(y_true, y_pred):
    """Cross-entropy over the places: y_true `(batch, 2)`, y_pred `(batch, length, 2)`."""
    scores = keras.ops.transpose(y_pred, (0, 2, 1))
    losses = keras.ops.sparse_categorical_crossentropy(y_true, scores, from_logits=True)
    return keras.ops.mean(losses, axis=-1)


def answers(rows, tokenizer, model, told):
    """The likeliest part of each text, at most 32 tokens."""
    ids, segments, places = zip(*(encode(row, tokenizer, told) for row in rows), strict=True)
    inputs = [sequence_padding(x) for x in (ids, segments)]
    scores = model.predict(inputs, batch_size=BATCH_SIZE, verbose=0)
    for row, place, score in zip(rows, places, scores, strict=True):
        inside = [i for i, characters in enumerate(place) if characters]
        pairs = score[inside, 0][:, None] + score[inside, 1][None, :]
        allowed = np.triu(np.ones_like(pairs)) - np.triu(np.ones_like(pairs), 32)
        first, last = np.unravel_index(np.where(allowed, pairs, -np.inf).argmax(), pairs.shape)
        yield row.text[place[inside[first]][0] : place[inside[last]][-1] + 1]


def main():
    args = arguments(__doc__, rate=1e-3)
    train, test = samples(args, questions, Question)
    tokenizer = build_tokenizer(args, [row.question + row.text for row in train])
    told = args.config is None
    options = {"segment_vocab_size": 3} if told else {}
    transformer = build(args, tokenizer, head="question_answering", **options)
    real = transformer.inputs[0][..., None] != 0
    model = keras.Model(transformer.inputs, keras.ops.where(real, transformer.output, -1e9))
    model.compile(optimizer(args, len(train), BATCH_SIZE), loss)
    ids, segments, places = zip(*(encode(row, tokenizer, told) for row in train), strict=True)
    targets = np.array([target(*pair) for pair in zip(train, places, strict=True)])
    inputs = [training_ids(args, ids, tokenizer), sequence_padding(segments)]
    model.fit(inputs, targets, BATCH_SIZE, args.epochs, verbose=2)

    found = list(answers(test, tokenizer, model, told))
    right = sum(ours == r.text[slice(*r.answer)] for ours, r in zip(found, test, strict=True))
    for row, answer in islice(zip(test, found, strict=True), 3):
        print(f"{row.text}\n    {row.question}？ {answer}。")
    print(f"{right} of {len(test)} questions answered ({right / len(test):.1%})")
    if not args.data:
        print("(50% for a part of the right kind, but about either poem)")


if __name__ == "__main__":
    main()
