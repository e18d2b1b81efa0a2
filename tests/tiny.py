"""Environments of a few lines that learn in seconds, and policy files for them."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

import bc
import rlif_rlpd
from experts import Expert, load_checkpoint, load_demonstrations, parse, save_expert

ROOT = Path(rlif_rlpd.__file__).parent
# of the shipped ones, those of its paper
RLIF_TASKS = (
    "AdroitHandPen-v1",
    "Hopper-v5",
    "Walker2d-v5",
)
POINT = (
    "tests.tiny:Point-v0"  # so addressed, a process that has not imported this file finds it too
)


class Point(gym.Env):
    """A point on a line, pushed away from 0; the episode ends when it leaves [-1, 1]. Every step is worth 1."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)  # position, last push
    action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)
    total_steps = 0  # of all points in this process: were there rollouts?

    def __init__(self, nan_after=math.inf, render_mode=None):
        self.nan_after, self.steps = nan_after, 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1)
        return np.array([self.x, 0], dtype=np.float32), {}

    def step(self, action):
        Point.total_steps += 1
        self.steps += 1
        self.x = 1.1 * self.x + 0.15 * float(action[0]) + 0.02 * self.np_random.normal()
        position = self.x if self.steps <= self.nan_after else np.nan
        return np.array([position, action[0]], dtype=np.float32), 1.0, abs(self.x) > 1, False, {}


class Walled(Point):
    """A point between two walls: it never falls, and a step is worth more the nearer it is to 0."""

    def step(self, action):
        obs, *_ = super().step(action)
        self.x = obs[0] = np.clip(obs[0], -1, 1)
        return obs, 1.0 - abs(float(self.x)), False, False, {}


class Switched(Walled):
    """Walled with three actions: a push to the left, none, a push to the right."""

    action_space = gym.spaces.Discrete(3)

    def step(self, action):
        return super().step(np.array([int(action) - 1.0]))


class SwitchedFrom5(Switched):
    """Switched with its actions called 5, 6 and 7."""

    action_space = gym.spaces.Discrete(3, start=5)

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step(action - 5)


class Shown(Walled):
    """Walled, with a picture: the point is white."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 100}

    def render(self):
        picture = np.zeros((20, 41, 3), dtype=np.uint8)
        picture[:, round(20 * self.x) + 20] = 255
        return picture


class ShownSwitched(Switched):
    metadata, render = Shown.metadata, Shown.render


class Count(gym.Env):
    """Observes stride * (episodes so far) + (steps so far); the steps of an episode are worth 10, 20, 30, 40."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, length=math.inf, stride=100, render_mode=None):
        self.length, self.stride, self.episode = length, stride, -1

    def reset(self, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return np.array([self.stride * self.episode], dtype=np.float32), {}

    def step(self, action):
        self.t += 1
        obs = np.array([self.stride * self.episode + self.t], dtype=np.float32)
        return obs, 10.0 * self.t, self.t >= self.length, False, {}


class OneArray(Walled):
    """Hands out the same array of observations again and again."""

    array = None

    def seen(self, obs):
        if self.array is None:
            self.array = obs
        self.array[:] = obs
        return self.array

    def reset(self, seed=None, options=None):
        return self.seen(super().reset(seed=seed)[0]), {}

    def step(self, action):
        obs, *rest = super().step(action)
        return self.seen(obs), *rest


class Loose(Walled):
    """Lists for observations, arrays of one for the reward and for what ends an episode."""

    def reset(self, seed=None, options=None):
        return super().reset(seed=seed)[0].tolist(), {}

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs.tolist(), np.array([reward]), np.bool_(terminated), np.array([truncated]), info


class Parts(Walled):
    """Observes the point as a Dict of a Tuple, a matrix and a Discrete: is it on the right?"""

    observation_space = gym.spaces.Dict({
        "both": gym.spaces.Tuple([gym.spaces.Box(-1, 1, (1,)), gym.spaces.Box(-9, 9, (1, 2))]),
        "right": gym.spaces.Discrete(2, start=1),
    })  # fmt: skip

    def seen(self, obs):
        return {"both": (obs[:1], obs[None]), "right": 1 + int(obs[0] > 0)}

    def reset(self, seed=None, options=None):
        return self.seen(super().reset(seed=seed)[0]), {}

    def step(self, action):
        obs, *rest = super().step(action)
        return self.seen(obs), *rest


class Unseeded(Walled):
    """A real robot: what happens does not depend on the seed."""

    def reset(self, seed=None, options=None):
        return super().reset()


class NoSeed(Walled):
    def reset(self):
        return super().reset()


class NoRenderMode(Walled):
    def __init__(self):
        super().__init__()


class Filmed(Walled):
    """Renders a frame as dark as the point is near to 0."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def render(self):
        return np.full((4, 4, 3), int(255 * min(1.0, abs(self.x))), dtype=np.uint8)


class NanReward(Walled):
    """Worth what cannot be said, at the tenth step of an episode."""

    def reset(self, seed=None, options=None):
        self.t = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.t += 1
        obs, reward, *rest = super().step(action)
        return obs, np.nan if self.t == 10 else reward, *rest


class Reports(Walled):
    """Reports a success only where there is one: at the last step, of the later episodes."""

    episodes = 0  # of all in this process
    successful = math.inf  # from this one on

    def reset(self, seed=None, options=None):
        Reports.episodes, self.t = Reports.episodes + 1, 0
        return super().reset(seed=seed)

    def step(self, action):
        self.t += 1
        *rest, info = super().step(action)
        return *rest, {
            "is_success": [True]
        } if self.t == 50 and Reports.episodes >= Reports.successful else info


class DoubleActions(Walled):
    action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float64)

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step(action)


class WholeActions(Walled):
    action_space = gym.spaces.Box(-2, 2, (1,), np.int32)


class HugeActions(Walled):
    action_space = gym.spaces.Box(
        np.finfo(np.float32).min, np.finfo(np.float32).max, (1,), np.float32
    )


class NoChoice(Walled):
    action_space = gym.spaces.Box(1.0, 1.0, (1,), np.float32)


class MatrixActions(Walled):
    action_space = gym.spaces.Box(np.arange(40.0).reshape(4, 10) - 41, 40, dtype=np.float64)


class ManyChoices(Walled):
    action_space = gym.spaces.MultiDiscrete([2, 3])


class ThreePushes(gym.ActionWrapper):
    """Three actions where there was a Box."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(3)

    def action(self, action):
        return np.array([2.0 * (int(action) - 1)], dtype=np.float32)


def discretised(render_mode=None):
    return ThreePushes(Walled())


def rescaled(render_mode=None):
    return gym.wrappers.RescaleAction(Walled(), np.float32(-1), np.float32(1))


class Unbounded(Point):
    action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)


class Picture(Point):
    observation_space = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)


class Broken(gym.Env):
    def __init__(self):
        raise AssertionError  # no message: some packages fail like this


gym.register("Point-v0", "tests.tiny:Point", max_episode_steps=50)
gym.register("Walled-v0", "tests.tiny:Walled", max_episode_steps=50)
gym.register("Shown-v0", "tests.tiny:Shown", max_episode_steps=50)
gym.register("ShownSwitched-v0", "tests.tiny:ShownSwitched", max_episode_steps=50)
gym.register("Switched-v0", "tests.tiny:Switched", max_episode_steps=50)
gym.register("SwitchedFrom5-v0", "tests.tiny:SwitchedFrom5", max_episode_steps=50)
gym.register("Nan-v0", "tests.tiny:Point", max_episode_steps=50, kwargs={"nan_after": 159})
gym.register("Falls-v0", "tests.tiny:Count", max_episode_steps=100, kwargs={"length": 4})
gym.register("TimesOut-v0", "tests.tiny:Count", max_episode_steps=4)
gym.register("Repeats-v0", "tests.tiny:Count", max_episode_steps=4, kwargs={"stride": 0})
for name in ("OneArray", "Loose", "Parts", "Unseeded", "NoSeed", "NoRenderMode", "Filmed", "NanReward", "Reports",
             "DoubleActions", "WholeActions", "HugeActions", "NoChoice", "MatrixActions", "ManyChoices", "discretised",
             "rescaled"):  # fmt: skip
    gym.register(f"{name}-v0", f"tests.tiny:{name}", max_episode_steps=50)
gym.register("Endless-v0", "tests.tiny:Walled")
gym.register("Unbounded-v0", "tests.tiny:Unbounded", max_episode_steps=50)
gym.register("Picture-v0", "tests.tiny:Picture", max_episode_steps=50)
gym.register("Broken-v0", "tests.tiny:Broken")


def critics(obs_dim, act_dim):
    """Untrained critics of the shape that write_expert wants."""
    return rlif_rlpd.QEnsemble(obs_dim, act_dim, (32,), 2)


def write_expert(path, weight, bias=0.0, noise=1e-6, qf=None, discrete=False, **facts):
    """A file of the policy tanh(weight @ obs + bias + noise), weight a list of one row per action; returns its path.

    If discrete, weight @ obs + bias are the logits.
    """
    weight = torch.tensor(weight)  # (A, O)
    act_dim, obs_dim = weight.shape
    actor = (bc.CategoricalActor if discrete else bc.Actor)(obs_dim, act_dim, (32,)).requires_grad_(
        False
    )
    for parameter in actor.parameters():
        parameter.zero_()
    both = torch.cat([torch.eye(obs_dim), -torch.eye(obs_dim)])  # relu(x) - relu(-x) is x
    actor.layers[0].weight[: 2 * obs_dim] = both
    first = getattr(actor, actor.heads[0])
    first.weight[:, : 2 * obs_dim] = weight @ both.T
    first.bias[:] = torch.as_tensor(bias)
    if not discrete:
        actor.log_std.bias[:] = math.log(noise)
    networks = {"actor": actor} | ({"qf": qf} if qf else {})
    tensors = {
        f"{name}.{key}": p
        for name, network in networks.items()
        for key, p in network.state_dict().items()
    }
    save_expert(path, tensors, **{"level": "test"} | facts)
    return str(Path(path).absolute())


def write_demonstrations(dataset_id, episodes, steps, env_id="Point-v0"):
    """A Minari dataset of random episodes, rewards 1, 2, 3, ...; the even ones end with a fall, the others by time."""
    import minari
    from minari.data_collector import EpisodeBuffer

    rng, env, buffers = np.random.default_rng(0), gym.make(env_id), []
    low, high = env.action_space.low, env.action_space.high
    for episode in range(episodes):
        observations = rng.normal(size=(steps + 1, *env.observation_space.shape)).astype(np.float32)
        actions = rng.uniform(low, high, size=(steps, len(low))).astype(np.float32)
        last = np.arange(steps) == steps - 1
        ends = {"terminations": last & (episode % 2 == 0), "truncations": last & (episode % 2 == 1)}
        rewards = np.arange(1.0, steps + 1)
        buffers.append(
            EpisodeBuffer(episode, episode, None, observations, actions, rewards, infos={}, **ends)
        )
    minari.create_dataset_from_buffers(
        dataset_id, buffers, env=env_id, algorithm_name="random", author="test"
    )
    return buffers


def parsed(script, *options):
    """The Args of a script for these options, typed on its command line."""
    return parse(script.Args, script.check, [str(option) for option in options])


def plain(options):
    """Without compiling, which takes longer than a tiny run, and with a charge for falls, unless the options differ."""
    options = [str(option) for option in options]
    if "--resume" in options:
        return options
    known = {"--termination", "--reward"} & set(options) or "--env-id" not in options
    return ["--no-compile", *([] if known else ["--termination", "penalty"]), *options]


def run(name, *options):
    """Run the script in this process, as runs/*__<name>__*; returns that folder."""
    rlif_rlpd.main(parsed(rlif_rlpd, *plain(options), "--exp-name", name))
    return next(Path("runs").glob(f"*__{name}__*"))


# dagger.py and hg_dagger.py on a point between two walls
ROUNDS = (
    "--env-id", "Walled-v0", "--hidden-sizes", 16, "--eval-episodes", 2, "--demo-episodes", 0, "--num-threads", 1,
    "--round-episodes", 2, "--round-updates", 50, "--eval-frequency", 100, "--total-timesteps", 300,
    "--learning-rate", 3e-3, "--expert", "../expert.safetensors",
)  # fmt: skip


# so long, the two learn what the expert can
LEARNS = ["--total-timesteps", "1000", "--round-updates", "100", "--eval-episodes", "10"]


def run_rounds(script, name, *options):
    """Run the module dagger or hg_dagger in this process, as runs/*__<name>__*; returns that folder."""
    script.main(parsed(script, *ROUNDS, *options, "--exp-name", name))
    return next(Path("runs").glob(f"*__{name}__*"))


# mile.py, iwr.py and sirius.py on a point between two walls, with the files of write_people
MILE_ROUNDS = (
    "--env-id", "Walled-v0", "--eval-episodes", 2, "--num-threads", 1, "--rounds", 3, "--round-episodes", 2,
    "--learning-rate", 3e-3, "--intervention-cost", 3, "--intervention-scale", 3, "--expert", "../expert.safetensors",
    "--initial-policy", "../initial.safetensors", "--human-model", "../mental.safetensors",
)  # fmt: skip
MILE_OWN = {
    "mile": ("--hidden-sizes", 16, "--round-updates", 20, "--warm-up-episodes", 2, "--warm-up-updates", 20),
    "iwr": ("--round-updates", 20),
    "sirius": ("--round-updates", 20),
}  # fmt: skip


def write_people(folder, discrete=False):
    """There: an expert that pushes to 0, and an initial and an expected policy that push to the right wall.

    If actions are continuous there is a reference as well, the expert with untrained critics.
    """
    if discrete:
        weight, nothing = [[40.0, 0.0], [0.0, 0.0], [-40.0, 0.0]], [[0.0, 0.0]] * 3
        write_expert(folder / "expert.safetensors", weight, bias=[-3.0, 0, -3], discrete=True)
        write_expert(folder / "initial.safetensors", nothing, bias=[-2.0, 0, 2], discrete=True)
        write_expert(folder / "mental.safetensors", nothing, bias=[-1.0, 0, 1], discrete=True)
    else:
        write_expert(folder / "expert.safetensors", [[-5.0, 0.0]], noise=0.3)
        write_expert(folder / "initial.safetensors", [[0.0, 0.0]], bias=0.6, noise=0.3)
        write_expert(folder / "mental.safetensors", [[0.0, 0.0]], bias=0.4, noise=0.5)
        with torch.random.fork_rng():
            write_expert(
                folder / "reference.safetensors", [[-5.0, 0.0]], noise=0.3, qf=critics(2, 1)
            )


PERSON = "--expert ../expert.safetensors --eval-episodes 2 --num-threads 1"
MILES_PERSON = (
    f"{PERSON} --initial-policy ../initial.safetensors --human-model ../mental.safetensors"
)
SHORT = {
    "rlif_rlpd": f"{PERSON} --reference ../reference.safetensors --termination penalty --no-compile --demo-episodes 0 "
    "--total-timesteps 80 --eval-frequency 40 --batch-size 8 --hidden-sizes 8 --num-qs 2",
    "hg_dagger": f"{PERSON} --threshold 0.5 --demo-episodes 0 --round-episodes 1 --round-updates 5 --hidden-sizes 8 "
    "--total-timesteps 150 --eval-frequency 50",
    "dagger": f"{PERSON} --threshold 0.5 --demo-episodes 0 --round-episodes 1 --round-updates 5 --hidden-sizes 8 "
    "--total-timesteps 150 --eval-frequency 50 --mixture-decay 0.9",
    "bc": "--total-timesteps 40 --eval-frequency 20 --batch-size 8 --hidden-sizes 8 "
    "--eval-episodes 2 --num-threads 1",
    "mile": f"{MILES_PERSON} --intervention-cost 3 --rounds 3 --round-updates 5 --batch-size 32 --hidden-sizes 8 "
    "--warm-up-episodes 1 --warm-up-updates 5",
    "iwr": f"{MILES_PERSON} --intervention-cost 3 --rounds 3 --round-updates 5 --batch-size 32",
    "sirius": f"{MILES_PERSON} --intervention-cost 3 --rounds 3 --round-updates 5 --batch-size 32",
}


def short(script, *options):
    """Options for a short run of this module, where write_people wrote its files to the folder above."""
    options = *SHORT[script.__name__].split(), "--env-id", "Walled-v0", *options
    return [str(option) for option in options]


def short_run(script, *options):
    """A short run of this module in this process; returns its folder."""
    before = set(Path().glob("runs/*"))
    script.main(parsed(script, *short(script, *options)))
    (folder,) = set(Path().glob("runs/*")) - before
    return folder


def demonstrations(env, env_id, episodes, *_):
    """What load_demonstrations could return: two random episodes of ten steps, or none if none are wanted."""
    if episodes == 0:
        return load_demonstrations(env, env_id, 0)
    rng = np.random.default_rng(0)
    data = {
        name: rng.normal(size=(20, *env.observation_space.shape)) for name in ("obs", "next_obs")
    }
    data["actions"] = rng.uniform(-0.9, 0.9, size=(20, *env.action_space.shape))
    if env.discrete:
        data["actions"] = np.eye(env.action_space.shape[0])[
            rng.integers(env.action_space.shape[0], size=20)
        ]
    data |= {"rewards": np.zeros(20), "terminations": np.zeros(20), "ends": np.arange(20) % 10 == 9}
    return {name: values.astype(np.float32) for name, values in data.items()}


def run_mile(script, name, *options):
    """Run one of the modules of MILE_OWN in this process, as runs/*__<name>__*; returns that folder."""
    options = *MILE_ROUNDS, *MILE_OWN[script.__name__], *options, "--exp-name", name
    script.main(parsed(script, *options))
    return next(Path("runs").glob(f"*__{name}__*"))


def rows(run_dir):
    """The lines of a run's eval.csv, each a dict of strings."""
    with open(run_dir / "eval.csv") as file:
        return list(csv.DictReader(file))


def evaluations(run_dir):
    """The rows of eval.csv, as strings, without the one column that is not the same every time."""
    if not (run_dir / "eval.csv").exists():
        return []
    return [
        {name: value for name, value in row.items() if name != "wall_seconds"}
        for row in rows(run_dir)
    ]


def assert_same(a, b):
    """Equal to the bit, through nested dicts and sequences, but for names and times."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a.keys() - {"wall_seconds", "seconds", "exp_name"}:
            assert_same(a[name], b[name])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    else:
        assert a == b or (a != a and b != b)


def assert_same_run(a, b):
    """The same evaluations, checkpoint and policy in two folders."""
    assert evaluations(a) == evaluations(b) and evaluations(a)
    assert_same(load_checkpoint(a / "checkpoint.pt"), load_checkpoint(b / "checkpoint.pt"))
    policies = [Expert(folder / "model.safetensors") for folder in (a, b)]
    assert_same(policies[0].state, policies[1].state)
    names = {"level": "", "trained_by": ""}  # of the run, and of the program that called main()
    assert_same(policies[0].facts | names, policies[1].facts | names)


def start(*options, script="rlif_rlpd.py", **kwargs):
    """Start a script as a process of its own."""
    options = plain(options) if script == "rlif_rlpd.py" else [str(option) for option in options]
    return subprocess.Popen([sys.executable, ROOT / script, *options], text=True, **kwargs)
