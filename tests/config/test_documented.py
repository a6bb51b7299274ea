import dataclasses
import pydoc

import pytest

from cvfp_jax.config import baseline, data, settings
from cvfp_jax.config.baseline import BaselineConfig
from cvfp_jax.config.documented import attribute_docs, documented
from cvfp_jax.config.settings import DataConfig, ModelConfig, Phase1Config, Phase2Config, RunConfig

CONFIGS = (ModelConfig, Phase1Config, Phase2Config, BaselineConfig, DataConfig, RunConfig)
CHOICES = {
    "context_mode": settings.CONTEXT_MODES,
    "activation": settings.ACTIVATIONS,
    "init": settings.INITIALISERS,
    "initial_contexts": settings.INITIAL_CONTEXTS,
    "first_context": settings.FIRST_CONTEXTS,
    "context_dtype": settings.CONTEXT_DTYPES,
    "diversity": settings.DIVERSITIES,
    "stop": settings.STOPS,
    "train_contexts": settings.TRAIN_CONTEXTS,
    "small_gain": settings.SMALL_GAINS,
    "contexts": settings.CONTEXTS,
    "architecture": baseline.ARCHITECTURES,
    "vocabulary": data.VOCABULARIES,
    "turns": data.TURNS,
    "turn_separator": data.SEPARATORS,
    "sample": data.SAMPLES,
    "preference": data.PREFERENCES,
    "precision": settings.PRECISIONS,
    "corpus": ("pydocs", "ultrachat", "ultrachat:FOLDER", "text:PATH"),
    "embedding": ("gpt2", "file:PATH", "spectral", "random"),
}


@documented
@dataclasses.dataclass(frozen=True)
class Example:
    """An example."""

    one: int = 1
    """Its meaning, which goes on
    on the next line."""
    two: str = ""
    three: bool = False
    """Whether it is so."""

    def method(self) -> None:
        """No field."""
        four: int = 4
        """No field either."""
        del four


def test_a_docstring_belongs_to_the_field_above_it():
    assert attribute_docs(Example) == {
        "one": "Its meaning, which goes on on the next line.",
        "three": "Whether it is so.",
    }


def test_help_shows_the_fields_below_the_classs_own_docstring():
    assert Example.__doc__.splitlines() == [
        "An example.",
        "",
        "Attributes:",
        "  one: Its meaning, which goes on on the next line. (int; default: 1)",
        "  two: (str; default: )",
        "  three: Whether it is so. (bool; default: false)",
    ]


def test_a_class_without_source_has_its_own_docstring_only():
    made = dataclasses.make_dataclass("Made", [("one", int, 1)], namespace={"__doc__": "Made."})
    assert attribute_docs(made) == {}
    assert documented(made).__doc__.startswith("Made.\n\nAttributes:\n  one: (int; default: 1)")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_setting_has_a_sentence_that_help_shows(config):
    docs = attribute_docs(config)
    shown = " ".join(pydoc.plain(pydoc.render_doc(config)).replace("|", " ").split())
    assert docs.keys() == {field.name for field in dataclasses.fields(config)}
    for name, doc in docs.items():
        assert doc[0].isupper(), name
        assert doc.endswith("."), name
        assert f"{name}: {doc}" in shown, name


def test_every_choice_is_named():
    docs = {name: doc for config in CONFIGS for name, doc in attribute_docs(config).items()}
    for name, choices in CHOICES.items():
        words = docs[name].replace(",", " ").replace(".", " ").replace("(", " ").split()
        assert [choice for choice in choices if choice not in words] == [], name
