"""Environments, also those that Gymnasium lacks (Meta-World/peg-insert-side-v3); D4RL's scores."""

import os
import random
import sys
import weakref

import gymnasium as gym
import numpy as np
from farama_notifications import notifications
from gymnasium.envs.registration import EnvSpec

from experts.policies import InputError

os.environ.setdefault("LP_NUM_THREADS", "0")  # pictures in software are drawn by a run's one thread

# {evaluated: learned in}, where the two differ: RLIF learned in D4RL's pen
TRAINING_TASKS = {"AdroitHandPen-v1": "D4RL/AdroitHandPen-v1"}

# D4RL's returns of a random policy and of an expert
RETURNS = {"Hopper": (-20.272305, 3234.3), "Walker2d": (1.629008, 4592.3)}
RETURNS |= {"HalfCheetah": (-280.178953, 12135.0), "AdroitHandPen": (96.262799, 3076.8331)}


def normalized_score(env_id, returns):
    """D4RL's score of returns: 0 is a random policy, 100 an expert, nan where there is none."""
    low, high = RETURNS.get(env_id.removeprefix("Pixels/").split("-v")[0], (np.nan, np.nan))
    return 100 * (np.asarray(returns, dtype=np.float64) - low) / (high - low)


def find(env_id):
    """What gym.make takes: for two libraries a spec, else an id, with the module that knows it."""
    if env_id.startswith("Meta-World/"):
        task = {"task": env_id.removeprefix("Meta-World/")}
        return EnvSpec(env_id, "experts.tasks:MetaWorld", max_episode_steps=500, kwargs=task)
    if env_id == "gym_hil/PandaPickCube-v0":
        return EnvSpec(env_id, "experts.tasks:PandaPickCube", max_episode_steps=100)
    if ":" in env_id and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a module may lie in the user's folder
    if ":" in env_id or env_id in gym.registry:
        return env_id
    notifications.clear()  # gymnasium_robotics prints its news when it is imported
    return "gymnasium_robotics:" + env_id.removeprefix("D4RL/")


def shows_pictures(space):
    """Is it, or a part of it, uint8 of two dimensions or more?"""
    if isinstance(space, gym.spaces.Dict):
        return any(map(shows_pictures, space.values()))
    return space.dtype == np.uint8 and len(space.shape or ()) > 1


def renderer_of(env):
    """Gymnasium's renderer of MuJoCo, or None."""
    task = getattr(env.unwrapped, "point_env", env.unwrapped)  # PointMaze has one inside
    return getattr(task, "mujoco_renderer", None)


def draw_quickly(env, size):
    """Its renderer, at so many pixels a side and without what takes long; None if it has none."""
    if renderer := renderer_of(env):
        renderer.model.vis.quality.offsamples = renderer.model.vis.quality.shadowsize = 0
        renderer.model.mat_reflectance[:] = 0
        renderer.width = renderer.height = size
    return renderer


def draw(env):
    """What each camera of an environment shows, (height, width, 3), uint8. Raises InputError."""
    renderer = renderer_of(env)
    try:
        if renderer and renderer.viewer:  # or it would draw by what others have loaded
            renderer.viewer.make_context_current()
        drawn = env.render()
        if drawn is None:
            raise ValueError("it draws nothing")
        pictures = np.array(drawn if isinstance(drawn, list) else [drawn])  # of one size
        if pictures.dtype.kind == "f":
            pictures = pictures * 255
        return list(pictures.astype(np.uint8)[:, :, :, :3])
    except Exception as error:  # whatever graphics libraries raise
        how = "without a screen put MUJOCO_GL=osmesa before the command"
        raise InputError(f"there is no picture of {env.spec.id} ({error}); {how}") from None


class Task(gym.Wrapper):
    """An environment of Gymnasium that has a time limit, one reward, and info["success"].

    info["success"]: 1 if any step so far was a success (AdroitHandPen, as in RLIF's paper: if this
    step is), else 0; nan if unknown. "success_now": of this step alone. D4RL's pen ends if dropped.
    """

    def __init__(self, env_id, max_episode_steps=None, render_mode=None, encoder=None):
        """encoder: of pictures, if not the task's. Raises what gym.make raises, and InputError."""
        own = env_id.removeprefix("Pixels/")
        self.env_id, self.d4rl = env_id, env_id == "D4RL/AdroitHandPen-v1"
        limit = max_episode_steps or (100 if self.d4rl else None)
        mode = render_mode or ("rgb_array" if own != env_id else None)
        options = {"render_mode": mode} if mode else {}  # some take no render_mode
        env = gym.make(find(own), limit, disable_env_checker=True, **options)
        # a robot is switched off once, by close(), with this wrapper or when Python ends
        self.close = weakref.finalize(self, env.close)
        space = env.observation_space
        if own == env_id and shows_pictures(space):
            raise InputError(f"{env_id} shows pictures: --env-id Pixels/{env_id} learns from them")
        if not space.is_np_flattenable:
            raise InputError(f"--env-id {env_id}: it must show vectors or pictures, not {space}")
        if render_mode and not env.render_mode:
            raise InputError(f"{env_id} has no pictures for --capture-video, --intervention human")
        if env.spec.max_episode_steps is None:
            raise InputError(f"--env-id {env_id} has no time limit: give --max-episode-steps")
        if own != env_id:
            from experts.vision import Pixels

            env = Pixels(env, own, encoder)
        super().__init__(env)
        self.metadata = {"render_fps": 30} | {k: x for k, x in self.env.metadata.items() if x}

    def reset(self, *, seed=None, options=None):
        if seed is not None:  # some environments draw from the global generators
            random.seed(seed)
            np.random.seed(seed)
        self.success = np.nan
        obs, info = self.env.reset(seed=seed, options=options)
        return self.checked(obs), info

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        info = info or {}
        if terminated or truncated:
            obs = info.get("final_obs", obs)  # of some that reset themselves
        success = info.get("success", info.get("is_success", info.get("succeed")))
        parts = list(success.values()) if isinstance(success, dict) else success
        now = float(np.min(np.array(parts, dtype=float)))  # of None: nan
        before = np.nan if "AdroitHandPen" in self.env_id else self.success
        self.success = float(np.fmax(now, before))
        if self.d4rl:
            terminated = terminated or bool(obs[26] < 0.075)  # the pen's height in metres
        rewards = np.float64(reward).ravel().tolist()
        if len(rewards) != 1:
            raise InputError(f"{self.env_id}: {len(rewards)} rewards a step, it must be one")
        info = {"success": self.success, "success_now": now}
        return self.checked(obs), rewards[0], terminated, truncated, info

    def checked(self, obs):
        """obs; raises InputError if float32, in which the scripts learn, cannot hold it."""
        row = obs if type(obs) is np.ndarray else gym.spaces.flatten(self.observation_space, obs)
        largest = np.abs(row).max()
        if not largest < 1e38:  # nor if it is nan
            raise InputError(f"{self.env_id} shows {largest}: numbers must be below 1e38 (float32)")
        return obs

    def render(self):
        return np.concatenate(draw(self.env), axis=1)  # of several cameras side by side


class MetaWorld(gym.wrappers.FrameStackObservation):
    """A task of Meta-World, by its last four observations, as in MILE: (4, 39), and its goal."""

    def __init__(self, task, render_mode=None):
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE as tasks

        if f"{task}-goal-observable" not in tasks:
            raise gym.error.NameNotFound(f"Meta-World has no task {task}")
        super().__init__(tasks[f"{task}-goal-observable"](render_mode=render_mode), 4)
        self.unwrapped.seeded_rand_vec, self.unwrapped._freeze_rand_vec = True, False

    def reset(self, *, seed=None, options=None):
        from mujoco import mj_kinematics

        task = self.unwrapped
        if seed is not None:
            task.seed(seed)  # its own reset ignores the seed
        begin = super().reset(options=options)
        mj_kinematics(task.model, task.data)  # for the picture, where all is as it was
        for site in task._target_site_config:
            task._set_pos_site(*site)
        return begin

    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, bool(info["success"]), truncated, info


class PandaPickCube(gym.ActionWrapper):
    """gym-hil's task, the cube placed at random; actions (4,): hand (1 moves 25 mm) and gripper."""

    def __init__(self, render_mode=None):
        try:
            from gym_hil.envs import PandaPickCubeGymEnv
        except ModuleNotFoundError:
            raise InputError("gym-hil is missing: python -m pip install gym-hil==0.1.14") from None
        from mujoco import Renderer, mjtRndFlag

        super().__init__(PandaPickCubeGymEnv(random_block_position=True))
        self.action_space = gym.spaces.Box(-1, 1, (4,), np.float32)
        task = self.unwrapped
        task.model.vis.quality.offsamples = 0  # a picture takes 20 ms instead of 300
        task._viewer.close()
        task._viewer = Renderer(task.model, 128, 128)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE", "FOG"):
            task._viewer.scene.flags[getattr(mjtRndFlag, f"mjRND_{flag}")] = 0

    def action(self, action):
        return np.array([*(0.025 * action[:3]), 0, 0, 0, action[3]])
