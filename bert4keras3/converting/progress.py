"""A bar over tensors, on a terminal only."""

from contextlib import contextmanager

from tqdm import tqdm


class Progress:
    """The bar of the stage that is on; without one, steps count for nothing."""

    def __init__(self):
        self._bar = None

    @contextmanager
    def stage(self, title, total=None):
        """A stage of the work; `total` may be known later, at a `step`."""
        # disable=None: none where stderr is a file or a pipe.
        with tqdm(total=total, desc=title, unit=" tensors", leave=False, disable=None) as bar:
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def step(self, total=None):
        """One tensor more, of `total`."""
        if self._bar is not None:
            self._bar.total = total or self._bar.total
            self._bar.update()
