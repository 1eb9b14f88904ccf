"""Policies to look at: an animated GIF of one or two policies from the same start state.

MuJoCo's off-screen renderer needs an OpenGL back end that is chosen when mujoco is imported, so frames are drawn in a process
of their own: egl first, osmesa next (`python -m prefopt.suite.render` is that process).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.suite.agents.agents import AgentsConfig, make_simulator
from prefopt.suite.simulator.episodes import run_episodes
from prefopt.suite.simulator.policy import Params, stack
from prefopt.suite.simulator.simulator import load_model
from prefopt.suite.store import load_arrays, save_arrays
from prefopt.tables.ours import MARK
from prefopt.tables.records import atomic_file

BACKENDS = ("egl", "osmesa")
WIDTH, HEIGHT = 240, 200  # pixels of one policy's picture
EVERY = 5  # steps between frames; a Hopper step is 8 ms


def render(
    config: AgentsConfig, policies: Sequence[Params], target: Path, *, seconds: float = 4.0, seed: int = 0
) -> Path:
    """Writes a GIF with the policies side by side, from one start state, in simulated time.

    Raises:
        PrefoptError: no OpenGL back end works here, or Pillow is missing.
    """
    with make_simulator(config, threads=1) as simulator:
        env = simulator.environment
        steps = max(EVERY, round(seconds / env.step_s))
        poses = []
        for policy in policies:
            start = simulator.reset(1, np.random.default_rng(seed))
            run = run_episodes(
                simulator,
                stack([policy]),
                start,
                [np.random.default_rng([seed, 1])],
                record=True,
                max_steps=steps,
            )
            assert run.actions is not None
            rows, state = [], start
            for action in run.actions[0, 0, : run.lengths[0, 0]]:
                state = simulator.step(state, np.clip(action[None], -1.0, 1.0)).state
                rows.append(state.physics[0, 1 : 1 + simulator.model.nq])
            poses.append(np.stack(rows)[::EVERY])
    frames = draw(config, poses)
    write_gif(frames, target, milliseconds=1000.0 * env.step_s * EVERY)
    return target


def draw(config: AgentsConfig, poses: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures [F, HEIGHT, K * WIDTH, 3] of K pose sequences [F_k, nq]; a shorter one stands still at its end."""
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "poses.safetensors", Path(folder) / "frames.safetensors"
        save_arrays(source, {f"poses{k}": np.asarray(x, dtype=np.float64) for k, x in enumerate(poses)})
        command = [sys.executable, "-m", "prefopt.suite.render", config.environment, str(source), str(target)]
        for backend in BACKENDS:
            done = subprocess.run(
                command, env={**os.environ, "MUJOCO_GL": backend}, capture_output=True, text=True, check=False
            )
            if target.exists():  # the renderer's destructor may fail after the pictures are written
                return load_arrays(target)["frames"]
            failures.append(f"{backend}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    raise PrefoptError(
        f"suite render: no OpenGL back end works here ({'; '.join(failures)}); install libegl1 or libosmesa6"
    )


def write_gif(frames: np.ndarray, target: Path, *, milliseconds: float) -> None:
    """Frames [F, H, W, 3] uint8 as an endless GIF."""
    try:
        from PIL import Image
    except ImportError:
        raise PrefoptError("suite render: needs Pillow; install it with: pip install pillow") from None
    images = [Image.fromarray(frame).quantize(32, dither=Image.Dither.NONE) for frame in frames]
    with atomic_file(target) as temporary:
        images[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=max(20, round(milliseconds)),
            loop=0,
            comment=MARK,
        )


def draw_here(environment: str, poses: Sequence[np.ndarray]) -> np.ndarray:
    """`draw` in this process, with the back end that mujoco was imported with."""
    import mujoco

    from prefopt.suite.simulator.environments import find_environment

    model = load_model(find_environment(environment))
    model.mat_texrepeat[:] /= 4  # large tiles: the floor's edges are most of a GIF's bytes
    data = mujoco.MjData(model)
    renderer = mujoco.Renderer(model, HEIGHT, WIDTH)
    camera = mujoco.MjvCamera()
    camera.type, camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, 1
    camera.distance, camera.elevation, camera.azimuth = 3.0, -12.0, 90.0
    columns = []
    for rows in poses:
        pictures = []
        for row in rows:
            data.qpos[:] = row
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera)
            pictures.append(renderer.render().copy())
        columns.append(pictures)
    longest = max(map(len, columns))
    filled = [pictures + [pictures[-1]] * (longest - len(pictures)) for pictures in columns]
    return np.concatenate([np.stack(pictures) for pictures in filled], axis=2)


def main(environment: str, source: str, target: str) -> None:
    """Draws the poses of a file into a file."""
    arrays = load_arrays(Path(source))
    frames = draw_here(environment, [arrays[f"poses{k}"] for k in range(len(arrays))])
    save_arrays(Path(target), {"frames": frames})


if __name__ == "__main__":
    main(*sys.argv[1:])
