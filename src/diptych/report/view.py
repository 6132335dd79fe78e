"""What the report shows, from what a run wrote: plain values, with nothing in them trusted."""

import math
from itertools import groupby
from typing import Any

from diptych.base.terminal import counted
from diptych.report.formats import count, duration, number
from diptych.report.record import Record, mapping

ROLES = {
    "shift": ("Unseen styles", "drawn by hands the model never saw; the headline is the mean of these"),
    "unseen": ("Unseen concepts", "classes that were never in a training pair"),
    "validation": ("Validation", "held out of training; settings were chosen on these"),
    "redrawn": ("Redrawn", "a training style drawn again: reported apart, in no mean"),
    "test": ("Test", ""),
}
"""Role of a set -> what the table says above its rows."""

ORDINALS = ("1st", "2nd", "3rd", "4th", "5th")


def headline(record: Record) -> dict[str, Any]:
    """The number on top: mean top-1, over what, and what guessing would give."""
    zeroshot = mapping(record.metrics.get("zeroshot"))
    shifts = [row for row in record.sets().values() if row.get("role") == "shift"]
    rows = shifts or list(record.sets().values())
    guess = sum(map(chance, rows)) / len(rows) if rows else math.nan
    top1 = number(zeroshot.get("top1"))
    what = f"zero-shot top-1 over {count(zeroshot.get('n'))} pictures"
    if rows:
        kind = "unseen style" if shifts else "set"
        what = f"mean zero-shot top-1 over {counted(len(rows), kind)}"
    return {"top1": top1, "what": what, "chance": guess, "times": top1 / guess if guess else math.nan}


def training(record: Record) -> dict[str, Any]:
    """Facts of the training, as label -> text; and the sentence on augmentation."""
    told = mapping(record.metrics.get("training"))
    seconds, pairs = number(told.get("seconds")), number(told.get("pairs"))
    losses = record.series("train/loss")[1]
    facts = {
        "steps": count(told.get("steps")),
        "pairs": count(pairs),
        "time": duration(seconds),
        "pairs a second": count(pairs / seconds if seconds else math.nan),
        "last loss": f"{losses[-1]:.3f}" if losses else "–",
    }
    return {
        "facts": facts,
        "augmentation": told.get("augmentation"),
        "left_out": number(told.get("left_out_each_epoch")),
        "left_out_of_all": told.get("left_out_of_all_epochs"),
        "samples": told.get("samples"),
        "changed": [str(said) for said in changed]
        if isinstance(changed := told.get("validation_changed"), list)
        else [],
    }


def groups(record: Record) -> list[dict[str, Any]]:
    """The sets by role, in the order of ROLES, each with its rows for the zero-shot table."""
    rows = [_row(name, values) for name, values in record.sets().items()]
    found = []
    for role, (title, about) in ROLES.items():
        members = [row for row in rows if row["role"] == role]
        if len(members) > 1 and len({row["note"] for row in members}) == 1:
            members = [row | {"note": ""} for row in members]  # one remark on all is what `about` says
        if members:
            found.append({"title": title, "about": about, "rows": members})
    return found


def retrieval(record: Record) -> dict[str, Any]:
    """Recall@k by set: the ks, and rows with both ways' shares or the reason why there are none."""
    rows, ks = [], dict[str, None]()
    for name, told in mapping(record.metrics.get("retrieval")).items():
        row = mapping(told)
        ways = [mapping(row.get(way)) for way in ("text_to_image", "image_to_text")]
        ks |= dict.fromkeys(k for way in ways for k in way)
        shown = {"name": name, "ways": ways, "captions": row.get("captions"), "why": row.get("not_computed")}
        rows.append(shown)
    return {"ks": list(ks), "rows": rows}


def examples(record: Record) -> dict[str, Any]:
    """The example pictures by set, each with its bars and a verdict in words."""
    cards = [_card(example) for example in _list(record.examples.get("examples"))]
    sets = [(name, list(members)) for name, members in groupby(cards, key=lambda card: card["set"])]
    right = sum(card["right"] for card in cards)
    maps = record.examples.get("maps") is True
    return {"seed": record.examples.get("seed"), "maps": maps, "sets": sets, "right": right, "n": len(cards)}


def queries(record: Record) -> list[dict[str, Any]]:
    """The gallery's queries, each with its hits and how many of them are correct."""
    found = []
    for query in _list(record.gallery.get("queries")):
        hits = _list(query.get("hits"))
        right = sum(hit.get("correct") is True for hit in hits)
        found.append({"text": query.get("text"), "hits": hits, "right": right})
    return found


def samples(record: Record) -> dict[str, Any]:
    """What was read, and what was skipped: by reason, with the shards."""
    rows = []
    for reason, shards in mapping(record.samples.get("skipped")).items():
        counts = {shard: int(number(n)) for shard, n in mapping(shards).items() if number(n) > 0}
        worst = sorted(counts.items(), key=lambda item: -item[1])
        if worst:
            total = sum(counts.values())
            rows.append({"reason": reason, "n": total, "worst": worst[:5], "more": len(worst) - 5})
    late = {name: _events(record.samples.get(name)) for name in ("retried", "stalled")}
    return {"read": record.samples.get("read"), "rows": rows, "skipped": sum(row["n"] for row in rows), **late}


def _events(of: Any) -> list[tuple[str, int]]:
    """What happened most often first."""
    return sorted(((str(name), int(number(n))) for name, n in mapping(of).items()), key=lambda event: -event[1])


def _row(name: str, values: dict[str, Any]) -> dict[str, Any]:
    role = str(values.get("role"))
    top1, n = number(values.get("top1")), number(values.get("n"))
    low, high = wilson(top1, n)
    skipped = sum(len(keys) for keys in mapping(values.get("skipped")).values() if isinstance(keys, list))
    shown = {key: values.get(key) for key in ("top5", "n", "classes", "note")} | {"skipped": skipped}
    shown |= {"name": name, "role": role if role in ROLES else "test", "top1": top1, "chance": chance(values)}
    return shown | {"low": low, "high": high}


def _card(example: dict[str, Any]) -> dict[str, Any]:
    label, top = example.get("label"), example.get("top")
    pairs = [pair for pair in top if isinstance(pair, list)] if isinstance(top, list) else []
    bars = [(name, number(share), name == label) for name, share in pairs[: len(ORDINALS)]]
    place = next((i for i, bar in enumerate(bars) if bar[2]), -1)
    right = place == 0
    verdict = "right" if right else f"wrong, truth {ORDINALS[place]}" if place > 0 else "wrong, not listed"
    card = {key: example.get(key) for key in ("set", "key", "image", "map")}
    return card | {"label": label, "bars": bars, "right": right, "verdict": verdict}


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share of n independent trials (Wilson 1927); nan for what is no share."""
    if not (n > 0 and 0 <= share <= 1):
        return math.nan, math.nan
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def chance(values: dict[str, Any]) -> float:
    """What guessing gives: as recorded, else one in the number of classes."""
    classes = number(values.get("classes"))
    return number(values.get("chance", 1 / classes if classes else math.nan))


def _list(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
