"""Environments that Gymnasium lacks, such as Meta-World/peg-insert-side-v3, and D4RL's scores."""

import contextlib
import io

import gymnasium as gym
import numpy as np

# What is learned in, where that is not what is evaluated in: RLIF learned in D4RL's pen.
TRAINING_TASKS = {"AdroitHandPen-v1": "D4RL/AdroitHandPen-v1"}

# D4RL's returns of a random policy and of an expert
RETURNS = {"Hopper": (-20.272305, 3234.3), "Walker2d": (1.629008, 4592.3)}
RETURNS |= {"HalfCheetah": (-280.178953, 12135.0), "AdroitHandPen": (96.262799, 3076.8331)}


def normalized_score(env_id, returns):
    """D4RL's score of returns: 0 is a random policy, 100 an expert, nan where there is none."""
    low, high = RETURNS.get(env_id.split("-v")[0], (np.nan, np.nan))
    return 100 * (np.asarray(returns, dtype=np.float64) - low) / (high - low)


class MetaWorld(gym.Wrapper):
    """A task of Meta-World, its goal in sight and drawn by the seed; success ends an episode."""

    def __init__(self, task, render_mode=None):
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE as tasks

        if f"{task}-goal-observable" not in tasks:
            raise gym.error.NameNotFound(f"Meta-World has no task {task}")
        super().__init__(tasks[f"{task}-goal-observable"](render_mode=render_mode))
        self.unwrapped.seeded_rand_vec, self.unwrapped._freeze_rand_vec = True, False

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.unwrapped.seed(seed)  # its own reset ignores the seed
        return self.env.reset(options=options)

    def step(self, action):
        obs, reward, _, truncated, info = self.env.step(action)
        return obs, reward, bool(info["success"]), truncated, info


def make_meta_world(task, render_mode=None):
    """A task of Meta-World with the last four observations, as in MILE: (4, 39)."""
    return gym.wrappers.FrameStackObservation(MetaWorld(task, render_mode), 4)


class EndWhenDropped(gym.Wrapper):
    """AdroitHandPen with an end when the pen falls from the hand."""

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        dropped = bool(obs[26] < 0.075)  # the pen's height in metres
        return obs, reward, terminated or dropped, truncated, info


def make_d4rl_pen(render_mode=None):
    """AdroitHandPen as D4RL's pen."""
    register_tasks("AdroitHandPen-v1")
    # without a time limit of its own (-1): that of the task around it counts
    env = gym.make("AdroitHandPen-v1", max_episode_steps=-1, render_mode=render_mode)
    return EndWhenDropped(env)


def register_tasks(env_id):
    """Tell Gymnasium about an environment of this module or of gymnasium_robotics."""
    if env_id in gym.registry or ":" in env_id:
        return
    options = {"disable_env_checker": True}
    if env_id.startswith("Meta-World/"):
        options |= {"max_episode_steps": 500, "kwargs": {"task": env_id.split("/")[1]}}
        gym.register(env_id, "experts.tasks:make_meta_world", **options)
    elif env_id == "D4RL/AdroitHandPen-v1":
        gym.register(env_id, "experts.tasks:make_d4rl_pen", max_episode_steps=100, **options)
    else:
        with contextlib.redirect_stderr(io.StringIO()):  # it reports changes nobody asked about
            import gymnasium_robotics  # noqa: F401
