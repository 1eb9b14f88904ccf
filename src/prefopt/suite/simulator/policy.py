"""The Gaussian policy: a tanh network to the mean, one standard deviation per action dimension.

O observations, A actions, P policies, E episodes. Parameters are a flat dict of arrays, so they save as safetensors:
w0 [O, H], b0 [H], w1, b1, w2 [H, A], b2 [A], log_std [A], and the frozen observation statistics obs_mean, obs_std [O].
The same functions take numpy (stepping a simulator) and jax arrays (training); a leading axis P gives P policies.

Convention of log-probabilities: an action dimension is a token. Its probability is density * 0.1 (a cell of width 0.1), and
the standard deviation has a floor of 0.05, so that every token's log-prob is below 0 (at most -0.226) as a language model's
is: losses with log-odds need that. Where policy and reference are subtracted, the width cancels.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from array_api_compat import array_namespace

CELL = 0.1  # width of an action cell: density -> probability
STD_FLOOR = 0.05
OBSERVATION_CLIP = 10.0  # of normalised observations
LAYERS = 3
FROZEN = ("obs_mean", "obs_std")
Params = dict[str, Any]


def init_network(rng: np.random.Generator, sizes: tuple[int, ...], last_scale: float) -> Params:
    """Orthogonal weights w0.. and zero biases b0.. (gain sqrt 2, the last layer `last_scale`), float32."""
    params: Params = {}
    for layer, (rows, columns) in enumerate(pairwise(sizes)):
        gain = last_scale if layer == len(sizes) - 2 else math.sqrt(2.0)
        normal = rng.standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(normal)
        q = q * np.sign(np.diag(r))
        weight = q if rows >= columns else q.T
        params[f"w{layer}"] = (gain * weight).astype(np.float32)
        params[f"b{layer}"] = np.zeros(columns, dtype=np.float32)
    return params


def init_policy(rng: np.random.Generator, observations: int, actions: int, hidden: int = 64) -> Params:
    """A fresh policy with mean near 0 and standard deviation 1."""
    params = init_network(rng, (observations, hidden, hidden, actions), 0.01)
    params["log_std"] = np.zeros(actions, dtype=np.float32)
    params["obs_mean"] = np.zeros(observations, dtype=np.float32)
    params["obs_std"] = np.ones(observations, dtype=np.float32)
    return params


def _row(x: Any, like: Any, stacked: bool) -> Any:
    """A bias [K], or [P, K] spread over the axes between P and K of `like`."""
    if not stacked:
        return x
    return x.reshape(x.shape[0], *([1] * (like.ndim - 2)), x.shape[-1])


def normalise(params: Params, observation: Any) -> Any:
    """(observation - mean) / std, clipped to +-10, float32."""
    xp = array_namespace(params["obs_mean"])
    stacked = params["obs_mean"].ndim == 2
    mean, std = (_row(params[name], observation, stacked) for name in FROZEN)
    return xp.clip((observation - mean) / std, -OBSERVATION_CLIP, OBSERVATION_CLIP)


def network(params: Params, x: Any) -> Any:
    """The tanh network on inputs [..., O] (or [P, ..., O] for P stacked networks) -> [..., A]."""
    stacked = params["w0"].ndim == 3
    for layer in range(LAYERS):
        x = x @ params[f"w{layer}"]
        x = x + _row(params[f"b{layer}"], x, stacked)
        if layer < LAYERS - 1:
            x = array_namespace(x).tanh(x)
    return x


def std(params: Params) -> Any:
    """Standard deviations [A] with their floor."""
    xp = array_namespace(params["log_std"])
    return xp.exp(xp.clip(params["log_std"], math.log(STD_FLOOR), None))


def log_prob(params: Params, features: Any, action: Any) -> Any:
    """Sum over action dimensions of log(density * 0.1), [...] nats, of normalised observations [..., O], actions [..., A]."""
    sigma = std(params)
    z = (action - network(params, features)) / sigma
    xp = array_namespace(z)
    per_token = (
        -0.5 * z * z - array_namespace(sigma).log(sigma) - 0.5 * math.log(2.0 * math.pi) + math.log(CELL)
    )
    return xp.sum(per_token, axis=-1)


def act(params: Params, observation: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
    """Unclipped actions for raw observations [..., O] (stacked: [P, E, O]); noise None takes the mean (numpy)."""
    features = normalise(params, observation.astype(np.float32))
    mean = network(params, features)
    if noise is None:
        return mean
    return mean + _row(std(params), mean, params["w0"].ndim == 3) * noise


def stack(policies: list[Params]) -> Params:
    """P policies as one with a leading axis."""
    return {name: np.stack([np.asarray(p[name]) for p in policies]) for name in policies[0]}


def unstack(params: Params) -> list[Params]:
    """The inverse of `stack`."""
    return [{name: np.asarray(x[k]) for name, x in params.items()} for k in range(len(params["w0"]))]
