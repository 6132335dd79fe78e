"""One thing is not several."""

from diptych.base.plural import counted


def test_one_is_singular_and_thousands_have_commas() -> None:
    said = [counted(number, "finding") for number in (0, 1, 2, 1000)]
    assert said == ["0 findings", "1 finding", "2 findings", "1,000 findings"]
    assert counted(1, "class", "classes") == "1 class" and counted(2, "class", "classes") == "2 classes"
