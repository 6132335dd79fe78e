"""The new names of classes and functions that an earlier version named differently.

A `_target_` of ours is in the config of every run, in every checkpoint and export, and in users' own configs. If you
move or rename one, add a line here. Remove a line only if no config could ever build what it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The earlier name of a module, class or function -> the name now.
MOVED: dict[str, str] = {
    "diptych.allocator": "diptych.base.allocator",
    "diptych.assess": "diptych.tasks.zeroshot",
    "diptych.atomic": "diptych.base.files",
    "diptych.assess.write_retrieval": "diptych.tasks.retrieval.write_retrieval",
    "diptych.batch": "diptych.base.batch",
    "diptych.boundary": "diptych.commands.boundary",
    "diptych.checking": "diptych.building.build",
    "diptych.claim": "diptych.commands.claim",
    "diptych.commands.sweeps": "diptych.commands.cli",
    "diptych.comparing": "diptych.tasks.robustness",
    "diptych.config": "diptych.commands.config",
    "diptych.cost": "diptych.model.cost",
    "diptych.creating": "diptych.commands.create",
    "diptych.data.augment": "diptych.data.pixels.augment",
    "diptych.data.benchmarks": "diptych.data.sets.benchmarks",
    "diptych.data.bpe": "diptych.data.text.bpe",
    "diptych.data.captions": "diptych.data.stream.pairs",
    "diptych.data.children": "diptych.launch.children",
    "diptych.data.class_folders": "diptych.data.sets.folders",
    "diptych.data.cleaning": "diptych.data.text.cleaning",
    "diptych.data.decode": "diptych.data.pixels.decode",
    "diptych.data.eval_identity": "diptych.data.sets.evalset",
    "diptych.data.eval_samples": "diptych.data.sets.benchmark_set",
    "diptych.data.evalset": "diptych.data.sets.evalset",
    "diptych.data.evalset.benchmark_sets": "diptych.data.sets.benchmark_set.benchmark_sets",
    "diptych.data.evalset.folder_set": "diptych.data.sets.folders.folder_set",
    "diptych.data.files": "diptych.data.io.files",
    "diptych.data.handover": "diptych.data.stream.worker",
    "diptych.data.headers": "diptych.data.stream.headers",
    "diptych.data.identity": "diptych.data.stream.identity",
    "diptych.data.image": "diptych.data.pixels.image",
    "diptych.data.imagenet": "diptych.data.sets.published",
    "diptych.data.index": "diptych.data.stream.index",
    "diptych.data.io.pipe": "diptych.data.io.files",
    "diptych.data.jpeg": "diptych.data.pixels.jpeg",
    "diptych.data.karpathy": "diptych.data.sets.published",
    "diptych.data.keys": "diptych.data.stream.shards",
    "diptych.data.labelled": "diptych.data.sets.pair_set",
    "diptych.data.labelled.train_folder": "diptych.data.sets.folders.train_folder",
    "diptych.data.labelled.train_split": "diptych.data.sets.benchmark_set.train_split",
    "diptych.data.listing": "diptych.data.sets.folders",
    "diptych.data.opening": "diptych.data.sets.opening",
    "diptych.data.order": "diptych.data.stream.order",
    "diptych.data.pair_set": "diptych.data.sets.pair_set",
    "diptych.data.pairs": "diptych.data.stream.pairs",
    "diptych.data.parquet_set": "diptych.data.sets.parquet_set",
    "diptych.data.patterns": "diptych.data.stream.patterns",
    "diptych.data.pixels.resize": "diptych.data.pixels.image",
    "diptych.data.reading.address": "diptych.data.io.address",
    "diptych.data.reading.bucket": "diptych.data.io.bucket",
    "diptych.data.reading.cache": "diptych.data.io.cache",
    "diptych.data.reading.http": "diptych.data.io.http",
    "diptych.data.reading.pipe": "diptych.data.io.files",
    "diptych.data.reading.resume": "diptych.data.io.retry",
    "diptych.data.resize": "diptych.data.pixels.image",
    "diptych.data.seeding": "diptych.base.seeding",
    "diptych.data.seen": "diptych.data.stream.headers",
    "diptych.data.sets.class_folders": "diptych.data.sets.folders",
    "diptych.data.sets.evalset.benchmark_sets": "diptych.data.sets.benchmark_set.benchmark_sets",
    "diptych.data.sets.evalset.folder_set": "diptych.data.sets.folders.folder_set",
    "diptych.data.sets.identity": "diptych.data.sets.evalset",
    "diptych.data.sets.imagenet": "diptych.data.sets.published",
    "diptych.data.sets.karpathy": "diptych.data.sets.published",
    "diptych.data.sets.labelled": "diptych.data.sets.pair_set",
    "diptych.data.sets.labelled.train_folder": "diptych.data.sets.folders.train_folder",
    "diptych.data.sets.labelled.train_split": "diptych.data.sets.benchmark_set.train_split",
    "diptych.data.sets.listing": "diptych.data.sets.folders",
    "diptych.data.sets.samples": "diptych.data.sets.benchmark_set",
    "diptych.data.sets.synonyms": "diptych.data.sets.pair_set",
    "diptych.data.shards": "diptych.data.stream.shards",
    "diptych.data.sources.checking": "diptych.packing.checking",
    "diptych.data.sources.emoji": "diptych.packing.emoji",
    "diptych.data.sources.energon": "diptych.packing.energon",
    "diptych.data.sources.entries": "diptych.packing.entries",
    "diptych.data.sources.folder": "diptych.packing.folder",
    "diptych.data.sources.img2dataset": "diptych.packing.img2dataset",
    "diptych.data.sources.job": "diptych.packing.job",
    "diptych.data.sources.parquet": "diptych.packing.parquet",
    "diptych.data.sources.processes": "diptych.packing.processes",
    "diptych.data.sources.shards": "diptych.packing.shards",
    "diptych.data.sources.table": "diptych.packing.table",
    "diptych.data.sources.verify": "diptych.packing.verify",
    "diptych.data.sources.writing": "diptych.packing.writing",
    "diptych.data.steps": "diptych.data.stream.steps",
    "diptych.data.stream.captions": "diptych.data.stream.pairs",
    "diptych.data.stream.handover": "diptych.data.stream.worker",
    "diptych.data.stream.keys": "diptych.data.stream.shards",
    "diptych.data.stream.seen": "diptych.data.stream.headers",
    "diptych.data.synonyms": "diptych.data.sets.pair_set",
    "diptych.data.tar": "diptych.data.stream.tar",
    "diptych.data.tokenizer": "diptych.data.text.tokenizer",
    "diptych.data.validation": "diptych.data.sets.held_out",
    "diptych.data.walk": "diptych.data.stream.walk",
    "diptych.distributed": "diptych.launch.distributed",
    "diptych.doubled": "diptych.base.textfile",
    "diptych.encode": "diptych.model.encode",
    "diptych.errors": "diptych.base.errors",
    "diptych.experiment": "diptych.commands.experiment",
    "diptych.fewshot": "diptych.tasks.fewshot",
    "diptych.fitting": "diptych.commands.fit",
    "diptych.inspecting": "diptych.tasks.quality",
    "diptych.loading": "diptych.model.load",
    "diptych.loss.multi_positive.MultiPositiveLoss": "diptych.loss.contrastive.MultiPositiveLoss",
    "diptych.masking": "diptych.base.masking",
    "diptych.moved": "diptych.base.moved",
    "diptych.nearby": "diptych.base.terminal",
    "diptych.output": "diptych.launch.output",
    "diptych.overrides": "diptych.commands.overrides",
    "diptych.paths": "diptych.base.files",
    "diptych.plain": "diptych.base.plain",
    "diptych.plural": "diptych.base.terminal",
    "diptych.pretrained": "diptych.model.pretrained",
    "diptych.probing": "diptych.tasks.probe",
    "diptych.prompted": "diptych.commands.sets",
    "diptych.prompting": "diptych.tasks.prompts",
    "diptych.quantities": "diptych.base.quantities",
    "diptych.quoting": "diptych.base.terminal",
    "diptych.ranks": "diptych.commands.rank",
    "diptych.recalling": "diptych.model.encode",
    "diptych.recovery": "diptych.commands.resume",
    "diptych.regular": "diptych.base.files",
    "diptych.resuming": "diptych.commands.resume",
    "diptych.run": "diptych.commands.cli",
    "diptych.seen_words": "diptych.data.text.seen_words",
    "diptych.sharing": "diptych.launch.world",
    "diptych.slurm": "diptych.launch.world",
    "diptych.start": "diptych.commands.start",
    "diptych.stored": "diptych.commands.stored",
    "diptych.study.curves": "diptych.report.curves",
    "diptych.study.details": "diptych.report.gallery",
    "diptych.study.embeddings": "diptych.tasks.embeddings",
    "diptych.study.fewshot": "diptych.tasks.fewshot",
    "diptych.study.formats": "diptych.report.formats",
    "diptych.study.gallery": "diptych.report.gallery",
    "diptych.study.geometry": "diptych.evaluation.quality",
    "diptych.study.lead": "diptych.report.page",
    "diptych.study.maps": "diptych.report.plots",
    "diptych.study.plots": "diptych.report.plots",
    "diptych.study.probe": "diptych.tasks.probe",
    "diptych.study.profile": "diptych.report.view",
    "diptych.study.prompts": "diptych.tasks.prompts",
    "diptych.study.quality": "diptych.tasks.quality",
    "diptych.study.record": "diptych.report.record",
    "diptych.study.report": "diptych.report.page",
    "diptych.study.robustness": "diptych.tasks.robustness",
    "diptych.study.sets": "diptych.report.view",
    "diptych.study.view": "diptych.report.view",
    "diptych.sweeps": "diptych.commands.cli",
    "diptych.targets": "diptych.building.targets",
    "diptych.tasks.zeroshot.write_retrieval": "diptych.tasks.retrieval.write_retrieval",
    "diptych.templates": "diptych.base.templates",
    "diptych.terminal": "diptych.base.terminal",
    "diptych.textfile": "diptych.base.textfile",
    "diptych.training.callbacks.words.Words": "diptych.training.callbacks.counts.Words",
    "diptych.training.patches": "diptych.model.patches",
    "diptych.training.strategy.replicated": "diptych.training.strategy.Replicated",
    "diptych.vocabulary": "diptych.commands.stored",
    "diptych.world": "diptych.launch.world",
}


def current(name: str) -> str:
    """The present name of a `_target_`; the same name if it never moved."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        if (now := MOVED.get(".".join(parts[:size]))) is not None:
            return ".".join([now, *parts[size:]])
    return name


def first(name: str) -> str:
    """The name of a `_target_` before it moved, which stays the same if a later version moves it again.

    If several modules became one, the first line in MOVED counts.
    """
    parts = name.split(".")
    before = {now: old for old, now in reversed(MOVED.items())}
    for size in range(len(parts), 0, -1):
        if (old := before.get(".".join(parts[:size]))) is not None:
            return ".".join([old, *parts[size:]])
    return name


def renamed(node: Any) -> Any:
    """A stored config, nested mappings and lists of plain data, with the present name at each `_target_`."""
    if isinstance(node, Mapping):
        return {
            key: current(value) if key == "_target_" and isinstance(value, str) else renamed(value)
            for key, value in node.items()
        }
    if isinstance(node, list | tuple):
        return [renamed(value) for value in node]
    return node
