"""Fine-tune a classifier on the worst small change of its token embeddings (FGM).

    python examples/task_adversarial_training.py --config bert_config.json \
        --checkpoint bert_model.ckpt --vocab vocab.txt --data sentiment.zip
    python examples/task_adversarial_training.py --smoke

--epsilon 0 trains without, to compare. The data are as in task_classification.py.
"""

from common import add_task_arguments, encode_splits, make_parser, parse, read_splits

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.tokenizers import Tokenizer
from bert4keras3.training import AdamW, adversarial_training


def main():
    parser = make_parser(__doc__)
    add_task_arguments(parser)
    add = parser.add_argument
    add("--epsilon", type=float, default=0.5, help="length of the change; default: %(default)s")
    args = parse(parser, needs=["config", "data"])

    tokenizer = Tokenizer(args.vocab, do_lower_case=True)
    parts = encode_splits(read_splits(args.data), tokenizer, args.maxlen)
    classifier = build_transformer_model(
        args.config,
        args.checkpoint,
        model=args.model,
        head="sequence_classification",
        num_labels=int(parts["train"][1].max()) + 1,
        dropout_rate=0.1,
    )
    trained = classifier
    if args.epsilon:
        trained = adversarial_training(classifier, "Embedding-Token", epsilon=args.epsilon)
    for model in {classifier, trained}:
        model.compile(
            AdamW(args.rate, weight_decay=0.01),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    trained.fit(*parts["train"], 32, args.epochs, validation_data=parts["valid"], verbose=2)
    # Both are one model: what trains the one trains the other.
    accuracy = classifier.evaluate(*parts["test"], verbose=0)[1]
    print(f"accuracy on {len(parts['test'][1])} test texts: {accuracy:.2%}")


if __name__ == "__main__":
    main()
