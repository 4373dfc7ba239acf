"""From text to text with one encoder under UniLM's mask: the title of a poem from its lines.

    python examples/task_seq2seq.py                             # a small new RoFormer, minutes
    python examples/task_seq2seq.py --config bert_config.json \\
        --checkpoint bert_model.ckpt --vocab vocab.txt --data FOLDER    # a BERT, on your texts
    python examples/task_seq2seq.py --smoke

Beam search is shown in both ways: `AutoRegressiveDecoder`, around a predict of one's own, and
`generate`, compiled and with a cache. A few hundred poems teach a new model their own titles by
heart, and little about others: both are counted, for a model that starts from a checkpoint to beat.
`--data`: lines `{"text": ..., "title": ...}`.

Source: https://kexue.fm/archives/6933
"""

import json

import numpy as np
from poems import arguments, build, build_tokenizer, optimizer, read_poems, split

from bert4keras3.backend import keras
from bert4keras3.layers import Loss
from bert4keras3.snippets import AutoRegressiveDecoder, sequence_padding

ops = keras.ops
BATCH_SIZE = 16
MAXLEN = 128
TITLE = 24


class CrossEntropy(Loss):
    """That of the second text, segment 1; the model tells each token from those before it."""

    def compute_loss(self, inputs, mask=None):
        token_ids, segment_ids, probabilities = inputs
        counted = ops.cast(segment_ids[:, 1:], "float32")
        losses = ops.sparse_categorical_crossentropy(token_ids[:, 1:], probabilities[:, :-1])
        return ops.sum(losses * counted) / ops.sum(counted)


class Titles(AutoRegressiveDecoder):
    """Titles by beam search on the host."""

    def __init__(self, model, **options):
        super().__init__(start_id=None, **options)
        self.model = model

    @AutoRegressiveDecoder.wraps(default_rtype="probas")
    def predict(self, inputs, output_ids, states):
        token_ids, segment_ids = inputs
        token_ids = np.concatenate([token_ids, output_ids], 1)
        segment_ids = np.concatenate([segment_ids, np.ones_like(output_ids)], 1)
        return self.last_token(self.model).predict([token_ids, segment_ids])


def read(args):
    """Pairs (text, title) to learn, and others."""
    if args.data:
        for name in ("train", "test"):
            rows = map(json.loads, (args.data / f"{name}.jsonl").open("rb"))
            yield [(row["text"], row["title"]) for row in rows]
    else:
        for poems in split(read_poems(args.texts)):
            pairs = [("，".join(poem.clauses), poem.title) for poem in poems]
            yield pairs[: 4 if args.smoke else None]


def main():
    args = arguments(__doc__, epochs=30, count=None)
    known, new = read(args)
    tokenizer = build_tokenizer(args, [text for pair in known for text in pair])
    transformer = build(args, tokenizer, application="unilm")
    output = CrossEntropy(2)([*transformer.inputs, *transformer.outputs])
    model = keras.Model(transformer.inputs, output)
    model.compile(optimizer(args, len(known), BATCH_SIZE))
    rows = [tokenizer.encode(*pair, maxlen=MAXLEN) for pair in known]
    model.fit(
        [*map(sequence_padding, zip(*rows, strict=True))], None, BATCH_SIZE, args.epochs, verbose=2
    )

    end = tokenizer._token_end_id
    for name, pairs in (("learnt", known), ("held out", new)):
        prompts = [tokenizer.encode(text, maxlen=MAXLEN - TITLE)[0] for text, _ in pairs]
        found = transformer.generate(prompts, TITLE, end_token=end, num_beams=3)
        found = [tokenizer.decode(ids) for ids in found]
        right = sum(ours == title for ours, (_, title) in zip(found, pairs, strict=True))
        print(f"{name}: {right} of {len(pairs)} titles")
        for ours, (text, title) in zip(found[:3], pairs, strict=False):
            print(f"    {text[:24]}… -> {ours} ({title})")
    titles = Titles(transformer.model, end_id=end, maxlen=TITLE)
    for text, title in known[:2]:
        ids = titles.beam_search(tokenizer.encode(text, maxlen=MAXLEN - TITLE), topk=3)
        print(f"on the host: {tokenizer.decode(ids)} ({title})")


if __name__ == "__main__":
    main()
