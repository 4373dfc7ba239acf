"""Train a small RoFormer from nothing on reviews, and draw how it learns.

    python examples/task_sentiment.py --data sentiment.zip          # minutes on two cores
    python examples/task_sentiment.py --data FOLDER --plot curves.png
    python examples/task_sentiment.py --smoke

The data are files with train, valid and test in their names, lines `text <tab> label`. Nothing is
pretrained: the vocabulary is that of the training texts. Beside the vector of each character there
is one of the pair it makes with the next, which a model from nothing would need far more texts to
put together itself. The mark to reach is logistic regression on TF-IDF, of characters and of
characters and pairs, measured in the same run. The epoch that is best on the validation texts is
the one that is tested.
"""

import time
from collections import Counter

import numpy as np
from common import (
    Pool,
    character_vocabulary,
    make_optimizer,
    make_parser,
    parse,
    plot_curves,
    read_splits,
    tfidf_accuracy,
)

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import BatchLoader, sequence_padding
from bert4keras3.training.losses import smoothed_crossentropy

SIZES = {
    "embedding_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "hidden_act": "gelu",
    "max_position": 128,
    "dropout_rate": 0.2,
    "attention_dropout_rate": 0.0,
}
LENGTHS = [32, 64, 128]  # few, as JAX compiles for each; of longer texts start and end are read
BATCH_SIZE = 64
RATE = 2e-3
PAIRS = 40000  # the most frequent ones
HIDDEN = 0.2  # of the characters, others each time, so that no text is learnt by heart


class Reader:
    """Texts to ids: of the characters, and of the pairs they make with the next one; 0 for none."""

    def __init__(self, texts):
        self.characters = character_vocabulary(texts, least=3)
        counts = Counter(pair for text in texts for pair in self.pairs_of(text.lower()))
        frequent = [pair for pair, count in counts.most_common(PAIRS) if count > 1]
        self.pairs = {pair: i for i, pair in enumerate(frequent, 1)}

    def pairs_of(self, text):
        return map("".join, zip(text, text[1:], strict=False))

    def __call__(self, text):
        text, half = text.lower(), LENGTHS[-1] // 2
        if len(text) >= LENGTHS[-1]:
            text = text[: half - 1] + text[-half:]
        unknown = self.characters["[UNK]"]
        ids = [self.characters.get(char, unknown) for char in text]
        pairs = [self.pairs.get(pair, 0) for pair in self.pairs_of(text)]
        return [self.characters["[CLS]"], *ids], [0, *pairs, 0][: len(ids) + 1]

    def arrays(self, texts, length):
        """The ids of many texts: two int arrays `(texts, length)`."""
        return [sequence_padding(ids, length) for ids in zip(*map(self, texts), strict=True)]


def build(reader):
    """A RoFormer whose segments are the pairs; what it reads and what it finds is pooled."""
    roformer = build_transformer_model(
        model="roformer",
        vocab_size=len(reader.characters),
        segment_vocab_size=len(reader.pairs) + 1,
        return_keras_model=False,
        **SIZES,
    )
    x = [Pool()(roformer.layers["Embedding-Token-Segment"].output), Pool()(roformer.output)]
    x = keras.layers.Dropout(0.5)(keras.layers.Concatenate()(x))
    return keras.Model(roformer.inputs, keras.layers.Dense(2)(x))


def main():
    parser = make_parser(__doc__, pretrained=False)
    add = parser.add_argument
    add("--data", metavar="PATH", help="folder or zip archive: files of train, valid and test")
    add("--epochs", type=int, default=8, help="default: %(default)s")
    add("--plot", metavar="FILE.png", default="sentiment.png", help="default: %(default)s")
    args = parse(parser, needs=["data"])
    start, epochs = time.perf_counter(), 2 if args.smoke else args.epochs
    splits = read_splits(args.data)
    baselines = {
        "TF-IDF, characters": tfidf_accuracy(splits, 1),
        "TF-IDF, characters and pairs": tfidf_accuracy(splits, 2),
    }

    reader, rng = Reader(splits["train"][0]), np.random.default_rng(args.seed)
    samples = [(*reader(text), label) for text, label in zip(*splits["train"], strict=True)]
    lengths = LENGTHS[:1] if args.smoke else LENGTHS

    def encode(sample):
        ids, pairs, label = map(np.asarray, sample)
        hidden = rng.random(len(ids) + 1) < HIDDEN
        hidden[0] = False  # [CLS]
        seen = ~hidden[:-1] & ~hidden[1:]
        return (np.where(hidden[:-1], reader.characters["[MASK]"], ids), pairs * seen), label

    train = BatchLoader(
        samples, encode, BATCH_SIZE, lengths, lambda s: len(s[0]), drop_last=True, seed=args.seed
    )
    valid, test = (
        (reader.arrays(splits[part][0], lengths[-1]), splits[part][1]) for part in ("valid", "test")
    )
    model = build(reader)
    model.compile(
        make_optimizer(RATE, epochs * len(train), weight_decay=0.05),
        smoothed_crossentropy,
        metrics=["accuracy"],
    )
    best = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=epochs, restore_best_weights=True
    )
    print(f"{len(samples)} texts, {model.count_params():,} weights")
    history = model.fit(
        train,
        validation_data=valid,
        validation_batch_size=256,
        epochs=epochs,
        callbacks=[best],
        verbose=2,
    ).history
    accuracy = model.evaluate(*test, batch_size=256, verbose=0)[1]
    minutes = (time.perf_counter() - start) / 60
    accuracies = {**baselines, "RoFormer": accuracy}
    for name, value in accuracies.items():
        print(f"{name:<30}{value:>8.2%} of {len(test[1])} test texts")
    plot_curves(history, accuracies, args.plot)
    print(f"{minutes:.1f} minutes; the curves are in {args.plot}")


if __name__ == "__main__":
    main()
