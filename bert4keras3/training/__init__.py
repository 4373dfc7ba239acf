"""What training needs beside Keras."""

from bert4keras3.training.adversarial import (
    adversarial_training,
    gradient_penalty,
    virtual_adversarial_training,
)
from bert4keras3.training.attribution import integrated_gradients
from bert4keras3.training.optimizers import AdamW, ByLayer, PiecewiseLinear, layerwise_decay
