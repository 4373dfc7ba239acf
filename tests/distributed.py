"""What tests/test_distribution.py runs in processes of their own: JAX with several devices.

    python distributed.py FOLDER                  checks and the job on 8 devices; makes the folder
    python distributed.py FOLDER PORT PROCESS     the job; one of two processes, 4 devices each

The last line is JSON.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 "
    f"--xla_force_host_platform_device_count={4 if len(sys.argv) > 2 else 8}"
)

import jax
import keras
import numpy as np
from guides import blocks
from tiny import ALL, SIZES, assert_close, build, build_transformer_model, compiled, inputs_for

from bert4keras3 import sharding
from bert4keras3.distribution import data_parallel, layout_map, memory_per_device, model_parallel

PROCESSES = 2 if len(sys.argv) > 2 else 1
# Of every kind of layer one that the role table knows.
FAMILIES = ("bert_heads", "gemma", "deberta", "gau_unilm", "rwkv7")
TRAINED = ("bert_heads",)
PROMPTS = [[3, 4, 5, 6], [7, 8]]
LLAMA = {"hidden_size": 32, "query_head": 8, "num_attention_heads": 4, "vocab_size": 64}
LLAMA |= {"intermediate_size": 48, "num_hidden_layers": 1, "share_embedding": False}


def unset():
    keras.distribution.set_distribution(None)


def families(folder):
    """Logits, and of some families a training step, on 8 devices against one device."""
    for name in FAMILIES:
        sizes = {"num_hidden_layers": 1, "vocab_size": 52}
        sizes |= {} if "query_head" in ALL[name] else {"num_attention_heads": 4}
        expected = outcome(name, sizes)
        model_parallel(model=4, data=2)
        found = outcome(name, sizes)
        unset()
        for a, b in zip(found[0] + found[1], expected[0] + expected[1], strict=True):
            assert_close(a, b, 2e-5)
        assert max(found[2].values()) < 0.75 * sum(expected[2].values()), (name, found[2])


def outcome(name, sizes):
    """A model's outputs, its weights (after a step of training) and its memory per device."""
    transformer = build(name, **sizes)
    model, arrays = transformer.model, inputs_for(transformer, rows=4, length=5)
    memory, outputs = memory_per_device(model), compiled(model, arrays)
    if name in TRAINED:
        model.compile(keras.optimizers.SGD(0.01), ["mse"] * len(outputs))
        model.train_on_batch(arrays, [np.zeros_like(x) for x in outputs])
    return outputs, [np.asarray(v.value, "float32") for v in model.trainable_variables], memory


def shards(folder):
    """A folder is read shard by shard: no array is larger than one device's part."""
    expected = compiled(build("llama", **LLAMA).model, [np.array([PROMPTS[0]])])
    model_parallel(model=4, data=2)
    sizes, own = [], sharding._own
    sharding._own = lambda part, dtype: sizes.append(part.nbytes) or own(part, dtype)
    try:
        model = build_transformer_model(folder, with_lm="linear")
    finally:
        sharding._own = own
    parts = [part.data for v in model.variables for part in v.value.addressable_shards]
    largest = max(part.nbytes for part in parts)
    assert max(sizes) <= largest < max(v.value.nbytes for v in model.variables)
    # What two groups of devices hold in common is read once.
    assert sum(sizes) == sum(v.value.nbytes for v in model.trainable_variables)
    assert_close(compiled(model, [np.array([PROMPTS[0]] * 2)])[0][:1], expected[0])
    split = {v.path: v.value.sharding.spec for v in model.variables}
    copied = [path for path, spec in split.items() if not any(spec)]
    assert all("Norm" in path or path == "seed" for path in copied), copied
    del model
    unset()


def generation(folder):
    """The same tokens, and caches split over rows and heads."""
    one = build("llama", **LLAMA)
    prompts = PROMPTS * 2
    tokens = one.generate(prompts, 6)
    del one
    data_parallel()
    many = build("llama", **LLAMA)
    assert many.generate(prompts, 6) == tokens
    unset()
    del many
    model_parallel(model=4, data=2)
    many = build("llama", **LLAMA)
    assert many.generate(prompts, 6) == tokens
    assert [token for row, token in many.stream(prompts, 6) if row == 1] == tokens[1]
    (_, length, _), (begin, advance) = list(many.programs.items())[-1]
    rows = {
        "ids": np.full((4, length + 8), 3, "int32"),
        "extras": {},
        "lengths": np.full(4, 4, "int32"),
        "limits": np.full(4, 12, "int32"),
        "seeds": np.zeros(4, "uint32"),
        "settings": {},
    }
    carry = advance(begin(rows), np.int32(2))
    for state in carry["states"].values():
        for cache in state.values():
            assert cache.addressable_shards[0].data.shape[:2] == (2, 1), cache.sharding
    del many
    unset()


def layouts(folder):
    """A layout map of a model, or of its family, does for Keras' own what ours does."""
    mesh = keras.distribution.DeviceMesh((2, 4), ("data", "model"))
    sizes = {**LLAMA, "num_hidden_layers": 2}
    one = build("llama", **sizes)
    maps = [layout_map(one.model, mesh), layout_map("llama", mesh, with_lm="linear")]
    del one
    model_parallel(model=4, data=2)
    ours = specs(build("llama", **sizes))
    unset()
    for layouts in maps:
        parallel = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="data")
        keras.distribution.set_distribution(parallel)
        assert specs(build("llama", **sizes)) == ours
        unset()
    assert len(ours) == 2 + 2 * 7, ours


def specs(transformer):
    """How each weight that is split is split."""
    found = {v.path: v.value.sharding.spec for v in transformer.model.variables}
    return {path: tuple(spec) for path, spec in found.items() if any(spec)}


def refusals(folder):
    """What cannot work is said before anything is built."""
    messages = {
        "devices": message(lambda: model_parallel(model=8, data=2)),
        "data": message(lambda: data_parallel(9)),
        "number": message(lambda: model_parallel(model=0)),
        "mesh": message(
            lambda: layout_map("bert", keras.distribution.DeviceMesh((8,), ("batch",)))
        ),
    }
    model_parallel(model=8)
    messages["heads"] = message(lambda: build("bert"))
    messages["recurrent"] = message(lambda: build("rwkv7"))
    unset()
    late = build_transformer_model(
        **{**SIZES, **ALL["llama"]}, name="early", return_keras_model=False
    )
    messages["late"] = message(data_parallel)
    mesh = keras.distribution.DeviceMesh((8,), ("batch",))
    keras.distribution.set_distribution(keras.distribution.DataParallel(device_mesh=mesh))
    messages["generate"] = message(lambda: late.generate(PROMPTS, 2))
    unset()
    return messages


def guide(folder):
    """The blocks of docs/scaling.md, each a program of its own; the last is of two processes."""
    os.chdir(Path(folder).parent)
    for block in [b for b in blocks("docs/scaling.md") if ("initialize" in b) == (PROCESSES > 1)]:
        exec(compile(block, "docs/scaling.md", "exec"), {})
        unset()


def message(function):
    try:
        function()
    except ValueError as error:
        return str(error)
    return None


def checks(folder):
    """All of the above; what went wrong, by name."""
    results, seconds = {}, {}
    for check in (families, shards, generation, layouts, refusals, guide):
        start = time.perf_counter()
        try:
            results[check.__name__] = check(folder)
        except Exception:
            results[check.__name__] = {"failed": traceback.format_exc()}
            unset()
        seconds[check.__name__] = round(time.perf_counter() - start, 1)
    print("seconds:", seconds)
    return results


def job(folder):
    """Train and generate; a process feeds its part of the batch."""
    keras.utils.set_random_seed(0)
    model_parallel(model=4, data=2)
    transformer = build_transformer_model(folder, with_lm="linear", return_keras_model=False)
    keras_model = transformer.model
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    keras_model.compile(keras.optimizers.AdamW(0.01), loss)
    ids = np.random.default_rng(0).integers(3, 60, (8, 9))
    own = ids.reshape(2, 4, 9)[:, 2 * jax.process_index() :][:, :2].reshape(-1, 9)
    own = own if PROCESSES > 1 else ids
    losses = keras_model.fit(
        own[:, :-1], own[:, 1:], batch_size=len(own) // 2, epochs=2, shuffle=False, verbose=0
    ).history["loss"]
    tokens = transformer.generate(PROMPTS, 6)
    streamed = list(transformer.stream(PROMPTS[0], 6))
    # Every process has to take part in gathering the weights.
    transformer.save_pretrained(f"{folder}-{PROCESSES}-{jax.process_index()}")
    memory = sum(memory_per_device(keras_model).values())
    keras.distribution.set_distribution(None)
    return {"losses": losses, "tokens": tokens, "streamed": streamed, "memory": memory}


def main(folder, port=None, process=None):
    if port is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize(f"127.0.0.1:{port}", PROCESSES, int(process))
        found = {"job": job(folder)}
        keras.distribution.initialize = lambda: None  # done
        return found | {"guide": guide(folder)}
    build("llama", **LLAMA).save_pretrained(folder)
    return {"checks": checks(folder), "job": job(folder)}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
