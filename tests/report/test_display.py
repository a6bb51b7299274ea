import dataclasses

import pytest

from cvfp_jax.report.display import Display


class Shown(Display):
    def __init__(self, *rows):
        self.rows = list(rows)

    def facts(self):
        return self.rows


def test_a_result_is_a_table_of_text():
    assert repr(Shown(("a", "1"), ("longer", "two words"))) == "Shown\n  a       1\n  longer  two words"
    assert repr(Shown()) == "Shown"


def test_a_result_is_a_table_in_a_notebook():
    shown = Shown(("a <b>", "1 & 2"), ("c", "<script>"))._repr_html_()
    assert shown.startswith("<table><caption>Shown</caption>")
    assert shown.count("<tr>") == 2
    assert "a &lt;b&gt;" in shown
    assert "1 &amp; 2" in shown
    assert "<script>" not in shown


def test_a_dataclass_keeps_the_table_only_if_it_makes_no_text_of_its_own():
    @dataclasses.dataclass(repr=False)
    class Kept(Display):
        value: int

        def facts(self):
            return [("value", str(self.value))]

    assert repr(Kept(3)) == "Kept\n  value  3"


def test_what_is_shown_says_something():
    with pytest.raises(TypeError, match="facts"):
        Display()
