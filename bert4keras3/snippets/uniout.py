"""Does nothing: on Python 2 it made lists of Chinese strings readable, as they now are."""
