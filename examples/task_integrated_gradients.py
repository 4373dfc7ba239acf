"""Which characters make a review good or bad? Integrated gradients of a classifier.

    python examples/task_integrated_gradients.py --config bert_config.json \
        --checkpoint bert_model.ckpt --vocab vocab.txt --data sentiment.zip
    python examples/task_integrated_gradients.py --smoke

A classifier is fine-tuned first. Then, for some test texts, each token is printed with what it
adds to the score of the predicted class. The data are as in task_classification.py.
"""

from common import add_task_arguments, encode_splits, make_parser, parse, read_splits

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.tokenizers import Tokenizer
from bert4keras3.training import AdamW, integrated_gradients


def main():
    parser = make_parser(__doc__)
    add_task_arguments(parser)
    parser.add_argument("--texts", type=int, default=3, help="texts to explain; %(default)s")
    args = parse(parser, needs=["config", "data"])

    tokenizer = Tokenizer(args.vocab, do_lower_case=True)
    splits = read_splits(args.data)
    parts = encode_splits(splits, tokenizer, args.maxlen)
    model = build_transformer_model(
        args.config,
        args.checkpoint,
        model=args.model,
        head="sequence_classification",
        num_labels=int(parts["train"][1].max()) + 1,
        dropout_rate=0.1,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(AdamW(args.rate, weight_decay=0.01), loss, metrics=["accuracy"])
    model.fit(*parts["train"], 32, args.epochs, validation_data=parts["valid"], verbose=2)

    inputs = [x[: args.texts] for x in parts["test"][0]]
    predicted = model.predict(inputs, verbose=0).argmax(axis=-1)
    shares = integrated_gradients(model, inputs, predicted)
    for ids, label, row in zip(inputs[0], predicted, shares, strict=True):
        tokens = tokenizer.ids_to_tokens([i for i in ids if i])
        # What speaks most for the class comes first.
        ordered = sorted(zip(row, tokens, strict=False), reverse=True)
        print(
            f"class {label}:", "  ".join(f"{token} {share:+.2f}" for share, token in ordered[:12])
        )


if __name__ == "__main__":
    main()
