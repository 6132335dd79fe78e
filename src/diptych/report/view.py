"""What the page shows of a run itself and of its zero-shot numbers: plain values, with nothing in them trusted."""

from __future__ import annotations

import math
from typing import Any

from diptych.base.terminal import counted
from diptych.report.formats import count, decimal, duration, listed, mapping, mappings, number, percent
from diptych.report.record import Record
from diptych.report.section import Headline, share

ROLES = {
    "shift": ("Unseen styles", "by artists the model never saw; the headline is the mean of these"),
    "unseen": ("Unseen concepts", "classes that were never in a training pair"),
    "validation": ("Validation", "held out of training; settings were chosen on these"),
    "redrawn": ("Redrawn", "a training style drawn again: reported apart, in no mean"),
    "test": ("Test", ""),
}
"""Role of a set -> what the table says above its rows."""


def headline(record: Record) -> dict[str, Any]:
    """Mean zero-shot top-1, over what, and what guessing would give."""
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


def groups(record: Record) -> list[dict[str, Any]]:
    """The sets by role, in the order of ROLES, each with its rows for the zero-shot table."""
    rows = [_row(name, values) for name, values in record.sets().items()]
    found = []
    for role, (title, about) in ROLES.items():
        members = [row for row in rows if row["role"] == role]
        if len(members) > 1 and len({row["note"] for row in members}) == 1:
            members = [row | {"note": ""} for row in members]  # `about` says what one remark on all would say
        if members:
            found.append({"title": title, "about": about, "rows": members})
    return found


def _row(name: str, values: dict[str, Any]) -> dict[str, Any]:
    role, top1 = str(values.get("role")), number(values.get("top1"))
    low, high = wilson(top1, number(values.get("n")))
    return {
        **{key: values.get(key) for key in ("top5", "n", "classes", "note")},
        "name": name,
        "role": role if role in ROLES else "test",
        "top1": top1,
        "low": low,
        "high": high,
        "chance": chance(values),
        "skipped": sum(len(listed(keys)) for keys in mapping(values.get("skipped")).values()),
    }


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share of n independent trials (Wilson 1927); nan where `share` is not from 0 to 1."""
    if not (n > 0 and 0 <= share <= 1):
        return math.nan, math.nan
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def chance(values: dict[str, Any]) -> float:
    """The accuracy of guessing: as recorded, else one in the number of classes."""
    classes = number(values.get("classes"))
    return number(values.get("chance", 1 / classes if classes else math.nan))


def retrieval(record: Record) -> dict[str, Any]:
    """Recall@k by set: the ks, and rows with the shares of both ways or the reason why there are none."""
    rows, ks = [], dict[str, None]()
    for name, told in mapping(record.metrics.get("retrieval")).items():
        row = mapping(told)
        ways = [mapping(row.get(way)) for way in ("text_to_image", "image_to_text")]
        ks |= dict.fromkeys(k for way in ways for k in way)
        rows.append({"name": name, "ways": ways, "captions": row.get("captions"), "why": row.get("not_computed")})
    return {"ks": list(ks), "rows": rows}


def pairs_headline(record: Record) -> Headline:
    """Recall of the pairs that were held out of training, or their loss where no recall was measured."""
    told = mapping(record.metrics.get("pairs"))
    recall, loss = number(mapping(told.get("text_to_image")).get("R@1")), decimal(told.get("loss"))
    where = f"on {count(told.get('n'))} pairs held out of training"
    more = f"{few(told.get('n'))} For zero-shot numbers add data.evaluate=FOLDER, a sub-folder of pictures a class."
    if math.isnan(recall):
        return Headline(loss, "", f"loss {where}.{more}")
    return share(recall, f"recall@1 from text to image {where}; loss {loss}.{more}")


def few(pairs: Any) -> str:
    """A sentence where so few pairs were held out that chance alone gives a high recall; "" elsewhere."""
    n = number(pairs)
    if not 1 <= n < 100:
        return ""
    told = "1 pair is" if n == 1 else f"{count(n)} pairs are"
    return f" {told} few: chance is {percent(1 / n)} %; data.validation=N holds out more."


def prompts(record: Record) -> str:
    """The prompts of all sets in a few words."""
    found: dict[str, None] = {}
    for told in mapping(record.metrics.get("sets")).values():
        for facts in mapping(told).values():
            if own := mapping(mapping(facts).get("prompts")):
                more = f" and {int(number(own['count'])) - 1} more" if number(own.get("count")) > 1 else ""
                found[f"“{own.get('first')}”{more} ({own.get('from')})"] = None
    return "; ".join(found)


def sets(record: Record) -> dict[str, Any]:
    """The prompts, each with the sets that were classified with them, and remarks on how sets were read; empty where
    an older version wrote the file."""
    prompts: dict[tuple[str, ...], list[str]] = {}
    remarks: dict[str, list[str]] = {}

    def add(found: dict[Any, list[str]], key: Any, name: str) -> None:
        if name not in (names := found.setdefault(key, [])):
            names.append(name)

    for told in mapping(record.metrics.get("sets")).values():
        for name, facts in mapping(told).items():
            if own := mapping(mapping(facts).get("prompts")):
                add(prompts, tuple(str(own.get(each)) for each in ("from", "count", "sha256", "first")), str(name))
            for reason, unused in mapping(mapping(facts).get("unused")).items():
                left = mapping(unused)
                first = ", ".join(map(str, listed(left.get("names"))[:5]))
                add(remarks, f"not used, {reason} ({left.get('n')}): {first}", str(name))
            for remark in listed(mapping(facts).get("remarks")):
                add(remarks, str(remark), str(name))
    rows = [
        {"sets": names, "from": whose, "count": total, "sha256": digest[:12], "first": first}
        for (whose, total, digest, first), names in prompts.items()
    ]
    said = [{"sets": names, "remark": remark} for remark, names in remarks.items()]
    return {"prompts": rows, "remarks": said} if rows or said else {}


def training(record: Record) -> dict[str, Any]:
    """Facts of the training, as label -> text; and sentences on augmentation, on samples and on validation."""
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
        "changed": list(map(str, listed(told.get("validation_changed")))),
    }


def samples(record: Record) -> dict[str, Any]:
    """What was read, and what was skipped: by reason, with the shards."""
    rows = []
    for reason, shards in mapping(record.samples.get("skipped")).items():
        worst = [(shard, n) for shard, n in _most_first(shards) if n > 0]
        if worst:
            total = sum(n for _, n in worst)
            rows.append({"reason": reason, "n": total, "worst": worst[:5], "more": len(worst) - 5})
    late = {name: _most_first(record.samples.get(name)) for name in ("retried", "stalled")}
    return {"read": record.samples.get("read"), "rows": rows, "skipped": sum(row["n"] for row in rows), **late}


def _most_first(counts: Any) -> list[tuple[str, int]]:
    """Names and their numbers, the highest first."""
    known = [(str(name), number(n)) for name, n in mapping(counts).items()]
    return sorted(((name, int(n)) for name, n in known if not math.isnan(n)), key=lambda each: -each[1])


def profile(record: Record) -> dict[str, Any]:
    """Where a step's time goes: rows of parts and of operations; empty where nothing was measured."""
    told = record.profile
    whole = number(told.get("seconds"))
    parts = {str(name): number(seconds) for name, seconds in mapping(told.get("parts")).items()}
    if math.isnan(whole) or whole <= 0 or not parts:
        return {}
    most = max((seconds for seconds in parts.values() if not math.isnan(seconds)), default=whole)
    exchanged = number(told.get("communication"))
    return {
        "ms": 1000 * whole,
        "steps": told.get("steps"),
        "after": told.get("after"),
        "rows": [
            {"name": name, "ms": 1000 * seconds, "share": seconds / whole, "length": seconds / most}
            for name, seconds in parts.items()
            if seconds > 0
        ],
        "operations": [
            {"name": str(each.get("name")), "share": number(each.get("share")), "calls": number(each.get("calls"))}
            for each in mappings(told.get("operations"))
        ],
        "communication": 1000 * exchanged if exchanged > 0 else None,
    }
