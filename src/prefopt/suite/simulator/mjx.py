"""MuJoCo's JAX engine behind the simulator's interface: for GPUs; on a CPU it is slower than the others by far.

N environments. Same models, rewards and observations; arithmetic in float32, another contact solver path: values agree with
the other backends to about 1e-3 over a few steps, and trajectories part later, as chaotic systems do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.suite.simulator.environments import Array, Environment


def load_mjx() -> Any:
    """The mujoco.mjx module. Raises PrefoptError where it is not installed."""
    try:
        from mujoco import mjx
    except ImportError as error:
        raise PrefoptError(
            f"suite: backend 'mjx' needs mujoco-mjx ({error}); install it with: pip install mujoco-mjx"
        ) from None
    return mjx


class MjxStepper:
    """One step of N environments, compiled once per power of two: N is filled up to the next one with copies."""

    def __init__(self, model: Any, environment: Environment) -> None:
        import jax

        mjx = load_mjx()
        on_device = mjx.put_model(model, impl="jax")
        blank = mjx.make_data(model, impl="jax")

        def one(qpos: Any, qvel: Any, control: Any) -> tuple[Any, ...]:
            data = blank.replace(qpos=qpos, qvel=qvel, ctrl=control)
            data = jax.lax.fori_loop(0, environment.frame_skip, lambda _, now: mjx.step(on_device, now), data)
            if environment.body_position:  # Ant: contact forces are part of the observation
                data = mjx.rne_postconstraint(on_device, data)
                return data.qpos, data.qvel, data.xpos[1, :2], data._impl.cfrc_ext[1:].reshape(-1)
            return data.qpos, data.qvel, data.qpos[:2], data.qpos[:0]

        self._run = jax.jit(jax.vmap(one))

    def __call__(self, qpos: Array, qvel: Array, action: Array) -> list[Array]:
        """qpos [N, nq], qvel [N, nv], action [N, A] -> qpos, qvel, xy [N, 2], contact forces [N, bodies * 6 or 0]."""
        count = len(action)
        filled = np.minimum(np.arange(1 << (count - 1).bit_length()), count - 1)
        out = self._run(*(np.asarray(x[filled], dtype=np.float32) for x in (qpos, qvel, action)))
        return [np.asarray(x[:count], dtype=np.float64) for x in out]
