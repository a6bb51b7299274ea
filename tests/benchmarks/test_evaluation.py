import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import evaluation
from benchmarks.workload import Workload
from cvfp_jax.core.token_stream import TokenStream

pytestmark = pytest.mark.usefixtures("quick_compilation")
WORK = Workload(tokens=200, context_dim=12, embed_dim=12, vocab=30)


@pytest.fixture(scope="module")
def trained():
    return evaluation.trained_block(WORK, iterations=5)


def test_the_diagonal_is_that_of_the_jacobian(trained):
    block, vectors = trained
    before = jax.random.normal(jax.random.key(0), (30, 12))
    terms = block.token_terms(vectors)[0]

    def step(context, term):
        return block.step(context[None], [term[None]])[-1][0]

    expected = jax.vmap(lambda c, t: jnp.diagonal(jax.jacobian(step)(c, t)))(before, terms)
    new, found = evaluation.diagonals(block, before, terms)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(new, jax.vmap(step)(before, terms), atol=2e-6)


def test_newton_of_a_diagonal_map_is_exact_in_a_pass(trained, monkeypatch):
    block, vectors = trained

    def linear(block, before, term):
        return before / 2 + term, jnp.full_like(before, 0.5)

    monkeypatch.setattr(evaluation, "diagonals", linear)
    terms = block.token_terms(vectors)[0][:9]
    found = evaluation._newton(block, jnp.ones_like(terms), terms)
    expected = [terms[0]]
    for term in terms[1:]:
        expected.append(expected[-1] / 2 + term)
    np.testing.assert_allclose(found, jnp.stack(expected), atol=1e-6)


def test_each_way_is_measured_against_the_walk(trained):
    block, vectors = trained
    lanes, jacobi, newton = evaluation.measure(block, TokenStream(vectors, WORK.ids()), repeats=1)
    assert (lanes.way, lanes.iterations) == ("lanes", None)
    assert lanes.error < 1e-5
    assert jacobi.error <= 1e-6
    assert 5 < jacobi.iterations <= 200
    assert newton.way == "quasi-DEER"


@pytest.mark.slow
def test_a_way_that_fails_is_not_tried_again(capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "QUICK_LENGTHS", (30, 60))
    monkeypatch.setattr(evaluation, "_MOST_ITERATIONS", 2)
    evaluation.main(["--quick", "--repeats=1", "--context_dim=11"])
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[4:]] == ["lanes", "Jacobi", "quasi-DEER", "lanes"]


def test_the_table_and_the_json(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "QUICK_LENGTHS", (64,))
    path = tmp_path / "rows.json"
    evaluation.main(["--quick", "--repeats=1", "--context_dim=12", f"--json={path}"])
    said = capsys.readouterr().out
    assert "quasi-DEER" in said
    assert [row["way"] for row in json.loads(path.read_text())] == ["lanes", "Jacobi", "quasi-DEER"]
