"""Make a model smaller, plank by plank: BERT-of-Theseus.

    python examples/task_theseus.py --config bert_config.json \
        --checkpoint bert_model.ckpt --vocab vocab.txt --data FOLDER --layers 3
    python examples/task_theseus.py --smoke

The predecessor is fine-tuned on labelled texts (files as task_classification.py takes them). Its
blocks are then grouped, and for each group there is one block of the successor. While the successor
learns, a coin says for each of them in each step whether it or the group it is to replace runs; all
else stays as it is. In the end the successor is fine-tuned on its own.
https://arxiv.org/abs/2002.02925, https://kexue.fm/archives/7575
"""

from common import add_task_arguments, encode_splits, make_parser, parse, read_splits

from bert4keras3 import ops
from bert4keras3.backend import keras
from bert4keras3.layers import FirstToken, Layer
from bert4keras3.models import build_transformer_model
from bert4keras3.tokenizers import Tokenizer


class RandomChoice(Layer):
    """The first or the second of two tensors, by a coin; the second one after training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.coin = keras.random.SeedGenerator()

    def call(self, inputs, training=False):
        if not training:
            return inputs[1]
        first = keras.random.uniform((), seed=self.coin) < 0.5
        return ops.where(first, inputs[0], inputs[1])

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else mask[1]

    def compute_output_shape(self, input_shape):
        return input_shape[1]


def theseus(predecessor, successor, classify):
    """The model of both: groups of frozen blocks, or the blocks that are to replace them."""
    for layer in predecessor.model.layers:
        layer.trainable = False
    size = predecessor.num_hidden_layers // successor.num_hidden_layers
    x = predecessor.apply_embeddings(predecessor.inputs)
    for index in range(successor.num_hidden_layers):
        old, new = x, successor.apply_main_layers(x, index)
        for block in range(index * size, (index + 1) * size):
            old = predecessor.apply_main_layers(old, block)
        x = RandomChoice(name=f"Choice-{index}")([old, new])
    return keras.Model(predecessor.inputs, classify(x))


def main():
    parser = make_parser(__doc__)
    add_task_arguments(parser)
    parser.add_argument("--layers", type=int, default=3, help="of the successor; %(default)s")
    args = parse(parser, needs=["config", "data"])
    layers = 1 if args.smoke else args.layers
    splits = read_splits(args.data)

    tokenizer = Tokenizer(args.vocab, do_lower_case=True)
    data = encode_splits(splits, tokenizer, args.maxlen)

    def build(prefix, **options):
        files = {"checkpoint_path": args.checkpoint, "model": args.model}
        return build_transformer_model(
            args.config, **files, prefix=prefix, return_keras_model=False, **options
        )

    first_token = FirstToken()
    dense = keras.layers.Dense(int(splits["train"][1].max()) + 1, name="Classifier")

    def classify(x):
        return dense(first_token(x))

    def train(name, model):
        optimizer = keras.optimizers.AdamW(args.rate, weight_decay=0.01, global_clipnorm=1.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"])
        model.fit(*data["train"], batch_size=32, epochs=args.epochs, verbose=2)
        accuracy = model.evaluate(*data["test"], verbose=0)[1]
        results.append(f"{name:<30}{model.count_params():>14,} weights{accuracy:>9.2%}")

    results = []
    predecessor = build("Predecessor-")
    if predecessor.num_hidden_layers % layers:
        parser.error(f"--layers must divide the {predecessor.num_hidden_layers} of the model")
    # The successor begins as the first blocks of the checkpoint; the embeddings are shared.
    shared = {
        name.replace("Predecessor", "Successor"): layer
        for name, layer in predecessor.layers.items()
        if "Embedding" in name
    }
    successor = build("Successor-", num_hidden_layers=layers, layers=shared)
    train("predecessor", keras.Model(predecessor.inputs, classify(predecessor.output)))
    dense.trainable = False
    train("both, in turns", theseus(predecessor, successor, classify))
    model = keras.Model(successor.inputs, classify(successor.output))
    for layer in model.layers:
        layer.trainable = True
    train("successor", model)
    print(f"\naccuracy on {len(data['test'][1])} test texts", *results, sep="\n")


if __name__ == "__main__":
    main()
