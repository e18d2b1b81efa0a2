"""Tasks, registered with Gymnasium, and the wrappers that make any environment fit the scripts.

gym.make("Meta-World/peg-insert-side-v3")    # and every other task of Meta-World: goal in sight, ends at success
gym.make("D4RL/AdroitHandPen-v1")            # AdroitHandPen-v1 as D4RL's pen: ends when the pen is dropped
"""

import contextlib
import io

import gymnasium as gym
import numpy as np

from experts.files import InputError, RunError

# what is learned in, where that is not what is evaluated in
TRAINING_TASKS = {"AdroitHandPen-v1": "D4RL/AdroitHandPen-v1"}


def end_is(env_id):
    """What it means if an episode ends before its time: a "fall", a "success", "either", or None: not known."""
    if env_id.startswith("Meta-World/"):
        return "success"
    if env_id.startswith("LunarLander"):  # it comes to rest, or crashes
        return "either"
    falls = (
        "Hopper",
        "Walker2d",
        "HalfCheetah",
        "Ant",
        "Humanoid",
        "InvertedPendulum",
        "AdroitHandPen",
    )
    return "fall" if env_id.split("-v")[0] in falls else None


def seed_for(*key):
    """An independent 32-bit seed for each key, e.g. (seed, stream, episode); zeros at its end do not count."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


# --- tasks -----------------------------------------------------------------------------------------------------------


class MetaWorld(gym.Wrapper):
    """A task of Meta-World with its goal in sight, drawn by the seed of reset; an episode ends at success."""

    def __init__(self, task, render_mode=None):
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

        super().__init__(
            ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-goal-observable"](render_mode=render_mode)
        )
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
        # obs[26]: the pen's height in metres
        return (
            obs,
            reward,
            bool(terminated or obs[26] < 0.075),
            truncated,
            info,
        )


def make_d4rl_pen(render_mode=None):
    """AdroitHandPen as D4RL's pen."""
    register_tasks("AdroitHandPen-v1")
    # without a time limit of its own (-1): that of the task around it counts
    env = gym.make("AdroitHandPen-v1", max_episode_steps=-1, render_mode=render_mode)
    return EndWhenDropped(env)


gym.register(
    "D4RL/AdroitHandPen-v1",
    "experts.tasks:make_d4rl_pen",
    max_episode_steps=100,
    disable_env_checker=True,
)


def register_tasks(env_id):
    """Register what an id needs that Gymnasium itself does not have: importing these packages takes a second or two."""
    if env_id in gym.registry or ":" in env_id:
        return
    if env_id.startswith("Meta-World/"):
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

        tasks = [
            name.removesuffix("-goal-observable") for name in ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
        ]
        for task in tasks:
            if f"Meta-World/{task}" not in gym.registry:
                gym.register(
                    f"Meta-World/{task}", "experts.tasks:make_meta_world", max_episode_steps=500,
                    kwargs={"task": task}, disable_env_checker=True,
                )  # fmt: skip
        if env_id not in gym.registry:
            raise InputError(f"no such task, Meta-World has {', '.join(tasks)}")
        return
    # it reports changes in tasks that nobody asked for
    with contextlib.redirect_stderr(io.StringIO()):
        import gymnasium_robotics  # noqa: F401


# --- wrappers --------------------------------------------------------------------------------------------------------


def open_task(env_id, max_episode_steps=None, **options):
    """gym.make with a time limit for sure, and with one line for whatever is wrong.

    options go to the constructor. Raises InputError.
    """
    try:
        register_tasks(env_id)
        env = gym.make(
            env_id, max_episode_steps=max_episode_steps, disable_env_checker=True, **options
        )
    except Exception as error:  # an unknown id, a missing package, whatever its constructor raises
        raise InputError(f"--env-id {env_id}: {reason(error)}") from None
    if env.spec.max_episode_steps is None:
        raise InputError(f"--env-id {env_id} has no time limit, so an episode may never end: "
                         "give one in steps, e.g. --max-episode-steps 1000")  # fmt: skip
    for space in plain_spaces(env.observation_space):
        if not space.is_np_flattenable:
            raise InputError(
                f"--env-id {env_id}: observations in {in_one_line(space)} have no fixed size"
            )
        if len(space.shape or ()) > 2:
            raise InputError(
                f"--env-id {env_id}: images are not supported, and {in_one_line(space)} looks like one"
            )
    return env


def plain_spaces(space):
    """The spaces that a space is made of: itself, or the parts of a Dict or Tuple, and theirs."""
    if isinstance(space, gym.spaces.Dict):
        return [plain for part in space.values() for plain in plain_spaces(part)]
    if isinstance(space, gym.spaces.Tuple):
        return [plain for part in space for plain in plain_spaces(part)]
    return [space]


def reason(error):
    """The first line of what an exception says, with its type if that says more."""
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    if not lines:
        return name
    return (
        f"{name}: {lines[0]}"
        if isinstance(error, KeyError | AssertionError | TypeError | IndexError)
        else lines[0]
    )


def in_one_line(space):
    """A space as text; the limits of a large Box take several lines otherwise."""
    return " ".join(str(space).split())


class Checked(gym.Wrapper):
    """Every observation a new array, every number finite, and one line for whatever an environment raises (RunError).

    info["success"], where an environment reports it under this name or as is_success, becomes a float.
    """

    def __init__(self, env):
        super().__init__(env)
        self.steps = 0  # of this episode

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        obs, info = self.call(self.env.reset, seed=seed, options=options)
        return self.copy(obs), info

    def step(self, action):
        self.steps += 1
        obs, reward, terminated, truncated, info = self.call(self.env.step, action)
        reward = float(np.asarray(reward, dtype=np.float64).sum())  # some return an array of one
        if not np.isfinite(reward):
            raise RunError(f"{self.where()} gives a reward that is not finite ({reward})")
        success = info.get("success", info.get("is_success"))
        if success is not None:
            info = info | {"success": float(np.max(success))}
        return self.copy(obs), reward, bool(terminated), bool(truncated), info

    def call(self, function, *args, **kwargs):
        """What an environment's function returns; for what it raises, one line."""
        try:
            return function(*args, **kwargs)
        except Exception as error:
            name, said = type(error).__name__, reason(error)
            raise RunError(
                f"{self.where()} raised {said if said.startswith(name) else f'{name}: {said}'}"
            ) from error

    def copy(self, obs):
        obs = np.array(obs)  # some environments hand out one array again and again
        if obs.shape != self.observation_space.shape:
            shapes = f"{obs.shape}, not {self.observation_space.shape} as its observation space"
            raise RunError(f"{self.where()} gives an observation of shape {shapes}")
        if not np.isfinite(obs).all():
            raise RunError(f"{self.where()} gives an observation that is not finite")
        return obs

    def where(self):
        name = self.spec.id if self.spec else type(self.unwrapped).__name__
        return f"{name}: step {self.steps} of an episode" if self.steps else f"{name}: reset()"


class UnitActions(gym.ActionWrapper):
    """Actions in [-1, 1]^A for a Box, one-hot vectors (A,) for a Discrete space; own_space is the environment's own.

    Raises InputError for other spaces, and for a Box without a range to scale.
    """

    def __init__(self, env):
        super().__init__(env)
        self.own_space = space = env.action_space
        self.discrete = isinstance(space, gym.spaces.Discrete)
        if self.discrete:
            self.action_space = gym.spaces.Box(0, 1, (int(space.n),), np.float32)
            return
        wrong = f"--env-id {env.spec.id}: needs discrete actions, or bounded ones in a flat Box of floats, not "
        wrong += in_one_line(space)
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise InputError(wrong)
        self.range = space.high.astype(np.float64) - space.low
        if not (
            np.issubdtype(space.dtype, np.floating)
            and (self.range > 0).all()
            and (self.range < 1e9).all()
        ):
            raise InputError(wrong)
        self.action_space = gym.spaces.Box(-1, 1, space.shape, np.float32)

    def action(self, action):
        """From [-1, 1] or one-hot (A,) to the environment's own."""
        if self.discrete:
            return int(np.argmax(action)) + int(self.own_space.start)
        own = self.own_space.low + (np.asarray(action, dtype=np.float64) + 1) / 2 * self.range
        return own.clip(self.own_space.low, self.own_space.high).astype(self.own_space.dtype)

    def unit(self, own):
        """From the environment's own actions, (n,) or (n, A), to (n, A) in [-1, 1] or one-hot."""
        if self.discrete:
            return np.eye(int(self.own_space.n), dtype=np.float32)[
                np.asarray(own) - int(self.own_space.start)
            ]
        return (2 * (np.asarray(own) - self.own_space.low) / self.range - 1).astype(np.float32)
