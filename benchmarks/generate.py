"""Decoding at the shape of Qwen2-0.5B, and summarising at that of T5-base, beside peers.

    python benchmarks/generate.py                    # everything, about 15 minutes
    python benchmarks/generate.py decode ragged      # parts of it
    python benchmarks/generate.py decode prefill --shape gemma2 --peers transformers
    KERAS_BACKEND=torch python benchmarks/generate.py decode --peers transformers

Ours and keras-hub run on the backend KERAS_BACKEND says (jax by default),
transformers on torch; all get all cores, random weights of the same shape and
the same prompts, and take turns. Rates are of decoding alone: the time of a
generation less that of its first token. Ratios above 1 mean that we are faster.
`summarize` is whole generations: 64 tokens from sources of 512, transformers only.
"""

import argparse
import gc
import math
import os
import statistics
import tempfile

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
import torch
import transformers
from common import seconds

from bert4keras3.models import build_transformer_model
from bert4keras3.models.config import read_config
from bert4keras3.models.huggingface import from_huggingface

SHAPES = {
    "qwen2": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "intermediate_size": 2816,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "gemma2": {
        "vocab_size": 128000,
        "hidden_size": 1152,
        "num_hidden_layers": 13,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "intermediate_size": 4608,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 96,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "t5": {  # T5-base, of `summarize` only
        "vocab_size": 32128,
        "d_model": 768,
        "d_kv": 64,
        "d_ff": 3072,
        "num_layers": 12,
        "num_heads": 12,
        "decoder_start_token_id": 0,
    },
}
SOURCE, SUMMARY = 512, 64
PROMPT = 128
RAGGED = (16, 64, 128, 192, 256, 320, 448, 512)


def prompts(rows, length):
    """Random ids `(rows, length)`."""
    return np.random.default_rng(0).integers(10, 30000, (rows, length))


class Ours:
    """This library."""

    def __init__(self, shape, dtype):
        with tempfile.TemporaryDirectory() as folder:
            # A folder without weights: what a user's folder of this shape is translated to.
            theirs_config(shape).save_pretrained(folder)
            key, arguments = from_huggingface(read_config(folder), folder)
        del arguments["outputs"]
        self.model = build_transformer_model(
            model=key, dtype=dtype, return_keras_model=False, **{**arguments, "with_lm": "linear"}
        )
        weights = self.model.model.weights
        self.bytes = sum(math.prod(w.shape) * np.dtype("float32").itemsize for w in weights)

    def generate(self, rows, count):
        """`count` new tokens for each prompt."""
        found = self.model.generate([list(map(int, row)) for row in rows], count)
        assert all(len(ids) == count for ids in found)


class Transformers:
    """transformers on torch."""

    def __init__(self, shape, dtype):
        config = theirs_config(shape)
        kind = "Seq2SeqLM" if config.is_encoder_decoder else "CausalLM"
        model = getattr(transformers, f"AutoModelFor{kind}").from_config(config)
        self.model = model.to(getattr(torch, dtype)).eval()

    def generate(self, rows, count):
        """`count` new tokens for each prompt; shorter ones are padded at the left."""
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, width - len(row) :] = torch.tensor(np.asarray(row))
            mask[i, width - len(row) :] = 1
        with torch.inference_mode():
            self.model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )


class KerasHub:
    """keras-hub on the backend of Keras."""

    def __init__(self, shape, dtype):
        import keras_hub

        sizes = SHAPES[shape]
        backbone = keras_hub.models.QwenBackbone(
            vocabulary_size=sizes["vocab_size"],
            num_layers=sizes["num_hidden_layers"],
            num_query_heads=sizes["num_attention_heads"],
            num_key_value_heads=sizes["num_key_value_heads"],
            hidden_dim=sizes["hidden_size"],
            intermediate_dim=sizes["intermediate_size"],
            rope_max_wavelength=sizes["rope_parameters"]["rope_theta"],
            tie_word_embeddings=sizes["tie_word_embeddings"],
            dtype=dtype,
        )
        self.model = keras_hub.models.QwenCausalLM(backbone, preprocessor=None)
        self.model.compile(sampler="greedy")

    def generate(self, rows, count):
        """`count` new tokens for the longest prompt; its loop starts at the shortest one.

        The arrays have one length for every count, so that it compiles once.
        """
        width = max(map(len, rows)) + LONGEST
        ids = np.zeros((len(rows), width), "int32")
        mask = np.zeros((len(rows), width), "bool")
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = True
        if count < LONGEST:  # the tokens not asked for count as prompt
            ids[:, width - LONGEST :], mask[:, : width - count] = 7, True
        self.model.generate({"token_ids": ids, "padding_mask": mask}, stop_token_ids=None)


LONGEST = 33
PEERS = {"transformers": Transformers, "keras-hub": KerasHub}


def theirs_config(shape):
    """The configuration of transformers, of random weights without an end."""
    config_class = getattr(transformers, f"{shape.capitalize()}Config")
    return config_class(**SHAPES[shape], bos_token_id=None, eos_token_id=None, pad_token_id=None)


def compare(name, ours, theirs, rows, turns, part, count=LONGEST):
    """Medians over turns of the time of `part`: 'decode' (33 tokens less 1), or 'whole'."""
    times = {ours: [], theirs: []}
    counts = {"decode": (count, 1), "prefill": (1,), "whole": (count,)}[part]
    for library in times:
        for number in counts:
            library.generate(rows, number)  # compiles
    for _ in range(turns):
        for library, found in times.items():
            spent = [seconds(library.generate, rows, number) for number in counts]
            found.append(spent[0] - spent[1] if part == "decode" else spent[0])
    mine, peer = (statistics.median(found) for found in times.values())
    tokens = len(rows) * (count - 1)
    if part == "decode":
        print(f"{name:54} {tokens / mine:8.1f} tok/s {tokens / peer:8.1f} tok/s {peer / mine:6.2f}")
    else:
        print(f"{name:54} {mine:8.2f} s     {peer:8.2f} s     {peer / mine:6.2f}", flush=True)
    return tokens / mine


def bandwidth():
    """Bytes a second that memory gives at best: a sum, and a matrix-vector product."""
    matrix, vector = torch.ones(32768, 16384), torch.ones(16384)
    runs = [seconds(torch.mv, matrix, vector) for _ in range(8)]
    runs += [seconds(torch.sum, matrix) for _ in range(8)]
    return matrix.numel() * 4 / min(runs)


def decode(make, peers, turns):
    for dtype, peer_dtypes in (("float32", ("float32",)), ("bfloat16", ("float32", "bfloat16"))):
        ours = make("ours", dtype)
        for peer in peers:
            for peer_dtype in peer_dtypes:
                if peer == "keras-hub" and dtype == "bfloat16":
                    continue
                theirs = make(peer, peer_dtype)
                for rows in (1, 8):
                    name = f"decode, batch {rows}, ours {dtype} | {peer} {peer_dtype}"
                    rate = compare(name, ours, theirs, prompts(rows, PROMPT), turns, "decode")
                    if rows == 1 and dtype == "float32":
                        share = rate * ours.bytes / bandwidth()
                        print(f"{'':54} {share:.2f} of the read bandwidth", flush=True)
                del theirs
                gc.collect()
        del ours
        gc.collect()


def prefill(make, peers, turns):
    ours = make("ours", "float32")
    for peer in peers:
        theirs = make(peer, "float32")
        for rows in (1, 8):
            name = f"prefill and first token, {rows} x {PROMPT} | {peer}"
            compare(name, ours, theirs, prompts(rows, PROMPT), turns, "prefill")


def whole(make, peers, turns):
    """Whole generations, prefill included: 33 tokens after 128."""
    ours = make("ours", "float32")
    for peer in peers:
        theirs = make(peer, "float32")
        for rows in (1, 8):
            name = f"{LONGEST} new tokens, {rows} x {PROMPT} | {peer}"
            compare(name, ours, theirs, prompts(rows, PROMPT), turns, "whole")


def ragged(make, peers, turns):
    """Prompts of 16 to 512 tokens; a peer that pads pays for the longest."""
    ours = make("ours", "float32")
    rows = [prompts(1, length)[0] for length in RAGGED]
    for peer in peers:
        theirs = make(peer, "float32")
        name = f"ragged batch of 8, 33 new tokens | {peer}"
        compare(name, ours, theirs, rows, turns, "whole")


def summarize(make, peers, turns):
    """64 new tokens from 8 sources of 512 at the shape of T5-base: the whole, and its parts."""
    if "transformers" in peers:
        ours, theirs = (cls("t5", "float32") for cls in (Ours, Transformers))
        for part in ("whole", "prefill", "decode"):
            name = f"T5-base, {SUMMARY} tokens from 8 x {SOURCE}, {part} | transformers"
            compare(name, ours, theirs, prompts(8, SOURCE), turns, part, SUMMARY)


def second_prompt(make, peers, turns):
    """Time to the first token: of the first prompt, and of a second of another length."""
    libraries = {"ours": make("ours", "float32")} | {p: make(p, "float32") for p in peers}
    for name, library in libraries.items():
        if name == "keras-hub":
            continue  # its arrays' length is the user's: it is what `generate` above pads to
        first, second = (seconds(library.generate, prompts(1, n), 1) for n in (120, 100))
        print(f"first token of a first and a second prompt, {name:14} {first:.2f} s {second:.2f} s")


PARTS = {
    "decode": decode,
    "prefill": prefill,
    "whole": whole,
    "ragged": ragged,
    "second_prompt": second_prompt,
    "summarize": summarize,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--turns", type=int, default=3, help="timed runs of each (default: 3)")
    parser.add_argument("--shape", choices=[*SHAPES][:-1], default="qwen2", help="default: qwen2")
    args = parser.parse_args()
    has_hub = args.shape == "qwen2" and _has_hub()
    peers = [peer for peer in args.peers if peer != "keras-hub" or has_hub]
    print(f"{keras.backend.backend()}, {os.cpu_count()} cores; ours, peer, ratio", flush=True)

    def make(name, dtype):
        return {"ours": Ours, **PEERS}[name](args.shape, dtype)

    for part in args.parts or PARTS:
        PARTS[part](make, peers, args.turns)
        gc.collect()


def _has_hub():
    import importlib.util

    return importlib.util.find_spec("keras_hub") is not None


if __name__ == "__main__":
    main()
