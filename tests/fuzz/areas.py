"""All areas of the fuzzer, with how many cases the long run gives each: by what a case costs."""

from __future__ import annotations

from fuzz.cases import Area
from fuzz.checkpoints import checkpoints
from fuzz.configs import commands, configs
from fuzz.indexes import addresses, indexes
from fuzz.labelled import classes, evalsets, texts
from fuzz.pictures import pictures, samples
from fuzz.servers import servers
from fuzz.sources import folders, indexing, tables
from fuzz.tars import tars

AREAS = {
    area.name: area
    for area in (
        Area("pictures", pictures, 2000),
        Area("samples", samples, 1200),
        Area("tars", tars, 1600),
        Area("indexes", indexes, 1000),
        Area("addresses", addresses, 800),
        Area("servers", servers, 600),
        Area("texts", texts, 800),
        Area("evalsets", evalsets, 800),
        Area("classes", classes, 500),
        Area("folders", folders, 400),
        Area("tables", tables, 500),
        Area("indexing", indexing, 300),
        Area("checkpoints", checkpoints, 700),
        Area("configs", configs, 400),
        Area("commands", commands, 120),
    )
}
CASES = sum(area.cases for area in AREAS.values())
