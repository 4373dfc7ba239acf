"""Random tiny T5, mT5 and UMT5 of transformers: outputs, files and texts.

KERAS_BACKEND=jax pytest tests/test_huggingface_t5.py          (needs torch and transformers)
"""

import json

import numpy as np
import pytest
from tiny import assert_close, each, predict

from bert4keras3.models import build_transformer_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

END = 5
SIZES = {
    "vocab_size": 60,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "pad_token_id": 0,
    "eos_token_id": END,
    "decoder_start_token_id": 0,
}
UNTIED = {"tie_word_embeddings": False}
# name: their class, their configuration
CASES = {
    "T5": ("T5ForConditionalGeneration", {}),
    "T5-1.1": ("T5ForConditionalGeneration", {"feed_forward_proj": "gated-gelu", **UNTIED}),
    "T5-gelu": ("T5ForConditionalGeneration", {"feed_forward_proj": "gelu"}),
    "T5-decoder-layers": (
        "T5ForConditionalGeneration",
        {"num_decoder_layers": 1, "decoder_start_token_id": 7, "pad_token_id": 3},
    ),
    "T5Model": ("T5Model", {"layer_norm_epsilon": 1e-3}),
    "T5EncoderModel": ("T5EncoderModel", {"feed_forward_proj": "gated-gelu"}),
    "MT5": ("MT5ForConditionalGeneration", {}),
    "UMT5": ("UMT5ForConditionalGeneration", UNTIED),
}
QUICK, GENERATING = ("T5-1.1",), ("T5-1.1", "T5-decoder-layers", "MT5", "UMT5")
SOURCES = [[7, 30, 6, END], [55, 8, 8, 41, 6, 19, 20, 33, 41, 59, END], [9, END]]
COUNT = 10


def saved(name, folder):
    """Their model, with weights far from zero, and its folder."""
    cls, changes = CASES[name]
    cls = getattr(transformers, cls)
    torch.manual_seed(1)
    theirs = cls(cls.config_class(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        if hasattr(theirs, "lm_head") and "tie_word_embeddings" in changes:
            # As in the released files: a projection of its own.
            theirs.lm_head.weight = torch.nn.Parameter(theirs.lm_head.weight.clone())
        for parameter in theirs.parameters():
            torch.nn.init.normal_(parameter, std=0.25)
    theirs.save_pretrained(folder)
    return theirs


def padded(rows, pad, side="right"):
    width = max(map(len, rows))
    pads = [[pad] * (width - len(row)) for row in rows]
    pairs = zip(rows, pads, strict=True)
    return np.array([row + more if side == "right" else more + row for row, more in pairs], "int32")


def their_outputs(model, tokens, decoder_tokens, pad):
    mask = torch.tensor(tokens != pad).long()
    inputs = {"input_ids": torch.tensor(tokens).long(), "attention_mask": mask}
    if decoder_tokens is not None:
        inputs["decoder_input_ids"] = torch.tensor(decoder_tokens).long()
    with torch.no_grad():
        return model(**inputs)[0].numpy()


@pytest.mark.parametrize("name", each(CASES, QUICK))
def test_loads_and_writes(name, tmp_path):
    """The same outputs with padded rows, and a folder from which theirs gives them again."""
    theirs = saved(name, tmp_path / "theirs")
    pad, start = theirs.config.pad_token_id, theirs.config.decoder_start_token_id
    ours = build_transformer_model(tmp_path / "theirs", return_keras_model=False)
    assert ours.load_report.complete and not ours.load_report.unused
    tokens = padded(SOURCES, pad)
    decoder_tokens = np.random.default_rng(0).integers(8, 60, (3, 7)).astype("int32")
    decoder_tokens[:, 0] = start
    alone = name == "T5EncoderModel"
    inputs = [tokens] if alone else [tokens, decoder_tokens]
    expected = their_outputs(theirs, tokens, None if alone else decoder_tokens, pad)
    (found,) = predict(ours.model, inputs)
    real = tokens != pad if alone else np.ones_like(decoder_tokens, "bool")
    assert_close(found[real], expected[real])
    ours.save_pretrained(tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours").eval()
    found = their_outputs(again, tokens, None if alone else decoder_tokens, pad)
    assert_close(found[real], expected[real])
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["architectures"] == [type(theirs).__name__]


@pytest.mark.parametrize("name", each(GENERATING, QUICK))
def test_generates(name, tmp_path):
    """Greedy and beams, from padded batches; each row as it is alone."""
    theirs = saved(name, tmp_path)
    ours = build_transformer_model(tmp_path, return_keras_model=False)
    pad, start = theirs.config.pad_token_id, theirs.config.decoder_start_token_id
    tokens, texts = padded(SOURCES, pad), {}
    for beams in (1, 3):
        with torch.no_grad():
            rows = theirs.generate(
                torch.tensor(tokens).long(),
                attention_mask=torch.tensor(tokens != pad).long(),
                max_new_tokens=COUNT,
                num_beams=beams,
                do_sample=False,
            )
        found = [row[1:].tolist() for row in rows]
        texts[beams] = [t[: t.index(END) + 1] if END in t else t for t in found]
        for sources in (SOURCES, padded(SOURCES, pad, "left")):
            assert ours.generate(sources, COUNT, num_beams=beams) == texts[beams]
    assert ours.generate(SOURCES[1], COUNT) == texts[1][1]
    cache_model = ours.build_cache_model([None, COUNT + 1], END, index_bias=1)
    prompts = np.full((3, COUNT + 1), pad, "int32")
    prompts[:, 0] = start
    found = cache_model.predict([tokens, prompts], verbose=0)
    for row, text in zip(found, texts[1], strict=True):
        assert row[1 : len(text) + 1].tolist() == text
