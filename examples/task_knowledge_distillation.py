"""Teach a small model what a large one knows: knowledge distillation.

    python examples/task_knowledge_distillation.py --config bert_config.json \
        --checkpoint bert_model.ckpt --vocab vocab.txt --data FOLDER --layers 3
    python examples/task_knowledge_distillation.py --smoke

The teacher, the whole model, is fine-tuned on labelled texts (files as task_classification.py takes
them). A student of its first layers is then trained twice, from the same start: by the labels
alone, and by the labels and what the teacher says about every text, softened by a temperature.
https://arxiv.org/abs/1503.02531
"""

import numpy as np
from common import add_task_arguments, encode_splits, make_parser, parse, read_splits

from bert4keras3 import ops
from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.tokenizers import Tokenizer


def distillation_loss(temperature, share):
    """Cross entropy with the label and with the teacher; y_true is `[label, teacher's logits]`."""

    def loss(y_true, y_pred):
        labels, teacher = ops.cast(y_true[:, 0], "int32"), y_true[:, 1:]
        hard = ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=True)
        target = ops.softmax(teacher / temperature)
        soft = ops.categorical_crossentropy(target, y_pred / temperature, from_logits=True)
        # Gradients of the soft part are smaller by the square of the temperature.
        return (1 - share) * hard + share * temperature**2 * soft

    return loss


def main():
    parser = make_parser(__doc__)
    add_task_arguments(parser, rate=3e-5)
    add = parser.add_argument
    add("--layers", type=int, default=3, help="of the student; default: %(default)s")
    add("--temperature", type=float, default=4.0, help="default: %(default)s")
    add("--share", type=float, default=0.7, help="of the teacher in the loss; default: %(default)s")
    args = parse(parser, needs=["config", "data"])
    layers = 1 if args.smoke else args.layers
    splits = read_splits(args.data)
    classes = int(splits["train"][1].max()) + 1

    tokenizer = Tokenizer(args.vocab, do_lower_case=True)
    data = encode_splits(splits, tokenizer, args.maxlen)

    def build(**options):
        return build_transformer_model(
            args.config,
            args.checkpoint,
            model=args.model,
            head="sequence_classification",
            num_labels=classes,
            **options,
        )

    def train(name, model, targets, loss):
        keras.utils.set_random_seed(args.seed)
        optimizer = keras.optimizers.AdamW(args.rate, weight_decay=0.01, global_clipnorm=1.0)
        model.compile(optimizer, loss)
        model.fit(data["train"][0], targets, batch_size=32, epochs=args.epochs, verbose=2)
        inputs, labels = data["test"]
        accuracy = (model.predict(inputs, verbose=0).argmax(axis=-1) == labels).mean()
        results.append(f"{name:<26}{model.count_params():>12,} weights{accuracy:>9.2%}")
        return model

    results, labels = [], data["train"][1]
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher = train("teacher", build(), labels, crossentropy)
    students = [build(num_hidden_layers=layers) for _ in range(2)]
    students[1].set_weights(students[0].get_weights())
    train("student, by labels", students[0], labels, crossentropy)
    logits = teacher.predict(data["train"][0], verbose=0)
    targets = np.concatenate([labels[:, None], logits], axis=1).astype("float32")
    loss = distillation_loss(args.temperature, args.share)
    train("student, by the teacher", students[1], targets, loss)
    print(f"\naccuracy on {len(data['test'][1])} test texts", *results, sep="\n")


if __name__ == "__main__":
    main()
