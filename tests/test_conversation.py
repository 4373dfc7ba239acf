"""Texts that grow, and chats.  KERAS_BACKEND=jax pytest tests/test_conversation.py"""

import json

import numpy as np
import pytest
from tiny import assert_close, build, each

from bert4keras3.generation import Chat, Conversation, TextGenerator
from bert4keras3.weights import CheckpointError

NAMES = ["llama", "llama_window", "gemma3", "gpt2", "nezha_lm", "gau_lm", "deberta_lm", "albert_lm"]


def prompt(length, seed=0):
    return np.random.default_rng(seed).integers(3, 50, length).tolist()


@pytest.mark.parametrize("name", each(NAMES, ["llama"]))
def test_turns_equal_whole_generations(name):
    """Ten turns; each computes what is new, and gives what the whole text alone gives."""
    transformer = build(name, max_position=128)
    conversation, text = Conversation(transformer), []
    for turn in range(10):
        known = len(text)
        text = text + prompt(4, seed=turn)
        expected = transformer.generate(text, 5, end_token=-1)
        assert conversation.generate(text, 5, end_token=-1) == expected
        # The last generated token was chosen, but not read before.
        assert conversation.prefilled == (4 if known == 0 else 5)
        text = text + expected
        assert conversation.ids == text


def test_an_edited_text_is_computed_from_the_edit_on():
    transformer = build("llama")
    conversation, text = Conversation(transformer), prompt(20)
    conversation.generate(text, 4, end_token=-1)
    edited = [*text[:15], text[15] % 40 + 4, *text[16:]]
    assert conversation.generate(edited, 4, end_token=-1) == transformer.generate(
        edited, 4, end_token=-1
    )
    assert conversation.prefilled == 5
    shorter = text[:7]
    found = conversation.generate(shorter, 4, end_token=-1)
    assert found == transformer.generate(shorter, 4, end_token=-1)
    assert conversation.prefilled == 1
    conversation.reset()
    assert conversation.ids == [] and conversation.generate(text, 2, end_token=-1)
    assert conversation.prefilled == 20


def test_leaving_a_stream_early_keeps_the_memory():
    transformer = build("llama")
    conversation, text = Conversation(transformer), prompt(9)
    stream = conversation.stream(text, 20, end_token=-1)
    first = [next(stream), next(stream)]
    stream.close()
    text = text + first + prompt(3, seed=1)
    assert conversation.generate(text, 6, end_token=-1) == transformer.generate(
        text, 6, end_token=-1
    )
    assert conversation.prefilled <= 4


@pytest.mark.parametrize("name", each(["llama", "gau_lm"], ["llama"]))
def test_saved_and_loaded(name, tmp_path):
    transformer = build(name)
    conversation, text = Conversation(transformer), prompt(9)
    text = text + conversation.generate(text, 4, end_token=-1) + prompt(3, seed=1)
    conversation.save(tmp_path / "talk.safetensors")
    again = Conversation.load(transformer, tmp_path / "talk.safetensors")
    assert again.ids == conversation.ids
    expected = conversation.generate(text, 6, end_token=-1)
    assert again.generate(text, 6, end_token=-1) == expected
    assert again.prefilled == 4
    empty = Conversation(transformer)
    empty.save(tmp_path / "empty.safetensors")
    with pytest.raises(CheckpointError, match="another model"):
        other = build(name, num_hidden_layers=1)
        Conversation.load(other, tmp_path / "talk.safetensors")


def test_files_that_are_something_else(tmp_path):
    transformer = build("llama")
    transformer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="expected a file of Conversation.save"):
        Conversation.load(transformer, tmp_path / "model.safetensors")
    path = tmp_path / "talk.safetensors"
    Conversation(transformer).save(path)
    loaded = Conversation.load(transformer, path)
    assert loaded.ids == []
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError):
        Conversation.load(transformer, path)


def test_prompts_that_do_not_fit():
    conversation = Conversation(build("llama"))
    for bad in ([], [[1, 2], [3]], [99]):
        with pytest.raises(ValueError, match="prompt"):
            conversation.generate(bad)
    with pytest.raises(ValueError, match="max_position"):
        conversation.generate(prompt(31), 5)
    with pytest.raises(ValueError, match="needs a causal model"):
        Conversation(build("bert_unilm"))


def test_the_memory_ends_with_the_model_s_positions():
    transformer = build("gpt2")
    conversation, text = Conversation(transformer), prompt(10)
    for turn in range(4):
        new = conversation.generate(text, 2, end_token=-1)
        assert new == transformer.generate(text, 2, end_token=-1)
        text = text + new + prompt(3, seed=turn)
    assert len(text) == 30
    last = conversation.generate(text, 2, end_token=-1)
    assert last == transformer.generate(text, 2, end_token=-1)
    assert_close(len(conversation.ids), 32)


# ------------------------------------------------------------------------- chats

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random chat model: Llama on bytes, with ChatML's template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("chat")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(dict(zip(letters, range(256), strict=True)), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")]
    tokenizer.add_special_tokens(special)
    transformer = build("llama", vocab_size=258, max_position=2048, pad_token_id=None)
    transformer.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"chat_template": CHATML, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text('{"eos_token_id": 257}')
    return folder


def test_a_chat_of_ten_turns_computes_what_is_new(folder):
    chat = Chat(folder, system="Be brief.", max_new_tokens=12, temperature=1.5, seed=3)
    computed = 0
    for turn in range(10):
        reply = chat.send(f"Question {turn}?")
        assert chat.messages[-1] == {"role": "assistant", "content": reply}
        computed += chat.conversation.prefilled
        # The question, what the template writes around it, and the token read last.
        assert turn == 0 or chat.conversation.prefilled <= len("\n<|im_start|>Question 0?") + 30
    assert [m["role"] for m in chat.messages] == ["system"] + ["user", "assistant"] * 10
    assert computed <= len(chat.conversation.ids)
    chat.reset()
    assert [m["role"] for m in chat.messages] == ["system"] and chat.conversation.ids == []


@pytest.mark.once
def test_a_chat_s_ids_are_those_of_its_text(folder):
    chat = Chat(folder, max_new_tokens=8)
    first = chat.send("Good morning!")
    written = chat.template.apply(chat.messages[:1])
    ids = chat.generator.tokenizer.encode_written(written)
    assert chat.conversation.ids[: len(ids)] == ids
    whole = chat.generator.transformer.generate(ids, 8, end_token=257)
    decoded = chat.generator.tokenizer.decode([i for i in whole if i != 257])
    assert first == decoded


@pytest.mark.once
def test_a_reply_that_is_left_stays_as_far_as_it_came(folder):
    chat = Chat(folder, max_new_tokens=30, end_token=-1)
    stream = chat.stream("Tell me more.")
    pieces = [next(stream), next(stream)]
    stream.close()
    assert chat.messages[-1]["content"] == "".join(pieces)
    assert chat.send("Go on.")
    assert len(chat.messages) == 4


@pytest.mark.once
def test_a_folder_without_a_template(folder, tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(FileNotFoundError, match="no chat template in"):
        Chat(tmp_path)
    with pytest.raises(TypeError, match="a template is needed"):
        Chat(TextGenerator(folder))


def run_chat(monkeypatch, capsys, folder, lines, *options):
    """What the command prints, fed with lines; a line may be an exception."""
    from bert4keras3.cli import main

    feed = iter(lines)

    def answer(prompt):
        line = next(feed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", answer)
    status = main(["chat", "--model", str(folder), "--max-new-tokens", "6", *options])
    return status, capsys.readouterr()


@pytest.mark.once
def test_the_command(monkeypatch, capsys, folder):
    lines = ["Hello!", "", "/reset", "Hello!", "/exit", "never read"]
    status, written = run_chat(monkeypatch, capsys, folder, lines)
    assert status == 0
    before, after = written.out.split("(begun anew)\n")
    assert before == after and before.endswith("\n")


@pytest.mark.once
def test_the_command_ends_with_the_input_and_with_an_interrupt(monkeypatch, capsys, folder):
    assert run_chat(monkeypatch, capsys, folder, [])[0] == 0
    assert run_chat(monkeypatch, capsys, folder, [KeyboardInterrupt()])[0] == 130


@pytest.mark.once
def test_an_interrupt_ends_a_reply_and_not_the_chat(monkeypatch, capsys, folder):
    from bert4keras3.cli import chat as command

    stopped = []

    def say(text, say=command._say):
        say(text)
        if text not in ("\n", " (stopped)") and not stopped:
            stopped.append(text)
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "_say", say)
    status, written = run_chat(monkeypatch, capsys, folder, ["One.", "Two."])
    assert status == 0 and stopped
    assert written.out.startswith(f"{stopped[0]} (stopped)\n") and written.out.count("\n") >= 2


@pytest.mark.once
def test_the_command_says_what_is_missing(monkeypatch, capsys, tmp_path):
    status, written = run_chat(monkeypatch, capsys, tmp_path / "nothing", [])
    assert status == 1 and "nothing" in written.err
