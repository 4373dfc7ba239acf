"""Teach a language model something new by an adapter: the poet learns to name his poems.

    python examples/tune_lora.py                        # minutes on two cores
    python examples/tune_lora.py --model FOLDER --pairs PAIRS.tsv   # prompt, tab, answer
    python examples/tune_lora.py --smoke                # seconds, to see that it runs

The model goes on after a clause of a poem; with the adapter it says title and author instead.
"""

from pathlib import Path

import numpy as np
from common import make_parser
from train_poet import DATA, first_clause, read_poems

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import sequence_padding
from bert4keras3.tokenizers import load_tokenizer
from bert4keras3.training import enable_lora, merge_lora, save_lora, set_adapter


def read_pairs(path):
    """(prompt, answer) of each line; of the poems: the first clause, title and author."""
    if path is None:
        poems = read_poems(DATA / "tang_song_poems.txt")
        return list({first_clause(body): heading for heading, body in poems}.items())
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]


def encode(pairs, tokenizer, end):
    """Inputs, next tokens, and weights: 1 where the answer is to be said."""
    rows, weights = [], []
    for prompt, answer in pairs:
        prompt, answer = tokenizer.encode(prompt)[0], [*tokenizer.encode(answer)[0], end]
        rows.append(prompt + answer)
        weights.append([0.0] * (len(prompt) - 1) + [1.0] * len(answer))
    ids = sequence_padding(rows).astype("int32")
    return ids[:, :-1], ids[:, 1:], sequence_padding(weights).astype("float32")


def main(arguments=None):
    parser = make_parser(__doc__, pretrained=False)
    parser.add_argument("--model", type=Path, default=DATA / "poet")
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--output", type=Path, default=Path("adapter"))
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args(arguments)
    keras.utils.set_random_seed(arguments.seed)
    tokenizer = load_tokenizer(arguments.model)
    pairs = read_pairs(arguments.pairs)[: 16 if arguments.smoke else None]
    options = {"with_lm": "linear", "return_keras_model": False}
    transformer = build_transformer_model(arguments.model, **options)
    model, end = transformer.model, transformer.end_token_id
    enable_lora(model, rank=16)
    trained = sum(np.prod(weight.shape) for weight in model.trainable_weights)
    print(f"{trained:,} of {model.count_params():,} weights are trained")
    inputs, targets, weights = encode(pairs, tokenizer, end)
    epochs = 1 if arguments.smoke else arguments.epochs
    rate = keras.optimizers.schedules.CosineDecay(5e-3, epochs * -(-len(inputs) // 16))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, weighted_metrics=[])
    history = model.fit(inputs, targets, 16, epochs, sample_weight=weights, verbose=2).history
    print(f"loss: {history['loss'][0]:.3f} -> {history['loss'][-1]:.3f}")
    save_lora(model, arguments.output)
    prompts = [tokenizer.encode(prompt)[0] for prompt, _ in pairs]

    def show(name):
        texts = [tokenizer.decode(ids) for ids in transformer.generate(prompts, 24, end_token=end)]
        right = sum(text == answer for text, (_, answer) in zip(texts, pairs, strict=True))
        print(f"{name} the adapter {right} of {len(pairs)} answers are right")
        print(*(f"    {pairs[i][0]} {texts[i]}" for i in range(3)), sep="\n")

    set_adapter(model, None)
    show("without")
    set_adapter(model, "default")
    merge_lora(model)
    show("with")
    print(f"the adapter is in {arguments.output}/")


if __name__ == "__main__":
    main()
