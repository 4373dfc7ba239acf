"""Weights of 8 and 4 bits beside float ones: decoding, memory, and what is lost.

    python benchmarks/quantized.py                 # everything, about 6 minutes
    python benchmarks/quantized.py products        # single products, without a model
    python benchmarks/quantized.py decode --kinds float32 int8
    python benchmarks/quantized.py perplexity

`decode` is greedy at the shape of Qwen2-0.5B (random weights, prompts of 128 tokens, 33 new ones,
less the time of the first), all kinds in turns; ratios above 1 are faster than float32.
`perplexity` is that of the packaged poet, and of a small Llama that is trained on the package's
poems for a minute, on poems it has not seen. The backend is KERAS_BACKEND, jax by default.
"""

import argparse
import gc
import math
import os
import statistics

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from common import QWEN2, seconds

from bert4keras3 import low_bits
from bert4keras3.data import POET
from bert4keras3.models import build_transformer_model
from bert4keras3.models.config import read_config
from bert4keras3.quantization import quantize
from bert4keras3.tokenizers import load_tokenizer

KINDS = ("float32", "bfloat16", "int8", "int4")
PROMPT, NEW = 128, 33
# What perplexity is told of: bits and group sizes.
LOSSES = ((8, None), (4, 32), (4, 64), (4, 128))


def weight_bytes(model):
    return sum(math.prod(w.shape) * keras_size(w.dtype) for w in model.weights)


def keras_size(dtype):
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def decode(args):
    models = {}
    for kind in args.kinds:
        dtype = kind if kind == "bfloat16" else "float32"
        asked = kind if kind.startswith("int") else None
        models[kind] = build_transformer_model(
            **QWEN2, dtype=dtype, quantization=asked, return_keras_model=False
        )
        gc.collect()
    ids = np.random.default_rng(0).integers(10, 30000, (max(args.rows), PROMPT)).tolist()
    for rows in args.rows:
        times = {kind: [] for kind in models}
        for turn in range(args.turns + 1):  # the first one compiles
            for kind, model in models.items():
                spent = [seconds(model.generate, ids[:rows], count) for count in (NEW, 1)]
                times[kind] += [spent[0] - spent[1]] * bool(turn)
        medians = {kind: statistics.median(found) for kind, found in times.items()}
        for kind, spent in medians.items():
            size = weight_bytes(models[kind].model) / 2**20
            rate, ratio = rows * (NEW - 1) / spent, medians[args.kinds[0]] / spent
            print(
                f"decode, batch {rows}, {kind:9} {rate:8.1f} tok/s  {ratio:5.2f} x "
                f"{args.kinds[0]}  weights {size:7.0f} MiB",
                flush=True,
            )


def products(args):
    """24 products 896 -> 4864 -> 896 one after the other, in the forms there are."""
    rng = np.random.default_rng(0)
    shapes = ((4864, 896), (896, 4864))
    pairs = [[rng.standard_normal(s, "float32") / 30 for s in shapes] for _ in range(24)]
    forms = {
        "float32": [[keras.ops.convert_to_tensor(w.T.copy()) for w in p] for p in pairs],
        "int8": [[_encoded(w, 8) for w in p] for p in pairs],
        "int4": [[_encoded(w, 4, 32) for w in p] for p in pairs],
    }
    for rows in args.rows:
        x = keras.ops.convert_to_tensor(rng.standard_normal((rows, 896), "float32"))
        found = {}
        for name, weights in forms.items():
            run = _compiled(_chain, x, weights)
            run()
            found[name] = statistics.median(seconds(run) for _ in range(7))
            print(
                f"48 products, batch {rows}, {name:8} {1000 * found[name]:7.1f} ms  "
                f"{found['float32'] / found[name]:5.2f} x float32",
                flush=True,
            )


def _encoded(matrix, *arguments):
    return tuple(map(keras.ops.convert_to_tensor, low_bits.encode(matrix, *arguments)))


def _chain(x, weights):
    for pair in weights:
        for weight in pair:
            x = low_bits.product(x, *weight) if isinstance(weight, tuple) else x @ weight
            x = keras.ops.tanh(x)
    return x


def _compiled(function, *arguments):
    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(function)
        return lambda: jax.block_until_ready(compiled(*arguments))
    return lambda: keras.ops.convert_to_numpy(function(*arguments))


def perplexity(args):
    rows = _poems(load_tokenizer(POET))
    held_out, known = rows[::8], [row for i, row in enumerate(rows) if i % 8]

    def poet():
        return build_transformer_model(POET, return_keras_model=False)

    _report("the poet, on its own poems", poet, rows)
    trained = _small_llama().model
    _train(trained, known, args.epochs)
    weights = trained.get_weights()

    def llama():
        made = _small_llama()
        made.model.set_weights(weights)
        return made

    _report("a small Llama, on poems it has not seen", llama, held_out)


def _report(name, make, rows):
    """The perplexity of a model, and of it with few bits."""
    transformer = make()
    base, size = _perplexity(transformer.model, rows), weight_bytes(transformer.model)
    print(f"{name}: float32 {base:.4f}, {size / 2**20:.1f} MiB", flush=True)
    for bits, group_size in LOSSES:
        transformer = make()
        quantize(transformer, bits, group_size)
        found = _perplexity(transformer.model, rows)
        group = f"groups of {group_size}" if group_size else "whole rows"
        share = weight_bytes(transformer.model) / size
        print(
            f"  int{bits}, {group:14} {found:9.4f}  {100 * (found / base - 1):+7.3f} %  "
            f"{share:.3f} of the memory",
            flush=True,
        )


def _poems(tokenizer, length=64):
    """Ids of the poems without title and author, `length` each, padded with 0."""
    text = (POET.parent / "tang_song_poems.txt").read_text(encoding="utf-8")
    rows = []
    for poem in text.split("\n\n"):
        body = "".join(poem.strip().splitlines()[2:])
        ids = tokenizer.encode(body)[0][:length]
        rows.append(ids + [0] * (length - len(ids)))
    return rows


def _small_llama():
    return build_transformer_model(
        model="llama",
        with_lm="linear",
        vocab_size=read_config(POET)["vocab_size"],
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=704,
        hidden_act="silu",
        return_keras_model=False,
    )


def _train(model, rows, epochs):
    keras.utils.set_random_seed(0)
    ids = np.array(rows, "int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(1e-3), loss)
    weights = (ids[:, 1:] != 0).astype("float32")
    model.fit(ids[:, :-1], ids[:, 1:], 16, epochs, verbose=0, sample_weight=weights)


def _perplexity(model, rows):
    ids = np.array(rows, "int32")
    logits = model.predict(ids[:, :-1], batch_size=32, verbose=0).astype("float64")
    logits -= logits.max(axis=-1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    found = np.take_along_axis(log_probs, ids[:, 1:, None], axis=-1)[..., 0]
    return float(np.exp(-found[ids[:, 1:] != 0].mean()))


PARTS = {"products": products, "decode": decode, "perplexity": perplexity}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 8], help="batch sizes")
    parser.add_argument("--turns", type=int, default=3, help="timed runs of each (default: 3)")
    parser.add_argument("--epochs", type=int, default=8, help="of the small Llama (default: 8)")
    args = parser.parse_args()
    print(f"{keras.backend.backend()}, {os.cpu_count()} cores", flush=True)
    for part in args.parts or PARTS:
        PARTS[part](args)
        gc.collect()


if __name__ == "__main__":
    main()
