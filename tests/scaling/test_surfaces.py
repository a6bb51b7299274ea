"""Laws of two variables: fits, intervals, the best sizes for a budget, and the command line."""

import json

import numpy as np
import pytest
from scipy import optimize

import launch
from cvfp_jax.scaling.fitting import fit_law
from cvfp_jax.scaling.frontier import frontier_line, isoflop_minima, optimal_params
from cvfp_jax.scaling.objectives import OBJECTIVES
from cvfp_jax.scaling.points import Group
from cvfp_jax.scaling.surface_analysis import analyse_surface, surfaces_for
from cvfp_jax.scaling.surface_fit import SurfaceProblem, fit_surface
from cvfp_jax.scaling.surface_intervals import surface_intervals
from cvfp_jax.scaling.surfaces import SURFACES

N, D = (each.ravel() for each in np.meshgrid([1e8, 4e8, 1.6e9, 6.4e9], [2e9, 8e9, 3.2e10, 1.28e11]))
U = np.minimum(D, 1.5e10)
TRUE = {"E": 1.8172, "A": 482.01, "B": 2085.43, "a": 0.3478, "b": 0.3658}


def chinchilla(p, N, D):
    return p["E"] + p["A"] / N ** p["a"] + p["B"] / D ** p["b"]


def worth(R):
    return U * (1 + R * (1 - np.exp(-(D / U - 1) / R)))


MEASURES = {
    "chinchilla": (TRUE, chinchilla(TRUE, N, D)),
    "params_only": ({"E": 2.0, "A": 300.0, "a": 0.3}, 2 + 300 / N**0.3),
    "tokens_only": ({"E": 2.0, "B": 900.0, "b": 0.3}, 2 + 900 / D**0.3),
    "kaplan": (
        {"N_c": 8.8e13, "D_c": 5.4e13, "a": 0.076, "b": 0.095},
        ((8.8e13 / N) ** (0.076 / 0.095) + 5.4e13 / D) ** 0.095,
    ),
    "data_constrained": ({**TRUE, "R": 15.0}, chinchilla(TRUE, N, worth(15.0))),
}


@pytest.mark.parametrize("law", SURFACES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_law_without_noise_comes_back(law, objective):
    params, y = MEASURES[law]
    fit = fit_surface(law, [N, D, U], y, objective)
    assert fit.status in ("converged", "not identifiable: other parameters fit as well")
    assert fit.params == pytest.approx(params, rel=1e-6)
    assert fit.predict(*(N, D, U)[: fit.law.variables]) == pytest.approx(y, rel=1e-9)


def test_units_change_no_fit():
    y = chinchilla(TRUE, N, D) * np.exp(0.01 * np.random.default_rng(0).normal(size=16))
    one = fit_surface("chinchilla", [N, D], y)
    other = fit_surface("chinchilla", [N / 1e6, D / 1e9], 100 * y)
    assert other.predict(7e4, 1.4e3) == pytest.approx(100 * one.predict(7e10, 1.4e12), rel=1e-7)
    assert other.params["a"] == pytest.approx(one.params["a"], rel=1e-6)
    assert other.aicc == pytest.approx(one.aicc)


@pytest.mark.parametrize("law", ["chinchilla", "kaplan", "data_constrained"])
def test_slopes_are_those_of_the_values(law):
    problem, optimum = fit_surface(law, [N, D, U], MEASURES[law][1]).solved
    x, h = optimum.parameters, 1e-6
    for n, unit in enumerate(np.eye(x.shape[1])):
        moved = [problem.value(x + sign * h * unit, problem.u)[0] for sign in (1, -1)]
        assert problem.curve(x, problem.u)[1][0, :, n] == pytest.approx(
            (moved[0] - moved[1]) / (2 * h), rel=1e-5, abs=1e-8
        )
    assert isinstance(problem, SurfaceProblem)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_scipy_from_many_starts_is_never_better(objective):
    random = np.random.default_rng(4)
    y = chinchilla(TRUE, N, D) * np.exp(0.02 * random.normal(size=16))
    fit = fit_surface("chinchilla", [N, D], y, objective)

    def residuals(p):
        predicted = np.exp(p[0]) + np.exp(p[1] - p[3] * np.log(N)) + np.exp(p[2] - p[4] * np.log(D))
        return predicted - y if objective == "linear" else np.log(predicted / y)

    def cost(r):
        size = np.abs(r)
        return np.sum(
            np.where(size < 1e-3, r**2 / 2, 1e-3 * (size - 5e-4)) if objective == "huber" else r**2 / 2
        )

    best = np.inf
    for _ in range(50 if objective != "huber" else 15):
        start = [
            random.uniform(0, 1),
            random.uniform(2, 9),
            random.uniform(2, 9),
            *random.uniform(0.1, 0.7, 2),
        ]
        if objective == "huber":
            found = optimize.minimize(
                lambda p: cost(residuals(p)),
                start,
                method="Nelder-Mead",
                options={"maxiter": 4000, "maxfev": 4000},
            )
            best = min(best, float(found.fun))
        else:
            best = min(best, float(optimize.least_squares(residuals, start, max_nfev=400).cost))
    scale = float(np.exp(2 * np.log(y).mean())) if objective == "linear" else 1.0
    assert fit.cost * scale <= best * (1 + 1e-8)


def test_a_fixed_second_size_is_the_law_of_one_variable():
    x = np.geomspace(1e6, 1e9, 8)
    y = (2 + 300 / x**0.3) * np.exp(0.01 * np.random.default_rng(1).normal(size=8))
    one, two = fit_law("saturating", x, y), fit_surface("params_only", [x, np.full(8, 1e9)], y)
    assert list(two.params.values()) == pytest.approx(list(one.params.values()), rel=1e-6)
    assert two.aicc == pytest.approx(one.aicc)


@pytest.mark.parametrize(("objective", "noise"), [("log", 0.01), ("huber", 0.01)])
def test_intervals_hold_the_truth_of_one_draw(objective, noise):
    random = np.random.default_rng(0)
    many = np.tile(N, 4), np.tile(D, 4)
    y = chinchilla(TRUE, *many) * np.exp(noise * random.normal(size=64))
    fit = fit_surface("chinchilla", many, y, objective)
    made = [optimal_params("chinchilla", 1e21)]
    found = surface_intervals(fit, [(7e10, 1.4e12)], made, draws=100)
    true = [
        *TRUE.values(),
        chinchilla(TRUE, 7e10, 1.4e12),
        float(np.exp(made[0](np.array([[*TRUE.values()]]))[0])),
    ]
    for interval, value in zip(found, true, strict=True):
        assert interval.low < value < interval.high
    assert found[5].high / found[5].low < 1.2


@pytest.mark.slow
def test_coverage_of_profile_intervals():
    random = np.random.default_rng(7)
    many = np.tile(N, 2), np.tile(D, 2)
    clean, inside = chinchilla(TRUE, *many), np.zeros(5)
    for _ in range(400):
        fit = fit_surface("chinchilla", many, clean * np.exp(0.01 * random.normal(size=32)), starts=4)
        for n, (interval, value) in enumerate(zip(surface_intervals(fit), TRUE.values(), strict=True)):
            inside[n] += interval.low <= value <= interval.high
    assert np.all(inside / 400 > 0.93 - 0.01)
    assert np.all(inside / 400 < 0.97 + 0.01)
    assert 0.93 < inside.mean() / 400 < 0.97


@pytest.mark.parametrize("law", ["chinchilla", "kaplan"])
def test_the_best_size_is_the_least_loss_of_its_budget(law):
    fit = fit_surface(law, [N, D], MEASURES[law][1])
    budget = 1e22
    found = optimize.minimize_scalar(
        lambda u: float(fit.predict(np.exp(u), budget / 6 / np.exp(u))), bounds=(15, 30), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    own = np.array([list(fit.params.values())])
    assert optimal_params(law, budget)(own)[0] == pytest.approx(found.x, abs=1e-4)


def test_minima_of_budgets():
    budgets = np.repeat([1e19, 1e20, 1e21], 7)
    best = (budgets / 6) ** 0.5
    params = best * np.tile(np.geomspace(0.3, 3, 7), 3)
    y = 2 + 0.01 * np.log(params / best) ** 2
    minima = isoflop_minima(params, budgets / 6 / params, y)
    assert [each.runs for each in minima] == [7, 7, 7]
    assert [each.params for each in minima] == pytest.approx((np.unique(budgets) / 6) ** 0.5, rel=1e-6)
    assert frontier_line(minima).alpha == pytest.approx(0.5, abs=1e-6)
    (falls,) = isoflop_minima(params[:7], budgets[:7] / 6 / params[:7], y[:7][::-1] * np.geomspace(1, 2, 7))
    assert not falls.found
    assert isoflop_minima(params[:3], budgets[:3] / 6 / params[:3], y[:3]) == []


@pytest.mark.slow
def test_laws_are_compared_by_what_they_predict():
    y = chinchilla(TRUE, N, D) * np.exp(0.002 * np.random.default_rng(2).normal(size=16))
    group = Group("all", tuple(N), tuple(y), (tuple(D),))
    laws = ["chinchilla", "tokens_only"]
    found = analyse_surface(group, laws, operations=6.0, predict=[(7e10, 1.4e12)])
    assert found.standing == ("chinchilla",)
    assert [row["law"] for row in found.rows] == laws
    assert surfaces_for(3)[-1] == "data_constrained"
    best = found.best["chinchilla"][0]
    assert best.params * best.tokens * 6 == pytest.approx(best.budget)
    assert best.params_interval.low < best.params < best.params_interval.high
    few = analyse_surface(Group("few", tuple(N[:4]), tuple(y[:4]), (tuple(D[:4]),)), predict=[(7e10, 1.4e12)])
    assert few.rows[0]["status"] == "too few points: 4 sizes, 6 or more are needed"
    json.dumps([*few.rows, *found.rows], allow_nan=False)


@pytest.mark.parametrize("variables", [[N], [N, D[:3]]])
def test_what_is_no_table_is_an_error(variables):
    with pytest.raises(ValueError, match=r"takes 2 variables|inhomogeneous"):
        fit_surface("chinchilla", variables, np.ones(16))


def table(path):
    lines = [
        f"{n:.0f},{d:.0f},{6 * n * d},{y}" for n, d, y in zip(N, D, MEASURES["chinchilla"][1], strict=True)
    ]
    path.write_text("\n".join(["params,tokens,flops,loss", *lines]))
    return f"--points={path}"


def test_two_variables_on_the_command_line(tmp_path, capsys):
    flags = [
        table(tmp_path / "p.csv"),
        "--x=params,tokens",
        "--y=loss",
        "--laws=chinchilla",
        "--predict=70B:1.4T",
    ]
    assert (
        launch.main(["launch.py", "--experiment=fit", *flags, "--compute=flops", f"--workdir={tmp_path}"])
        == 0
    )
    out = capsys.readouterr().out
    assert "chinchilla: a  0.3478" in out
    assert "note: column flops: 6 operations for a parameter and a token on average" in out
    (row,) = json.loads((tmp_path / "fits.json").read_text())
    assert row["predictions"][0]["y"] == pytest.approx(chinchilla(TRUE, 7e10, 1.4e12), rel=1e-6)
    assert len(row["best"]) > 3
    text = (tmp_path / "fits.md").read_text()
    assert "figures/fits-1.png" in text
    assert "They are biased" in text or "Minima" not in text
    assert (tmp_path / "figures" / "fits-1.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--laws=power"], "--laws: 'power' is no law of 2 variables: choose of chinchilla, params_only"),
        (["--fix=a=1"], "--fix and --bound are for laws of one variable"),
        (["--predict=1e9"], "--predict needs 2 sizes each"),
        (["--compute=sixND"], "--compute=sixND is no count of operations"),
        (["--compute=C"], "no column 'C'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, flags, part):
    given = [
        table(tmp_path / "p.csv"),
        "--x=params,tokens",
        "--y=loss",
        f"--workdir={tmp_path / 'w'}",
        *flags,
    ]
    assert launch.main(["launch.py", "--experiment=fit", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert part in line
