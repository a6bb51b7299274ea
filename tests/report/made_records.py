"""Records as a sweep writes them, without running one."""

import math

from cvfp_jax.report import records

NAMES = {  # that would be trouble on a page if they were not escaped
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=document.title="broken">',
    "end": "</style></title></td>--><b>|",
}


def record(dim=8, samples=50, loss=6.0, **changes):
    """A cell that ended well."""
    seed = changes.get("seed", 42)
    found = {
        **dict.fromkeys(records.FIELDS, 1),
        "experiment": "context_dim",
        "preset": "quick",
        "cell": {"model.context_dim": dim, "num_samples": samples, "seed": seed},
        "seed": seed,
        "status": "ok",
        "config_name": f"1L_{dim}d_1tok",
        "series": f"1L_{dim}d_1tok",
        "rank_verdict": "fair",
        "val_convergence_status": "CONVERGING",
        "is_identity": False,
        "is_zero_solution": False,
        "is_global_attractor": False,
        "context_dim": dim,
        "num_samples": samples,
        "train_tokens": 100 * samples,
        "corpus": "text:x",
        "corpus_sha256": "0" * 64,
        "embedding": "spectral",
        "embedding_sha256": "0" * 64,
        "vocabulary": "full",
        "precision": "f32",
        "device": "cpu",
        "params_context_block": dim * dim,
        "phase1_status": "converged",
        "phase1_iterations": 20,
        "phase1_block_iterations": [20],
        "phase1_convergence_rate": 0.99,
        "phase2_status": "early stop",
        "phase2_epochs": 3,
        "best_epoch": 2,
        "val_loss": loss,
        "val_ppl": math.exp(loss) if loss and loss < 700 else None,
        "val_acc": 0.2,
        "train_effective_rank": 0.8,
        "val_effective_rank": 0.7,
        "unigram_ppl": 700.0,
        "unigram_loss": math.log(700.0),
        "val_samples_in_train": 0,
        "val_whole_samples": 20,
        "val_runs_in_train": 0.001,
        "skipped_rows": None,
        "val_corpus": None,
        "phase1_task_loss": None,
        "kn2_ppl": 300.0,
        "kn3_ppl": 250.0,
        "kn4_ppl": None,
        "architecture": "cvfp",
        "params_trained": 2 * dim * dim,
        "train_flops": 1e9 * samples,
        "tuned": None,
        "val_lyapunov_exponent": -0.3,
        "val_contraction_rate": 0.7,
        "val_parallel_iterations": 40,
    }
    return found | changes


def law_records(dim, alpha, log_A, sizes=(50, 100, 200), **changes):
    """Cells whose losses lie on a power law."""
    return [record(dim, n, log_A + alpha * math.log(100 * n), **changes) for n in sizes]
