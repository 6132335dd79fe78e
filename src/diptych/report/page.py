"""A run's report: one HTML file that needs nothing else, made from what the run left in its folder.

Class names, captions and keys come from whoever made the data, so all text is escaped, control characters are made
visible as on the terminal, pictures are taken only as WebP or PNG data, and the page forbids itself scripts and
requests.
"""

from pathlib import Path
from typing import Any

from diptych.base.files import write
from diptych.base.terminal import visible
from diptych.report import formats, lead, view
from diptych.report.curves import charts
from diptych.report.details import details
from diptych.report.fewshot import fewshot
from diptych.report.probe import probe
from diptych.report.profile import profiled
from diptych.report.prompts import prompts
from diptych.report.quality import quality
from diptych.report.record import ASKED_FOR, PARTS, mapping, read
from diptych.report.robustness import robustness
from diptych.report.sets import sets


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write `out` (report.html in the run's folder) from the run's files, and return its path.

    A file that is missing or damaged is named in the page. Raises UserError where there is no config.yaml.
    """
    record = read(run_dir)
    page = _template().render(
        name=record.name,
        config=record.config,
        environment=record.environment,
        missing=record.missing,
        damaged=record.damaged,
        parts=PARTS | dict.fromkeys(ASKED_FOR, "where a step's time goes"),
        title=lead.title(record),
        lead=lead.lead(record),
        checkpoint=record.checkpoint if record.evaluation else "",
        asked=lead.prompts(record),
        pairs=mapping(record.metrics.get("pairs")),
        few=lead.few(mapping(record.metrics.get("pairs")).get("n")),
        labelled=bool(record.sets()),
        training=view.training(record),
        groups=view.groups(record),
        unread=mapping(mapping(record.metrics.get("zeroshot")).get("not_computed")),
        retrieval=view.retrieval(record),
        charts=charts(record),
        examples=view.examples(record),
        queries=view.queries(record),
        gallery_sets=record.gallery.get("sets"),
        samples=view.samples(record),
        evaluation=record.evaluation,
        prompts=prompts(record),
        robustness=robustness(record),
        quality=quality(record),
        probe=probe(record),
        details=details(record),
        profiled=profiled(record),
        fewshot=fewshot(record),
        sets=sets(record),
    )
    out = out or run_dir / "report.html"
    write(out, page)
    return out


def _template() -> Any:
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("diptych.report"),
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (formats.percent, formats.count, formats.decimal, formats.gain, formats.picture)
    environment.filters |= {each.__name__: each for each in filters}
    return environment.get_template("report.html")


def _shown(value: Any) -> Any:
    """Whatever the page prints passes here, before it is escaped: its control characters, also those in a drawing."""
    from markupsafe import Markup

    text = visible(value)
    return Markup(text) if isinstance(value, Markup) else text
