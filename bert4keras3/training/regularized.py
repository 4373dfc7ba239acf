"""Training steps with a loss of more than one forward: the one place where they are extended."""

import contextlib

from bert4keras3 import ops
from bert4keras3.ops import keras

# What a float16 loss is multiplied by before its gradient is taken.
HALF_SCALE = 1024.0


class Regularized(keras.Model):
    """A model that trains with further terms in its loss, on the layers of another one.

    Only `compute_loss` differs from Keras' own, and only in training: `fit`, optimizers,
    metrics and callbacks are used as ever, on every backend, compiled or not. Prediction and
    evaluation are those of the model it is made of, and so are the weights and their files.

    Args:
        model: a functional Keras model; one of this class keeps its terms.
        terms: functions `(Step) -> scalar`. Their sum is added to the loss of the
            undisturbed forward; with `term.replaces_loss` it stands in its place.
    """

    def __init__(self, model, terms):
        super().__init__(model.input, model.output, name=model.name)
        # In an object of its own: Keras would take what is in lists for parts of the model.
        self.extension = Extension([*getattr(model, "extension", Extension()).terms, *terms])
        self.noise = keras.random.SeedGenerator()

    def call(self, inputs, training=None, mask=None, **kwargs):
        if training:
            # A step's other forwards drop out the same as this one.
            self.extension.counters = [(v, v.value * 1) for v in ops.seed_states(self)]
            self.extension.noise = ops.noise_state()
        return super().call(inputs, training=training, mask=mask, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        # At first: another forward makes Keras forget the losses that layers have added.
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        step = Step(self, x, y, y_pred, sample_weight)
        terms = self.extension.terms
        kept = not any(term.replaces_loss for term in terms)
        return sum((term(step) for term in terms), loss if kept else 0.0)

    @contextlib.contextmanager
    def with_values(self, changes):
        """Within it the model's variables have other values, and keep none that they are given.

        Args:
            changes: pairs of a variable and its value.
        """
        now = [(v, v.value) for v in [*self.variables, *self.metrics_variables]]
        # Keras on JAX keeps the losses of the undisturbed forward here.
        override, self._losses_override = self._losses_override, []
        try:
            with keras.StatelessScope([*now, *changes], collect_losses=True):
                yield
        finally:
            self._losses_override = override

    def disturbed_loss(self, x, y, outputs, sample_weight):
        """The loss of another forward, within `with_values()`."""
        return super().compute_loss(x, y, outputs, sample_weight, training=True)

    def get_config(self):
        raise NotImplementedError(
            "save the model that this one trains: both have the same layers and weights"
        )


class Extension:
    """What a `Regularized` model knows beside its layers."""

    def __init__(self, terms=()):
        self.terms = list(terms)
        # Before the forward of a step: the counters of seed generators, and the backend's noise.
        self.counters, self.noise = [], None


class Step:
    """One batch of training, as a function of perturbations at some place.

    Args:
        model: a `Regularized` model.
        x, y, outputs, sample_weight: as Keras hands them to `compute_loss`.

    Attributes:
        outputs: of the undisturbed forward.
    """

    def __init__(self, model, x, y, outputs, sample_weight):
        self.model = model
        self.x, self.y, self.outputs, self.sample_weight = x, y, outputs, sample_weight
        self.inputs = in_order(model, x)
        self.counters, model.extension.counters = model.extension.counters, []
        self.noise = model.extension.noise

    def loss(self, place, perturbations):
        """The loss of a disturbed forward."""
        return self._run(place, perturbations, self._loss_of)

    def predict(self, place, perturbations):
        """The outputs of a disturbed forward, in training mode."""
        return self._run(place, perturbations, lambda outputs: outputs)

    def gradients(self, place, function, start, differentiable=False):
        """The gradients of a scalar function of perturbations.

        Args:
            place: where they are; in float16 the loss is scaled on the way.
            function: of a list of perturbations.
            start: at which ones.
            differentiable: see `ops.value_and_gradients`.
        """
        scale = HALF_SCALE if place.is_half else 1.0
        _, gradients = ops.value_and_gradients(
            lambda deltas: function(deltas) * scale, start, differentiable
        )
        return [x / scale for x in gradients]

    def _run(self, place, perturbations, finish):
        inputs, changes = place.bind(self.inputs, perturbations)
        with self.model.with_values([*self.counters, *changes]), ops.same_noise(self.noise):
            return finish(place.network(inputs, training=True))

    def _loss_of(self, outputs):
        return self.model.disturbed_loss(self.x, self.y, outputs, self.sample_weight)


def in_order(model, x):
    """The inputs of a batch as a flat list of tensors, in the order of `model.inputs`."""
    by_name = isinstance(x, dict) and not isinstance(model.input, dict)
    flat = [x[tensor.name] for tensor in model.inputs] if by_name else keras.tree.flatten(x)
    return [ops.convert_to_tensor(array) for array in flat]
