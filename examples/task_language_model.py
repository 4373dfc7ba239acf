"""An encoder becomes a language model: under a causal mask it writes poems.

    python examples/task_language_model.py                      # a small new RoFormer, minutes
    python examples/task_language_model.py --config bert_config.json \\
        --checkpoint bert_model.ckpt --vocab vocab.txt          # a BERT goes on learning
    python examples/task_language_model.py --smoke

The number to look at is the perplexity of poems that were held out: among how many characters, all
equally likely, the model seems to choose. Beside it stands that of counted characters, which knows
nothing of what came before.
"""

from collections import Counter

import numpy as np
from poems import arguments, build, build_tokenizer, optimizer, read_poems, split

from bert4keras3.backend import keras
from bert4keras3.layers import Loss
from bert4keras3.snippets import sequence_padding

ops = keras.ops
BATCH_SIZE = 16
MAXLEN = 128


class CrossEntropy(Loss):
    """That of each token given those before it; padding (0) does not count."""

    def compute_loss(self, inputs, mask=None):
        token_ids, probabilities = inputs
        counted = ops.cast(token_ids[:, 1:] != 0, "float32")
        losses = ops.sparse_categorical_crossentropy(token_ids[:, 1:], probabilities[:, :-1])
        return ops.sum(losses * counted) / ops.sum(counted)


def lines(poem):
    """A poem, two clauses a line: 床前明月光，疑是地上霜。"""
    marks = "，。" * len(poem.clauses)
    return "".join(clause + mark for clause, mark in zip(poem.clauses, marks, strict=False))


def encode(texts, tokenizer):
    """Token ids, padded."""
    return sequence_padding([tokenizer.encode(text, maxlen=MAXLEN)[0] for text in texts], MAXLEN)


def perplexity(model, ids):
    """exp of the mean loss of a character."""
    probabilities = model.predict([ids, np.zeros_like(ids)], batch_size=BATCH_SIZE, verbose=0)
    said = np.take_along_axis(probabilities[:, :-1], ids[:, 1:, None], axis=2)[..., 0]
    return np.exp(-np.log(said[ids[:, 1:] != 0]).mean())


def counted_perplexity(known, new):
    """That of characters drawn as often as in the known texts, each once more."""
    times = Counter(known[:, 1:][known[:, 1:] != 0].tolist())
    total = sum(times.values()) + known.max() + 1
    shares = [(times[i] + 1) / total for i in new[:, 1:][new[:, 1:] != 0].tolist()]
    return np.exp(-np.log(shares).mean())


def main():
    args = arguments(__doc__, epochs=20, count=None, data=False)
    known, new = ([lines(p) for p in part] for part in split(read_poems(args.texts)))
    if args.smoke:
        known, new = known[:8], new[:4]
    tokenizer = build_tokenizer(args, known)
    transformer = build(args, tokenizer, application="lm")
    output = CrossEntropy(1)([transformer.inputs[0], transformer.output])
    model = keras.Model(transformer.inputs, output)
    model.compile(optimizer(args, len(known), BATCH_SIZE))
    known, new = encode(known, tokenizer), encode(new, tokenizer)
    model.fit([known, np.zeros_like(known)], None, BATCH_SIZE, args.epochs, verbose=2)

    print(f"perplexity of {len(new)} poems that were held out:")
    print(f"    counted characters {counted_perplexity(known, new):.0f}")
    print(f"    the model          {perplexity(transformer.model, new):.0f}")
    start, options = [tokenizer._token_start_id], {"temperature": 0.8, "top_k": 20}
    end = tokenizer._token_end_id
    for ids in transformer.generate([start] * 4, 50, end_token=end, seed=args.seed, **options):
        print(tokenizer.decode(ids))


if __name__ == "__main__":
    main()
