"""What training needs beside Keras."""

from bert4keras3.training.adversarial import (
    adversarial_training,
    gradient_penalty,
    virtual_adversarial_training,
)
from bert4keras3.training.attribution import integrated_gradients
from bert4keras3.training.lora import (
    active_lora,
    enable_lora,
    lora_adapters,
    lora_targets,
    merge_lora,
    remove_lora,
    set_adapter,
    unmerge_lora,
)
from bert4keras3.training.lora_files import load_lora, save_lora
from bert4keras3.training.optimizers import AdamW, ByLayer, PiecewiseLinear, layerwise_decay
