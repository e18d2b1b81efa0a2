"""How good a policy is: fresh episodes, their statistics, and a film."""

import ctypes.util
import math
import os

import gymnasium as gym
import numpy as np
import torch

from experts.files import InputError
from experts.tasks import reason, seed_for

# D4RL's returns of a random and of an expert policy: score = 100 (R - random) / (expert - random)
REFERENCE_RETURNS = {
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "HalfCheetah": (-280.178953, 12135.0),
    "AdroitHandPen": (96.262799, 3076.8331),
}


def normalized_score(env_id, returns):
    """Episode returns -> D4RL scores, where 0 is a random policy and 100 D4RL's expert (nan without references)."""
    low, high = REFERENCE_RETURNS.get(env_id.split("-")[0], (np.nan, np.nan))
    return 100.0 * (np.asarray(returns, dtype=np.float64) - low) / (high - low)


def _play(actor, envs, episodes, seed, deterministic):
    """Fresh episodes, as many at a time as there are environments, with batched actions.

    Returns their returns and whether their last steps report success (1, 0, nan), (episodes,) each.
    They depend on actor and seed alone, and leave torch's generator as it was.
    """
    returns, successes = np.zeros(episodes), np.full(episodes, np.nan)
    waiting, playing, obs = list(range(episodes)), {}, {}  # playing: environment -> its episode
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        while waiting or playing:
            for env in envs:
                if waiting and env not in playing:
                    playing[env] = waiting.pop(0)
                    obs[env], _ = env.reset(seed=seed_for(seed, playing[env]))
            seen = np.stack([obs[env] for env in playing])  # (playing, O)
            actions = actor.act(seen, deterministic)  # (playing, A)
            for (env, i), action in zip(tuple(playing.items()), actions):
                obs[env], reward, terminated, truncated, info = env.step(action)
                returns[i] += reward
                successes[i] = info.get("success", np.nan)
                if terminated or truncated:
                    del playing[env]
    return returns, successes


def evaluate(env_id, actor, envs, episodes, seed):
    """Statistics of episodes with the policy's mean actions and, stochastic_, with sampled ones."""
    stats = {}
    for prefix, deterministic in (("", True), ("stochastic_", False)):
        returns, successes = _play(actor, envs, episodes, seed, deterministic)
        if not np.isnan(successes).all():  # some report a success only where there is one
            successes = np.nan_to_num(successes)
        stats[f"{prefix}return_mean"] = float(returns.mean())
        stats[f"{prefix}return_std"] = float(returns.std(ddof=1)) if episodes > 1 else 0.0
        stats[f"{prefix}normalized_score"] = float(normalized_score(env_id, returns).mean())
        stats[f"{prefix}success_rate"] = float(100 * successes.mean())
    return stats


def main_metric(rows):
    """The column to judge a run by, known in all rows: success rate (%), else D4RL's score, else the return."""
    for name in ("success_rate", "normalized_score"):
        if not any(
            math.isnan(row[column]) for row in rows for column in (name, f"stochastic_{name}")
        ):
            return name
    return "return_mean"


class _Edged(gym.Wrapper):
    """Pictures with a red edge where the expert acts."""

    by_expert = False

    def render(self):
        picture = np.array(self.env.render())  # (height, width, 3)
        if self.by_expert:
            width = max(1, len(picture) // 40)
            for edge in (
                picture[:width],
                picture[-width:],
                picture[:, :width],
                picture[:, -width:],
            ):
                edge[:] = 220, 40, 40
        return picture


def film(env, actor, folder, seed, human=None, expert=None):
    """Film an episode of the policy's mean actions into folder/videos, and one with its simulated person.

    env has the render mode rgb_array. In the second film the picture has a red edge where the expert acts, by default
    the human's own.
    """
    env = _Edged(env)
    _film_episode(env, actor, f"{folder}/videos", "alone", seed)
    if human and not isinstance(human, gym.Wrapper):  # who is at the keys has gone
        _film_episode(
            env, actor, f"{folder}/videos", "with-the-person", seed, human, expert or human.expert
        )
    env.close()


def _film_episode(edged, actor, folder, name, seed, human=None, expert=None):
    env = gym.wrappers.RecordVideo(edged, folder, name_prefix=name, disable_logger=True)
    obs, _ = env.reset(seed=seed)
    t, expert_until, next_check, ended, rng = 0, 0, 0, False, np.random.default_rng(seed)
    while not ended:
        action = actor.act(obs[None], deterministic=True)[0]  # (A,)
        if human and t >= next_check:
            steps, grace_steps = _takeover(human, obs, action, rng)
            if steps:
                expert_until, next_check = t + steps, t + steps + grace_steps
        edged.by_expert = t < expert_until
        if edged.by_expert:
            action = expert.act(obs[None])[0].numpy()
        obs, _, terminated, truncated, _ = env.step(action)
        t, ended = t + 1, terminated or truncated
    env.stop_recording()


def _takeover(human, obs, action, rng):
    """For how many steps a person takes over, who is asked as in rlif_rlpd.py or as in mile.py; and steps of grace."""
    if hasattr(human, "takes_over"):
        return human.takeover_steps if human.takes_over(obs, rng) else 0, 0
    return human.check(obs, action)[2], human.grace_steps


def check_rendering(make_env, *args):
    """Render a frame of make_env(*args, render_mode="rgb_array"), so that a film that can't be is found out at once."""
    if "DISPLAY" not in os.environ:  # MuJoCo draws without a screen by one of these
        os.environ.setdefault(
            "MUJOCO_GL", "osmesa" if ctypes.util.find_library("OSMesa") else "egl"
        )
    try:
        env = make_env(*args, render_mode="rgb_array")
        env.reset(seed=0)
        frame = np.asarray(env.render())
        env.close()
    except Exception as error:  # whatever the graphics libraries raise
        raise InputError(f"no film: {args[0]} cannot be rendered here: {reason(error)}") from None
    if frame.ndim != 3:
        raise InputError(f"no film: {args[0]} renders no frames in the mode rgb_array")
