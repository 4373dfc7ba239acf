"""What goes wrong between text and ids."""


class VocabularyError(KeyError):
    """A token or an id that the vocabulary does not hold."""

    def __str__(self):
        # KeyError would print the repr of the message, quotes and escapes included
        return str(self.args[0]) if self.args else ""


def explain(text, argument, error):
    """Raise what a compiled library does not say: that this is no text, or where it is broken."""
    if not isinstance(text, str):
        raise TypeError(f"{argument} must be a str, found {type(text).__name__}") from error
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as broken:
        raise ValueError(
            f"{argument} holds half of a surrogate pair at {broken.start}, which is no character"
        ) from error
