"""Files of any size: lines in blocks and shards, runs that are killed and go on.

python -m pytest tests/test_batches.py        (KERAS_BACKEND says the backend)
"""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_cli import LINES, VOCAB, fails, records, save_writer
from tiny import build

from bert4keras3.cli import main
from bert4keras3.cli.batches import describe_folder
from bert4keras3.cli.lines import Source, read_lines
from bert4keras3.embedding import SentenceEmbedder
from bert4keras3.generation import TextGenerator

pytestmark = pytest.mark.once
posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and locks are POSIX's")
DRAWS = ["--temperature", "1.5", "--max-new-tokens", "5", "--batch-size", "2", "--block", "4"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    build("bert").save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    transformer = build("llama", vocab_size=len(VOCAB), pad_token_id=None)
    return save_writer(tmp_path_factory.mktemp("writer"), transformer)


@pytest.fixture
def texts(tmp_path):
    """200 lines of 0 to 20 words, blank ones among them."""
    draw = np.random.default_rng(0)
    lines = [" ".join(draw.choice(VOCAB[4:], draw.integers(0, 20))) for _ in range(200)]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def folder_of(path):
    return {other.name for other in path.parent.iterdir()}


# ---------------------------------------------------------------------- lines

PIECES = [b"\n", b"\r", b"\r\n", b"", b" ", b"ab", b"\t", b"\x0b", b"\x0c", b"\x1c", b"\x00"]
PIECES += ["\u2028".encode(), "\x85".encode(), "\u3000".encode(), "月".encode(), b"\xef\xbb\xbf"]
DATA = st.lists(st.sampled_from(PIECES), min_size=1, max_size=30).map(b"".join)


def split(data):
    """The lines of some bytes, by definition."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    return [line.decode().removesuffix("\r") for line in lines]


def texts_of(blocks):
    return [text for block in blocks for text in block.texts]


@pytest.mark.parametrize("skips_blank", [False, True])
@example(b"\xef\xbb\xbf", 1, 1)
@example(b"\xef\xbb\xbf\n", 1, 2)
@example(b"\xef\xbb\xbfa\n\xef\xbb\xbfb", 2, 3)
@example("a\u2028b\r\r\n\n\x85".encode(), 1, 2)
@given(DATA, st.integers(1, 5), st.integers(1, 5))
def test_blocks_and_shards_have_every_line_once(skips_blank, data, size, among):
    expected = [line for line in split(data) if line.strip() or not skips_blank]
    stream = Source(io.BytesIO(data), "stdin", skips_blank)
    file = Source(io.BytesIO(data), "file", skips_blank)
    if not expected:
        for read in (lambda: list(stream.blocks(size)), file.counted):
            with pytest.raises(ValueError, match="(file|stdin): no text to"):
                read()
        return
    whole = file.counted()
    blocks = list(whole.blocks(size))
    assert texts_of(blocks) == texts_of(stream.blocks(size)) == expected
    assert whole.count == len(expected) and whole.end.lines == len(split(data))
    assert all(len(block.texts) == size for block in blocks[:-1])
    # From the end of any block on the rest comes in the same blocks.
    for i, block in enumerate(blocks):
        assert list(whole.blocks(size, block.end)) == blocks[i + 1 :]
    shards = [file.counted((i, among)) for i in range(1, among + 1)]
    assert [text for shard in shards for text in texts_of(shard.blocks(size))] == expected
    assert [shard.end for shard in shards] == [*(s.start for s in shards[1:]), whole.end]


def test_lines_are_counted_across_pieces(monkeypatch):
    monkeypatch.setattr("bert4keras3.cli.lines.CHUNK", 3)
    lines = ["ab", "", "月" * 9, " ", "last"]
    source = Source(io.BytesIO("\n".join(lines).encode()), "file").counted()
    assert (source.count, texts_of(source.blocks(2))) == (5, lines)
    broken = Source(io.BytesIO(b"fine\n\ncaf\xe9\nfine"), "file")
    with pytest.raises(ValueError, match=r"file: line 3: not UTF-8 \(byte 0xe9 at position 4\)"):
        broken.counted()


def test_a_file_that_changes_meanwhile_is_an_error():
    file = io.BytesIO(b"a\nb\nc\n")
    source = Source(file, "file").counted()
    file.truncate(3)
    with pytest.raises(ValueError, match="file: has changed while it was read"):
        list(source.blocks(1))


def test_read_lines_is_the_same(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffa\r\n\r\n \u2028b\x85\r\r\nc".encode())
    assert read_lines(str(path)) == split(path.read_bytes()) == ["a", "", " \u2028b\x85\r", "c"]


# ------------------------------------------------------------ killed anywhere

# Kills a run before, or in the middle of, each thing it does to files in turn, without Keras.
KILLED = '''
import argparse, os, sys
from pathlib import Path
from bert4keras3.cli import batches
from bert4keras3.cli.resumable import ResumableFile

folder = Path(sys.argv[1])
source, output = folder / "texts.txt", folder / "out.txt"
source.write_text("".join(f"line {i}\\n" for i in range(5)))
model = folder / "model"
model.mkdir()
expected = "head\\n" + "".join(f"{i}: line {i}\\n" for i in range(5))

class Worker:
    def __init__(self, args, kept):
        pass

    def header(self, count):
        return b"head\\n"

    def write(self, texts, first):
        return "".join(f"{i}: {text}\\n" for i, text in enumerate(texts, first)).encode()

def run(last):
    """Run in a process of its own, which is killed at its last thing; its exit status."""
    left = last

    def killing(function, torn=None):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                if torn:
                    torn(*arguments)
                os._exit(9)
            return function(*arguments, **options)

        return call

    def write_half(file, data):
        file._file.write(data[: len(data) // 2])
        file._file.flush()

    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ResumableFile.write = killing(ResumableFile.write, write_half)
    for place, name in ((os, "fsync"), (os, "replace"), (Path, "unlink"), (Path, "write_text")):
        setattr(place, name, killing(getattr(place, name)))
    args = argparse.Namespace(
        command="test", input=str(source), output=str(output), block=2, restart=False,
        shard=None, ray=None,
    )
    try:
        batches.run_batches(args, batches.Job(Worker, model))
    finally:
        os._exit(0 if output.is_file() and output.read_text() == expected else 1)

def finish():
    """Run until it is not killed; what is there is right at any time."""
    assert run(-1) == 0
    assert {path.name for path in folder.iterdir()} <= {"texts.txt", "model", "out.txt"} | waste()
    output.unlink()

def waste():
    """Temporary files of a journal that was being replaced."""
    return {path.name for path in folder.glob(".*.tmp-*")}

sys.stderr = open(os.devnull, "w")
count = 1
while run(count) == 9:
    run(1 + count % 7)
    finish()
    count += 1
assert output.read_text() == expected
print(count)
'''


@posix
def test_a_run_killed_at_any_moment_goes_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30  # moments to die at


@posix
def test_embed_goes_on_after_sigkill(model, texts, tmp_path, capfd):
    """The output is that of a run that was not killed, bit by bit."""
    arguments = ["embed", "--model", str(model), "--input", str(texts), "--block", "4"]
    whole, output = tmp_path / "whole.npy", tmp_path / "vectors.npy"
    assert main([*arguments, "--output", str(whole)]) == 0
    arguments += ["--output", str(output)]
    journal = tmp_path / "vectors.npy.part.json"
    process = subprocess.Popen([sys.executable, "-m", "bert4keras3", *arguments])
    while process.poll() is None:
        if journal.exists() and json.loads(journal.read_text())["progress"]:
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.001)
    assert process.returncode == -signal.SIGKILL and not output.exists()
    assert main(arguments) == 0
    assert "of 200 texts\n" in capfd.readouterr().err
    assert output.read_bytes() == whole.read_bytes()
    assert not {name for name in folder_of(output) if ".part" in name}


def stop_at(monkeypatch, owner, name, call):
    """Let a method raise KeyboardInterrupt at its n-th call, once."""
    method, calls = getattr(owner, name), []

    def counted(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            raise KeyboardInterrupt
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)


@pytest.mark.parametrize("seed", [["--seed", "3"], []])
def test_what_generate_draws_does_not_depend_on_where_it_stopped(
    writer, texts, tmp_path, capfd, monkeypatch, seed
):
    texts.write_text("a b\n\n" * 3 + "你好\nx\n \ny z\n" + "c\n" * 4, encoding="utf-8")
    output = tmp_path / "out.jsonl"
    arguments = ["generate", "--model", writer, "--input", str(texts), *DRAWS, "--format", "jsonl"]
    stop_at(monkeypatch, TextGenerator, "generate", 3)
    assert main([*arguments, *seed, "--output", str(output)]) == 130
    kept = json.loads((tmp_path / "out.jsonl.part.json").read_text())["kept"]["seed"]
    assert kept == 3 or not seed
    assert main([*arguments, *seed, "--output", str(output)]) == 0
    assert "going on after 8 of 10 texts" in capfd.readouterr().err
    found = [record["text"] for record in records(output.read_bytes())]
    prompts = [line for line in read_lines(str(texts)) if line.strip()]
    options = {"temperature": 1.5, "seed": kept}
    generator = TextGenerator(writer)
    assert found == generator.generate(prompts, 5, **options)
    assert len(set(found)) > 5
    stream = generator.generate_stream(iter(prompts), 5, at_once=3, **options)
    assert list(stream) == found


def test_an_error_before_the_first_block_leaves_nothing(model, texts, tmp_path, monkeypatch):
    output = tmp_path / "vectors.npy"
    output.write_bytes(b"old")
    stop_at(monkeypatch, SentenceEmbedder, "encode", 1)
    assert main(["embed", "--model", str(model), "--input", str(texts), "--output", str(output)])
    assert folder_of(output) == {"texts.txt", "vectors.npy"} and output.read_bytes() == b"old"


def test_errors_name_the_lines(writer, texts, tmp_path, capsys):
    texts.write_text("a\n" * 9 + "a" * 40 + "\n")
    arguments = ["generate", "--model", writer, "--input", str(texts), "--block", "4"]
    line = fails(capsys, [*arguments, "--output", str(tmp_path / "out.txt")])
    assert f"{texts}: lines 9 to 10: " in line and "max_position" in line


# ------------------------------------------------------ other runs are refused


@pytest.fixture
def unfinished(model, texts, tmp_path, monkeypatch):
    """The arguments of a run that was stopped after two blocks, and its output."""
    output = tmp_path / "vectors.jsonl"
    arguments = ["embed", "--input", str(texts), "--output", str(output), "--block", "50"]
    stop_at(monkeypatch, SentenceEmbedder, "encode", 3)
    assert main([*arguments, "--model", str(model)]) == 130
    assert (tmp_path / "vectors.jsonl.part").read_bytes().count(b"\n") == 100
    return arguments, output


@pytest.mark.parametrize(
    "more, difference",
    [
        (["--batch-size", "16"], "another --batch-size 32 (now 16);"),
        (["--pooling", "cls"], "another --pooling none (now cls);"),
        (["--block", "20"], "another --block 50 (now 20);"),
        (["--shard", "1/2"], "another --input (bytes, content), --shard 1/1 (now 1/2);"),
        (["--format", "npy", "--maxlen", "9"], "--format jsonl (now npy), --maxlen none (now 9);"),
    ],
)
def test_other_options_are_refused(unfinished, model, capsys, monkeypatch, more, difference):
    arguments, output = unfinished
    monkeypatch.setattr("bert4keras3.cli.embed.load_embedder", None)  # long work
    before = (output.parent / "vectors.jsonl.part").read_bytes()
    line = fails(capsys, [*arguments, "--model", str(model), *more])
    assert difference in line and "--restart to begin anew" in line
    assert (output.parent / "vectors.jsonl.part").read_bytes() == before


def test_another_input_or_model_is_refused(unfinished, model, texts, tmp_path, capsys, monkeypatch):
    arguments, output = unfinished
    content = texts.read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    for path in model.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with monkeypatch.context() as patch:
        patch.setattr("bert4keras3.cli.embed.load_embedder", None)
        line = fails(capsys, [*arguments, "--model", str(other)])
        assert "another --model (model.safetensors);" in line
        for changed in (content + b"\nmore", content[:-1] + b"z", content.replace(b" ", b"_", 1)):
            texts.write_bytes(changed)
            assert "another --input (" in fails(capsys, [*arguments, "--model", str(model)])
    # A copy is no other input, nor a copied folder another model.
    texts.unlink()
    copy = tmp_path / "copy.txt"
    copy.write_bytes(content)
    (other / "model.safetensors").write_bytes(weights)
    (other / "README.md").write_text("a copy")
    arguments[arguments.index(str(texts))] = str(copy)
    assert main([*arguments, "--model", str(other)]) == 0
    assert [record["text"] for record in records(output.read_bytes())] == read_lines(str(copy))


def test_restart_begins_anew(unfinished, model, texts, capsys):
    arguments, output = unfinished
    texts.write_text("a\nb\n")
    assert main([*arguments, "--model", str(model), "--restart"]) == 0
    assert "going on" not in capsys.readouterr().err
    assert len(records(output.read_bytes())) == 2
    assert not {name for name in folder_of(output) if ".part" in name}


def test_damaged_unfinished_files_are_refused(unfinished, model, capsys):
    arguments, output = unfinished
    arguments += ["--model", str(model)]
    part, journal = (output.with_name(f"{output.name}.part{x}") for x in ("", ".json"))
    half = part.read_bytes()[:99]
    part.write_bytes(half)
    assert "bytes at least, found 99; add --restart" in fails(capsys, arguments)
    saved = journal.read_text()
    for content in ("", "{", "[]", "{}", '{"run": 3}'):
        journal.write_text(content)
        assert "expected the journal of an unfinished run" in fails(capsys, arguments)
    journal.unlink()
    assert f"{part}: is in the way" in fails(capsys, arguments)
    assert part.read_bytes() == half
    # Without the unfinished output its journal has nothing to say.
    journal.write_text(saved)
    part.unlink()
    assert main(arguments) == 0
    assert len(records(output.read_bytes())) == 200


@posix
def test_two_runs_do_not_write_the_same_output(unfinished, model, capsys):
    import fcntl

    arguments, output = unfinished
    with open(f"{output}.part", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        line = fails(capsys, [*arguments, "--model", str(model)])
        assert "another process is writing it" in line
    assert main([*arguments, "--model", str(model)]) == 0


def test_a_folder_is_known_by_what_may_matter(model, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    known = describe_folder(folder)
    assert known == describe_folder(model) and "config.json" in known
    monkeypatch.setattr("bert4keras3.cli.batches.SAMPLES", 9)
    monkeypatch.setattr("bert4keras3.cli.batches.SAMPLE", 64)
    sampled = describe_folder(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert describe_folder(folder) != sampled
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    assert "1_Pooling/config.json" in describe_folder(folder)


# --------------------------------------------------------------------- shards


def test_shards_are_the_whole(model, texts, tmp_path):
    expected = SentenceEmbedder(model).encode(read_lines(str(texts)))
    found = []
    for i in (1, 2):
        output = tmp_path / f"{i}.npy"
        arguments = ["--input", str(texts), "--output", str(output), "--shard", f"{i}/2"]
        assert main(["embed", "--model", str(model), *arguments]) == 0
        found.append(np.load(output))
    assert all(70 < len(part) < 130 for part in found)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-6)


def test_a_shard_without_lines_is_empty(model, tmp_path):
    (tmp_path / "texts.txt").write_text("one long line\n")
    arguments = ["--model", str(model), "--input", str(tmp_path / "texts.txt"), "--shard", "2/2"]
    assert main(["embed", *arguments, "--output", str(tmp_path / "2.npy")]) == 0
    assert np.load(tmp_path / "2.npy").shape == (0, 16)


def test_shards_draw_what_the_whole_draws(writer, texts, tmp_path, capfd):
    texts.write_text("a b\n\n" * 3 + "你好\nx\n \ny z\n" + "c\n" * 4, encoding="utf-8")
    arguments = ["generate", "--model", writer, "--input", str(texts), *DRAWS, "--seed", "5"]
    assert main(arguments) == 0
    whole = capfd.readouterr().out
    for i in (1, 2, 3):
        output = str(tmp_path / f"{i}.txt")
        assert main([*arguments, "--shard", f"{i}/3", "--output", output]) == 0
    parts = [(tmp_path / f"{i}.txt").read_text(encoding="utf-8") for i in (1, 2, 3)]
    assert "".join(parts) == whole and all(parts)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--shard", "0/2"], "expected I/N, I from 1 to N, found '0/2'"),
        (["--shard", "3/2"], "expected I/N, I from 1 to N, found '3/2'"),
        (["--shard", "half"], "expected I/N, I from 1 to N, found 'half'"),
        (["--block", "0"], "from 1 on, found '0'"),
        (["--shard", "1/2"], "--shard needs an --input and an --output that are files"),
        (["--restart"], "--restart needs an --input and an --output that are files"),
        (["--ray", "2"], "--ray needs an --input and an --output that are files"),
        (["--ray", "2", "--shard", "1/2", "--input", "in", "--output", "out"], "give no --shard"),
    ],
)
def test_wrong_usage(model, capsys, arguments, message):
    assert message in fails(capsys, ["embed", "--model", str(model), *arguments], status=2)


def test_a_single_prompt_has_no_shards(capsys):
    line = fails(capsys, ["generate", "--prompt", "a", "--shard", "1/2"], status=2)
    assert "--shard, --ray and --restart go with --input" in line


def test_ray_may_be_missing(model, texts, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["--input", str(texts), "--output", str(tmp_path / "out.npy"), "--ray", "2"]
    line = fails(capsys, ["embed", "--model", str(model), *arguments])
    assert line == "bert4keras3: error: --ray needs ray: pip install 'bert4keras3[ray]'\n"


@pytest.mark.slow
def test_ray_joins_shards(model, texts, tmp_path):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    for name in ("vectors.npy", "vectors.jsonl"):
        arguments = ["--input", str(texts), "--output", str(tmp_path / name), "--ray", "2"]
        assert main(["embed", "--model", str(model), *arguments]) == 0
    expected = SentenceEmbedder(model).encode(read_lines(str(texts)))
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-6)
    found = records((tmp_path / "vectors.jsonl").read_bytes())
    assert [record["text"] for record in found] == read_lines(str(texts))
    assert folder_of(texts) == {"texts.txt", "vectors.npy", "vectors.jsonl"}


# -------------------------------------------------------------------- streams


def test_npy_from_a_pipe(model, tmp_path, monkeypatch):
    data = "\n".join(LINES).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    output = tmp_path / "vectors.npy"
    arguments = ["embed", "--model", str(model), "--output", str(output), "--block", "2"]
    assert main(arguments) == 0
    expected = SentenceEmbedder(model).encode(LINES)
    np.testing.assert_allclose(np.load(output), expected, atol=1e-6)
    assert folder_of(output) == {"vectors.npy"}


def test_a_pipe_is_answered_block_by_block(model, monkeypatch, capfdbinary):
    found = []

    def lines():
        """What stdin gives; before the third line the first two must have been answered."""
        yield from (b"a\n", b"b\n")
        found.extend(records(capfdbinary.readouterr().out))
        yield from (b"c\n", b"d")

    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=lines(), isatty=lambda: False))
    assert main(["embed", "--model", str(model), "--block", "2"]) == 0
    assert [record["text"] for record in found] == ["a", "b"]
    rest = records(capfdbinary.readouterr().out)
    assert [record["text"] for record in rest] == ["c", "d"]


def test_embeddings_as_a_stream(model):
    embedder = SentenceEmbedder(model)
    given = []

    def texts():
        for text in LINES:
            given.append(text)
            yield text

    stream = embedder.encode_stream(texts(), at_once=2)
    first = next(stream)
    assert given == LINES[:2]
    np.testing.assert_allclose([first, *stream], embedder.encode(LINES), atol=1e-6)
    with pytest.raises(TypeError, match="a single str"):
        embedder.encode_stream("text")
