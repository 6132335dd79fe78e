"""Kinds of findings that are open: (area, oracle, kind) -> why. A kind that no longer occurs fails the long run.

To be emptied. A new kind goes here only where it is repaired elsewhere.
"""

from __future__ import annotations

from fuzz.oracles import BOUNDS, COUNT, SECRET, TRACEBACK

KNOWN: dict[tuple[str, str, str], str] = {
    ("tars", TRACEBACK, "AttributeError in data.tar.at"): "compressed tars fail whole",
    ("tars", COUNT, "tar: a sample is used that gives no pair"): "a link or a second file of one name",
    ("indexes", TRACEBACK, "UnicodeEncodeError in data.files.size"): "a path with half a surrogate",
    ("addresses", SECRET, "in a message"): "a query of an address that is none",
    ("addresses", BOUNDS, "too much in data.patterns.listed"): "a pattern of a billion names",
    ("addresses", TRACEBACK, "TypeError in data.index._opened"): "data.shards is a number",
    ("addresses", TRACEBACK, "UnbalancedBracesError in data.patterns.listed"): "a brace alone",
    ("classes", BOUNDS, "too much in data.evalset.batches"): "a FIFO for a picture",
    ("folders", BOUNDS, "too much in data.sources.entries._read"): "a FIFO for a picture",
    ("folders", TRACEBACK, "RecursionError in data.sources.folder._json_entries"): "the same",
    ("tables", TRACEBACK, "ArrowInvalid in data.sources.parquet.rows"): "a damaged Parquet file",
    ("tables", TRACEBACK, "OSError in data.sources.parquet.rows"): "the same",
    ("checkpoints", TRACEBACK, "IndexError in interop.files.read_torch"): "a damaged pickle",
    ("checkpoints", BOUNDS, "too much in interop.files.<genexpr>"): "an endless description",
    ("texts", COUNT, "class names: other lines than the file's"): "a blank line at the end",
    ("commands", TRACEBACK, "TypeError in config.budget"): "samples=[1,2]",
    ("commands", TRACEBACK, "TypeError in config.validate"): "data.max_bad=high",
    ("commands", TRACEBACK, "TypeError in data.datamodule.check_layout"): "data.workers=[1,2]",
    ("commands", TRACEBACK, "TypeError in no frame of ours"): "Hydra's own",
    ("commands", TRACEBACK, "ValueError in no frame of ours"): "Hydra's own: model=5",
}
