"""Pairs from shards: the index, the order, the stream, the pixels and the tokens."""

from diptych.data.image import eval_image, train_image
from diptych.data.index import Index, Shard, open_index
from diptych.data.order import Order

__all__ = ["Index", "Order", "Shard", "eval_image", "open_index", "train_image"]
