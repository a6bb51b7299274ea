from cvfp_jax.config.overrides import field_docs, flat_fields
from cvfp_jax.config.settings import Phase1Config, RunConfig


def test_every_leaf_is_described_with_its_type_and_value():
    docs = field_docs(RunConfig(phase1=Phase1Config(max_iterations=7)))
    assert docs.keys() == flat_fields(RunConfig()).keys()
    assert docs["phase1.max_iterations"].endswith("as in the reports. (int; default: 7)")
    assert docs["phase2.freeze_embedding"].endswith(" (bool; default: true)")
    assert docs["data.corpus"].endswith("text:PATH. (str; default: pydocs)")
