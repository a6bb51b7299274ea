"""Diversity losses: what keeps contexts from falling together. All of them are minimised.

Shapes: B rows of a micro-batch, of which the n valid ones are X, D context width. ``mu`` is the mean of
the rows, ``Xc = X - mu``, ``S = Xc^T Xc / (n - 1)``, ``sigma_j = sqrt(S_jj)`` and ``s`` the singular values.
Costs are those of a value with its gradient. The names are the reports'; "report" is rato-tokyo/new-llm's.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

_VARIANCE_FLOOR = 1e-4  # under the square root of a standard deviation
_COVARIANCE_WEIGHT = 0.04
_LOG_FLOOR = 1e-10  # inside logarithms
_TEMPERATURE = 0.1
_HSIC_PAIRS, _HSIC_ROWS = 50, 1000

# Maps contexts [B, D], which rows are valid [B], and a random key (used by HSIC alone) to a scalar.
DiversityLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _count(valid_B: jax.Array, contexts_BxD: jax.Array) -> jax.Array:
    return valid_B.sum().astype(contexts_BxD.dtype)


def _keep(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """The contexts, zero in the rows that do not count."""
    return jnp.where(valid_B[:, None], contexts_BxD, 0)


def _centred(contexts_BxD: jax.Array, valid_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns ``mu`` and ``Xc``, the latter zero in the rows that do not count."""
    mean_D = _keep(contexts_BxD, valid_B).sum(axis=0) / _count(valid_B, contexts_BxD)
    return mean_D, _keep(contexts_BxD - mean_D[None, :], valid_B)


def _degrees(valid_B: jax.Array, contexts_BxD: jax.Array) -> jax.Array:
    """Returns n - 1, and 1 for a single row, whose deviations are zero."""
    return jnp.maximum(_count(valid_B, contexts_BxD) - 1, 1)


def _variances(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    centred_BxD = _centred(contexts_BxD, valid_B)[1]
    return jnp.square(centred_BxD).sum(axis=0) / _degrees(valid_B, contexts_BxD)


def _covariance(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    centred_BxD = _centred(contexts_BxD, valid_B)[1]
    return centred_BxD.T @ centred_BxD / _degrees(valid_B, contexts_BxD)


def _safe_sqrt(squares: jax.Array) -> jax.Array:
    """The square root, with a zero gradient where it has none."""
    positive = squares > 0
    # The square root of a safe number on the branch that is not taken keeps the gradient finite.
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def _directions(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """The rows divided by their norms."""
    norm_B = _safe_sqrt(jnp.square(contexts_BxD).sum(axis=1))
    return _keep(contexts_BxD / jnp.maximum(norm_B, 1e-12)[:, None], valid_B)


def mcdl(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Mean-centred dispersion loss: minus the spread of the contexts about their mean.

    ``-||Xc||_F / n``. LayerNorm keeps ``||c||`` near ``sqrt(D)``, so the loss is at least
    ``-sqrt(D / n)``: its weight falls with the batch. Where all rows are equal, and the norm has no
    derivative, the gradient is zero. Costs O(n D).

    Args:
      contexts_BxD: float.
      valid_B: bool, which rows count; n is their number.

    Returns:
      A scalar, at most zero.

    References:
      Report of 2025-11-30.

    >>> float(mcdl(jnp.array([[3.0], [-3.0], [9.0]]), jnp.array([True, True, False]))).__round__(4)
    -2.1213
    """
    centred_BxD = _centred(contexts_BxD, valid_B)[1]
    return -_safe_sqrt(jnp.square(centred_BxD).sum()) / _count(valid_B, contexts_BxD)


def oacd(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Origin-anchored centroid dispersion: MCDL, with the mean drawn to the origin.

    ``-||Xc||_F / n + 0.1 ||mu||^2``. Costs O(n D).

    Args and Returns: as for ``mcdl``, of either sign.

    References:
      Reports of 2025-12-01 and 2025-12-03.

    >>> float(oacd(jnp.array([[4.0], [2.0]]), jnp.array([True, True]))).__round__(4)
    0.1929
    """
    mean_D, _ = _centred(contexts_BxD, valid_B)
    return mcdl(contexts_BxD, valid_B) + 0.1 * jnp.square(mean_D).sum()


def _variance_hinge(variances_D: jax.Array) -> jax.Array:
    """``mean_j max(0, 1 - sqrt(S_jj + 1e-4))``: pulls every standard deviation up to 1."""
    return jax.nn.relu(1 - jnp.sqrt(variances_D + _VARIANCE_FLOOR)).mean()


def odcm(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Off-diagonal covariance minimisation: unit variances, no covariances.

    ``mean_j max(0, 1 - sqrt(S_jj + 1e-4)) + 0.04 sum_{i != j} S_ij^2 / D``. Costs O(n D^2).

    Args and Returns: as for ``mcdl``, not negative.

    References:
      Bardes, Ponce and LeCun, VICReg, 2022; report of 2025-12-01.

    >>> float(odcm(jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.array([True, True]))).__round__(4)
    0.16
    """
    cov_DxD = _covariance(contexts_BxD, valid_B)
    off_DxD = jnp.where(jnp.eye(len(cov_DxD), dtype=bool), 0, cov_DxD)
    spread = _COVARIANCE_WEIGHT * jnp.square(off_DxD).sum() / len(cov_DxD)
    return _variance_hinge(jnp.diagonal(cov_DxD)) + spread


def wmse(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Whitening error: unit variances and a covariance near the identity.

    ``mean_j max(0, 1 - sqrt(S_jj + 1e-4)) + 0.04 mean_ij (S_ij - delta_ij)^2``. Costs O(n D^2).

    Args and Returns: as for ``mcdl``, not negative.

    References:
      Ermolov, Siarohin, Sangineto and Sebe, Whitening for Self-Supervised Representation Learning, 2021;
      the form is that of new-llm's commit fc73ad6.

    >>> float(wmse(jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.array([True, True]))).__round__(4)
    0.1
    """
    cov_DxD = _covariance(contexts_BxD, valid_B)
    error_DxD = cov_DxD - jnp.eye(len(cov_DxD), dtype=cov_DxD.dtype)
    return _variance_hinge(jnp.diagonal(cov_DxD)) + _COVARIANCE_WEIGHT * jnp.square(error_DxD).mean()


def ctm(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Covariance trace maximisation: minus the mean variance.

    ``-tr(S) / D``. Costs O(n D).

    Args and Returns: as for ``mcdl``.

    References:
      Report of 2025-12-01.

    >>> float(ctm(jnp.array([[3.0], [-3.0]]), jnp.array([True, True])))
    -18.0
    """
    return -_variances(contexts_BxD, valid_B).mean()


def udel(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Uniform dimension energy: large standard deviations that differ little.

    ``mean_j (sigma_j - mean sigma)^2 - mean sigma``. Costs O(n D).

    Args and Returns: as for ``mcdl``, of either sign.

    References:
      Report of 2025-12-01.

    >>> float(udel(jnp.array([[1.0, 3.0], [-1.0, -3.0]]), jnp.array([True, True]))).__round__(4)
    -0.8284
    """
    std_D = _safe_sqrt(_variances(contexts_BxD, valid_B))
    return jnp.square(std_D - std_D.mean()).mean() - std_D.mean()


def due(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Dimension usage entropy: all dimensions used alike.

    ``sum_j p_j ln(p_j + 1e-10) / ln D`` with ``p_j = mean_t |X_tj|`` divided by their sum. Costs O(n D).

    Args and Returns: as for ``mcdl``, from -1 to 0; zero for D = 1.

    References:
      Report of 2025-12-01.

    >>> float(due(jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.array([True, True]))).__round__(4)
    -1.0
    """
    dim = contexts_BxD.shape[1]
    if dim == 1:
        return jnp.zeros((), contexts_BxD.dtype)
    use_D = jnp.abs(_keep(contexts_BxD, valid_B)).sum(axis=0) / _count(valid_B, contexts_BxD)
    p_D = use_D / (use_D.sum() + _LOG_FLOOR)
    return (p_D * jnp.log(p_D + _LOG_FLOOR)).sum() / jnp.log(jnp.asarray(dim, p_D.dtype))


def sdl(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Spectral diversity: minus the entropy of the singular values, so minus the log of the effective rank.

    ``sum_i p_i ln(p_i + 1e-10)``, ``p = s / sum(s)``, of X as it is, not centred. Costs an SVD,
    O(n D min(n, D)).

    Args and Returns: as for ``mcdl``.

    References:
      Roy and Vetterli, The Effective Rank, 2007; report of 2025-12-01.

    >>> float(sdl(jnp.eye(2), jnp.array([True, True]))).__round__(4)
    -0.6931
    """
    values = jnp.linalg.svd(_keep(contexts_BxD, valid_B), compute_uv=False)
    p = values / (values.sum() + _LOG_FLOOR)
    return (p * jnp.log(p + _LOG_FLOOR)).sum()


def nuc(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Nuclear norm maximisation: minus the sum of the singular values of the centred contexts.

    ``-||Xc||_* / n``. Costs an SVD, O(n D min(n, D)).

    Args and Returns: as for ``mcdl``.

    References:
      Cui, Wang, Zhuo, Li, Huang and Tian, Towards Discriminability and Diversity: Batch Nuclear-norm
      Maximization, 2020; report of 2025-12-01.

    >>> float(nuc(jnp.array([[3.0], [-3.0]]), jnp.array([True, True]))).__round__(4)
    -2.1213
    """
    centred_BxD = _centred(contexts_BxD, valid_B)[1]
    return -jnp.linalg.svd(centred_BxD, compute_uv=False).sum() / _count(valid_B, contexts_BxD)


def decorr(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Decorrelation: a correlation matrix near the identity.

    ``mean_ij (R_ij - delta_ij)^2`` with ``R = Z^T Z / n`` and ``Z_tj = Xc_tj / max(sigma_j, 1e-4)``.
    Costs O(n D^2).

    Args and Returns: as for ``mcdl``, not negative.

    References:
      Zbontar, Jing, Misra, LeCun and Deny, Barlow Twins, 2021; report of 2025-12-01.

    >>> float(decorr(jnp.array([[1.0, -1.0], [-1.0, 1.0]]), jnp.array([True, True]))).__round__(4)
    0.25
    """
    centred_BxD = _centred(contexts_BxD, valid_B)[1]
    std_D = jnp.maximum(_safe_sqrt(_variances(contexts_BxD, valid_B)), 1e-4)
    scaled_BxD = centred_BxD / std_D[None, :]
    corr_DxD = scaled_BxD.T @ scaled_BxD / _count(valid_B, contexts_BxD)
    return jnp.square(corr_DxD - jnp.eye(len(corr_DxD), dtype=corr_DxD.dtype)).mean()


def unif(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """Uniformity on the sphere.

    ``ln(mean_{a != b} exp(-2 ||x_a - x_b||^2) + 1e-10)`` of the rows divided by their norms. Costs
    O(n^2 D) and n^2 numbers of memory.

    Args and Returns: as for ``mcdl``.

    References:
      Wang and Isola, Understanding Contrastive Representation Learning through Alignment and Uniformity on
      the Hypersphere, 2020.

    >>> float(unif(jnp.array([[5.0, 0.0], [-2.0, 0.0]]), jnp.array([True, True]))).__round__(4)
    -8.0
    """
    rows_BxD = _directions(contexts_BxD, valid_B)
    square_B = jnp.square(rows_BxD).sum(axis=1)
    distance_BxB = square_B[:, None] + square_B[None, :] - 2 * rows_BxD @ rows_BxD.T
    others_BxB = valid_B[:, None] & valid_B[None, :] & ~jnp.eye(len(valid_B), dtype=bool)
    total = jnp.where(others_BxB, jnp.exp(-2 * distance_BxB), 0).sum()
    n = _count(valid_B, contexts_BxD)
    return jnp.log(total / jnp.maximum(n * (n - 1), 1) + _LOG_FLOOR)


def infonce(contexts_BxD: jax.Array, valid_B: jax.Array) -> jax.Array:
    """InfoNCE with each row its own positive: rows that can be told from one another.

    ``-mean_a ln softmax_b(cos(x_a, x_b) / 0.1)_a``. Costs O(n^2 D) and n^2 numbers of memory.

    Args and Returns: as for ``mcdl``, not negative.

    References:
      van den Oord, Li and Vinyals, Representation Learning with Contrastive Predictive Coding, 2018.

    >>> float(infonce(jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.array([True, True]))).__round__(4)
    0.6931
    """
    rows_BxD = _directions(contexts_BxD, valid_B)
    logits_BxB = rows_BxD @ rows_BxD.T / _TEMPERATURE
    others_BxB = jnp.where(valid_B[None, :], logits_BxB, -jnp.inf)
    loss_B = jax.nn.logsumexp(others_BxB, axis=1) - jnp.diagonal(logits_BxB)
    return jnp.where(valid_B, loss_B, 0).sum() / _count(valid_B, contexts_BxD)


def hsic(contexts_BxD: jax.Array, valid_B: jax.Array, pairs_Px2: jax.Array) -> jax.Array:
    """Hilbert-Schmidt independence criterion, the mean over pairs of dimensions.

    ``tr(K_i H K_j H) / (n - 1)^2`` with ``K_i = exp(-(x_ai - x_bi)^2)`` and H the centring matrix; a
    pair of equal dimensions counts as zero. Costs O(P n^2).

    Args:
      contexts_BxD: float.
      valid_B: bool, which rows count; n is their number.
      pairs_Px2: int, the pairs of dimensions.

    Returns:
      A scalar, not negative.

    References:
      Gretton, Bousquet, Smola and Schoelkopf, Measuring Statistical Dependence with Hilbert-Schmidt
      Norms, 2005.

    >>> rows = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
    >>> float(hsic(rows, jnp.array([True, True]), jnp.array([[0, 1]]))).__round__(4)
    0.9637
    """
    n = _count(valid_B, contexts_BxD)
    both_BxB = valid_B[:, None] & valid_B[None, :]

    def centred_kernel(column: jax.Array) -> jax.Array:
        values_B = contexts_BxD[:, column]
        kernel_BxB = jnp.where(both_BxB, jnp.exp(-jnp.square(values_B[:, None] - values_B[None, :])), 0)
        rows_B = kernel_BxB.sum(axis=1) / n
        centred = kernel_BxB - rows_B[:, None] - rows_B[None, :] + rows_B.sum() / n
        return jnp.where(both_BxB, centred, 0)

    @jax.checkpoint
    def dependence(pair: jax.Array) -> jax.Array:
        product = (centred_kernel(pair[0]) * centred_kernel(pair[1])).sum()
        return jnp.where(pair[0] == pair[1], 0, product)

    return lax.map(dependence, pairs_Px2).mean() / jnp.square(jnp.maximum(n - 1, 1))


def drawn_hsic(contexts_BxD: jax.Array, valid_B: jax.Array, key: jax.Array) -> jax.Array:
    """HSIC of 50 random pairs of dimensions on at most 1,000 random rows, as in the report of 2025-12-01."""
    pair_key, row_key = jax.random.split(key)
    pairs_Px2 = jax.random.randint(pair_key, (_HSIC_PAIRS, 2), 0, contexts_BxD.shape[1])
    draw_B = jnp.where(valid_B, jax.random.uniform(row_key, valid_B.shape), -1)
    _, rows = lax.top_k(draw_B, min(_HSIC_ROWS, len(valid_B)))
    return hsic(contexts_BxD[rows], valid_B[rows], pairs_Px2)


def _keyless(loss: Callable[[jax.Array, jax.Array], jax.Array]) -> DiversityLoss:
    @functools.wraps(loss)
    def call(contexts_BxD: jax.Array, valid_B: jax.Array, key: jax.Array) -> jax.Array:
        del key
        return loss(contexts_BxD, valid_B)

    return call


DIVERSITY_LOSSES: dict[str, DiversityLoss] = {
    "MCDL": _keyless(mcdl),
    "ODCM": _keyless(odcm),
    "OACD": _keyless(oacd),
    "SDL": _keyless(sdl),
    "NUC": _keyless(nuc),
    "CTM": _keyless(ctm),
    "DUE": _keyless(due),
    "UDEL": _keyless(udel),
    "UNIF": _keyless(unif),
    "DECORR": _keyless(decorr),
    "HSIC": drawn_hsic,
    "InfoNCE": _keyless(infonce),
    "WMSE": _keyless(wmse),
}
