"""Fine-tune a classifier whose loss is to depend little on its token embeddings.

    python examples/task_gradient_penalty.py --config bert_config.json \
        --checkpoint bert_model.ckpt --vocab vocab.txt --data sentiment.zip
    python examples/task_gradient_penalty.py --smoke

The squared gradient of the loss by the embeddings is added to the loss; --epsilon 0 adds nothing,
to compare. The data are as in task_classification.py.
"""

from common import add_task_arguments, encode_splits, make_parser, parse, read_splits

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.tokenizers import Tokenizer
from bert4keras3.training import AdamW, gradient_penalty


def main():
    parser = make_parser(__doc__)
    add_task_arguments(parser)
    add = parser.add_argument
    add("--epsilon", type=float, default=1.0, help="weight of the penalty; default: %(default)s")
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
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = gradient_penalty(classifier, "Embedding-Token", epsilon=args.epsilon)
    model.compile(AdamW(args.rate, weight_decay=0.01), loss, metrics=["accuracy"])
    model.fit(*parts["train"], 32, args.epochs, validation_data=parts["valid"], verbose=2)

    accuracy = model.evaluate(*parts["test"], verbose=0)[1]
    print(f"accuracy on {len(parts['test'][1])} test texts: {accuracy:.2%}")


if __name__ == "__main__":
    main()
