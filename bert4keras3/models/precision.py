"""The dtype policy a model is built with."""

from contextlib import contextmanager

from bert4keras3.backend import list_devices
from bert4keras3.ops import keras


@contextmanager
def dtype_policy(name):
    """Within it, layers are made with a Keras dtype policy; None for the current one."""
    before = keras.config.dtype_policy()
    if name is not None:
        keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def find_policy(dtype, config):
    """The policy of a `dtype` argument.

    Args:
        dtype: a policy or its name; None for the current one; `'auto'` for what a
            Hugging Face folder is stored in, but float32 on a CPU, where it is fast.
        config: the folder's `config.json`, {} where there is none.
    """
    if dtype != "auto":
        return dtype
    stored = config.get("dtype") or config.get("torch_dtype") or "float32"
    accelerated = bool(list_devices("gpu") or list_devices("tpu"))
    return stored if accelerated and stored in ("bfloat16", "float16") else "float32"
