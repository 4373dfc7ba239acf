"""Fine-tune a pretrained model to classify texts: sentiment, topics, anything with labels.

    python examples/task_classification.py --config albert_config.json --model albert \
        --checkpoint albert_model.ckpt --vocab vocab.txt --data FOLDER --output classifier
    python examples/task_classification.py --config HUGGING_FACE_FOLDER --data reviews.zip
    python examples/task_classification.py --smoke

The data are files with train, valid and test in their names, lines `text <tab> label`, labels 0,
1, ... The epoch that is best on the validation texts is kept and tested. The folder written goes to
transformers as it is, and comes back by `build_transformer_model(folder, head="auto")`.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from common import add_task_arguments, make_parser, parse, read_splits

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import BatchLoader
from bert4keras3.tokenizers import Tokenizer


def main():
    parser = make_parser(__doc__)
    add_task_arguments(parser, epochs=5)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write the classifier there")
    args = parse(parser, needs=["config", "data"])
    splits = read_splits(args.data)

    tokenizer = Tokenizer(args.vocab, do_lower_case=True)
    classifier = build_transformer_model(
        args.config,
        args.checkpoint,
        model=args.model,
        head="sequence_classification",
        num_labels=int(splits["train"][1].max()) + 1,
        dropout_rate=0.1,
        return_keras_model=False,
    )

    def encode(sample):
        text, label = sample
        return tokenizer.encode(text, maxlen=args.maxlen), label

    def load(part, **options):
        samples = list(zip(*splits[part], strict=True))
        return BatchLoader(samples, encode, 32, **options)

    train, valid = load("train", drop_last=True), load("valid", shuffle=False)
    # The rate rises during the first tenth, then falls in a straight line.
    steps = args.epochs * len(train)
    schedule = keras.optimizers.schedules.PolynomialDecay(args.rate, steps, args.rate / 100)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, global_clipnorm=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = classifier.model
    model.compile(optimizer, loss, metrics=["accuracy"])
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "best.weights.h5")
        best = keras.callbacks.ModelCheckpoint(
            path, "val_accuracy", mode="max", save_best_only=True, save_weights_only=True
        )
        model.fit(train, validation_data=valid, epochs=args.epochs, verbose=2, callbacks=[best])
        model.load_weights(path)
    accuracy = model.evaluate(load("test", shuffle=False), verbose=0)[1]
    print(f"accuracy on {len(splits['test'][0])} test texts: {accuracy:.2%}")
    for text in splits["test"][0][:3]:
        ids, segments = tokenizer.encode(text, maxlen=args.maxlen)
        logits = model.predict([np.array([ids]), np.array([segments])], verbose=0)[0]
        print(f"  {logits.argmax()}  {text[:40]}")
    if args.output is not None:
        classifier.save_pretrained(args.output)
        shutil.copy(args.vocab, args.output / "vocab.txt")


if __name__ == "__main__":
    main()
