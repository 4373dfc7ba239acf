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


def perplexity(chances):
    """exp of the mean of -log."""
    return np.exp(-np.log(chances).mean())


def counted_chances(known, new):
    """Of the new characters, if they were drawn as often as the known ones, each once more."""
    times = Counter(known.tolist())
    total = known.size + len(times)
    return [(times[i] + 1) / total for i in new.tolist()]


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

    # Characters that no known poem has are nobody's to guess.
    asked = (new[:, 1:] != 0) & (new[:, 1:] != tokenizer._token_unk_id)
    probabilities = transformer.model.predict([new, np.zeros_like(new)], BATCH_SIZE, verbose=0)
    said = np.take_along_axis(probabilities[:, :-1], new[:, 1:, None], axis=2)[..., 0]
    counted = counted_chances(known[:, 1:][known[:, 1:] != 0], new[:, 1:][asked])
    print(f"perplexity of {len(new)} poems that were held out:")
    print(f"    counted characters {perplexity(counted):.0f}")
    print(f"    the model          {perplexity(said[asked]):.0f}")
    start, options = [tokenizer._token_start_id], {"temperature": 0.8, "top_k": 20}
    end = tokenizer._token_end_id
    for ids in transformer.generate([start] * 4, 50, end_token=end, seed=args.seed, **options):
        print(tokenizer.decode(ids))


if __name__ == "__main__":
    main()
