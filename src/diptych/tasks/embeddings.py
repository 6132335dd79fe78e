"""The table of a model's embeddings: Parquet with key, caption, label and two fixed-size float16 lists."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.base.errors import UserError
from diptych.base.files import beside, refusing
from diptych.base.terminal import complain, to_type
from diptych.data.sets.evalset import EvalSet
from diptych.evaluation.zeroshot import fill
from diptych.model.encode import encode_set, encode_texts
from diptych.model.load import Loaded

COLUMNS = ("key", "caption", "label", "image_embedding", "text_embedding")


def write_embeddings(out: Path, loaded: Loaded, sets: Sequence[EvalSet]) -> tuple[Path, list[str]]:
    """Every set's embeddings, in `out/embeddings.parquet`. Returns the file, and a line for each reason why pictures
    were skipped.

    The text of a picture is its first caption, or, where it has none, its class name in the set's first template.
    """
    keys, captions, images = [], [], []
    skipped: list[str] = []
    labels: list[str | None] = []
    for evalset in sets:
        encoded = encode_set(loaded.model, evalset)
        skipped += [
            f"skipped in {evalset.name}: {len(of)} × {why}, as {of[0]}" for why, of in encoded.skipped.items()
        ]
        classes = evalset.classnames
        names = [classes[int(label)] if classes else None for label in encoded.labels]
        keys += encoded.keys
        labels += names
        captions += [
            caption.split("\n", 1)[0] or fill(evalset.templates[0], name or "")
            for caption, name in zip(encoded.captions, names, strict=True)
        ]
        images.append(encoded.features)
    file = out / "embeddings.parquet"
    if file.exists():
        complain(f"{file} is replaced.")
    texts = encode_texts(loaded.model, loaded.tokenizer, captions)
    write_table(file, keys, captions, labels, torch.cat(images), texts)
    return file, skipped


def write_table(
    path: Path,
    keys: Sequence[str],
    captions: Sequence[str | None],
    labels: Sequence[str | None],
    image: Tensor,
    text: Tensor,
) -> None:
    """N rows; image [N, D], text [N, E]. float16 keeps three digits of a unit vector's cosine, in half the
    space. The file appears whole or not at all. Raises UserError where a value does not fit in float16
    (NaN, infinity or beyond 65,504), the disk refuses it, or pyarrow is not installed."""
    arrow, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    strings = [arrow.array([_utf8(text) for text in column], arrow.string()) for column in (keys, captions, labels)]
    vectors = [_vectors(arrow, image, "image embeddings"), _vectors(arrow, text, "text embeddings")]
    table = arrow.table(dict(zip(COLUMNS, [*strings, *vectors], strict=True)))
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as partial:
            parquet.write_table(table, partial)


def _utf8(text: str | None) -> str | None:
    """Keys are names of files, which may not be UTF-8: such bytes are written as escapes."""
    return text if text is None else text.encode("utf-8", "backslashreplace").decode()


def read_table(path: Path) -> dict[str, Any]:
    """A file, or a folder whose *.parquet files are read in the order of their names ->
    {"key", "caption", "label": list[str], "image_embedding", "text_embedding": float32 [N, D]}.
    Raises UserError where there is no table, or one that lacks a column."""
    arrow, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(
            f"No embeddings at {path}: make them with `python src/embed.py checkpoint=RUN_DIR"
            f" {to_type('out', path)}`."
        )
    tables = [parquet.read_table(file) for file in files]
    for file, part in zip(files, tables, strict=True):
        lacking = [column for column in COLUMNS if column not in part.column_names]
        if lacking:
            raise UserError(f"{file} is not a table of embeddings: it lacks {', '.join(lacking)}.")
    table = arrow.concat_tables([part.select(list(COLUMNS)) for part in tables]).combine_chunks()
    found: dict[str, Any] = {column: table[column].to_pylist() for column in COLUMNS[:3]}
    return found | {column: _tensor(table[column]) for column in COLUMNS[3:]}


def _vectors(arrow: Any, features: Tensor, what: str) -> Any:
    halves = features.detach().cpu().half()
    if not halves.isfinite().all():
        raise UserError(f"The {what} hold NaN, infinity or values beyond float16: find out why, or normalise them.")
    return arrow.FixedSizeListArray.from_arrays(arrow.array(halves.flatten().numpy()), features.shape[1])


def _tensor(column: Any) -> Tensor:
    values = column.combine_chunks()
    flat = torch.from_numpy(values.flatten().to_numpy(zero_copy_only=False).copy())
    return flat.float().reshape(len(column), values.type.list_size)


def _pyarrow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError("Embedding tables need pyarrow: pip install 'diptych[study]'.") from error
