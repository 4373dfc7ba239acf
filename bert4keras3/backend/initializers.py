"""Initializers that depend on a model's shape."""

import numpy as np

from bert4keras3.ops import keras


@keras.saving.register_keras_serializable("bert4keras3")
class DepthScaled(keras.initializers.Initializer):
    """Truncated normal numbers, smaller for deeper models; for blocks without norm weights.

    Args:
        num_hidden_layers: depth of the model.
        order: numbers shrink with depth^(1 / order).
        seed: as in Keras.

    Source: https://kexue.fm/archives/8978
    """

    def __init__(self, num_hidden_layers, order=2, seed=None):
        self.num_hidden_layers = num_hidden_layers
        self.order = order
        self.seed = seed

    def __call__(self, shape, dtype=None):
        # Of a token or segment table the vectors' size counts, of a kernel what goes in.
        table = shape[0] > 10000 or shape[0] < 10
        size = shape[1] if table else shape[0]
        # 1.1368… is what truncation at two deviations takes away.
        stddev = 1.13684723 / np.sqrt(size) * self.num_hidden_layers ** (-1 / self.order)
        normal = keras.initializers.TruncatedNormal(stddev=float(stddev), seed=self.seed)
        return normal(shape, dtype)

    def get_config(self):
        return {
            "num_hidden_layers": self.num_hidden_layers,
            "order": self.order,
            "seed": self.seed,
        }
