"""Generation with conditional layer norms.  KERAS_BACKEND=jax pytest tests/test_conditions.py"""

import numpy as np
import pytest
import tiny
from test_generation import END, LENGTH, ROWS, as_array, asked, completed, naive, whole_inputs

from bert4keras3.generation import Conversation
from bert4keras3.layers import Embedding
from bert4keras3.models import BERT
from bert4keras3.models.registry import find_family
from bert4keras3.ops import keras

FAMILIES = [
    name
    for name, arguments in tiny.DECODERS.items()
    if find_family(arguments["model"]).has_conditional_norms and name != "bert_blocks"
]
LABELS = np.array([[0], [2], [1], [2]], "int32")
VECTORS = tiny.draw(4, 3, seed=7)


class OfItsTokens(BERT):
    """Its condition comes from the text itself."""

    def get_inputs(self):
        inputs = super().get_inputs()
        of_tokens = keras.layers.Embedding(self.vocab_size, 4)(inputs[0])
        self.layer_norm_conds[0] = keras.layers.GlobalMaxPooling1D()(of_tokens)
        return inputs


def conditional(name="bert_lm", several=True, **kwargs):
    """A tiny model steered by the embedding of a label, and by a vector if several."""
    label = keras.Input((1,), dtype="int32", name="Label")
    condition = keras.layers.Flatten()(Embedding(3, 4)(label))
    inputs = [label]
    if several:
        inputs.append(keras.Input((3,), name="Vector"))
        condition = keras.layers.Concatenate()([condition, inputs[1]])
    kwargs = {"layer_norm_cond_hidden_size": 5, **kwargs}
    return tiny.build(name, layer_norm_cond=condition, additional_input_layers=inputs, **kwargs)


@pytest.mark.parametrize("name", tiny.each(FAMILIES))
def test_each_text_follows_its_condition(name):
    transformer = conditional(name)
    rows = [[9, 9], [6, 8]] if "unilm" in name else ROWS
    conditions = [LABELS[: len(rows)], VECTORS[: len(rows)]]
    wholes = naive(transformer, rows, None, conditions=conditions)
    model = transformer.build_cache_model([LENGTH] * len(transformer.text_inputs), END)
    inputs = [*whole_inputs(transformer, as_array(rows)), *conditions]
    np.testing.assert_array_equal(model.predict(inputs, verbose=0), completed(rows, wholes))

    segments = {"segments": [[0, 0] for _ in rows]} if "unilm" in name else {}
    asks = asked(transformer, rows, max_new_tokens=6, end_token=END, **segments)
    expected = [w[len(r) : len(r) + 6] for r, w in zip(rows, wholes, strict=True)]
    assert transformer.generate(**asks, conditions=conditions) == expected
    streamed = list(transformer.stream(**asks, conditions=conditions))
    assert [[token for row, token in streamed if row == i] for i in range(len(rows))] == expected
    if name == "t5":
        # Rows of like lengths go together, each with its own condition.
        assert transformer.generate(**asks, conditions=conditions, batch_size=2) == expected


@pytest.fixture(scope="module")
def bert():
    return conditional(several=False)


def test_beams_and_samples_follow_their_condition(bert):
    for options in ({"num_beams": 3}, {"num_samples": 2, "temperature": 1.0, "seed": 5}):
        options |= {"max_new_tokens": 5, "end_token": END}
        together = bert.generate(ROWS, conditions=LABELS, **options)
        for i, (row, label) in enumerate(zip(ROWS, LABELS, strict=True)):
            assert bert.generate(row, conditions=label, first_prompt=i, **options) == together[i]
    for beams in (1, 3):
        found = [bert.generate([7, 9], 6, conditions=label, num_beams=beams) for label in range(3)]
        assert len({tuple(ids) for ids in found}) > 1, "one text whatever the condition"


def test_one_condition_for_all(bert):
    each = bert.generate(ROWS, 5, conditions=[2, 2, 2, 2])
    for condition in (2, [2], [[2]], LABELS[1]):
        assert bert.generate(ROWS, 5, conditions=condition) == each


def test_what_makes_the_condition_goes_on_learning():
    """A compiled program holds no copy of its weights."""
    transformer = conditional(several=False)

    def log_probs(label):
        options = {"end_token": END, "return_log_probs": True}
        return np.array(transformer.generate([7, 9], 4, conditions=label, **options)[1])

    before = [log_probs(label) for label in (0, 1)]
    assert np.abs(before[0][0] - before[1][0]) > 1e-3
    (embedding,) = (x for x in transformer.model.layers if getattr(x, "input_dim", 0) == 3)
    embedding.set_weights([embedding.get_weights()[0][[1, 0, 2]]])
    tiny.assert_close(log_probs(0), before[1])
    tiny.assert_close(log_probs(1), before[0])


@pytest.mark.parametrize(
    "conditions, message",
    [
        (None, r"the layer norms of LM_Mask_BERT depend on \['Label'\]"),
        ([1, 2], r"'Label': expected \(1,\) for all 4 prompts, or \(4, 1\), got \(2,\)"),
        ([[1, 2]], r"got \(1, 2\)"),
        (0.5, "expected int32, got float64"),
    ],
)
def test_bad_conditions(bert, conditions, message):
    with pytest.raises(ValueError, match=message):
        bert.generate(ROWS, 5, conditions=conditions)


def test_models_and_conditions_that_do_not_fit(bert):
    with pytest.raises(
        ValueError, match="conditions: LM_Mask_BERT was built without layer_norm_cond"
    ):
        tiny.build("bert_lm").generate(ROWS, 5, conditions=1)
    with pytest.raises(ValueError, match="expected 2, for .*'Label', 'Vector'.*, got 1"):
        conditional().generate(ROWS, 5, conditions=[1])
    with pytest.raises(ValueError, match="a conversation has no condition"):
        Conversation(bert)
    with pytest.raises(ValueError, match="has to come from additional_input_layers alone"):
        tiny.build("bert_lm", model=OfItsTokens).generate(ROWS, 5)
