import dataclasses

from cvfp_jax.config.overrides import field_docs, flat_fields
from cvfp_jax.config.settings import RunConfig


def test_every_field_is_described_by_its_comment_and_type():
    docs = field_docs(RunConfig())
    assert docs.keys() == flat_fields(RunConfig()).keys()
    assert docs["phase1.context_noise"] == "standard deviation (float)"
    assert docs["data.corpus"] == "(str)"


@dataclasses.dataclass(frozen=True)
class Example:
    one: int = 1  # its meaning, which goes on
    # on the next line
    two: str = ""

    def method(self) -> None:
        three: int = 3  # no field
        del three


def test_comments_may_go_on_below():
    assert field_docs(Example()) == {
        "one": "its meaning, which goes on on the next line (int)",
        "two": "(str)",
    }
