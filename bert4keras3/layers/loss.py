"""A layer that adds a loss computed from its inputs."""

from bert4keras3.layers.base import Layer, register_layer


@register_layer
class Loss(Layer):
    """Adds the loss that a subclass computes from the inputs, and passes inputs on.

    Args:
        output_axis: which input to return: None for all of them, an int for one,
            a list for several.

    A subclass defines `compute_loss(inputs, mask=None)`, returning a scalar; the
    model is then compiled without a loss of its own.
    """

    def __init__(self, output_axis=None, **kwargs):
        super().__init__(**kwargs)
        self.output_axis = output_axis

    def call(self, inputs, mask=None):
        self.add_loss(self.compute_loss(inputs, mask))
        return self._select(inputs)

    def compute_loss(self, inputs, mask=None):
        """The loss of the inputs: a scalar tensor.

        Raises:
            TypeError: always here; subclasses define it.
        """
        raise TypeError(f"{type(self).__name__} does not define compute_loss(inputs, mask=None)")

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else self._select(mask)

    def compute_output_shape(self, input_shape):
        return self._select(input_shape)

    def _select(self, items):
        if self.output_axis is None:
            return items
        if isinstance(self.output_axis, list):
            return [items[i] for i in self.output_axis]
        return items[self.output_axis]
