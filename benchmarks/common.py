"""What several benchmarks share: how time is taken, and the shape of Qwen2-0.5B."""

import statistics
import time

# Arguments of `build_transformer_model`.
QWEN2 = {
    "model": "qwen",
    "with_lm": "linear",
    "vocab_size": 151936,
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 2,
    "query_head": 14,
    "attention_head_size": 64,
    "intermediate_size": 4864,
    "hidden_act": "silu",
    "use_bias": True,
    "o_bias": False,
    "share_embedding": True,
    "max_position": 32768,
}


def seconds(function, *arguments):
    """How long one call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def median_time(run, times=5):
    """The median of some runs, after one that compiles; seconds."""
    run()
    return statistics.median(seconds(run) for _ in range(times))
