"""What goes wrong between text and ids."""


class VocabularyError(KeyError):
    """A token or an id that the vocabulary does not hold."""

    def __str__(self):
        # KeyError would print the repr of the message, quotes and escapes included
        return str(self.args[0]) if self.args else ""
