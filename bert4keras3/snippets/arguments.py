"""Decorators that add arguments to an `__init__`, or take some away."""

import functools


def insert_arguments(**arguments):
    """Decorator of an `__init__`: further keyword arguments, which become attributes.

        @insert_arguments(temperature=1.0)
        def __init__(self, units):
            ...  # self.temperature is there

    Args:
        **arguments: names and defaults.
    """

    def decorate(init):
        @functools.wraps(init)
        def with_arguments(self, *args, **kwargs):
            for name, default in arguments.items():
                setattr(self, name, kwargs.pop(name, default))
            return init(self, *args, **kwargs)

        return with_arguments

    return decorate


def delete_arguments(*arguments):
    """Decorator of an `__init__`: these keyword arguments are refused.

    Args:
        *arguments: names.
    """

    def decorate(init):
        @functools.wraps(init)
        def without_arguments(self, *args, **kwargs):
            for name in arguments:
                if name in kwargs:
                    raise TypeError(
                        f"{type(self).__name__}.__init__() got an unexpected keyword argument "
                        f"{name!r}"
                    )
            return init(self, *args, **kwargs)

        return without_arguments

    return decorate
