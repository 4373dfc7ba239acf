"""What the configurations of the classic families look like: one entry a `model_type`."""

from typing import NamedTuple

from bert4keras3.models.huggingface.activations import ACTIVATIONS

BERT_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "dropout_rate": "hidden_dropout_prob",
    "attention_dropout_rate": "attention_probs_dropout_prob",
    "max_position": "max_position_embeddings",
    "segment_vocab_size": "type_vocab_size",
    "layer_norm_epsilon": "layer_norm_eps",
    "pad_token_id": "pad_token_id",
    "classifier_dropout": "classifier_dropout",
}
# What transformers takes for a key that the file leaves out.
BERT_DEFAULTS = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "classifier_dropout": None,
}
SMALL_EMBEDDING = {**BERT_KEYS, "embedding_size": "embedding_size"}
GPT_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "dropout_rate": "resid_pdrop",
    "attention_dropout_rate": "attn_pdrop",
    "max_position": "n_positions",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "pad_token_id": "pad_token_id",
}
GPT_DEFAULTS = {
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "pad_token_id": None,
}
BOTH_WAYS = (["p2c", "c2p"], ["c2p", "p2c"], "p2c|c2p", "c2p|p2c")
MLM = {"with_mlm": "linear"}
NSP = {"with_nsp": True}
LANGUAGE_MODEL = {
    "Model": {"final_activation": False},
    "LMHeadModel": {"final_activation": "linear"},
    "DoubleHeadsModel": {"final_activation": "linear"},
}
TASKS = {
    "ForSequenceClassification": {"head": "sequence_classification"},
    "ForTokenClassification": {"head": "token_classification"},
    "ForQuestionAnswering": {"head": "question_answering"},
}
CAUSAL_TASKS = {end: {**outputs, "final_activation": False} for end, outputs in TASKS.items()}


class Kind(NamedTuple):
    """One `model_type`.

    Args:
        family: our model key.
        name: how its classes are called in transformers, before 'Model', 'For...'.
        keys: our constructor argument: their key. Read both ways.
        defaults: what transformers takes for keys that the file leaves out.
        demands: their key: the values that mean what we compute.
        fixed: our arguments that follow from the type.
        outputs: end of a class name: our arguments for its output.
        activations: their name of an activation: ours.
        decodes: its `is_decoder` makes it causal.
        causal: it is always causal.
    """

    family: str
    name: str
    keys: dict = BERT_KEYS
    defaults: dict = BERT_DEFAULTS
    demands: dict = {}
    fixed: dict = {}
    outputs: dict = {"Model": {}, "ForMaskedLM": MLM, "ForCausalLM": MLM, **TASKS}
    activations: dict = ACTIVATIONS
    decodes: bool = False
    causal: bool = False

    @property
    def usual(self):
        """The class a folder is taken for that does not say."""
        if not self.causal:
            return "Model"
        return "LMHeadModel" if "LMHeadModel" in self.outputs else "ForCausalLM"


BERT_LIKE = {"position_embedding_type": ("absolute", None), "add_cross_attention": (False, None)}
ROBERTA = Kind(
    "roberta",
    "Roberta",
    defaults={**BERT_DEFAULTS, "pad_token_id": 1},
    demands=BERT_LIKE,
    decodes=True,
)

KINDS = {
    "bert": Kind(
        "bert",
        "Bert",
        demands=BERT_LIKE,
        outputs={
            "Model": {},
            "ForMaskedLM": MLM,
            "LMHeadModel": MLM,
            "ForNextSentencePrediction": NSP,
            "ForPreTraining": {**MLM, **NSP},
            **TASKS,
        },
        decodes=True,
    ),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA._replace(name="XLMRoberta"),
    "camembert": ROBERTA._replace(name="Camembert"),
    "distilbert": Kind(
        "distilbert",
        "DistilBert",
        keys={
            "vocab_size": "vocab_size",
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "dropout_rate": "dropout",
            "attention_dropout_rate": "attention_dropout",
            "max_position": "max_position_embeddings",
            "pad_token_id": "pad_token_id",
            "classifier_dropout": "seq_classif_dropout",
        },
        defaults={
            "activation": "gelu",
            "dropout": 0.1,
            "attention_dropout": 0.1,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
            "seq_classif_dropout": 0.2,
        },
    ),
    "albert": Kind(
        "albert",
        "Albert",
        keys={**SMALL_EMBEDDING, "classifier_dropout": "classifier_dropout_prob"},
        defaults={
            **BERT_DEFAULTS,
            "hidden_act": "gelu_new",
            "hidden_dropout_prob": 0,
            "attention_probs_dropout_prob": 0,
            "embedding_size": 128,
            "classifier_dropout_prob": 0.1,
        },
        demands={
            "position_embedding_type": ("absolute", None),
            "num_hidden_groups": (1, None),
            "inner_group_num": (1, None),
        },
        # transformers has this layer even between equal sizes.
        fixed={"always_map_embeddings": True},
        outputs={"Model": {}, "ForMaskedLM": MLM, "ForPreTraining": {**MLM, **NSP}, **TASKS},
    ),
    "electra": Kind(
        "electra",
        "Electra",
        keys=SMALL_EMBEDDING,
        defaults={**BERT_DEFAULTS, "embedding_size": 128},
        demands={**BERT_LIKE, "is_decoder": (False, None)},
        outputs={
            "Model": {},
            "ForPreTraining": {"with_discriminator": "linear"},
            "ForMaskedLM": {"head": "masked_lm"},
            **TASKS,
        },
    ),
    "roformer": Kind(
        "roformer",
        "RoFormer",
        keys=SMALL_EMBEDDING,
        defaults={**BERT_DEFAULTS, "max_position_embeddings": 1536, "embedding_size": None},
        demands={"rotary_value": (False, None), "add_cross_attention": (False, None)},
        decodes=True,
    ),
    "deberta-v2": Kind(
        "deberta",
        "DebertaV2",
        keys={
            **BERT_KEYS,
            "bucket_size": "position_buckets",
            "classifier_dropout": "cls_dropout",
        },
        defaults={
            **BERT_DEFAULTS,
            "type_vocab_size": 0,
            "layer_norm_eps": 1e-7,
            "cls_dropout": None,
            "position_buckets": -1,
            "max_relative_positions": -1,
            "relative_attention": False,
            "position_biased_input": True,
        },
        demands={
            "relative_attention": (True,),
            "pos_att_type": BOTH_WAYS,
            "share_att_key": (True,),
            "position_biased_input": (False,),
            "norm_rel_ebd": ("layer_norm",),
            "conv_kernel_size": (0, None),
            "attention_head_size": (None,),
            "pooler_hidden_act": ("gelu", None),
            "legacy": (True, None),
        },
        outputs={"Model": {}, "ForMaskedLM": MLM, **TASKS},
    ),
    "openai-gpt": Kind(
        "gpt",
        "OpenAIGPT",
        keys={**GPT_KEYS, "hidden_act": "afn"},
        defaults={**GPT_DEFAULTS, "n_positions": 512, "afn": "gelu"},
        fixed={"segment_vocab_size": 0},
        outputs={**LANGUAGE_MODEL, **CAUSAL_TASKS},
        activations={"gelu": "gelu_tanh", "relu": "relu", "silu": "swish", "swish": "swish"},
        causal=True,
    ),
    "gpt2": Kind(
        "gpt2",
        "GPT2",
        keys={
            **GPT_KEYS,
            "hidden_act": "activation_function",
            "intermediate_size": "n_inner",
            "end_token_id": "eos_token_id",
            "start_token_id": "bos_token_id",
        },
        defaults={
            **GPT_DEFAULTS,
            "n_positions": 1024,
            "activation_function": "gelu_new",
            "n_inner": None,
            "eos_token_id": 50256,
            "bos_token_id": 50256,
        },
        demands={
            "scale_attn_weights": (True, None),
            "scale_attn_by_inverse_layer_idx": (False, None),
            "add_cross_attention": (False, None),
        },
        outputs={**LANGUAGE_MODEL, **CAUSAL_TASKS},
        causal=True,
    ),
}
