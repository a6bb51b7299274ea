"""What a reader must know to repeat a fit: the checklist of (Mis)Fitting (Li et al., 2025), filled in."""

from collections.abc import Sequence

from cvfp_jax.report.formats import significant
from cvfp_jax.report.page import Block, Facts, Heading
from cvfp_jax.runtime.version import VERSION
from cvfp_jax.scaling.bootstrap import DRAWS, MOST_POINTS
from cvfp_jax.scaling.fitting import STARTS
from cvfp_jax.scaling.laws import ALL_LAWS
from cvfp_jax.scaling.objectives import HUBER, OBJECTIVES
from cvfp_jax.scaling.points import Points
from cvfp_jax.scaling.solve import HUBER_DELTA
from cvfp_jax.scaling.surfaces import SURFACES


def checklist(
    points: Points,
    laws: Sequence[str],
    objective: str,
    limits: Sequence[str],
    errors: Sequence[str],
    draws: int = DRAWS,
) -> list[Block]:
    """Returns the checklist as a section.

    Args:
      points: what was fitted, and what was left out.
      laws: names of those that were fitted.
      objective: its name.
      limits: what the user fixed or bounded, in words.
      errors: the held-out errors, in words.
      draws: of the bootstrap.

    References:
      Li, Kudugunta and Zettlemoyer, (Mis)Fitting: a survey of scaling laws, 2025.
    """
    count = sum(len(group.y) for group in points.groups)
    spans = []
    for n, name in enumerate(points.variables):
        sizes = [size for group in points.groups for size in group.variables[n]]
        spans.append(f"{name} from {min(sizes):.6g} to {max(sizes):.6g}")
    groups = f"{len(points.groups)} group{'s' * (len(points.groups) > 1)}"
    bend = f", bent at {HUBER_DELTA:g}, summed" if objective == HUBER else ""
    weights = "1 / sigma^2" if any(group.sigma for group in points.groups) else "1 for every point"
    many = any(len(group.y) > MOST_POINTS for group in points.groups)
    drawn = f"none, of more than {MOST_POINTS:,} points" if many else f"{draws:,} draws, seed 0"
    facts = [
        ("what is fitted", f"{points.y} against {points.x}; {'; '.join(_formula(name) for name in laws)}"),
        (
            "points",
            f"{count} in {groups}; {', '.join(spans)}",
        ),
        ("left out", "; ".join(points.left_out) or "nothing"),
        ("how the table was read", "; ".join(points.notes) or "as it is"),
        ("objective", OBJECTIVES[objective] + bend),
        ("weights", weights),
        (
            "search",
            "variable projection on a grid of exponents, then damped Gauss-Newton steps to rounding",
        ),
        ("starts", f"the best {STARTS} of the grid, spread over it"),
        ("bounds", "; ".join(bound for name in laws if (bound := _bounds(name)))),
        ("given by the user", "; ".join(limits) or "nothing"),
        ("intervals", "95 %, profile likelihood with Student's t; with Huber's loss from the bootstrap"),
        ("bootstrap", drawn),
        ("held-out error", "; ".join(errors) or "none: the points are too few"),
        ("code", f"cvfp_jax {VERSION}"),
    ]
    return [Heading(2, "Checklist"), Facts(facts)]


def _formula(law: str) -> str:
    return f"{law}: {(ALL_LAWS.get(law) or SURFACES[law]).formula}"


def _bounds(law: str) -> str:
    """The finite bounds of a law's parameters."""
    if law in SURFACES:
        surface = SURFACES[law]
        pairs = ", ".join(
            f"[{low:g}, {high:g}]" for low, high in zip(surface.lower, surface.upper, strict=True)
        )
        return f"{law}: coefficients from 0, exponents in {pairs}"
    found = [
        f"{each.name} from {each.lower:g}" + (f" to {each.upper:g}" if each.upper < float("inf") else "")
        for each in ALL_LAWS[law].parameters
        if each.lower > -float("inf")
    ]
    return f"{law}: {', '.join(found)}" if found else ""


def held_out_errors(rows: Sequence[dict[str, object]]) -> list[str]:
    """Returns the held-out errors of rows of fits.json in words, by group."""
    texts: dict[str, list[str]] = {}
    for row in rows:
        error = row["holdout_log_rmse"] if row.get("test_log_rmse") is None else row["test_log_rmse"]
        if isinstance(error, float):
            texts.setdefault(str(row["group"]), []).append(f"{row['law']} {significant(error)}")
    return [f"{group}: {', '.join(each)}" for group, each in texts.items()]
