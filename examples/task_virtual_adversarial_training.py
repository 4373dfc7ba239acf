"""Train a classifier on few labelled texts and many unlabelled ones, by VAT.

    python examples/task_virtual_adversarial_training.py --config bert_config.json \
        --checkpoint bert_model.ckpt --vocab vocab.txt --data sentiment.zip --labelled 200
    python examples/task_virtual_adversarial_training.py --smoke

Of the training texts some keep their labels; the others, of weight 0, only say where texts are:
what the model predicts for them is not to change with small changes of their embeddings. With
--weight 0 they say nothing, to compare. The data are as in task_classification.py.
"""

import numpy as np
from common import add_task_arguments, encode_splits, make_parser, parse, read_splits

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.tokenizers import Tokenizer
from bert4keras3.training import AdamW, virtual_adversarial_training


def main():
    parser = make_parser(__doc__)
    add_task_arguments(parser)
    add = parser.add_argument
    add("--labelled", type=int, default=200, help="training texts with labels; 200")
    add("--weight", type=float, default=1.0, help="of the unlabelled texts' loss; 1")
    args = parse(parser, needs=["config", "data"])

    tokenizer = Tokenizer(args.vocab, do_lower_case=True)
    parts = encode_splits(read_splits(args.data), tokenizer, args.maxlen)
    inputs, labels = parts["train"]
    is_labelled = np.zeros(len(labels))
    chosen = np.random.default_rng(args.seed).permutation(len(labels))
    is_labelled[chosen[: min(args.labelled, len(labels) // 2)]] = 1

    classifier = build_transformer_model(
        args.config,
        args.checkpoint,
        model=args.model,
        head="sequence_classification",
        num_labels=int(labels.max()) + 1,
        dropout_rate=0.1,
    )
    model = virtual_adversarial_training(classifier, "Embedding-Token", weight=args.weight)
    model.compile(
        AdamW(args.rate, weight_decay=0.01),
        # The mean over what is labelled, not over the batch.
        keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        ),
        metrics=["accuracy"],
    )
    model.fit(
        inputs,
        np.where(is_labelled, labels, 0),
        32,
        args.epochs,
        sample_weight=is_labelled,
        validation_data=parts["valid"],
        verbose=2,
    )
    accuracy = model.evaluate(*parts["test"], verbose=0)[1]
    count, total = int(is_labelled.sum()), len(labels)
    print(f"{count} of {total} texts labelled, accuracy on test texts: {accuracy:.2%}")


if __name__ == "__main__":
    main()
