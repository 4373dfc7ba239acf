"""Train a small RWKV6 on poems, then tune its state, and nothing else, to one poet.

    python examples/tune_state.py                     # 李白, about 10 minutes on two cores
    python examples/tune_state.py --poet 王维
    python examples/tune_state.py --smoke             # a minute, to see that it runs

The model learns the poems of all other poets. Its state before the first token is then trained on
some of the poet's poems; the others show whether it helps: the loss of poems that neither saw, with
the state and without. The tuned state is a file of its own, and both ways write side by side in one
batch.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from train_poet import DATA, read_poems

from bert4keras3.backend import keras
from bert4keras3.models import build_transformer_model
from bert4keras3.snippets import sequence_padding

SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "attention_head_size": 32,
    "intermediate_size": 448,
    "decomposer_size": 16,
    "time_decay_size": 16,
}
LENGTH = 96  # characters of a poem that are looked at
END = 1  # ends a poem; 0 is padding


def split_poems(path, poet):
    """The poems of all others, and the poet's, as texts."""
    poems = read_poems(path)
    own = [body for heading, body in poems if heading.endswith(f"{poet}：")]
    return [body for heading, body in poems if not heading.endswith(f"{poet}：")], own


def encode(texts, vocabulary):
    """int32 `(poems, LENGTH)`, every poem with its end."""
    rows = [[vocabulary[char] for char in text][: LENGTH - 1] + [END] for text in texts]
    return sequence_padding(rows, length=LENGTH).astype("int32")


def loss_of_logits(y_true, y_pred):
    """Cross-entropy of the characters that are there."""
    real = keras.ops.cast(keras.ops.not_equal(y_true, 0), "float32")
    loss = keras.ops.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
    return keras.ops.sum(loss * real) / keras.ops.sum(real)


def fit(model, ids, learning_rate, epochs, batch_size=16):
    """Train on the next character; the loss of the last epoch."""
    steps = epochs * max(1, len(ids) // batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), loss_of_logits)
    ids = ids[: max(batch_size, len(ids) // batch_size * batch_size)]
    history = model.fit(ids[:, :-1], ids[:, 1:], batch_size, epochs, verbose=0)
    return history.history["loss"][-1]


def write(transformer, prompts, characters, states):
    """A continuation of each prompt, each from its own state."""
    vocabulary = {char: i for i, char in characters.items()}
    rows = [[vocabulary[char] for char in prompt] for prompt in prompts]
    options = {"end_token": END, "temperature": 0.8, "top_k": 8, "seed": 0, "states": states}
    found = transformer.generate(rows, 28, **options)
    return ["".join(characters.get(i, "") for i in ids) for ids in found]


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    texts = DATA / "tang_song_poems.txt"
    add("--texts", type=Path, default=texts, help="poems; by default those of the package")
    add("--poet", default="李白", help="whose poems the state learns; default: %(default)s")
    add("--epochs", type=int, default=12, help="of the model; default: %(default)s")
    add("--tuning-epochs", type=int, default=40, help="of the state; default: %(default)s")
    add("--smoke", action="store_true", help="as little as will run")
    arguments = parser.parse_args(arguments)
    keras.utils.set_random_seed(1)
    others, own = split_poems(arguments.texts, arguments.poet)
    if len(own) < 4:
        found = f"{len(own)} poems of {arguments.poet}"
        raise SystemExit(f"{arguments.texts} has {found}: 4 are needed")
    sizes, epochs, tuning_epochs = SIZES, arguments.epochs, arguments.tuning_epochs
    if arguments.smoke:
        sizes = {**SIZES, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
        others, epochs, tuning_epochs = others[:32], 1, 2
    characters = dict(enumerate(sorted(set("".join(others + own))), 2))
    vocabulary = {char: i for i, char in characters.items()}
    transformer = build_transformer_model(
        **sizes,
        vocab_size=len(characters) + 2,
        model="rwkv6",
        with_lm="linear",
        return_keras_model=False,
    )
    print(f"{len(others)} poems of others; {transformer.model.count_params():,} weights")
    print(f"loss on them: {fit(transformer.model, encode(others, vocabulary), 4e-3, epochs):.2f}")

    # Every other poem of the poet is kept for the comparison.
    seen, unseen = encode(own[::2], vocabulary), encode(own[1::2], vocabulary)
    before = transformer.model.evaluate(unseen[:, :-1], unseen[:, 1:], verbose=0)
    transformer.enable_state_tuning()
    tuned = transformer.model.trainable_weights
    count = sum(int(np.prod(weight.shape)) for weight in tuned)
    fit(transformer.model, seen, 0.05, tuning_epochs, batch_size=min(8, len(seen)))
    after = transformer.model.evaluate(unseen[:, :-1], unseen[:, 1:], verbose=0)
    print(f"{arguments.poet}: {len(seen)} poems, {count:,} numbers of state trained")
    print(f"loss on {len(unseen)} other poems of his: {before:.3f} -> {after:.3f}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "poet.safetensors"
        transformer.save_state(path, transformer.get_tuned_state())
        print(f"the state is a file of {path.stat().st_size / 1024:.0f} KiB")
        state = transformer.load_state(path)
    # The same weights, another memory.
    transformer.set_tuned_state({k: _zeros(v) for k, v in state.items()})
    prompts = [body[: body.find("，") + 1] or body[:5] for body in own[1::2][:3]]
    states = [None] * len(prompts) + [state] * len(prompts)
    texts = write(transformer, prompts * 2, characters, states)
    for prompt, plain, styled in zip(prompts, texts, texts[len(prompts) :], strict=False):
        print(f"{prompt}\n  without: {plain}\n  with:    {styled}")
    return before, after


def _zeros(parts):
    return {name: np.zeros_like(value) for name, value in parts.items()}


if __name__ == "__main__":
    main()
