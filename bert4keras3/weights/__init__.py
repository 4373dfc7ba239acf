"""Tensors in files, and the tables that map them to layers."""

from bert4keras3.weights.errors import CheckpointError, MissingTensorError
from bert4keras3.weights.opening import open_source
from bert4keras3.weights.sources import Source

__all__ = ["CheckpointError", "MissingTensorError", "Source", "open_source"]
