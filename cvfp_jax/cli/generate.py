"""Texts continued and scored with a model that a sweep has left."""

import csv
import dataclasses
import io
import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cvfp_jax.cli.values import read_number, read_path, read_sweep_folder, read_whole
from cvfp_jax.errors import UserError, file_error, read_text
from cvfp_jax.runtime.files import write_atomic

if TYPE_CHECKING:
    from cvfp_jax.generation.sampling import Sampling
    from cvfp_jax.generation.trained import TrainedModel

FLAGS = {
    "cell": "the cell whose model is used, such as 1L_96d_1tok-200 (default: the lowest validation loss)",
    "prompt": "the text to continue",
    "prompt_file": "a file with the text to continue",
    "score": "a text file: print perplexity and accuracy, write the surprisal of each token beside it",
    "max_tokens": "how many tokens to add (default: 100)",
    "temperature": "0 takes the likeliest token each time; 1 draws by the model's own probabilities"
    " (default: 1)",
    "top_k": "draw from the k likeliest tokens only; 0: from all (default: 0)",
    "top_p": "draw from the likeliest tokens that have this share of the probability (default: 1)",
    "seed": "seed of the random numbers (default: 0)",
    "num_samples": "how many continuations to make, together (default: 1)",
    "embedding": "where the model's embedding table is now, file:PATH or gpt2, if that has changed",
}
SWITCHES = {"interactive": "read prompts line by line, and continue each"}
_LEAST = {"max_tokens": 0, "top_k": 0, "seed": 0, "num_samples": 1}
_PROMPTS = ("prompt", "prompt_file", "score", "interactive")


@dataclasses.dataclass(frozen=True)
class GenerateRequest:
    """What to do with a model; exactly one of prompt, score and interactive is given."""

    workdir: Path
    cell: str | None = None
    embedding: str | None = None
    prompt: str | None = None
    score: Path | None = None
    interactive: bool = False
    max_tokens: int = 100
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    num_samples: int = 1

    def run(self) -> bool:
        """Writes what continues the prompt as it is made, or the score."""
        from cvfp_jax.generation.sampling import Sampling  # with the next lines brings JAX
        from cvfp_jax.generation.trained import TrainedModel
        from cvfp_jax.runtime import compilation, numerics

        sampling = Sampling(self.temperature, self.top_k, self.top_p)
        numerics.pin()
        compilation.request_determinism()
        compilation.enable_disk_cache()
        model = TrainedModel.load(self.workdir, self.cell, embedding=self.embedding)
        facts = dict(model.facts())
        print(
            f"{facts.get('cell', self.workdir)}: {model.config.config_name}, {facts['vocabulary']}",
            file=sys.stderr,
        )
        if self.score is not None:
            self._score(model, self.score)
        elif self.prompt is not None:
            self._continue(model, self.prompt, sampling)
        else:
            self._talk(model, sampling)
        return True

    def _continue(self, model: "TrainedModel", prompt: str, sampling: "Sampling") -> None:
        from cvfp_jax.generation.trained import TokenRate  # brings JAX

        if self.num_samples > 1:
            made = model.generate(
                prompt,
                self.max_tokens,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                seed=self.seed,
                num_samples=self.num_samples,
            )
            for number, text in enumerate(made.texts, 1):
                print(f"--- {number}\n{prompt}{text}")
            print(f"[{made.ids.size:,} tokens, {made.tokens_per_second:,.0f} tokens/s]", file=sys.stderr)
            return
        ids = model.encode(prompt)  # a prompt that the model does not know is not printed first
        print(prompt, end="", flush=True)
        pace = TokenRate()
        for text in itertools.islice(model.stream(ids, sampling, self.seed), self.max_tokens):
            print(text, end="", flush=True)
            pace.tick()
        print(flush=True)
        print(f"[{pace.steps:,} tokens, {pace.per_second:,.0f} tokens/s]", file=sys.stderr)

    def _talk(self, model: "TrainedModel", sampling: "Sampling") -> None:
        shown = "> " if sys.stdin.isatty() else ""
        while True:
            print(shown, end="", flush=True)
            line = sys.stdin.readline()
            if not line:
                return
            if line.strip():
                try:
                    self._continue(model, line.rstrip("\n"), sampling)
                except UserError as error:  # the next line may be better
                    print(f"error: {error}", file=sys.stderr)

    def _score(self, model: "TrainedModel", path: Path) -> None:
        text = read_text(path, "save it as UTF-8.")
        score = model.score(text)
        print(f"{path}: {score}")
        buffer = io.StringIO()
        rows = csv.writer(buffer, lineterminator="\n")
        rows.writerow(["token", "text", "surprisal_nats"])
        for number, (id_, surprisal) in enumerate(zip(score.ids_N[1:], score.surprisals_P, strict=True), 2):
            # As JSON has it, so that each token is a line.
            rows.writerow([number, json.dumps(model.decode([int(id_)])), f"{surprisal:.6g}"])
        target = path.with_name(f"{path.name}.surprisal.csv")
        try:
            write_atomic(target, buffer.getvalue().encode())
        except OSError as error:
            raise file_error(
                f"cannot write {target}: {error.strerror}; copy the text elsewhere.", error
            ) from None
        print(f"wrote {target}")


def generate_request(given: Mapping[str, str]) -> GenerateRequest:
    """Returns what flags ask of a model.

    Raises:
      UserError: a value is not allowed, or it is not clear what to do.
    """
    workdir = read_sweep_folder(given)
    asked = [name for name in _PROMPTS if name in given]
    if len(asked) != 1:
        what = " and ".join(f"--{name}" for name in asked) or "nothing to do"
        raise UserError(f"{what}: give one of {', '.join(f'--{name}' for name in _PROMPTS)}.")
    prompt = given.get("prompt")
    if "prompt_file" in given:
        prompt = read_text(read_path("prompt_file", given["prompt_file"]), "save it as UTF-8.")
    if prompt == "":
        raise UserError(f"--{asked[0]} is empty: a model continues one token or more.")
    numbers = {name: read_whole(name, given[name], least) for name, least in _LEAST.items() if name in given}
    shares = {name: read_number(name, given[name]) for name in ("temperature", "top_p") if name in given}
    return GenerateRequest(
        workdir,
        given.get("cell"),
        given.get("embedding"),
        prompt,
        read_path("score", given["score"]) if "score" in given else None,
        "interactive" in given,
        **numbers,
        **shares,  # type: ignore[arg-type]
    )
