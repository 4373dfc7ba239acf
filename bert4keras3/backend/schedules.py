"""Values that change with the training step."""

from bert4keras3 import ops
from bert4keras3.ops import keras


def piecewise_linear(t, schedule, from_zero=True):
    """Piecewise linear interpolation of a schedule, for learning rates and the like.

    Args:
        t: the step, a number or tensor.
        schedule: `{step: value}`; constant after the last step.
        from_zero: start at (0, 0) unless the schedule names step 0.

    Returns:
        A float tensor of the shape of `t`.
    """
    points = sorted((float(step), float(value)) for step, value in schedule.items())
    if from_zero and points[0][0] != 0.0:
        points = [(0.0, 0.0), *points]
    t = ops.cast(t, keras.config.floatx())
    x = ops.ones_like(t) * points[0][1]
    for (t0, v0), (t1, v1) in zip(points, points[1:], strict=False):
        x = ops.where(t >= t0, v0 + (v1 - v0) * (t - t0) / (t1 - t0), x)
    return ops.where(t >= points[-1][0], points[-1][1], x)
