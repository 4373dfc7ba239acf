"""Adapters from and to the library PEFT.  KERAS_BACKEND=torch pytest tests/test_lora_peft.py"""

import numpy as np
import pytest
from test_lora import disturb, everywhere
from tiny import assert_close, predict

from bert4keras3.models import build_transformer_model
from bert4keras3.ops import keras
from bert4keras3.training import enable_lora, load_lora, lora_targets, merge_lora, save_lora
from bert4keras3.weights import CheckpointError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="on torch, where PEFT is"),
    # What PEFT says of patterns that match nothing, of tied tables and of saving tables.
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning"),
]

SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODER = {**SIZES, "intermediate_size": 24, "max_position_embeddings": 32}
DECODER = {**ENCODER, "num_key_value_heads": 2}
T5 = {"vocab_size": 60, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
# name: class, configuration, targets of PEFT's, arguments of ours
CASES = {
    "Llama": ("LlamaForCausalLM", DECODER, "all-linear", {"with_lm": "linear"}),
    "Llama-embedding": (
        "LlamaForCausalLM",
        DECODER,
        ["q_proj", "embed_tokens", "lm_head"],
        {"with_lm": "linear"},
    ),
    "Llama-tied": (
        "LlamaForCausalLM",
        {**DECODER, "tie_word_embeddings": True},
        ["v_proj"],
        {"with_lm": "linear"},
    ),
    "Bert-tied": ("BertForMaskedLM", ENCODER, ["value"], {"with_mlm": "linear"}),
    "Gemma": ("GemmaForCausalLM", {**DECODER, "head_dim": 6}, ["q_proj", "o_proj"], {}),
    "Bert": ("BertModel", ENCODER, ["query", "output.dense"], {}),
    "Bert-head": ("BertForSequenceClassification", ENCODER, ["key", "value"], {"head": "auto"}),
    "Albert": ("AlbertModel", {**ENCODER, "embedding_size": 8}, ["ffn", "dense"], {}),
    "RoFormer": ("RoFormerModel", {**ENCODER, "embedding_size": 16}, ["query"], {}),
    "GPT2": ("GPT2LMHeadModel", {**SIZES, "n_positions": 32}, ["c_attn", "c_fc"], {}),
    "T5": ("T5ForConditionalGeneration", T5, ["q", "wi", "wo"], {"with_lm": "linear"}),
}


def theirs(name, folder, seed=0):
    """Their model, saved, and ours of the folder."""
    cls, config, _, arguments = CASES[name]
    cls = getattr(transformers, cls)
    torch.manual_seed(seed)
    model = cls(cls.config_class(**config, pad_token_id=0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    model.tie_weights()
    model.save_pretrained(folder)
    arguments = {"with_lm": "linear", **arguments} if "Gemma" in name else arguments
    if name == "GPT2":
        arguments = {"final_activation": "linear"}
    return model, build_transformer_model(folder, return_keras_model=False, **arguments)


def both(their, ours):
    """The last outputs of both for the same ids."""
    ids = np.random.default_rng(0).integers(3, 60, (2, 7))
    arguments = {"input_ids": torch.tensor(ids)}
    if "T5" in type(ours).__name__:
        arguments["decoder_input_ids"] = arguments["input_ids"]
    with torch.no_grad():
        expected = their(**arguments)
    expected = getattr(expected, "logits", None) if "logits" in expected else expected[0]
    arrays = [np.zeros_like(ids) if "Segment" in x.name else ids for x in ours.inputs]
    return predict(ours.model, arrays)[-1], expected.numpy()


def options(name):
    return {
        "use_dora": name in ("Llama", "Llama-embedding", "GPT2"),
        "use_rslora": name in ("Llama", "Bert", "GPT2"),
    }


@pytest.mark.parametrize("name", CASES)
def test_we_load_what_peft_saved(name, tmp_path):
    their, ours = theirs(name, tmp_path / "model")
    config = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=CASES[name][2],
        modules_to_save=["classifier"] if "head" in name else None,
        rank_pattern={r"layers\.0\.self_attn\.q_proj": 2} if name == "Llama" else {},
        alpha_pattern={"o_proj": 7},
        **options(name),
    )
    adapted = peft.get_peft_model(their, config).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    before = both(their, ours)[0]
    load_lora(ours, tmp_path / "adapter")
    found, expected = both(adapted, ours)
    assert np.abs(found - before).max() > 1e-2
    assert_close(found, expected)
    merge_lora(ours)
    assert_close(both(adapted, ours)[0], expected)


@pytest.mark.parametrize("name", CASES)
def test_peft_loads_what_we_saved(name, tmp_path):
    their, ours = theirs(name, tmp_path / "model")
    targets = everywhere(ours) if name == "Llama-embedding" else None
    more = {"train_also": ["Classifier"]} if "head" in name else {}
    enable_lora(ours, rank=3, alpha=5, targets=targets, **more, **options(name))
    disturb(ours.model)
    save_lora(ours, tmp_path / "adapter")
    adapted = peft.PeftModel.from_pretrained(their, tmp_path / "adapter").eval()
    found, expected = both(adapted, ours)
    assert_close(found, expected)
    written = {k for k in adapted.state_dict() if "lora_" in k}
    kinds = 3 if options(name)["use_dora"] else 2
    fused = 3 if name == "GPT2" else 1
    attached = [x for x in lora_targets(ours).values() if x.adapter_names]
    assert fused > 1 or len(written) == kinds * len(attached)
    # And we what they save of it.
    adapted.save_pretrained(tmp_path / "back")
    _, other = theirs(name, tmp_path / "model")
    load_lora(other, tmp_path / "back")
    assert_close(both(adapted, other)[0], expected)


@pytest.mark.parametrize("name", ["Llama-tied", "Bert-tied"])
def test_tied_tables(name, tmp_path):
    """An adapter of a tied table acts at both ends, as one of PEFT's at both."""
    their, ours = theirs(name, tmp_path / "model")
    enable_lora(ours, rank=3, alpha=5, targets=["Embedding-Token", "q_dense"])
    disturb(ours.model)
    save_lora(ours, tmp_path / "adapter")
    adapted = peft.PeftModel.from_pretrained(their, tmp_path / "adapter").eval()
    found, expected = both(adapted, ours)
    assert_close(found, expected)
    adapted.save_pretrained(tmp_path / "back")
    _, other = theirs(name, tmp_path / "model")
    load_lora(other, tmp_path / "back")
    assert_close(both(adapted, other)[0], expected)
    # One that is at one end only computes what our model cannot.
    their, other = theirs(name, tmp_path / "model")
    table = "embed_tokens" if name == "Llama-tied" else "word_embeddings"
    alone = peft.get_peft_model(their, peft.LoraConfig(target_modules=[table]))
    alone.save_pretrained(tmp_path / "alone")
    with pytest.raises(CheckpointError, match="both ends"):
        load_lora(other, tmp_path / "alone")
