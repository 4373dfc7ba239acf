"""bert4keras3 convert: from every form to every other, without changing a number.

python -m pytest tests/test_convert.py        (KERAS_BACKEND says the backend)
"""

import json
import os

import numpy as np
import pytest
from test_cli import fails
from tiny import ALL, SIZES, assert_close, build, each, inputs_for, predict, randomize

from bert4keras3.cli import main
from bert4keras3.models import build_transformer_model
from bert4keras3.ops import keras
from bert4keras3.weights import open_source
from bert4keras3.weights.safetensors import write_safetensors

# name: a tiny model, and what it has otherwise
CASES = {
    "bert": ("bert_heads", {}),
    "bert_classifier": ("bert_classifier", {"labels": ["bad", "fair", "good"]}),
    "llama": ("llama", {}),
    "llama_tied": ("llama", {"share_embedding": True}),
    "gemma2": ("gemma2", {"use_EinsumDense": False}),
    "gpt2": ("gpt2", {}),
    "albert": ("albert", {"layer_norm_epsilon": 1e-12}),
    "t5": ("umt5", {}),
    "deberta": ("deberta", {"layer_norm_epsilon": 1e-7}),
}
# Every ordered pair of forms is somewhere in it.
CHAIN = ("hf", "hf", "h5", "h5", "tf", "tf", "hf", "tf", "h5", "hf")
NAMES = {"hf": "", "h5": "model.weights.h5", "tf": "model.ckpt"}
OUTPUTS = ("with_pool", "with_nsp", "with_mlm", "head", "num_labels", "final_activation", "with_lm")


def arguments(folder, form):
    """The command's arguments for a source."""
    if form == "hf":
        return [str(folder)]
    option = {"h5": "--weights", "tf": "--checkpoint"}[form]
    return ["--config", str(folder / "config.json"), option, str(folder / NAMES[form])]


def convert(folder, form, target, target_form, *options):
    path = str(target / NAMES[target_form]) if NAMES[target_form] else str(target)
    assert main(["convert", *options, *arguments(folder, form), path]) == 0


def load(folder, form, name, **options):
    """The transformer of a target; of a configuration file nothing else is said."""
    if form == "hf":
        options |= {k: v for k, v in ALL[name].items() if k in OUTPUTS}
        return build_transformer_model(folder, return_keras_model=False, **options)
    config = json.loads((folder / "config.json").read_text())
    return build_transformer_model(
        folder / "config.json",
        folder / NAMES[form],
        model=config["model"],
        application=config.get("application", "encoder"),
        return_keras_model=False,
    )


def assert_same_weights(found, expected):
    assert len(found.model.weights) == len(expected.model.weights)
    for a, b in zip(found.model.weights, expected.model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=b.path)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT with heads, and its folder with a tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    transformer = build("bert_heads")
    transformer.save_pretrained(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "README.md").write_text("of nobody's interest")
    return transformer, folder


# ----------------------------------------------------------------- round trips


@pytest.mark.parametrize("case", each(CASES, quick=("bert",)))
def test_every_form_becomes_every_other(case, tmp_path, capsys):
    name, options = CASES[case]
    transformer = build(name, **options)
    folder, form = tmp_path / "0", CHAIN[0]
    transformer.save_pretrained(folder)
    inputs = inputs_for(transformer)
    expected = predict(transformer.model, inputs)
    for number, next_form in enumerate(CHAIN[1:], 1):
        target = tmp_path / str(number)
        convert(folder, form, target, next_form, "--strict")
        output = capsys.readouterr()
        count = len(transformer.model.weights)
        assert f"verified: all {count} weights" in output.out and "float32" in output.out
        found = load(target, next_form, name)
        assert_same_weights(found, transformer)
        assert found.labels == transformer.labels
        for a, b in zip(predict(found.model, inputs), expected, strict=True):
            assert_close(a, b)
        folder, form = target, next_form


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", each(("bert_heads", "gpt2", "llama"), quick=("llama",)))
def test_what_is_stored_stays_as_it_is(name, dtype, tmp_path):
    build(name).save_pretrained(tmp_path / "0", dtype=dtype)
    for number, forms in enumerate(zip(CHAIN, CHAIN[1:], strict=False)):
        convert(tmp_path / str(number), forms[0], tmp_path / str(number + 1), forms[1])
    assert keras.config.dtype_policy().name == "float32"
    with open_source(tmp_path / "0") as source, open_source(tmp_path / str(number + 1)) as found:
        assert set(source) == set(found)
        for tensor in source:
            assert found.dtype(tensor) == source.dtype(tensor) == np.dtype(dtype)
            assert found[tensor].tobytes() == source[tensor].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["hf", "h5", "tf"])
def test_dtype_rounds_and_widens(form, bert, tmp_path, capsys):
    transformer, folder = bert
    convert(folder, "hf", tmp_path / "half", form, "--dtype", "bfloat16")
    assert "bfloat16 (the source: float32)" in capsys.readouterr().out
    convert(tmp_path / "half", form, tmp_path / "wide", "hf", "--dtype", "float32")
    with open_source(folder) as source, open_source(tmp_path / "wide") as found:
        for tensor in source:
            assert found.dtype(tensor) == np.float32
            rounded = source[tensor].astype("bfloat16").astype("float32")
            np.testing.assert_array_equal(found[tensor], rounded)


@pytest.mark.once
def test_several_dtypes_become_the_one_that_holds_all(bert, tmp_path, capsys):
    _, folder = bert
    tensors = read(folder)
    half = {k: v.astype("bfloat16") if "query" in k else v for k, v in tensors.items()}
    save(tmp_path / "mixed", folder, half)
    assert main(["convert", str(tmp_path / "mixed"), str(tmp_path / "target")]) == 0
    assert "float32 (the source: bfloat16, float32)" in capsys.readouterr().out
    found = read(tmp_path / "target")
    for tensor, value in half.items():
        np.testing.assert_array_equal(found[tensor], value.astype("float32"))


@pytest.mark.slow
def test_shards_in_and_out(bert, tmp_path):
    transformer, folder = bert
    convert(folder, "hf", tmp_path / "shards", "hf", "--max-shard-size", "8KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    convert(tmp_path / "shards", "hf", tmp_path / "one", "h5")
    assert_same_weights(load(tmp_path / "one", "h5", "bert_heads"), transformer)


@pytest.mark.once
def test_pytorch_and_single_files(bert, tmp_path):
    torch = pytest.importorskip("torch")
    transformer, folder = bert
    tensors = {name: torch.from_numpy(value) for name, value in read(folder).items()}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    config = {k: v for k, v in SIZES.items() if k != "max_position"}
    config["max_position_embeddings"] = SIZES["max_position"]
    (tmp_path / "bert_config.json").write_text(json.dumps(config))
    for path in (tmp_path / "pytorch_model.bin", folder / "model.safetensors"):
        target = tmp_path / path.name.partition(".")[0]
        files = ["--config", str(tmp_path / "bert_config.json"), "--checkpoint", str(path)]
        assert main(["convert", *files, "--model", "bert", "--strict", str(target)]) == 0
        assert_same_weights(load(target, "hf", "bert_heads"), transformer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    each(
        ("bert_lm", "bert_unilm", "nezha_unilm", "roformer_v2", "gau_lm", "gemma2"),
        quick=("bert_unilm",),
    ),
)
def test_applications_and_families_without_a_hugging_face_form(name, tmp_path):
    transformer = build(name)
    transformer.save_weights(tmp_path / "model.weights.h5")
    given = {k: v for k, v in ALL[name].items() if k not in ("model", "application")}
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, **given}))
    options = ["--model", ALL[name]["model"]]
    if "application" in ALL[name]:
        options += ["--option", f"application={ALL[name]['application']}"]
    convert(tmp_path, "h5", tmp_path / "1", "tf", *options)
    convert(tmp_path / "1", "tf", tmp_path / "2", "h5", "--strict")
    found = load(tmp_path / "2", "h5", name)
    assert_same_weights(found, transformer)
    inputs = inputs_for(transformer)
    for a, b in zip(predict(found.model, inputs), predict(transformer.model, inputs), strict=True):
        assert_close(a, b)


# -------------------------------------------------------------- nothing is lost


def read(folder):
    with open_source(folder) as source:
        return {name: source[name] for name in source}


def save(folder, other, tensors, **config):
    """A folder with these tensors and another folder's configuration."""
    folder.mkdir()
    tensors = [(k, v.shape, v.dtype, lambda v=v: v) for k, v in tensors.items()]
    write_safetensors(folder / "model.safetensors", tensors)
    config = {**json.loads((other / "config.json").read_text()), **config}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.once
def test_outputs_that_the_class_leaves_out_are_kept(bert, tmp_path):
    transformer, folder = bert
    save(tmp_path / "source", folder, read(folder), architectures=["BertForMaskedLM"])
    convert(tmp_path / "source", "hf", tmp_path / "target", "hf", "--strict")
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    assert config["architectures"] == ["BertForPreTraining"]
    assert_same_weights(load(tmp_path / "target", "hf", "bert_heads"), transformer)


@pytest.mark.once
def test_copies_and_buffers_are_no_loss(bert, tmp_path, capsys):
    _, folder = bert
    tensors = read(folder)
    tensors["bert.embeddings.position_ids"] = np.arange(32)[None]
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    save(tmp_path / "source", folder, tensors)
    convert(tmp_path / "source", "hf", tmp_path / "target", "hf", "--strict")
    assert capsys.readouterr().err == ""


@pytest.mark.once
def test_what_has_no_place_is_reported(bert, tmp_path, capsys):
    _, folder = bert
    tensors = {**read(folder), "adapter.weight": np.ones((3, 4), "float32")}
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"] + 1
    save(tmp_path / "source", folder, tensors)
    convert(tmp_path / "source", "hf", tmp_path / "target", "hf")
    error = capsys.readouterr().err
    assert "2 tensors have no place in the model and are left out" in error
    assert "  adapter.weight (3, 4)\n" in error and "decoder.bias" in error
    command = ["convert", "--strict", str(tmp_path / "source"), str(tmp_path / "strict")]
    assert "adapter.weight" in fails(capsys, command)
    assert not (tmp_path / "strict").exists()


@pytest.mark.once
def test_heads_can_be_left_out_and_asked_for(bert, tmp_path, capsys):
    _, folder = bert
    convert(folder, "hf", tmp_path / "bare", "hf", "--head", "none")
    assert "9 tensors have no place" in capsys.readouterr().err
    head = ["--head", "sequence_classification", "--option", 'labels=["no", "yes"]']
    convert(folder, "hf", tmp_path / "task", "hf", *head, "--option", "dropout_rate=0.3")
    assert "['Classifier'] keep their initial values" in capsys.readouterr().err
    config = json.loads((tmp_path / "task" / "config.json").read_text())
    assert config["id2label"] == {"0": "no", "1": "yes"} and config["hidden_dropout_prob"] == 0.3


@pytest.mark.once
def test_a_cut_vocabulary(bert, tmp_path):
    transformer, folder = bert
    convert(folder, "hf", tmp_path / "cut", "h5", "--option", "keep_tokens=[0, 7, 3]")
    found = load(tmp_path / "cut", "h5", "bert_heads")
    table = transformer.layers["Embedding-Token"].weights[0].numpy()[[0, 7, 3]]
    np.testing.assert_array_equal(found.layers["Embedding-Token"].weights[0].numpy(), table)
    assert not (tmp_path / "cut" / "vocab.txt").exists()


@pytest.mark.once
@pytest.mark.parametrize("form", ["hf", "h5"])
def test_the_tokenizer_comes_along(form, bert, tmp_path, capsys):
    _, folder = bert
    convert(folder, "hf", tmp_path / "target", form)
    assert (
        "copied tokenizer_config.json, vocab.txt, 1_Pooling/config.json" in capsys.readouterr().out
    )
    for name in ("vocab.txt", "tokenizer_config.json", "1_Pooling/config.json"):
        assert (tmp_path / "target" / name).read_bytes() == (folder / name).read_bytes()
    assert not (tmp_path / "target" / "README.md").exists()


# -------------------------------------------------------------------- wrong use


@pytest.mark.once
@pytest.mark.parametrize(
    "options, message",
    [
        (["nowhere", "target"], "no model folder at nowhere"),
        (["{bert}", "{bert}"], "is the source's folder"),
        (["{bert}", "{bert}/x.weights.h5"], "is the source's folder"),
        (["{bert}", "no/no/x.weights.h5"], "no/no: no folder no to write it to"),
        (["{bert}", "x.safetensors"], "x.safetensors: expected a folder"),
        (["{bert}", "x.h5"], "x.h5: expected a folder"),
        (["--to", "h5", "{bert}", "x"], "x: expected a name that ends with .weights.h5"),
        (["{bert}", "full"], "full/config.json: exists already, --force replaces it"),
        (["{bert}", "full/x.weights.h5"], "x.weights.h5: exists already"),
        (["{bert}", "full/y.weights.h5"], "config.json: describes another model"),
        (["{bert}", "full/x.ckpt"], "x.ckpt.index: exists already"),
        (["{bert}", "other/x.ckpt"], "other/vocab.txt: differs from {bert}/vocab.txt"),
        (["{bert}", "file"], "file: is a file, expected a folder"),
        (["--option", "with_mml=true", "{bert}", "x"], "takes no 'with_mml'; did you mean"),
        (["--head", "poetry", "{bert}", "x"], "head: expected one of"),
        (["empty", "x"], "no configuration file at empty/config.json"),
        (["alien", "x"], "alien/config.json: model_type: expected one of"),
        (["lone", "x"], "nor is there one of model.safetensors"),
        (["--config", "c.json", "--checkpoint", "no.ckpt", "--model", "bert", "x"], "no.ckpt"),
        (["--config", "c.json", "--weights", "no.weights.h5", "x"], "no file at no.weights.h5"),
        (["--config", "no.json", "--weights", "a.weights.h5", "x"], "no file at no.json"),
        (["--config", "c.json", "--weights", "a.weights.h5", "x"], "c.json: has no 'model'"),
        (
            ["--config", "c.json", "--weights", "a.weights.h5", "--model", "brt", "x"],
            "unknown model 'brt'",
        ),
        (
            ["--config", "c.json", "--weights", "a.weights.h5", "--model", "llama", "x"],
            "does not fit the model",
        ),
        (["--config", "c.json", "--weights", "a.ckpt", "x"], "a.ckpt: expected a .weights.h5"),
    ],
)
def test_wrong_input(options, message, bert, tmp_path, capsys, monkeypatch):
    transformer, folder = bert
    monkeypatch.chdir(tmp_path)
    for name in ("full", "other", "empty", "alien", "lone"):
        (tmp_path / name).mkdir()
    for name in ("config.json", "x.weights.h5", "x.ckpt.index"):
        (tmp_path / "full" / name).write_text("{}")
    (tmp_path / "other" / "vocab.txt").write_text("x\n")
    (tmp_path / "file").write_text("")
    (tmp_path / "alien" / "config.json").write_text('{"model_type": "alien"}')
    (tmp_path / "lone" / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "c.json").write_text(json.dumps({**SIZES, "segment_vocab_size": 0}))
    if "a.weights.h5" in options:
        transformer.save_weights(tmp_path / "a.weights.h5")
    before = sorted(map(str, tmp_path.rglob("*")))
    command = ["convert", *(option.format(bert=folder) for option in options)]
    assert message.format(bert=folder) in fails(capsys, command)
    assert sorted(map(str, tmp_path.rglob("*"))) == before


@pytest.mark.once
@pytest.mark.parametrize(
    "options",
    [
        ["x"],
        ["--config", "c.json", "x"],
        ["--model", "bert", "{bert}", "x"],
        ["--max-shard-size", "1GB", "{bert}", "x.weights.h5"],
        ["--option", "with_mlm", "{bert}", "x"],
        ["--option", "model=bert", "{bert}", "x"],
        ["--dtype", "int8", "{bert}", "x"],
    ],
)
def test_wrong_usage(options, bert, capsys):
    fails(capsys, ["convert", *(option.format(bert=bert[1]) for option in options)], 2)


@pytest.mark.once
def test_nezha_has_no_hugging_face_form(tmp_path, capsys):
    build("nezha").save_weights(tmp_path / "model.weights.h5")
    (tmp_path / "config.json").write_text(json.dumps({**SIZES, "model": "nezha", "with_nsp": True}))
    command = ["convert", *arguments(tmp_path, "h5"), str(tmp_path / "target")]
    assert "NEZHA has no Hugging Face form" in fails(capsys, command)
    assert not (tmp_path / "target").exists()


@pytest.mark.once
def test_what_no_file_can_say(bert, tmp_path, capsys):
    _, folder = bert
    tensors = {k: v for k, v in read(folder).items() if k.startswith("bert.")}
    save(tmp_path / "causal", folder, tensors, architectures=["BertModel"], is_decoder=True)
    command = ["convert", str(tmp_path / "causal"), str(tmp_path / "x" / "x.ckpt")]
    assert "causal attention without an output of tokens" in fails(capsys, command)
    tensors = {k: v.astype("float8_e4m3fn") for k, v in tensors.items()}
    save(tmp_path / "scaled", folder, tensors)
    command = ["convert", str(tmp_path / "scaled"), str(tmp_path / "x")]
    assert "found ['float8_e4m3fn']" in fails(capsys, command)
    assert not (tmp_path / "x").exists()


@pytest.mark.once
def test_force_replaces(bert, tmp_path):
    transformer, folder = bert
    convert(folder, "hf", tmp_path, "h5")
    build("gpt2").save_pretrained(tmp_path / "other")
    convert(tmp_path / "other", "hf", tmp_path, "h5", "--force")
    found = load(tmp_path, "h5", "gpt2")
    assert type(found).__name__ == "GPT2"
    assert sorted(os.listdir(tmp_path)) == [
        "1_Pooling",
        "config.json",
        "model.weights.h5",
        "other",
        "tokenizer_config.json",
        "vocab.txt",
    ]


@pytest.mark.once
@pytest.mark.parametrize("form", ["hf", "h5", "tf"])
def test_damage_is_seen(form, bert, tmp_path, capsys, monkeypatch):
    from bert4keras3.converting import targets

    write = targets.write

    def damage(transformer, *arguments):
        write(transformer, *arguments)
        variable = transformer.layers["MLM-Bias"].weights[0]
        value = variable.numpy()
        value[7] = np.nextafter(value[7], 9)
        variable.assign(value)

    monkeypatch.setattr(targets, "write", damage)
    command = ["convert", str(bert[1]), str(tmp_path / "target" / NAMES[form])]
    assert main([*command, "--no-verify"]) == 0
    assert main([*command, "--force"]) == 1
    assert "was written with other numbers than it has" in capsys.readouterr().err


# -------------------------------------------------------------------- keras-hub

HUB_SIZES = {
    "vocabulary_size": 50,
    "num_layers": 7,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 48,
    "head_dim": 8,
}
SANDWICH = {"use_post_ffw_norm": True, "use_post_attention_norm": True}
WINDOW = {"use_sliding_window_attention": True, "sliding_window_size": 3}
CAPS = {"attention_logit_soft_cap": 5.0, "final_logit_soft_cap": 4.0}
HUB = {
    "gemma": ("GemmaBackbone", {}),
    "gemma2": ("GemmaBackbone", {**SANDWICH, **WINDOW, **CAPS}),
    "gemma2_whole": ("GemmaBackbone", SANDWICH),
    "gemma3": (
        "Gemma3Backbone",
        {**SANDWICH, **WINDOW, "image_size": None, "global_rope_scaling_factor": 8.0},
    ),
}


def save_preset(name, folder, dtype="float32", **options):
    keras_hub = pytest.importorskip("keras_hub")
    class_name, arguments = HUB[name]
    cls = getattr(keras_hub.models, class_name)
    backbone = cls(**{**HUB_SIZES, **arguments, **options}, dtype=dtype)
    randomize(backbone)
    backbone.save_to_preset(str(folder))
    return backbone


@pytest.mark.slow
@pytest.mark.parametrize("form", ["hf", "h5"])
@pytest.mark.parametrize("name", HUB)
def test_keras_hub_presets(name, form, tmp_path):
    backbone = save_preset(name, tmp_path / "preset")
    (tmp_path / "preset" / "assets" / "tokenizer").mkdir(parents=True)
    (tmp_path / "preset" / "assets" / "tokenizer" / "vocabulary.spm").write_bytes(b"pieces")
    (tmp_path / "preset" / "tokenizer.json").write_text("of keras-hub")
    convert(tmp_path / "preset", "hf", tmp_path / "target", form, "--strict")
    assert (tmp_path / "target" / "tokenizer.model").read_bytes() == b"pieces"
    assert not (tmp_path / "target" / "tokenizer.json").exists()
    found = load(tmp_path / "target", form, "gemma")
    ids = np.random.default_rng(1).integers(1, 50, (3, 9)).astype("int32")
    ids[1, 5:] = 0
    mask = ids != 0
    hidden = backbone({"token_ids": ids, "padding_mask": mask.astype("int32")})
    expected = keras.ops.convert_to_numpy(backbone.token_embedding(hidden, reverse=True))
    (logits,) = predict(found.model, [ids])
    assert_close(logits[mask], expected[mask])


@pytest.mark.slow
def test_keras_hub_in_bfloat16_and_in_shards(tmp_path):
    backbone = save_preset("gemma3", tmp_path / "preset", "bfloat16")
    convert(tmp_path / "preset", "hf", tmp_path / "one", "hf", "--strict")
    (tmp_path / "preset" / "model.weights.h5").unlink()
    backbone.save_weights(tmp_path / "preset" / "model.weights.json", max_shard_size=1e-5)
    assert len(list((tmp_path / "preset").glob("*.weights.h5"))) > 1
    convert(tmp_path / "preset", "hf", tmp_path / "shards", "hf", "--strict")
    one, shards = read(tmp_path / "one"), read(tmp_path / "shards")
    assert set(one) == set(shards) and {v.dtype.name for v in one.values()} == {"bfloat16"}
    assert all(one[name].tobytes() == shards[name].tobytes() for name in one)
    table = backbone.token_embedding.embeddings.numpy()
    assert one["model.embed_tokens.weight"].tobytes() == table.tobytes()


@pytest.mark.slow
@pytest.mark.once
def test_keras_hub_refusals(tmp_path, capsys):
    save_preset("gemma3", tmp_path / "preset")
    path = tmp_path / "preset" / "config.json"
    config = json.loads(path.read_text())
    command = ["convert", str(tmp_path / "preset"), str(tmp_path / "target")]
    path.write_text(json.dumps({**config, "class_name": "BertBackbone"}))
    assert "class_name: expected one of" in fails(capsys, command)
    changed = {**config["config"], "use_bidirectional_attention": True}
    path.write_text(json.dumps({**config, "config": changed}))
    assert "use_bidirectional_attention: expected False, found True" in fails(capsys, command)
    path.write_text(json.dumps(config))
    (tmp_path / "preset" / "model.weights.h5").unlink()
    assert "no model.weights.h5 or model.weights.json" in fails(capsys, command)
