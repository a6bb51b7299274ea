"""The steps of CVFP training written plainly in PyTorch: what this project is measured against.

The equations are those of ``cvfp_jax``: one context layer and one token layer, a tied frozen head. Every step
does what a careful PyTorch user would write first: layers on concatenated inputs, autograd, ``torch.optim``.
"""

import jax
import torch
from torch import nn
from torch.nn import functional

from benchmarks import parts
from benchmarks.parts import Part
from benchmarks.timing import Run
from benchmarks.workload import Workload

MICRO_BATCH = 8000
DIST_REG_WEIGHT = 0.9
CONVERGENCE_THRESHOLD = 0.03


class Layer(nn.Module):
    """``LN(kept + relu(W [context; token] + b))``, with a linear map of what is kept where widths differ."""

    def __init__(self, width_in: int, kept: int, out: int) -> None:
        """Makes the weights of R3."""
        super().__init__()
        self.linear = nn.Linear(width_in, out)
        self.norm = nn.LayerNorm(out)
        self.residual = nn.Linear(kept, out) if kept != out else nn.Identity()
        for part in (self.linear, self.residual):
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.1)
                nn.init.normal_(part.bias, std=0.01)

    def forward(self, context: torch.Tensor, token: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Returns the layer's output."""
        return self.norm(self.residual(kept) + functional.relu(self.linear(torch.cat([context, token], 1))))


class PlainTorch:
    """The model and its data."""

    def __init__(self, work: Workload, precision: str) -> None:
        """Takes the same tokens and tables as this project is given."""
        torch.manual_seed(work.seed)
        self.work = work
        self.autocast = torch.autocast(_device(), torch.bfloat16, enabled=precision == "bf16")
        self.table_VxE = torch.from_numpy(work.table()).to(_device())
        self.ids_N = torch.from_numpy(work.ids()).long().to(_device())
        vectors_VxE = functional.layer_norm(self.table_VxE, (work.embed_dim,))
        vectors_NxE = vectors_VxE[self.ids_N]
        K, E = work.input_tokens, work.embed_dim
        padded = functional.pad(vectors_NxE, (0, 0, K - 1, 0))
        self.window_NxKE = torch.cat([padded[i : i + len(vectors_NxE)] for i in range(K)], 1)
        self.context_layer = Layer(work.context_dim + K * E, work.context_dim, work.context_dim).to(_device())
        self.token_layer = Layer(work.context_dim + K * E, K * E, E).to(_device())
        self.contexts_NxD = 0.01 * torch.randn(len(self.ids_N), work.context_dim, device=_device())
        self.phase1_adam = torch.optim.Adam(self.context_layer.parameters(), lr=0.002)
        self.phase2_adam = torch.optim.Adam(self.token_layer.parameters(), lr=0.001)

    def phase1_step(self) -> None:
        """One iteration over all tokens, and one optimizer step."""
        previous_NxD = self.contexts_NxD
        shifted_NxD = torch.cat([previous_NxD[-1:], previous_NxD[:-1]])
        self.phase1_adam.zero_grad()
        starts = range(0, len(previous_NxD), MICRO_BATCH)
        new, converged = [], 0
        for first in starts:
            rows = slice(first, first + MICRO_BATCH)
            with self.autocast:
                contexts = self.context_layer(shifted_NxD[rows], self.window_NxKE[rows], shifted_NxD[rows])
            contexts = contexts.float()
            cvfp = functional.mse_loss(contexts, previous_NxD[rows])
            spread = -torch.linalg.norm(contexts - contexts.mean(0)) / len(contexts)
            loss = (1 - DIST_REG_WEIGHT) * cvfp + DIST_REG_WEIGHT * spread
            (loss / len(starts)).backward()
            with torch.no_grad():
                change = (contexts - previous_NxD[rows]).square().mean(1)
                converged += int((change < CONVERGENCE_THRESHOLD).sum())
            new.append(contexts.detach())
        nn.utils.clip_grad_norm_(self.context_layer.parameters(), 1.0)
        self.phase1_adam.step()
        self.contexts_NxD = torch.cat(new)

    @torch.no_grad()
    def sequential_contexts(self, num_tokens: int) -> torch.Tensor:
        """Exact contexts, one token after the other."""
        context = torch.zeros(1, self.work.context_dim, device=_device())
        contexts = torch.empty(num_tokens, self.work.context_dim, device=_device())
        for place in range(num_tokens):
            context = self.context_layer(context, self.window_NxKE[place : place + 1], context)
            contexts[place] = context[0]
        return contexts

    @torch.no_grad()
    def parallel_contexts(self) -> torch.Tensor:
        """One more iteration of all contexts, from zero before the first token."""
        shifted_NxD = functional.pad(self.contexts_NxD[:-1], (0, 0, 1, 0))
        new = []
        for first in range(0, len(shifted_NxD), MICRO_BATCH):
            rows = slice(first, first + MICRO_BATCH)
            with self.autocast:
                new.append(self.context_layer(shifted_NxD[rows], self.window_NxKE[rows], shifted_NxD[rows]))
        return torch.cat(new).float()

    def phase2_loss(self, first: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean cross-entropy of a batch, and its logits."""
        rows = slice(first, first + batch)
        window_BxKE = self.window_NxKE[rows]
        with self.autocast:
            hidden_BxE = self.token_layer(self.contexts_NxD[rows], window_BxKE, window_BxKE)
            logits_BxV = functional.linear(hidden_BxE, self.table_VxE)
            return functional.cross_entropy(logits_BxV, self.ids_N[first + 1 : first + batch + 1]), logits_BxV

    def phase2_step(self, first: int, batch: int) -> None:
        """One optimizer step on a batch."""
        self.phase2_adam.zero_grad()
        loss, _ = self.phase2_loss(first, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.token_layer.parameters(), 1.0)
        self.phase2_adam.step()

    @torch.no_grad()
    def phase2_eval(self, first: int, batch: int) -> tuple[float, int]:
        """The loss and the number of hits of a batch."""
        loss, logits_BxV = self.phase2_loss(first, batch)
        hits = logits_BxV.argmax(1) == self.ids_N[first + 1 : first + batch + 1]
        return float(loss), int(hits.sum())


def effective_rank(matrix: torch.Tensor) -> float:
    """Effective rank by the singular values of the whole matrix."""
    values = torch.linalg.svdvals(matrix)
    p = values / values.sum()
    return float(torch.exp(-(p * torch.log(p)).sum()))


def prepare(part: Part, precision: str) -> Run:
    """Returns one run of a part; exact contexts and effective ranks are f32 in both precisions."""
    run = _prepare(part, precision)

    def finished() -> None:
        run()
        if _device() == "cuda":
            torch.cuda.synchronize()

    return finished


def _device() -> str:
    """A GPU where this project runs on one."""
    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


def _prepare(part: Part, precision: str) -> Run:
    if part.kind == parts.RANK:
        matrix = torch.from_numpy(part.work.contexts(part.rows)).to(_device())
        return lambda: effective_rank(matrix)
    model = PlainTorch(part.work, precision)
    if part.kind == parts.PHASE1:
        return model.phase1_step
    if part.kind == parts.RECURRENCE:
        return lambda: model.sequential_contexts(part.rows)
    model.contexts_NxD = torch.from_numpy(part.work.contexts(part.work.tokens)).to(_device())
    if part.kind == parts.PARALLEL:
        return model.parallel_contexts
    if part.kind == parts.TRAIN:
        return lambda: model.phase2_step(0, part.rows)
    return lambda: model.phase2_eval(0, part.rows)
