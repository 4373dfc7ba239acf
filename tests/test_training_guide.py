"""The code blocks of docs/training.md.  KERAS_BACKEND=jax pytest tests/test_training_guide.py"""

import json

import pytest
from guides import ROOT, blocks, run
from tiny import build

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="no docs beside the tests")


@pytest.mark.further
@pytest.mark.slow
def test_guide_runs(tmp_path, monkeypatch):
    folder = tmp_path / "chinese_L-12_H-768_A-12"
    folder.mkdir()
    sizes = {
        "vocab_size": 9,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position": 8,
    }
    config = {**sizes, "hidden_act": "gelu", "type_vocab_size": 2}
    (folder / "bert_config.json").write_text(json.dumps(config))
    bert = build("bert", **sizes, with_nsp=True, with_mlm=True)
    bert.save_weights_as_checkpoint(folder / "bert_model.ckpt")
    monkeypatch.chdir(tmp_path)
    assert run("docs/training.md")["shares"].any()


@pytest.mark.once
def test_both_languages_have_the_same_examples():
    assert blocks("docs/training.md") == blocks("docs/training.zh.md")
