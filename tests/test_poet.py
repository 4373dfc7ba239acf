"""The poet: a small model within the package that knows its poems by heart.

python -m pytest tests/test_poet.py        (KERAS_BACKEND says the backend)
"""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

import bert4keras3
from bert4keras3.models import build_transformer_model
from bert4keras3.tokenizers import load_tokenizer

DATA = Path(bert4keras3.__file__).parent / "data"
FOLDER = DATA / "poet"
SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "train_poet.py"
PROMPT, REST = "床前明月光，", "疑是地上霜。举头望明月，低头思故乡。"
FEW_POEMS = f"""《夜思》
作者：李白
{PROMPT}疑是地上霜。
举头望明月，低头思故乡。

题目:《自责》二首
作者:朱淑真（宋）
其一
女子弄文诚可罪，那堪咏月更吟风。
其二
闷无消遣只看诗，不见诗中话别离。
"""


@pytest.fixture(scope="module")
def script():
    if not SCRIPT.is_file():
        pytest.skip("no examples beside the tests")
    spec = importlib.util.spec_from_file_location("train_poet", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def poet():
    return build_transformer_model(FOLDER, return_keras_model=False)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(FOLDER)


@pytest.fixture(scope="module")
def poems(script):
    """(first clause, whole text) of the poems that no other one begins like."""
    bodies = [body for _, body in script.read_poems(DATA / "tang_song_poems.txt")]
    times = Counter(map(script.first_clause, bodies))
    pairs = [(script.first_clause(body), body) for body in bodies]
    return [pair for pair in pairs if times[pair[0]] == 1]


@pytest.mark.once
def test_the_folder_is_small():
    names = {path.name for path in FOLDER.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 6e6


@pytest.mark.once
def test_every_poem_is_read_and_comes_back_from_its_ids(script, tokenizer):
    poems = script.read_poems(DATA / "tang_song_poems.txt")
    assert len(poems) > 400
    for text in (heading + body for heading, body in poems):
        ids, _ = tokenizer.encode(text)
        assert len(ids) == len(text) and tokenizer._token_unk_id not in ids
        assert tokenizer.decode([*ids, tokenizer._token_end_id, tokenizer._token_pad_id]) == text


@pytest.mark.once
def test_poems_are_read(script, tmp_path):
    path = tmp_path / "poems.txt"
    path.write_text(FEW_POEMS, encoding="utf-8")
    assert script.read_poems(path) == [
        ("《夜思》李白：", PROMPT + REST),
        ("《自责》二首其一朱淑真：", "女子弄文诚可罪，那堪咏月更吟风。"),
        ("《自责》二首其二朱淑真：", "闷无消遣只看诗，不见诗中话别离。"),
    ]


@pytest.mark.parametrize("prompt, rest", [(PROMPT, REST), ("《夜思》李白：", PROMPT + REST)])
def test_a_poem_is_recited_to_its_end(poet, tokenizer, prompt, rest):
    answer = poet.generate(tokenizer.encode(prompt)[0])
    assert tokenizer.decode(answer) == rest
    assert answer[-1] == tokenizer._token_end_id == poet.end_token_id


def test_poems_are_known_by_heart(poet, tokenizer, poems):
    chosen = poems[:: len(poems) // 30][:30]
    prompts = [tokenizer.encode(prompt)[0] for prompt, _ in chosen]
    answers = poet.generate(prompts, 100)
    texts = [prompt + tokenizer.decode(a) for (prompt, _), a in zip(chosen, answers, strict=True)]
    right = [
        text == body[: len(prompt) + 100]
        for text, (prompt, body) in zip(texts, chosen, strict=True)
    ]
    assert sum(right) >= 0.95 * len(chosen)


@pytest.mark.once
def test_at_a_high_temperature_it_writes_lines_of_its_own(poet, tokenizer):
    prompt = tokenizer.encode(PROMPT)[0]
    samples = poet.generate(prompt, 30, temperature=1.5, num_samples=8, seed=1)
    assert len({tokenizer.decode(sample) for sample in samples}) > 2


@pytest.mark.once
@pytest.mark.slow
def test_transformers_recites_the_same(poet, tokenizer, poems):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(FOLDER).eval()
    kinds = (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast)
    readers = [kind.from_pretrained(FOLDER) for kind in kinds]
    for prompt, body in poems[:: len(poems) // 25]:
        ids, _ = tokenizer.encode(prompt)
        for reader in readers:
            assert reader(prompt)["input_ids"] == ids
            assert reader.decode(reader(body)["input_ids"]) == body
        found = theirs.generate(torch.tensor([ids]), max_new_tokens=60, do_sample=False)
        assert found[0, len(ids) :].tolist() == poet.generate(ids, 60)


@pytest.mark.once
@pytest.mark.slow
def test_the_training_script_runs(tmp_path, script, monkeypatch, capsys):
    texts, output = tmp_path / "poems.txt", tmp_path / "trained"
    texts.write_text(FEW_POEMS, encoding="utf-8")
    arguments = ["--epochs", "1", "--texts", str(texts), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    script.main()
    assert "of 3 poems recited" in capsys.readouterr().out
    transformer = build_transformer_model(output, return_keras_model=False)
    prompt = load_tokenizer(output).encode(PROMPT)[0]
    assert len(transformer.generate(prompt, 3, min_new_tokens=3)) == 3
