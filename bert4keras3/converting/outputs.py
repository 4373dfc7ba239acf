"""Which outputs a model needs so that no tensor of its file is lost, and what is lost still."""

import numpy as np

from bert4keras3.weights.table import expand_row, stored_name

# Layer on the way to an output: the arguments that give a model this output.
OUTPUTS = {
    "Pooler-Dense": {"with_pool": True},
    "NSP-Proba": {"with_nsp": True},
    "MLM-Dense": {"with_mlm": "linear"},
    "MLM_Head": {"with_mlm": "linear"},
    "Discriminator-Dense": {"with_discriminator": "linear"},
}
# Ends of the names of tensors that are no weights: positions, masks, frequencies, counters.
DERIVED = (
    ".position_ids",
    ".token_type_ids",
    ".attn.bias",
    ".attn.masked_bias",
    ".rotary_emb.inv_freq",
    ".embed_positions.weight",
    "global_step",
)


def find_outputs(cls, source):
    """Arguments for the outputs that a file has tensors for.

    Args:
        cls: the family.
        source: the open file.
    """
    # Families whose table depends on their options have one output only.
    tables = cls.tables.values() if isinstance(cls.tables, dict) else ()
    found = {}
    for table in tables:
        for layer, arguments in OUTPUTS.items():
            names = [stored_name(tensor.name) for tensor in expand_row(table.get(layer))]
            names += [name.removeprefix(cls.huggingface_prefix) for name in names]
            if any(name in source for name in names):
                found |= arguments
    return {name: value for name, value in found.items() if name not in cls.lacks}


def find_lost(transformer, source):
    """Names of the tensors of a file whose numbers the model does not have.

    Args:
        transformer: the model, loaded from the file.
        source: the open file.
    """
    copies = dict(transformer.huggingface_ties)
    for name in transformer.huggingface_ties:
        stem, found, _ = name.rpartition(".decoder.weight")
        if found:
            copies[f"{stem}.decoder.bias"] = f"{stem}.bias"
    prefix = transformer.huggingface_prefix
    return [
        name
        for name in transformer.load_report.unused
        if not name.endswith(DERIVED) and not _is_copy(source, name, copies.get(name), prefix)
    ]


def _is_copy(source, name, other, prefix):
    for candidate in () if other is None else (other, other.removeprefix(prefix)):
        if candidate in source:
            return np.array_equal(source[name], source[candidate])
    return False
