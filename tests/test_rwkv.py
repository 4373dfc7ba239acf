"""RWKV: official files, padding, states.  KERAS_BACKEND=jax pytest tests/test_rwkv.py"""

import keras
import numpy as np
import official_rwkv
import pytest
import tiny
from tiny import assert_close, draw, inputs_for, numpy, predict, tensor

from bert4keras3.generation.conversation import Conversation
from bert4keras3.layers import (
    ChannelMix,
    RWKV7ChannelMix,
    RWKV7TimeMix,
    TimeMix,
    TimeShift,
)
from bert4keras3.models import build_transformer_model
from bert4keras3.models.recurrent import RecurrentModel
from bert4keras3.weights import CheckpointError

TENSORS = {"rwkv6": official_rwkv.rwkv6_tensors, "rwkv7": official_rwkv.rwkv7_tensors}


@pytest.fixture
def official(request, tmp_path):
    """A random model in the official form: its key, tensors and file."""
    name = request.param
    tensors, path = TENSORS[name](), tmp_path / "official.pth"
    official_rwkv.save(path, tensors)
    return name, tensors, path


each_official = pytest.mark.parametrize("official", TENSORS, indirect=True)
each_family = pytest.mark.parametrize("name", tiny.each(["rwkv6", "rwkv7"], ["rwkv6"]))


def build(name, **kwargs):
    """A tiny model that does not say the same token all the time."""
    return tiny.enliven(tiny.build(name, **kwargs))


def load(name, path, **kwargs):
    kwargs = {"with_lm": "linear", "return_keras_model": False, **kwargs}
    return build_transformer_model(checkpoint_path=path, model=name, **kwargs)


# --------------------------------------------------------------------- official files


@each_official
def test_as_the_official_package(official, monkeypatch):
    """Sizes come from the file; logits, states and what is generated are the package's."""
    name, _, path = official
    transformer = load(name, path)
    assert transformer.load_report.complete and not transformer.load_report.unused
    ids = np.random.default_rng(0).integers(1, 40, 70)
    peer = official_rwkv.load_peer(path, int(name[-1]), monkeypatch)
    expected, states = peer.forward(ids.tolist(), None, full_output=True)
    (logits,) = predict(transformer.model, [ids[None].astype("int32")])
    assert_close(logits[0], expected.numpy())
    read = transformer.read(ids.tolist())
    for i in range(transformer.num_hidden_layers):
        wkv = read[f"RWKV-{i}-TimeMix"]["wkv"][0]
        assert_close(wkv, states[3 * i + 1].numpy())
        assert_close(read[f"RWKV-{i}-TimeMix"]["last_x"][0, 0], states[3 * i].numpy())
        assert_close(read[f"RWKV-{i}-ChannelMix"]["last_x"][0, 0], states[3 * i + 2].numpy())
    prompts = [ids[:5].tolist(), ids[:34].tolist()]
    for prompt, found in zip(prompts, transformer.generate(prompts, 12), strict=True):
        logits, states = peer.forward(prompt, None)
        expected = []
        for _ in found:
            expected.append(int(logits.argmax()))
            logits, states = peer.forward(expected[-1:], states)
        assert found == expected


@pytest.mark.once
@each_official
def test_export_of_official_files(official, tmp_path):
    import torch

    name, tensors, path = official
    transformer = load(name, path)
    norm = transformer.layers["RWKV-0-TimeMix"].group_norm
    if norm.group_ln.weights:
        # What only a `.weights.h5` file has goes into the rest.
        before = predict(transformer.model, [IDS])[0]
        norm.group_ln.set_weights([np.full(8, 2.0), np.full(8, 0.5)])
        norm.offset.assign(norm.offset - 0.5 * norm.scale / 2)
        norm.scale.assign(norm.scale / 2)
        assert_close(predict(transformer.model, [IDS])[0], before, 1e-4)
    transformer.save_weights_as_pth(tmp_path / "new.pth")
    found = torch.load(tmp_path / "new.pth", weights_only=True)
    assert sorted(found) == sorted(tensors)
    for key, array in tensors.items():
        np.testing.assert_allclose(found[key].numpy(), array, atol=1e-6)
    transformer.save_weights_as_pth(tmp_path / "half.pth", dtype="bfloat16")
    found = torch.load(tmp_path / "half.pth", weights_only=True)
    assert found["emb.weight"].dtype is torch.bfloat16
    other = load(name, tmp_path / "half.pth", keep_tokens=[0, 3, 5, 7])
    assert other.vocab_size == 4
    head = other.layers["RWKV-LM"].get_weights()[0].T
    assert_close(head, tensors["head.weight"][[0, 3, 5, 7]], 1e-2)


@pytest.mark.once
@pytest.mark.parametrize("official", ["rwkv7"], indirect=True)
def test_what_the_first_block_of_rwkv7_ignores(official, tmp_path):
    """Files may have a mix of its value with the first block's, which it is."""
    name, tensors, path = official
    expected = predict(load(name, path).model, [IDS])[0]
    spare = {f"blocks.0.att.v{i}": tensors[f"blocks.1.att.v{i}"] for i in range(3)}
    official_rwkv.save(path, {**tensors, **spare})
    transformer = load(name, path)
    assert transformer.load_report.complete
    assert transformer.load_report.unused == sorted(spare)
    assert_close(predict(transformer.model, [IDS])[0], expected, 0)


IDS = np.arange(1, 13, dtype="int32")[None]


@pytest.mark.once
@each_official
def test_files_that_do_not_fit(official, tmp_path):
    name, tensors, path = official
    del tensors["blocks.1.att.key.weight"]
    official_rwkv.save(path, tensors)
    with pytest.raises(CheckpointError, match=r"blocks\.1\.att\.key\.weight"):
        load(name, path)
    tensors.pop("blocks.0.ffn.key.weight")
    official_rwkv.save(path, tensors)
    with pytest.raises(CheckpointError, match="no official RWKV file"):
        load(name, path)


# --------------------------------------------------------------------- the layers


def test_time_shift():
    x, last = draw(2, 3, 4), draw(1, 1, 4, seed=1)
    before = np.concatenate([np.zeros((2, 1, 4)), x[:, :-1]], axis=1)
    assert_close(numpy(TimeShift()(tensor(x))), before - x)
    before[:, :1] = last
    # One for all rows is one for all rows.
    assert_close(numpy(TimeShift()(tensor(x), cache_x=tensor(last))), before - x)


RANKS = {TimeMix: {"decomposer_size": 2}, RWKV7TimeMix: {"gate_size": 2}}
LAYERS = [ChannelMix(8, 12), RWKV7ChannelMix(8, 12), TimeMix(None, 8, 2, 4)]


@pytest.mark.parametrize("layer", LAYERS, ids=["ffn6", "ffn7", "att6"])
def test_layers_go_on_where_they_stopped(layer):
    """`rnn_mode`: the first part, its last input and state, the second part."""
    x = draw(2, 7, 8)
    layer.build(x.shape)
    tiny.randomize(layer)
    whole = numpy(layer(tensor(x)))
    first, second = tensor(x[:, :4]), tensor(x[:, 4:])
    if isinstance(layer, ChannelMix):
        found = layer([second, first[:, -1:]], rnn_mode=True)
    else:
        output, state = layer(first, with_state=True)
        assert_close(numpy(output), whole[:, :4])
        mask = tensor(np.ones((2, 3), "bool"))
        found, state = layer(
            [second, mask, state, first[:, -1:]], initial_state=True, with_state=True, rnn_mode=True
        )
        assert_close(numpy(state), numpy(layer(tensor(x), with_state=True)[1]))
    assert_close(numpy(found), whole[:, 4:])


@pytest.mark.parametrize("layer_class", [TimeMix, RWKV7TimeMix])
def test_states_are_not_rounded(layer_class):
    """A decoding step of a bfloat16 model, of which no token counts, changes nothing."""
    first = () if layer_class is RWKV7TimeMix else (None,)
    layer = layer_class(*first, hidden_size=8, head_size=4, dtype="bfloat16", **RANKS[layer_class])
    layer.build((2, 1, 8))
    wkv, x = draw(2, 2, 4, 4), keras.ops.cast(draw(2, 1, 8), "bfloat16")
    lengths = tensor(np.array([3, 3], "int32"))
    steps = {"positions": lengths[:, None], "lengths": lengths}
    _, after = layer(x, state={"wkv": tensor(wkv), "last_x": x}, **steps)
    assert_close(numpy(after["wkv"]), wkv, 0)


@pytest.mark.parametrize("index", [0, 1])
def test_rwkv7_goes_on_where_it_stopped(index):
    """The first block gives the value that the others take."""
    x, v_first = draw(2, 7, 8), draw(2, 7, 8, seed=1)
    layer = RWKV7TimeMix(8, 4, 2, 2, 2, 2, layer_index=index, num_layers=2)
    layer.build(x.shape)
    tiny.randomize(layer)

    def run(start, stop, *more, **flags):
        values = [tensor(v_first[:, start:stop])] if index else []
        outputs = layer([tensor(x[:, start:stop]), *values, *more], with_state=True, **flags)
        return [numpy(output) for output in outputs]

    *whole, state = run(0, 7)
    *first, between = run(0, 4)
    memory = (tensor(between), tensor(x[:, 3:4]))
    *second, after = run(4, 7, *memory, initial_state=True, rnn_mode=True)
    assert len(whole) == (1 if index else 2)
    for a, b, expected in zip(first, second, whole, strict=True):
        assert_close(np.concatenate([a, b], axis=1), expected)
    assert_close(after, state)
    if index:
        with pytest.raises(ValueError, match="first block's value .*got 1 inputs"):
            layer(tensor(x))


def test_time_mix_refuses_sizes():
    for make in (lambda: TimeMix(None, 8, 2, 3), lambda: RWKV7TimeMix(8, 3)):
        with pytest.raises(ValueError, match="hidden_size=8 is no multiple of head_size=3"):
            make()


@pytest.mark.once
def test_ranks_of_rwkv7():
    """Those that official models of the sizes 0.1B and 1.5B have."""
    for size, expected in ((768, (64, 64, 32, 128)), (2048, (96, 96, 64, 256))):
        layer = RWKV7TimeMix(size, 64)
        names = ("time_decay_size", "rate_size", "value_mix_size", "gate_size")
        assert tuple(getattr(layer, name) for name in names) == expected


# ----------------------------------------------------------------------- padding


@each_family
@pytest.mark.parametrize("tuned", [False, True])
def test_padding_at_either_side(name, tuned):
    transformer = build(name)
    if tuned:
        transformer.enable_state_tuning(time_shift_tuning=True)
        tiny.randomize(transformer.model, seed=3)
    (ids,) = inputs_for(transformer, length=5)
    padded = np.zeros((3, 40), "int32")
    for row, start in enumerate((0, 35, 17)):
        padded[row, start : start + 5] = ids[row]
    expected, found = predict(transformer.model, [ids])[0], predict(transformer.model, [padded])[0]
    for row, start in enumerate((0, 35, 17)):
        assert_close(found[row, start : start + 5], expected[row])


# ----------------------------------------------------------------- states of a model


@each_family
def test_states_in_and_out_of_the_model(name):
    """Matrix states as input and output; the time shifts begin anew."""
    transformer = build(name, input_state=True, output_state=True)
    assert [x.name for x in transformer.inputs] == ["Input-Token", "Stack-Statess"]
    plain = build(name)
    (ids,) = inputs_for(plain)
    zeros = np.zeros((3, *transformer.state_shape), "float32")
    logits, states = predict(transformer.model, [ids, zeros])
    assert_close(logits, predict(plain.model, [ids])[0])
    read = plain.read(ids)
    for row in range(3):
        for i in range(transformer.num_hidden_layers):
            assert_close(states[row, i], read[row][f"RWKV-{i}-TimeMix"]["wkv"][0])
    again = predict(transformer.model, [ids, states])[0]
    assert np.abs(again - logits).max() > 1e-3
    assert transformer.generate(ids, 6) == plain.generate(ids, 6)


@pytest.mark.further
@each_family
def test_a_text_goes_on_from_a_state(name, tmp_path):
    transformer = build(name)
    (ids,) = inputs_for(transformer, length=12)
    ids = ids.tolist()
    expected = transformer.generate(ids, 6)
    assert len({token for row in expected for token in row}) > 4
    states = transformer.read([row[:n] for row, n in zip(ids, (4, 1, 11), strict=True)])
    rests = [row[n:] for row, n in zip(ids, (4, 1, 11), strict=True)]
    assert transformer.generate(rests, 6, states=states) == expected
    assert transformer.generate(rests, 6, states=states, batch_size=1) == expected
    assert list(transformer.stream(rests[0], 6, states=states[0])) == expected[0]
    # Forks: one state, several texts; of a file it is the same.
    transformer.save_state(tmp_path / "state.safetensors", states[0])
    kept = transformer.load_state(tmp_path / "state.safetensors")
    forks = transformer.generate([rests[0], rests[1]], 6, states=kept)
    assert forks[0] == expected[0]
    assert forks[1] == transformer.generate([ids[0][:4] + rests[1]], 6)[0]
    mixed = transformer.generate([rests[0], ids[1]], 6, states=[kept, None])
    assert mixed == expected[:2]
    further = transformer.read(rests[0], states=kept)
    alone = transformer.read(ids[0])
    for key, parts in alone.items():
        for part, value in parts.items():
            assert_close(further[key][part], value)


@pytest.mark.once
def test_states_that_do_not_fit(tmp_path):
    transformer, other = build("rwkv6"), build("rwkv6", num_hidden_layers=1)
    state = other.read([3, 4])
    with pytest.raises(ValueError, match="states: expected one of the layers"):
        transformer.generate([3], 2, states=state)
    with pytest.raises(ValueError, match="states: expected 2, one a prompt, got 1"):
        transformer.generate([[3], [4]], 2, states=[None])
    wide = build("rwkv6", hidden_size=8).read([3, 4])
    with pytest.raises(ValueError, match="expected .*, got"):
        transformer.generate([3], 2, states=wide)
    with pytest.raises(ValueError, match="Llama has none"):
        build("llama").generate([3], 2, states=state)
    other.save_state(tmp_path / "state.safetensors", state)
    with pytest.raises(CheckpointError, match="of another model"):
        transformer.load_state(tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match="enable_state_tuning first"):
        transformer.set_tuned_state(transformer.get_tuned_state())


@pytest.mark.further
@each_family
def test_conversation_that_turns_back(name):
    """What was read cannot be unread: the text is read anew."""
    transformer = build(name)
    conversation = Conversation(transformer)
    first = conversation.generate([5, 6, 7], 4)
    assert first == transformer.generate([5, 6, 7], 4)
    longer = [5, 6, 7, *first, 8]
    assert conversation.generate(longer, 3) == transformer.generate(longer, 3)
    assert conversation.prefilled == 2
    assert conversation.generate([5, 6, 9], 3) == transformer.generate([5, 6, 9], 3)
    assert conversation.prefilled == 3


# ------------------------------------------------------------- the documented generation


@pytest.mark.further
@each_family
def test_chunks_make_a_single_run(name):
    """`build_cache_model(..., input_state=True, output_state=True)`, fed with its outputs."""
    transformer, chunk = build(name), 8
    prompts = np.zeros((2, chunk), "int32")
    prompts[0, :3], prompts[1, 2:7] = [5, 6, 7], [8, 9, 10, 11, 12]
    model = transformer.build_cache_model([chunk], -1, input_state=True, output_state=True)
    assert [x.name for x in model.inputs[1:]] == ["Stack-Statess", "Stack-Last-X"]
    inputs = [prompts]
    inputs += [np.zeros((2, *x.shape[1:]), x.dtype) for x in model.inputs[1:]]
    rows = [[], []]
    for turn in range(3):
        ids, *states = model.predict(inputs, verbose=0)
        for row, found in zip(rows, ids.tolist(), strict=True):
            row += found[1 if turn else 0 :]
        following = np.zeros_like(ids)
        following[:, 0] = ids[:, -1]
        inputs = [following, *states]
    whole = transformer.generate([[5, 6, 7], [8, 9, 10, 11, 12]], 20)
    assert rows[0] == [5, 6, 7, *whole[0]][:22]
    assert rows[1] == [8, 9, 10, 11, 12, *whole[1]][:22]
    outputs = model(inputs, tranning=False)
    assert [tuple(x.shape) for x in outputs] == [x.shape for x in model.predict(inputs, verbose=0)]
    named = dict(zip(["Input-Token", "Stack-Statess", "Stack-Last-X"], inputs, strict=True))
    for a, b in zip(model.predict(named, batch_size=1, verbose=0), outputs, strict=True):
        assert_close(a, numpy(b))


@pytest.mark.further
@each_family
def test_a_row_that_ended_keeps_its_memory(name):
    """While others run on, its state stays that before its end token."""
    transformer = build(name)
    starts = [[i, i + 1] for i in range(3, 13)]
    free = transformer.generate(starts, 10)
    # A token that only the first of two rows meets, and not at its end.
    a, b, end = next(
        (a, b, token)
        for a in range(10)
        for b in range(10)
        for token in free[a][:6]
        if token not in free[b]
    )
    prompts = np.zeros((2, 12), "int32")
    prompts[:, :2] = starts[a], starts[b]
    model = transformer.build_cache_model([12], end, output_state=True)
    ids, states, last = model.predict(prompts, verbose=0)
    text = [*starts[a], *free[a][: free[a].index(end)]]
    read = transformer.read(text)
    for i in range(transformer.num_hidden_layers):
        assert_close(states[0, i], read[f"RWKV-{i}-TimeMix"]["wkv"][0])
        assert_close(last[0, 2 * i + 1], read[f"RWKV-{i}-ChannelMix"]["last_x"][0])
    assert (ids[0, len(text) :] == end).all()


@pytest.mark.further
@each_family
def test_other_ways_to_generate(name):
    transformer = build(name, sequence_length=7)
    ids = [[5, 6, 7], [8]]
    beams = transformer.generate(ids, 5, num_beams=2)
    assert [len(x) for x in beams] == [5, 5]
    samples = transformer.generate(ids, 5, num_samples=3, temperature=0.9, seed=4)
    assert [len(x) for x in samples] == [3, 3]
    assert transformer.build_cache_model([40], -1).predict(np.array([[5] * 40]), verbose=0).any()


# ----------------------------------------------------------------------- state tuning


@pytest.mark.parametrize(
    ("name", "shifts"),
    [
        ("rwkv6", False),
        pytest.param("rwkv6", True, marks=[pytest.mark.slow, pytest.mark.further]),
        pytest.param("rwkv7", False, marks=[pytest.mark.slow, pytest.mark.further]),
        pytest.param("rwkv7", True, marks=[pytest.mark.slow, pytest.mark.further]),
    ],
)
def test_state_tuning(name, shifts, tmp_path):
    keras.utils.set_random_seed(0)
    transformer = build(name)
    (ids,) = inputs_for(transformer, rows=8, length=40)
    if shifts:
        transformer.enable_state_tunig(time_shitf_tuning=True)
    else:
        transformer.enable_state_tuning()
    model = transformer.model
    trained = [v.path for v in model.trainable_weights]
    layers = transformer.num_hidden_layers
    assert len(trained) == layers * (3 if shifts else 1) and all("tuned" in p for p in trained)
    before = [np.array(numpy(v)) for v in model.weights]
    untuned = transformer.generate([5, 6], 5)
    model.compile(keras.optimizers.Adam(0.1), LOSS)
    losses = model.fit(ids, np.roll(ids, -1, 1), epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for variable, value in zip(model.weights, before, strict=True):
        same = (numpy(variable) == value).all()
        assert same != ("tuned" in variable.path), variable.path
    with pytest.raises(ValueError, match="enabled already"):
        transformer.enable_state_tuning()
    tuned = transformer.generate([5, 6], 5)
    # A small file of its own, which any row may begin with.
    state = transformer.get_tuned_state()
    transformer.save_state(tmp_path / "tuned.safetensors", state)
    other = build(name)
    kept = other.load_state(tmp_path / "tuned.safetensors")
    assert other.generate([[5, 6], [5, 6]], 5, states=[kept, None]) == [tuned, untuned]
    other.enable_state_tuning(shifts)
    other.set_tuned_state(kept)
    assert_close(predict(other.model, [ids])[0], predict(model, [ids])[0], 0)
    transformer.save_weights(tmp_path / "all.weights.h5")
    other.set_tuned_state(build(name).read([3]))
    other.load_weights(tmp_path / "all.weights.h5")
    assert_close(predict(other.model, [ids])[0], predict(model, [ids])[0], 0)


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@each_family
@pytest.mark.slow
def test_state_tuning_with_lora(name):
    transformer = build(name)
    dense = transformer.layers["RWKV-LM"]
    dense.enable_lora(2)
    transformer.enable_state_tuning()
    names = {v.path.rpartition("/")[2] for v in transformer.model.trainable_weights}
    assert names == {"tuned_wkv", "lora_kernel_a", "lora_kernel_b"}
    (ids,) = inputs_for(transformer)
    transformer.model.compile("adam", LOSS)
    before = np.array(numpy(dense.lora_kernel_b))
    transformer.model.fit(ids, ids, verbose=0)
    assert np.abs(numpy(dense.lora_kernel_b) - before).max() > 0


@pytest.mark.once
@each_official
def test_official_tuned_states(official, tmp_path):
    """A file of tuned states has value before key, as RWKV-7 itself."""
    name, _, path = official
    transformer = load(name, path)
    files = {f"blocks.{i}.att.time_state": draw(4, 8, 8, seed=i) for i in range(3)}
    official_rwkv.save(tmp_path / "state.pth", files)
    state = transformer.load_state(tmp_path / "state.pth")
    for i in range(3):
        expected = files[f"blocks.{i}.att.time_state"]
        expected = expected.transpose(0, 2, 1) if name == "rwkv6" else expected
        assert_close(state[f"RWKV-{i}-TimeMix"]["wkv"][0], expected, 0)
    assert len(transformer.generate([3], 4, states=state)) == 4
    files["blocks.2.att.time_state"] = draw(4, 4, 4)
    official_rwkv.save(tmp_path / "state.pth", files)
    with pytest.raises(CheckpointError, match=r"blocks\.2\.att\.time_state"):
        transformer.load_state(tmp_path / "state.pth")


# ---------------------------------------------------------------------- from scratch


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.slow
@pytest.mark.once
def test_learns_from_scratch(name):
    """The initial weights suit training: a text of period 5 is learnt by heart."""
    keras.utils.set_random_seed(0)
    arguments = {**tiny.SIZES, **tiny.ALL[name], "hidden_size": 32, "return_keras_model": False}
    transformer = build_transformer_model(**arguments)
    rng = np.random.default_rng(0)
    ids = np.array([np.tile(rng.permutation(40)[:5] + 5, 3) for _ in range(64)], "int32")
    transformer.model.compile(keras.optimizers.Adam(1e-2), LOSS)
    assert abs(transformer.model.evaluate(ids, ids, verbose=0) - np.log(50)) < 0.7
    history = transformer.model.fit(ids[:, :-1], ids[:, 1:], epochs=30, batch_size=64, verbose=0)
    assert history.history["loss"][-1] < 1


def test_head_counts():
    sizes = {k: v for k, v in tiny.SIZES.items() if k != "num_attention_heads"}
    arguments = {**sizes, **tiny.ALL["rwkv6"], "return_keras_model": False}
    transformer = build_transformer_model(**arguments, attention_head_size=4)
    assert isinstance(transformer, RecurrentModel) and transformer.num_attention_heads == 4
    with pytest.raises(ValueError, match="needs num_attention_heads or attention_head_size"):
        build_transformer_model(**arguments)
