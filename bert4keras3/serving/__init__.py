"""Functions as a web service."""

from bert4keras3.serving.web import WebServing

__all__ = ["WebServing"]
