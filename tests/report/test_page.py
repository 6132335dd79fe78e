"""The report says what the files of the run say, names what they lack, leads with its own number, and is a page that
does nothing."""

from __future__ import annotations

import json
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from diptych.base.errors import UserError
from diptych.base.terminal import visible
from diptych.report.page import headline, title, write_report
from diptych.report.record import Record, read
from diptych.report.view import few, prompts
from diptych.tasks import pages

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, text, ids and attributes, and fails on a tag that is closed by another's end."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.words, self.attributes, self.open = [], [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


def test_the_page_says_what_the_run_wrote(run_dir):
    out = write_report(run_dir, pages())
    assert out == run_dir / "report.html"
    page = Page(out.read_text(encoding="utf-8"))
    for said in [
        "a demo",
        "37.5 %",
        "mean zero-shot top-1 over 2 unseen styles",
        "Guessing would give 16.67 %",
        "1 min 15 s",
        "Augmentation in training. square crop and flip.",
        "Redrawn a training style drawn again: reported apart",
        "4,096 samples read, nothing skipped",
        "a drawing of a cow face.",
        "torch 2.13.0",
        "seed: 7",
        "noto 40.0 %",
        "flat 48 12.5 50.0 100.0 12.5 50.0 100.0",
        "outline not computed: no captions",
        "flat shift 12 55.0 40.0–60.0 – 50.0 40.0–60.0 62.5 40.0–60.0 −5.0 −10.0 … +2.0 +1.5",
        "mean of the shifts 12 55.0",
        "–: task.ngrams= names no run.",
        "flat 12 50.0 25.0 87.5 40.0–60.0",
        "novel not computed: other classes",
        "ridge 75.0 ±5.0 75.0 ±5.0",
        "flat, 16 a class: 0 of 6 classes have 16 pictures in train",
        "flat 12 25.0 +25.0 +20.0 … +30.0 +25.0 +20.0 … +30.0 – +25.0",
        "Templates taken, of 9: an icon of a {}. .",
        "Reliability, flat",
        "flat 0.50 -3.00 0.25 9.50 – 0 2 3 50.0 40.0",
        "novel 0.50 -3.00 0.25 9.50 – not computed: nothing to compare with",
        "flat/0 and noto/7",
        "200.0 ms a step, the median of 20 steps after the first 10",
        "exchange something during 4.00 ms",
        "image tower 150.0 75.0 loss 10.0 5.0 Operations",
        "aten::mm 40.0 12",
    ]:
        assert said in page.text, said
    assert "Missing" not in page.text and "Not logged" not in page.text
    # The charts, and lines of legends: training, reliability, robustness, few-shot, prompts.
    assert page.tags.count("svg") == (6 + 1) + 2 * 1 + 1 + (1 + 2) + 2
    assert page.tags.count("article") == 8 and page.text.count("of 8 right") == 1


def test_right_and_wrong_differ_in_words_and_marks(run_dir):
    page = Page(write_report(run_dir, pages()).read_text(encoding="utf-8"))
    verdicts = re.findall("[✓✗] (?:right|wrong, (?:truth [2-5]..|not listed))", page.text)
    shown = json.loads((run_dir / "examples.json").read_text())["examples"]
    right = sum(example["top"][0][0] == example["label"] for example in shown)
    assert sum(verdict == "✓ right" for verdict in verdicts) == right
    assert sum(verdict.startswith("✗ wrong") for verdict in verdicts) == len(shown) - right


def test_the_page_needs_nothing_and_asks_for_nothing(run_dir):
    html = write_report(run_dir, pages()).read_text(encoding="utf-8")
    page = Page(html)
    assert "http" not in html.replace("http-equiv", "")
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(source.startswith("data:image/webp;base64,") for source in page.values("src"))
    assert any("default-src 'none'" in (value or "") for value in page.values("content"))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for value in page.values("href")} | set(re.findall(r"url\(#([^)]+)\)", html))
    assert wanted <= set(ids)


@pytest.mark.parametrize(
    "file",
    [
        "environment.txt",
        "metrics.jsonl",
        "samples.json",
        "metrics.json",
        "examples.json",
        "gallery.json",
        "details.json",
    ],
)
@pytest.mark.parametrize("content", [None, "", "[1]", '{"zeroshot": 3, "examples": {}, "queries": [1]}'])
def test_a_part_that_is_missing_or_damaged_is_named(run_dir, file, content):
    (run_dir / file).unlink() if content is None else (run_dir / file).write_text(content)
    page = Page(write_report(run_dir, pages()).read_text(encoding="utf-8"))
    if content is None or (content == "[1]" and file.endswith(".json")) or file == "metrics.jsonl":
        assert "This report is incomplete" in page.text
    if content is None:
        assert f"{file} : the run did not write it" in page.text


def test_only_a_config_is_enough(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: [1")  # not even YAML
    page = Page(write_report(tmp_path, pages()).read_text(encoding="utf-8"))
    assert page.text.count("the run did not write it") >= 6
    assert tmp_path.name in page.text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.yaml"):
        write_report(tmp_path, pages())


def test_skipped_samples_are_told_by_reason_and_shard(run_dir):
    shards = {f"train-{i}.tar": 1 for i in range(7)} | {"train-9.tar": 40}
    skipped = {"image cannot be decoded": shards, "no caption": {"train-1.tar": 2}, "none": {}}
    (run_dir / "samples.json").write_text(json.dumps({"read": 100, "skipped": skipped}))
    page = Page(write_report(run_dir, pages()).read_text(encoding="utf-8"))
    assert "100 samples read, 49 skipped" in page.text
    assert "image cannot be decoded 47 train-9.tar (40)" in page.text and "and 3 more" in page.text
    assert "no caption 2 train-1.tar (2)" in page.text


def test_what_was_left_out_is_told(run_dir):
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["training"] |= {"left_out_each_epoch": 96, "samples": 4192}
    metrics["zeroshot"]["sets"]["flat"]["skipped"] = {"no image": ["flat/1", "flat/2"]}
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    page = Page(write_report(run_dir, pages()).read_text(encoding="utf-8"))
    assert "because they fill no whole batch: 96 of 4,192, others each time." in page.text
    assert "2 pictures could not be read" in page.text
    metrics["training"]["left_out_of_all_epochs"] = 0
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    page = Page(write_report(run_dir, pages()).read_text(encoding="utf-8"))
    assert "96 of 4,192, others each time; left out of every whole epoch: 0." in page.text


def test_half_a_line_and_what_is_no_number_are_gaps_not_errors(run_dir):
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "train/loss": NaN, "train/lr": "x"}\n{"step": 42, "tra')
    page = Page(write_report(run_dir, pages()).read_text(encoding="utf-8"))
    assert "could not be read, and are left out: 1" in page.text


EVIL = "\x1b]0;title\x07\x00\u202e<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def test_strings_from_the_data_stay_strings(run_dir):
    """Every string of every file replaced by markup and control characters; also the names of sets and of reasons."""

    def poison(value):
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return EVIL if isinstance(value, str) and value not in ("shift", "redrawn") else value

    for name in ("examples.json", "gallery.json", "metrics.json", "details.json"):
        (run_dir / name).write_text(json.dumps(poison(json.loads((run_dir / name).read_text()))))
    metrics = json.loads((run_dir / "metrics.json").read_text())
    metrics["zeroshot"]["sets"] = {EVIL: metrics["zeroshot"]["sets"]["flat"]}
    for section in (metrics["robustness"], metrics["probe"], metrics["fewshot"]["sets"], metrics["prompts"]["sets"]):
        section[EVIL] = section.pop("flat")
    for section in (metrics["quality"], metrics["duplicates"]):
        section[EVIL] = section.pop("flat")
    metrics["robustness_how"]["usual"] = EVIL
    (run_dir / "details.json").write_text(
        json.dumps({EVIL: json.loads((run_dir / "details.json").read_text())["flat"]})
    )
    metrics["retrieval"] = {EVIL: {"image_to_text": {EVIL: EVIL}}, EVIL * 2: {"not_computed": EVIL}}
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    (run_dir / "samples.json").write_text(json.dumps({"read": EVIL, "skipped": {EVIL: {EVIL: 2}}}))
    (run_dir / "environment.txt").write_text("</pre>" + EVIL)
    (run_dir / "config.yaml").write_text(json.dumps({"name": EVIL}))
    (run_dir / "metrics.jsonl").write_text(json.dumps({"step": 1, f"val/zeroshot/{EVIL}/top1": 0.5}) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib prints a letter that its font lacks as it is
        html = write_report(run_dir, pages()).read_text(encoding="utf-8")
    page = Page(html)
    assert html == visible(html) and html.count(r"\x1b]0;title\x07\x00\u202e&lt;script&gt;") > 20
    assert "script" not in page.tags and "img" not in page.tags
    assert not page.values("onerror") and not page.values("src")
    assert page.text.count("<script>alert(1)</script>") > 20


def test_the_page_of_a_task_lacks_nothing_that_was_not_asked_for(run_dir):
    for name in ("metrics.jsonl", "samples.json", "examples.json", "gallery.json", "details.json", "profile.json"):
        (run_dir / name).unlink()
    (run_dir / "config.yaml").write_text("task: {k: 20}\n")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    (run_dir / "metrics.json").write_text(json.dumps({key: metrics[key] for key in ("probe", "probe_how")}))
    page = Page(write_report(run_dir, pages()).read_text(encoding="utf-8"))
    assert "report is incomplete" not in page.text and "Missing" not in page.text
    assert page.values("href") == ["#probe", "#setup"]
    (run_dir / "metrics.json").unlink()
    page = Page(write_report(run_dir, pages()).read_text(encoding="utf-8"))
    assert "metrics.json : the run did not write it" in page.text


def test_an_evaluation_without_training_or_roles_has_its_headline(run_dir):
    for name in ("metrics.jsonl", "samples.json"):
        (run_dir / name).unlink()
    sets = {"mine": {"top1": 0.5, "n": 10, "classes": 4}}
    (run_dir / "metrics.json").write_text(json.dumps({"zeroshot": {"top1": 0.5, "n": 10, "sets": sets}}))
    page = Page(write_report(run_dir, pages()).read_text(encoding="utf-8"))
    assert "mean zero-shot top-1 over 1 set. Guessing would give 25.00 %, 2 times less" in page.text
    assert "The run did not record it." in page.text
    (run_dir / "metrics.json").write_text(json.dumps({"zeroshot": {"top1": 0.5, "n": 10}}))
    page = Page(write_report(run_dir, pages()).read_text(encoding="utf-8"))
    assert "zero-shot top-1 over 10 pictures." in page.text


SHOTS = {"1": {"top1": 0.1}, "4": {"top1": 0.6}}


METRICS: dict[str, Any] = {
    "zeroshot": {"top1": 0.5, "sets": {"a": {"top1": 0.5, "n": 10, "classes": 4}}},
    "retrieval": {"a": {"text_to_image": {"R@1": 0.25}, "n": 10}},
    "fewshot": {"sets": {"a": {"zeroshot": 0.5, "curves": {"linear_probe": SHOTS}}}},
    "quality": {"a": {"gap": 0.37}},
    "probe": {"a": {"linear_probe": 0.7}},
    "pairs": {"n": 8, "loss": 1.5, "text_to_image": {"R@1": 0.125}},
}


@pytest.mark.parametrize(
    ("task", "big", "what"),
    [
        ("zeroshot", "50.0", "mean zero-shot top-1 over 1 set"), ("retrieval", "25.0", "recall@1 from text to image"),
        ("fewshot", "60.0", "from 4 labelled pictures a class, one set; zero-shot 50.0"), ("quality", "0.37", "gap"),
        ("probe", "70.0", "linear probe"),
    ],
)  # fmt: skip
def test_an_evaluation_leads_with_its_own_number(task: str, big: str, what: str) -> None:
    record = Record("x", "", metrics=METRICS, evaluation=True, task=task)
    assert headline(record, pages()).big == big and what in headline(record, pages()).what
    assert title(record, pages()) != "run report"


def test_a_run_without_labelled_sets_leads_with_its_pairs_and_lacks_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: own")
    for name in ("environment.txt", "metrics.jsonl", "samples.json"):
        (tmp_path / name).write_text('{"step": 1, "read": 1}')
    (tmp_path / "metrics.json").write_text(json.dumps({"pairs": METRICS["pairs"]}))
    record = read(tmp_path)
    assert record.missing == {} and title(record, pages()) == "run report"
    found = headline(record, pages())
    assert found.big == "12.5" and "8 pairs held out of training; loss 1.50" in found.what
    assert "data.evaluate=FOLDER" in found.what
    assert "8 pairs are few: chance is 12.5 %; data.validation=N holds out more." in found.what
    assert few(99) and not few(100) and not few(None) and few(1).startswith(" 1 pair is few")


@pytest.mark.parametrize("odd", [None, 3, [], {"a": 3}, {"sets": {"a": {"curves": []}}}])
def test_nothing_in_metrics_is_trusted(odd: Any) -> None:
    for task in (*METRICS, ""):
        record = Record("x", "", metrics=dict.fromkeys((*METRICS, "sets"), odd), evaluation=bool(task), task=task)
        assert headline(record, pages()).big in ("", "–", "0.00", "0.0") and prompts(record) == ""
