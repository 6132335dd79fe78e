"""Reading a tar's samples in order, grouped by webdataset's rules, and holding small sets in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from webdataset.tariterators import group_by_keys, tar_file_expander

from diptych.data.index import Index, Shard
from diptych.errors import UserError

Sample = dict[str, Any]  # extension -> bytes, and webdataset's own __key__ and __url__, which are text


def read(shard: Shard, first: int, last: int) -> Iterator[Sample]:
    """The samples first … last-1 of a shard. Raises UserError when they aren't all there."""
    count = first
    try:
        with open(shard.path, "rb") as stream:  # noqa: PTH123 (webdataset wants an open file)
            files = tar_file_expander([{"url": shard.path, "stream": stream}])
            for sample in islice(group_by_keys(files), first, last):
                count += 1
                yield sample
    except UserError:
        raise
    except Exception as error:  # tarfile, OSError and webdataset's own ValueError alike
        reason = str(error.args[0]) if error.args else repr(error)
        raise UserError(
            f"The shard {shard.path} is damaged after sample {count} of {shard.samples} ({reason}): restore it."
        ) from error
    if count < last:
        raise UserError(
            f"The shard {shard.path} ends after {count} of {shard.samples} samples: it was cut; restore it."
        )


class Shelf:
    """Shards by number; those that fit in `memory` bytes together are read once and kept, encoded."""

    def __init__(self, index: Index, memory: int) -> None:
        self.index, self.room = index, memory
        self.kept: dict[int, list[Sample]] = {}

    def samples(self, number: int, first: int, last: int) -> Iterator[Sample]:
        """The samples first … last-1 of shard `number`."""
        shard = self.index.shards[number]
        if number not in self.kept and shard.bytes <= self.room:
            self.room -= shard.bytes
            self.kept[number] = list(read(shard, 0, shard.samples))
        if number in self.kept:
            return iter(self.kept[number][first:last])
        return read(shard, first, last)
