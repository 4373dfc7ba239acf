"""What fine-tuning asks of an optimizer: learning rates by layer, no decay of biases and norms."""

import itertools
import re

from bert4keras3 import ops
from bert4keras3.backend import piecewise_linear
from bert4keras3.layers.base import register_layer
from bert4keras3.ops import keras, seam

# On torch the class that updates all weights at once, which a subclass would not be made of.
BackendAdamW = type(keras.optimizers.AdamW.__new__(keras.optimizers.AdamW))


class ByLayer:
    """Mixin of Keras optimizers: learning rates by layer, and no weight decay for some weights.

    It comes before the optimizer: `class LayerwiseLion(ByLayer, keras.optimizers.Lion)`.

    Args:
        multipliers: `{pattern: factor}` of the learning rate; the first pattern (a regular
            expression) that is found in a weight's path decides, 1 without one. Weight decay
            goes with the learning rate. See `layerwise_decay`.
        decayed: `'matrices'`: biases, the weights of norms and other single vectors do not
            decay; `'all'`: every weight does.
        *args, **kwargs: those of the optimizer.

    Raises:
        ValueError: an unknown value of `decayed`, or a multiplier below 0.
    """

    def __init__(self, *args, multipliers=None, decayed="matrices", **kwargs):
        seam.only_keras3("an optimizer with learning rates by layer")
        if decayed not in ("matrices", "all"):
            raise ValueError(f"decayed: expected 'matrices' or 'all', got {decayed!r}")
        multipliers = {k: float(v) for k, v in (multipliers or {}).items()}
        wrong = {k: v for k, v in multipliers.items() if not v >= 0}
        if wrong:
            raise ValueError(f"multipliers: expected 0 or more, got {wrong}")
        super().__init__(*args, **kwargs)
        self.multipliers = multipliers
        self.decayed = decayed
        self._factor = 1.0  # of the weights that are being updated

    def build(self, variables):
        if self.decayed == "matrices":
            self.exclude_from_weight_decay([v for v in variables if is_undecayed(v)])
        super().build(variables)

    def factor_of(self, variable):
        """The multiplier of a variable's learning rate."""
        for pattern, factor in self.multipliers.items():
            if re.search(pattern, variable.path):
                return factor
        return 1.0

    def _get_current_learning_rate(self):
        rate = super()._get_current_learning_rate()
        return rate if self._factor == 1 else rate * self._factor

    def _apply_weight_decay(self, variables):
        # Keras on torch wants one that decays at least.
        decaying = [v for v in variables if self.weight_decay and self._use_weight_decay(v)]
        for places in self._groups(decaying):
            super()._apply_weight_decay([decaying[i] for i in places])

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        for places in self._groups(trainable_variables):
            super()._backend_update_step(
                [grads[i] for i in places],
                [trainable_variables[i] for i in places],
                learning_rate * self._factor,
            )

    def _groups(self, variables):
        """Places of variables with the same multiplier, which is in force meanwhile."""
        groups = {}
        for place, variable in enumerate(variables):
            groups.setdefault(self.factor_of(variable), []).append(place)
        try:
            for self._factor, places in groups.items():
                yield places
        finally:
            self._factor = 1.0

    def finalize_variable_values(self, var_list):
        super().finalize_variable_values(var_list)
        if self.use_ema:
            # On JAX weights and averages would be the same memory, which the next `fit` gives
            # away twice.
            for variable in var_list:
                variable.assign(ops.copy(variable.value))

    def get_config(self):
        return {
            **super().get_config(),
            "multipliers": dict(self.multipliers),
            "decayed": self.decayed,
        }


@register_layer
class AdamW(ByLayer, BackendAdamW):
    """Keras' AdamW as transformers are fine-tuned: see `ByLayer`.

        AdamW(2e-5, weight_decay=0.01, multipliers=layerwise_decay(model, 0.9))

    Args:
        *args, **kwargs: those of `keras.optimizers.AdamW`, and of `ByLayer`.

    Source: https://arxiv.org/abs/1711.05101
    """


def is_undecayed(variable):
    """Whether a variable is a bias, a single vector, or part of a norm."""
    # RWKV has vectors of the shape (1, 1, hidden).
    sizes = list(itertools.dropwhile(lambda size: size == 1, variable.shape))
    return len(sizes) < 2 or "norm" in variable.path.lower()


def layerwise_decay(model, decay, head=1.0):
    """Multipliers by which lower blocks learn more slowly: decay to the power of the depth.

    What stands on the last block has 1, the last block `decay`, and so on down to the
    embeddings. Encoder and decoder of a seq2seq model count their blocks for themselves.

    Args:
        model: a Keras model with the layer names of this library.
        decay: from 0 to 1; about 0.9 is common.
        head: multiplier of what is neither block nor embedding.

    Returns:
        `{pattern: factor}`, as `AdamW(multipliers=...)` takes it.

    Raises:
        ValueError: the model has no blocks.

    Source: https://arxiv.org/abs/2003.10555 (ELECTRA)
    """
    blocks = {}
    for layer in model.layers:
        found = re.match(r"(.*?(?:Transformer|RWKV))-(\d+)-", layer.name)
        if found:
            blocks.setdefault(found[1], set()).add(int(found[2]))
    if not blocks:
        raise ValueError("layerwise_decay: the model has no layers Transformer-<number>-…")
    multipliers = {}
    for name, numbers in blocks.items():
        for number in sorted(numbers):
            multipliers[rf"(^|/){re.escape(name)}-{number}-"] = decay ** (len(numbers) - number)
    multipliers[r"(^|/)[^/]*Embedding-"] = decay ** (1 + max(map(len, blocks.values())))
    return {**multipliers, "": float(head)}


@register_layer
class PiecewiseLinear(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that goes in straight lines from step to step.

        PiecewiseLinear({1000: 1, 10000: 0.1}, 2e-5)  # 0 → 2e-5 → 2e-6, and so it stays

    Args:
        schedule: `{step: factor}`; it begins with 0 at step 0 unless it says otherwise. Steps
            are batches, also with `gradient_accumulation_steps`.
        learning_rate: what the factors multiply.
    """

    def __init__(self, schedule, learning_rate=1.0):
        # Keys of JSON are texts.
        self.schedule = {int(step): float(factor) for step, factor in schedule.items()}
        self.learning_rate = learning_rate

    def __call__(self, step):
        return self.learning_rate * piecewise_linear(step, self.schedule)

    def get_config(self):
        schedule = {str(step): factor for step, factor in self.schedule.items()}
        return {"schedule": schedule, "learning_rate": self.learning_rate}
