"""The CRF's loss with its gradients, and the best path, against pytorch-crf and a loop in numpy.

    python benchmarks/labelling.py            # a minute

Ours runs on KERAS_BACKEND (jax by default), compiled where the backend compiles; the package runs
on torch, as it is. `pip install --no-deps pytorch-crf` brings it. All in one process, one after the
other, on the same numbers; what they compute is compared first.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
import torch
from common import median_time
from torchcrf import CRF

from bert4keras3.layers import ConditionalRandomField
from bert4keras3.snippets import ViterbiDecoder

SHAPES = ((32, 128, 9), (64, 256, 41))  # texts, tokens, labels
RUNS = 9


def draw(batch, length, labels):
    """Scores, labels, which tokens are there, and transitions."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(batch, length, labels)).astype("float32")
    targets = rng.integers(0, labels, (batch, length))
    lengths = rng.integers(length // 2, length + 1, batch)
    transitions = rng.normal(size=(labels, labels)).astype("float32")
    return scores, targets, np.arange(length) < lengths[:, None], transitions


def ours(scores, targets, mask, transitions):
    """Functions for loss and gradient, and for the best path."""
    crf = ConditionalRandomField()
    crf.build(scores.shape)
    crf.set_weights([transitions])
    hidden = np.where(mask[..., None], scores, -np.inf).astype("float32")
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def total(trans, x):
            with keras.StatelessScope([(crf.trainable_variables[0], trans)]):
                return crf.sparse_loss(targets, x).sum()

        step = jax.jit(jax.value_and_grad(total, (0, 1)))
        decode = jax.jit(crf.decode)
        x, trans = jax.numpy.asarray(hidden), jax.numpy.asarray(transitions)
        return (
            lambda: jax.block_until_ready(step(trans, x)),
            lambda: np.asarray(decode(x)),
        )
    if backend == "tensorflow":
        import tensorflow as tf

        x = tf.constant(hidden)

        def total():
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(crf.sparse_loss(targets, x))
            return loss, tape.gradient(loss, [crf.trainable_variables[0].value, x])

        step, decode = map(tf.function, (total, lambda: crf.decode(x)))
        return step, lambda: decode().numpy()

    x = torch.tensor(hidden, requires_grad=True)

    def step():
        loss = crf.sparse_loss(targets, x).sum()
        loss.backward()
        return loss.detach(), None

    return step, lambda: crf.decode(x.detach()).numpy()


def theirs(scores, targets, mask, transitions):
    """The same of pytorch-crf, whose scores for first and last labels are 0."""
    crf = CRF(scores.shape[-1], batch_first=True)
    with torch.no_grad():
        crf.transitions.copy_(torch.tensor(transitions))
        crf.start_transitions.zero_()
        crf.end_transitions.zero_()
    x = torch.tensor(scores, requires_grad=True)
    y, m = torch.tensor(targets), torch.tensor(mask)

    def step():
        loss = -crf(x, y, m)
        loss.backward()
        return loss.detach(), None

    return step, lambda: crf.decode(x.detach(), m)


def in_numpy(scores, mask, transitions):
    """The best paths, text by text."""
    decoder = ViterbiDecoder(transitions)
    return lambda: [decoder.decode(x[m]) for x, m in zip(scores, mask, strict=True)]


def main():
    print(f"ours on {keras.backend.backend()}; milliseconds, medians of {RUNS} runs")
    for shape in SHAPES:
        scores, targets, mask, transitions = draw(*shape)
        our_step, our_path = ours(scores, targets, mask, transitions)
        their_step, their_path = theirs(scores, targets, mask, transitions)
        numpy_path = in_numpy(scores, mask, transitions)
        np.testing.assert_allclose(float(our_step()[0]), float(their_step()[0]), rtol=1e-4)
        paths = [row[m].tolist() for row, m in zip(our_path(), mask, strict=True)]
        assert paths == their_path() == [path.tolist() for path in numpy_path()]
        print("{} texts of {} tokens, {} labels".format(*shape))
        for name, mine, peers in (
            ("loss and gradients", our_step, {"pytorch-crf": their_step}),
            ("best paths", our_path, {"pytorch-crf": their_path, "numpy": numpy_path}),
        ):
            own = median_time(mine, RUNS)
            print(f"  {name:<20} ours {own * 1e3:8.1f}", end="")
            for peer, function in peers.items():
                other = median_time(function, RUNS)
                print(f"   {peer} {other * 1e3:8.1f} (ratio {other / own:.2f})", end="")
            print()


if __name__ == "__main__":
    main()
