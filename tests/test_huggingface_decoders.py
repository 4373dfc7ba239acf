"""Random tiny decoders of transformers, loaded and written.  Needs torch and transformers."""

import json

import numpy as np
import pytest
from tiny import assert_close, build, each, predict

from bert4keras3 import backend
from bert4keras3.models import build_transformer_model
from bert4keras3.ops import keras
from bert4keras3.weights import CheckpointError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}
# name: their class, their configuration
CASES = {
    "Llama": ("LlamaForCausalLM", {}),
    "Llama-tied": ("LlamaForCausalLM", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "Llama-biases": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "Llama-head-size": ("LlamaForCausalLM", {"head_dim": 12, "hidden_act": "gelu"}),
    "Llama-linear": (
        "LlamaForCausalLM",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}},
    ),
    "Llama-3.1": ("LlamaForCausalLM", {"rope_parameters": LLAMA3}),
    "LlamaModel": ("LlamaModel", {}),
    "Llama-dynamic": (
        "LlamaForCausalLM",
        {
            "rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4},
            "max_position_embeddings": 10,
        },
    ),
    "Llama-yarn": (
        "LlamaForCausalLM",
        {"rope_parameters": {**YARN, "original_max_position_embeddings": 8}},
    ),
    "Llama-yarn-mscale": (
        "LlamaForCausalLM",
        {
            "rope_parameters": {
                **YARN,
                "original_max_position_embeddings": 16,
                "mscale": 0.7,
                "mscale_all_dim": 0.3,
                "beta_fast": 4,
                "truncate": False,
            }
        },
    ),
    "Mistral": ("MistralForCausalLM", {"sliding_window": 5, "head_dim": 10}),
    "Mistral-full": ("MistralForCausalLM", {"sliding_window": None}),
    "Qwen3": ("Qwen3ForCausalLM", {"head_dim": 12, "tie_word_embeddings": True}),
    "Qwen3-window": (
        "Qwen3ForCausalLM",
        {
            "head_dim": 8,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 2,
        },
    ),
    "Gemma": ("GemmaForCausalLM", {"head_dim": 12}),
    "Gemma2": ("Gemma2ForCausalLM", {"head_dim": 8, "sliding_window": 6}),
    "Gemma2-scalar": (
        "Gemma2ForCausalLM",
        {
            "head_dim": 8,
            "query_pre_attn_scalar": 21,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": None,
            "sliding_window": 3,
        },
    ),
    "Gemma3": (
        "Gemma3ForCausalLM",
        {
            "head_dim": 8,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
    "Qwen2": ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "Qwen2-window": (
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
}

QUICK = ("Llama-tied", "Qwen2", "Gemma2")


def saved(name, folder, **changes):
    """Their model with random weights, saved to a folder."""
    class_name, config = CASES[name]
    cls = getattr(transformers, class_name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**{**SIZES, **config, **changes})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model


def batch(left):
    """Token ids with padding, and where the tokens are."""
    ids = np.random.default_rng(0).integers(1, SIZES["vocab_size"], (4, 24)).astype("int32")
    for row, length in enumerate((24, 7, 3, 20)):
        ids[row, slice(0, 24 - length) if left else slice(length, None)] = 0
    return ids, ids != 0


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CASES]
)
def test_outputs_are_equal(name, left, tmp_path):
    theirs = saved(name, tmp_path)
    ids, mask = batch(left)
    with torch.no_grad():
        out = theirs(torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
    expected = out.last_hidden_state if name.endswith("Model") else out.logits
    found = predict(build_transformer_model(tmp_path), [ids])[0]
    assert_close(found[mask], expected.numpy()[mask])


@pytest.mark.parametrize("name", each([name for name in CASES if name != "LlamaModel"], QUICK))
def test_export_is_what_was_loaded(name, tmp_path):
    theirs = saved(name, tmp_path / "theirs")
    ours = build_transformer_model(tmp_path / "theirs", return_keras_model=False)
    ours.save_pretrained(tmp_path / "ours", max_shard_size=20_000)
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for a, b in zip(theirs.state_dict().values(), again.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    ids, mask = batch(left=False)
    arguments = {"attention_mask": torch.tensor(mask).long()}
    with torch.no_grad():
        a, b = (model(torch.tensor(ids).long(), **arguments).logits for model in (theirs, again))
    assert_close(b[mask], a[mask], 0)


@pytest.mark.parametrize(
    "name", each([n for n in CASES if n not in ("LlamaModel", "Llama-dynamic")], QUICK)
)
def test_greedy_generation_of_64_tokens(name, tmp_path):
    """Far past every sliding window; two prompts of different lengths at once."""
    theirs = saved(name, tmp_path, max_position_embeddings=128)
    ours = build_transformer_model(tmp_path, return_keras_model=False)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, SIZES["vocab_size"], n).tolist() for n in (9, 4)]
    found = ours.generate(prompts, 64, end_token=-1)
    for prompt, ids in zip(prompts, found, strict=True):
        whole = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=64,
            min_new_tokens=64,
            do_sample=False,
            eos_token_id=None,
        )
        assert ids == whole[0, len(prompt) :].tolist()


def test_config_of_older_files(tmp_path):
    """transformers 4 wrote `rope_theta` and `rope_scaling` on the top level."""
    saved("Llama-3.1", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    ids, _ = batch(left=False)
    expected = predict(build_transformer_model(tmp_path), [ids])[0]
    rope = config.pop("rope_parameters")
    path.write_text(
        json.dumps({**config, "rope_theta": rope.pop("rope_theta"), "rope_scaling": rope})
    )
    assert_close(predict(build_transformer_model(tmp_path), [ids])[0], expected, 0)


def test_unknown_rope_is_refused(tmp_path):
    saved("Llama", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "rope_parameters": {"rope_type": "longrope"}}))
    with pytest.raises(ValueError, match=r"config.json: rope_type: expected .*found 'longrope'"):
        build_transformer_model(tmp_path)


def test_what_hugging_face_has_not_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="segments.*this sliding window"):
        build("llama_window", segment_vocab_size=2).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="scaled inputs"):
        build("llama", input_scale=True).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_keep_tokens_selects_rows_of_both_ends(tmp_path):
    theirs = saved("Llama", tmp_path)
    kept = [5, 9, 3, 40]
    ours = build_transformer_model(
        tmp_path, keep_tokens=kept, compound_tokens=[[0, 2]], return_keras_model=False
    )
    head = theirs.lm_head.weight.detach().numpy()
    kernel = ours.layers["Decoder-Output-LM"].kernel.numpy()
    assert_close(kernel[:, :4], head[kept].T, 0)
    assert_close(kernel[:, 4], head[[5, 3]].mean(axis=0))


def test_what_cannot_be_read_says_so(tmp_path):
    saved("Qwen3", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_type": "qwen3_moe"}))
    with pytest.raises(ValueError, match="found 'qwen3_moe'; the nearest is 'qwen3'"):
        build_transformer_model(tmp_path)
    path.write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ValueError, match="quantization_config: weights quantised by 'gptq'"):
        build_transformer_model(tmp_path)
    path.write_text(json.dumps(config))
    (tmp_path / "model.safetensors").rename(tmp_path / "model.gguf")
    with pytest.raises(FileNotFoundError, match="GGUF files are not read"):
        build_transformer_model(tmp_path)


def test_dtype_of_the_layers(tmp_path):
    theirs = saved("Llama", tmp_path)
    theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    half = build_transformer_model(tmp_path, dtype="bfloat16")
    assert {keras.backend.standardize_dtype(w.dtype) for w in half.weights} == {"bfloat16"}
    assert keras.config.dtype_policy().name == "float32"
    found = build_transformer_model(tmp_path, dtype="auto")
    on_cpu = not (backend.list_devices("gpu") or backend.list_devices("tpu"))
    expected = "float32" if on_cpu else "bfloat16"
    assert {keras.backend.standardize_dtype(w.dtype) for w in found.weights} == {expected}
