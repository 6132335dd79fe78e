"""Pairs from shards: the index, the order, the stream, the pixels and the tokens."""

from diptych.data.pixels.image import eval_image, train_image
from diptych.data.stream.index import Index, Shard, open_index
from diptych.data.stream.order import Order

__all__ = ["Index", "Order", "Shard", "eval_image", "open_index", "train_image"]
