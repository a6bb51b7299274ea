"""A text and flags so small that a whole sweep takes seconds."""

import json

import numpy as np

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "under", "a", "mat", "hill", "and", "then", "slept", "well"]
FLAGS = [
    "--experiment=context_dim",
    "--embedding=random",
    "--samples=6,12,24",
    "--context_dims=8,12",
    "--val_samples=24:30",
    "--config.model.embed_dim=8",
    "--config.phase1.max_iterations=6",
    "--config.phase1.batch_size=200",
    "--config.phase2.epochs=2",
    "--config.phase2.batch_size=64",
]


def flags(*changes):
    """The flags, with others in the place of those of the same name."""
    named = {flag.partition("=")[0]: flag for flag in (*FLAGS, *changes)}
    return list(named.values())


def write_corpus(folder, samples=30, seed=0):
    """Writes samples of a dozen words that follow one another in a fixed order, with some noise."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(samples):
        start = rng.integers(len(WORDS))
        words = [WORDS[(start + step + (rng.random() < 0.2)) % len(WORDS)] for step in range(30)]
        lines.append(json.dumps({"text": " ".join(words)}))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    return f"--corpus=text:{folder}"
