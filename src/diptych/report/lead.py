"""What a page leads with: the number of the task that wrote it, in the place of a headline; nothing in it trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from diptych.report import view
from diptych.report.formats import count, decimal, number, percent
from diptych.report.record import Record, mapping

TITLES = {
    "zeroshot": "zero-shot evaluation",
    "retrieval": "retrieval evaluation",
    "probe": "linear probe",
    "fewshot": "few-shot evaluation",
    "prompts": "search for prompts",
    "robustness": "robustness",
    "quality": "embedding space",
}


def title(record: Record) -> str:
    """What the page is."""
    return TITLES.get(record.task, "evaluation") if record.evaluation else "run report"


def lead(record: Record) -> dict[str, str]:
    """{"big", "unit", "what"}; "big" is "" where nothing was measured."""
    own = OF_TASKS.get(record.task) if record.evaluation else None
    for make in (own, _zero_shot, _retrieval, _pairs, *OF_TASKS.values()):
        if make is not None and (found := make(record)) and found["big"] != "–":
            return found
    return {"big": "", "unit": "", "what": "No accuracy and no recall was measured."}


def prompts(record: Record) -> str:
    """The prompts of all sets in a few words."""
    found: dict[str, None] = {}
    for told in mapping(record.metrics.get("sets")).values():
        for facts in mapping(told).values():
            own = mapping(mapping(facts).get("prompts"))
            if own:
                more = f" and {int(number(own['count'])) - 1} more" if number(own.get("count")) > 1 else ""
                found[f"“{own.get('first')}”{more} ({own.get('from')})"] = None
    return "; ".join(found)


def _share(value: Any, what: str) -> dict[str, str]:
    return {"big": percent(value), "unit": "%", "what": what}


def _zero_shot(record: Record) -> dict[str, str]:
    told = view.headline(record)
    what = f"{told['what']}."
    if told["times"] >= 2:
        what += f" Guessing would give {percent(told['chance'], 2)} %, {count(told['times'])} times less."
    elif not math.isnan(told["chance"]):
        what += f" Guessing would give {percent(told['chance'], 2)} %."
    return _share(told["top1"], what)


def _retrieval(record: Record) -> dict[str, str]:
    rows = [mapping(row) for row in mapping(record.metrics.get("retrieval")).values()]
    shares = [number(mapping(row.get("text_to_image")).get("R@1")) for row in rows]
    known = [share for share in shares if not math.isnan(share)]
    where = f"mean of {len(known)} sets" if len(known) > 1 else f"{count(rows[0].get('n'))} pictures" if rows else ""
    return _share(_mean(known), f"recall@1 from text to image, {where}.")


def _pairs(record: Record) -> dict[str, str]:
    told = mapping(record.metrics.get("pairs"))
    share, loss = number(mapping(told.get("text_to_image")).get("R@1")), decimal(told.get("loss"))
    where = f"on {count(told.get('n'))} pairs held out of training"
    more = f"{few(told.get('n'))} For zero-shot numbers add data.evaluate=FOLDER, a sub-folder of pictures a class."
    if math.isnan(share):
        return {"big": loss, "unit": "", "what": f"loss {where}.{more}"}
    return _share(share, f"recall@1 from text to image {where}; loss {loss}.{more}")


def few(pairs: Any) -> str:
    """A sentence where so few pairs were held out that chance alone makes a high recall; "" elsewhere."""
    n = number(pairs)
    if not 1 <= n < 100:
        return ""
    told = "1 pair is" if n == 1 else f"{count(n)} pairs are"
    return f" {told} few: chance is {percent(1 / n)} %; data.validation=N holds out more."


def _fewshot(record: Record) -> dict[str, str]:
    sets = [mapping(row) for row in mapping(mapping(record.metrics.get("fewshot")).get("sets")).values()]
    points = [mapping(mapping(row.get("curves")).get("linear_probe")) for row in sets]
    ks = sorted({int(k) for of in points for k in of if str(k).isdecimal()})
    if not ks:
        return {}
    shares = [number(mapping(of[str(ks[-1])]).get("top1")) for of in points if str(ks[-1]) in of]
    return _share(
        _mean(shares),
        f"top-1 of a linear probe from {ks[-1]} labelled pictures a class, {_sets(shares)}; zero-shot"
        f" {percent(_mean([number(row.get('zeroshot')) for row in sets]))} %.",
    )


def _probe(record: Record) -> dict[str, str]:
    rows = [mapping(row) for row in mapping(record.metrics.get("probe")).values()]
    shares = [share for row in rows if not math.isnan(share := number(row.get("linear_probe")))]
    return _share(_mean(shares), f"top-1 of the linear probe, {_sets(shares)}.")


def _prompts(record: Record) -> dict[str, str]:
    rows = [mapping(row) for row in mapping(mapping(record.metrics.get("prompts")).get("sets")).values()]
    rows = [row for row in rows if row.get("tuned_here") is not True] or rows
    shares = [share for row in rows if not math.isnan(share := number(mapping(row.get("searched")).get("top1")))]
    plain = _mean([number(mapping(row.get("plain")).get("top1")) for row in rows])
    return _share(_mean(shares), f"top-1 with the searched templates, {_sets(shares)}; plain {percent(plain)} %.")


def _robustness(record: Record) -> dict[str, str]:
    mean = mapping(record.metrics.get("robustness_mean"))
    rows = [mapping(row) for row in mapping(record.metrics.get("robustness")).values()]
    if mean:
        return _share(mean.get("zeroshot"), "mean zero-shot top-1 of the shifts.")
    shares = [share for row in rows if not math.isnan(share := number(row.get("zeroshot")))]
    return _share(_mean(shares), f"zero-shot top-1, {_sets(shares)}.")


def _quality(record: Record) -> dict[str, str]:
    rows = [mapping(row) for row in mapping(record.metrics.get("quality")).values()]
    gaps = [gap for row in rows if not math.isnan(gap := number(row.get("gap")))]
    return {"big": decimal(_mean(gaps)), "unit": "", "what": f"gap between the two modalities, {_sets(gaps)}."}


def _sets(values: list[float]) -> str:
    return "one set" if len(values) == 1 else f"mean of {len(values)} sets"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


OF_TASKS: dict[str, Callable[[Record], dict[str, str]]] = {
    "zeroshot": _zero_shot,
    "retrieval": _retrieval,
    "probe": _probe,
    "fewshot": _fewshot,
    "prompts": _prompts,
    "robustness": _robustness,
    "quality": _quality,
}
