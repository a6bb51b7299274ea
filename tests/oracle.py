"""The system's equations once more: float64 NumPy, gradients by hand, nothing shared with the package."""

import numpy as np

EPSILON = 1e-5


def windows(vectors, num_input_tokens):
    """[e_{t-K+1}; ...; e_t] for every t, zeros before the first token."""
    count, width = vectors.shape
    padded = np.concatenate([np.zeros((num_input_tokens - 1, width)), vectors])
    return np.concatenate([padded[k : k + count] for k in range(num_input_tokens)], axis=1)


def normalise(x, gain, shift):
    """LayerNorm; returns what its backward pass needs too."""
    centred = x - x.mean(axis=1, keepdims=True)
    scale = 1.0 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + EPSILON)
    unit = centred * scale
    return unit * gain + shift, unit, scale


def layer(parameters, prefix, norm, kept, first, second):
    """LN(R(kept) + relu(W [first; second] + b)); returns the output and a backward function."""
    weight, bias = parameters[f"{prefix}fnn.0.weight"], parameters[f"{prefix}fnn.0.bias"]
    gain, shift = parameters[f"{prefix}{norm}.weight"], parameters[f"{prefix}{norm}.bias"]
    joined = np.concatenate([first, second], axis=1)
    before = joined @ weight.T + bias
    projection = parameters.get(f"{prefix}residual_proj.weight")
    through = kept if projection is None else kept @ projection.T + parameters[f"{prefix}residual_proj.bias"]
    out, unit, scale = normalise(through + np.maximum(before, 0.0), gain, shift)

    def backward(gradient):
        g_unit = gradient * gain
        inner = g_unit - g_unit.mean(axis=1, keepdims=True)
        inner -= unit * (g_unit * unit).mean(axis=1, keepdims=True)
        g_sum = inner * scale
        g_before = g_sum * (before > 0)
        found = {
            f"{prefix}fnn.0.weight": g_before.T @ joined,
            f"{prefix}fnn.0.bias": g_before.sum(axis=0),
            f"{prefix}{norm}.weight": (gradient * unit).sum(axis=0),
            f"{prefix}{norm}.bias": gradient.sum(axis=0),
        }
        g_kept = g_sum
        if projection is not None:
            found[f"{prefix}residual_proj.weight"] = g_sum.T @ kept
            found[f"{prefix}residual_proj.bias"] = g_sum.sum(axis=0)
            g_kept = g_sum @ projection
        g_joined = g_before @ weight
        return g_kept, g_joined[:, : first.shape[1]], g_joined[:, first.shape[1] :], found

    return out, backward


def context_block(parameters, num_layers, context, window):
    """All layers' outputs, and the gradient of the parameters from that of the last output."""
    outputs, backwards = [], []
    for number in range(num_layers):
        context, backward = layer(parameters, f"layers.{number}.", "context_norm", context, context, window)
        outputs.append(context)
        backwards.append(backward)

    def gradients(gradient):
        found = {}
        for backward in reversed(backwards):
            g_kept, g_first, _, own = backward(gradient)
            found |= own
            gradient = g_kept + g_first
        return found

    return outputs, gradients


def token_block(parameters, contexts, window):
    """The output of the token block: layer i reads the context of layer i."""
    hidden = window
    for number, context in enumerate(contexts):
        hidden, _ = layer(parameters, f"layers.{number}.", "token_norm", hidden, context, hidden)
    return hidden


def recurrence(parameters, num_layers, window, start):
    """Contexts one after the other."""
    context, found = start[None, :], []
    for row in window:
        context = context_block(parameters, num_layers, context, row[None, :])[0][-1]
        found.append(context[0])
    return np.stack(found)


def phase1_step(parameters, moments, count, previous, window, settings):
    """One iteration of phase 1: new contexts, raw gradient, new parameters and logged losses."""
    num_layers, batch_size, weight = settings["L"], settings["b1"], settings["w"]
    tokens = len(previous)
    shifted = np.roll(previous, 1, axis=0)
    starts = range(0, tokens, batch_size)
    gradient = {name: np.zeros_like(value) for name, value in parameters.items()}
    contexts = np.empty_like(previous)
    logged = {"total": 0.0, "cvfp": 0.0, "div": 0.0}
    for first in starts:
        rows = slice(first, min(first + batch_size, tokens))
        outputs, gradients = context_block(parameters, num_layers, shifted[rows], window[rows])
        out, n = outputs[-1], len(outputs[-1])
        change = out - previous[rows]
        centred = out - out.mean(axis=0)
        norm = np.sqrt((centred**2).sum())
        cvfp, div = (change**2).mean(), -norm / n
        g_out = (1 - weight) * 2 * change / change.size
        if norm > 0:
            g_out = g_out - weight * centred / (norm * n)
        for name, value in gradients(g_out).items():
            gradient[name] += value / len(starts)
        contexts[rows] = out
        for name, value in (("total", (1 - weight) * cvfp + weight * div), ("cvfp", cvfp), ("div", div)):
            logged[name] += value * n / tokens
    size = np.sqrt(sum((value**2).sum() for value in gradient.values()))
    scale = min(1.0, settings["clip"] / (size + 1e-6))
    new, new_moments = {}, {}
    for name, value in parameters.items():
        m, v = moments[name]
        g = gradient[name] * scale
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        direction = m / (1 - 0.9**count) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
        new[name], new_moments[name] = value - settings["lr"] * direction, (m, v)
    return {
        "contexts": contexts,
        "gradient": gradient,
        "grad_norm": size,
        "parameters": new,
        "moments": new_moments,
        **logged,
    }
