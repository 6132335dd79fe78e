"""A run's report: one HTML file that needs nothing else, made from what the run left in its folder.

Class names, captions and keys come from whoever made the data, so all text is escaped, control characters are made
visible as on the terminal, pictures are taken only as WebP or PNG data, and the page forbids itself scripts and
requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diptych.base.files import write
from diptych.base.terminal import visible
from diptych.report import formats, gallery, view
from diptych.report.curves import charts
from diptych.report.record import ASKED_FOR, PARTS, Record, read
from diptych.report.section import Headline, TaskPage


def write_report(run_dir: Path, tasks: Mapping[str, TaskPage]) -> Path:
    """Write report.html into a run's folder from the files there, and return its path.

    tasks: what each evaluation task shows, by its name, in the order of the page (`diptych.tasks.pages`)
    A file that is missing or damaged is named in the page. Raises UserError where there is no config.yaml.
    """
    record = read(run_dir)
    pairs = formats.mapping(record.metrics.get("pairs"))
    sections = {name: section for name, task in tasks.items() if (section := task.section(record))}
    page = _template().render(
        name=record.name,
        config=record.config,
        environment=record.environment,
        missing=record.missing,
        damaged=record.damaged,
        parts=PARTS | dict.fromkeys(ASKED_FOR, "where a step's time goes"),
        title=title(record, tasks),
        lead=headline(record, tasks),
        checkpoint=record.checkpoint if record.evaluation else "",
        asked=view.prompts(record),
        pairs=pairs,
        few=view.few(pairs.get("n")),
        labelled=bool(record.sets()),
        training=view.training(record),
        groups=view.groups(record),
        unread=formats.mapping(formats.mapping(record.metrics.get("zeroshot")).get("not_computed")),
        retrieval=view.retrieval(record),
        charts=charts(record),
        examples=gallery.shown_examples(record),
        queries=gallery.shown_queries(record),
        gallery_sets=record.gallery.get("sets"),
        details=gallery.shown_details(record),
        samples=view.samples(record),
        evaluation=record.evaluation,
        sections=sections,
        links=[(name, tasks[name].link, True) for name in sections],
        profiled=view.profile(record),
        sets=view.sets(record),
    )
    out = run_dir / "report.html"
    write(out, page)
    return out


def title(record: Record, tasks: Mapping[str, TaskPage]) -> str:
    """What the page is."""
    if not record.evaluation:
        return "run report"
    return tasks[record.task].title if record.task in tasks else "evaluation"


def headline(record: Record, tasks: Mapping[str, TaskPage]) -> Headline:
    """The number that the page leads with: of the task that wrote it, or else of the first that measured
    something."""
    first = [record.task] if record.evaluation else []
    makes = [tasks[name].headline for name in (*first, "zeroshot", "retrieval") if name in tasks]
    for make in (*makes, view.pairs_headline, *(task.headline for task in tasks.values())):
        if (found := make(record)).big != "–":
            return found
    return Headline("", "", "No accuracy and no recall was measured.")


def _template() -> Any:
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("diptych.report"),
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (formats.percent, formats.count, formats.decimal, formats.picture)
    environment.filters |= {each.__name__: each for each in filters}
    return environment.get_template("report.html")


def _shown(value: Any) -> Any:
    """Whatever the page prints passes here, before it is escaped: its control characters, also those in a drawing."""
    from markupsafe import Markup

    text = visible(value)
    return Markup(text) if isinstance(value, Markup) else text
