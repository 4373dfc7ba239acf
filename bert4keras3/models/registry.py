"""The families: by model key, and by Hugging Face `model_type`."""

FAMILIES = {}
HUGGING_FACE = {}
# key: constructor arguments that it stands for
IMPLIED = {}


def family(*keys, huggingface=(), **implied):
    """Class decorator: register a family.

    Args:
        *keys: values of `build_transformer_model(model=...)`, lower case.
        huggingface: values of `model_type` in a Hugging Face `config.json`.
        **implied: constructor arguments that these keys stand for.
    """

    def decorate(cls):
        FAMILIES.update(dict.fromkeys(keys, cls))
        IMPLIED.update(dict.fromkeys(keys, implied))
        HUGGING_FACE.update(dict.fromkeys(huggingface, keys[0]))
        return cls

    return decorate


def find_family(model):
    """The class of a model key; a class stays itself.

    Raises:
        ValueError: an unknown key.
    """
    if isinstance(model, type):
        return model
    try:
        return FAMILIES[model.lower()]
    except (KeyError, AttributeError):
        raise ValueError(
            f"unknown model {model!r}: expected a subclass of Transformer or one of "
            f"{', '.join(sorted(FAMILIES))}"
        ) from None


def implied_arguments(model):
    """Constructor arguments that a model key stands for; none for a class."""
    return {} if isinstance(model, type) else IMPLIED.get(str(model).lower(), {})
