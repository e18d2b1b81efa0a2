"""The registry of scripts, where a new one is named, and environments that learn in seconds."""

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import tyro
from safetensors.torch import load_file

import rlif_rlpd
from experts import load_demonstrations, save_expert

ROOT = Path(__file__).parent.parent
EXPERTS = ROOT / "experts"
RLIF_TASKS = "AdroitHandPen-v1", "Hopper-v5", "Walker2d-v5"  # those of its paper
blind = sys.platform == "linux" and not {"DISPLAY", "MUJOCO_GL"} & os.environ.keys()
draws = pytest.mark.skipif(blind, reason="MuJoCo draws on a screen, or by Debian's libosmesa6")

# --- the scripts ----------------------------------------------------------------------------------


@dataclass
class Script:
    """What the tests of all scripts have to know of one."""

    lines: int  # at most
    kind: str  # counted in gradient steps ("clone"), environment steps ("steps") or "rounds"
    options: str  # of a run of half a second, beside TINY, with the files of write_people


TINY = "--env-id Walled-v0 --max-episode-steps 10 --eval-episodes 2"
PERSON = "--expert ../expert.safetensors"
DAGGER = f"{PERSON} --threshold 0.5 --demo-episodes 0 --round-episodes 1 --round-updates 5"
DAGGER += " --hidden-sizes 8 --total-timesteps 50 --eval-frequency 20 --pretrain-updates 5"
MILE = f"{PERSON} --initial-policy ../initial.safetensors --human-model ../mental.safetensors"
MILE += " --intervention-cost 3 --rounds 5 --round-updates 5 --eval-frequency 2 --batch-size 32"
RLIF = f"{PERSON} --reference ../reference.safetensors --termination penalty --no-compile"
RLIF += " --demo-episodes 0 --total-timesteps 100 --eval-frequency 40 --batch-size 8"
RLIF += " --hidden-sizes 8 --num-qs 2"
PVP = f"{PERSON} --reference ../reference.safetensors --end-value -1 --demo-episodes 0"
PVP += " --total-timesteps 100 --eval-frequency 40 --batch-size 8 --hidden-sizes 8"
PVP += " --random-steps 5"
HIL_SERL = RLIF.replace(" --termination penalty", "")
CLONE = "--total-timesteps 40 --eval-frequency 20 --batch-size 8 --hidden-sizes 8"
OF_MILE = "--warm-up-episodes 1 --warm-up-updates 5 --hidden-sizes 8"
SCRIPTS = {
    "rlif_rlpd": Script(637, "steps", RLIF),
    "pvp": Script(485, "steps", PVP),
    "hil_serl": Script(557, "steps", HIL_SERL),
    "bc": Script(270, "clone", CLONE),
    "dagger": Script(360, "steps", f"{DAGGER} --mixture-decay 0.9"),
    "hg_dagger": Script(470, "steps", DAGGER),
    "mile": Script(523, "rounds", f"{MILE} {OF_MILE}"),
    "iwr": Script(390, "rounds", MILE),
    "sirius": Script(390, "rounds", MILE),
}
SHORT = {name: f"{TINY} {script.options}" for name, script in SCRIPTS.items()}


def words(*options):
    """Options as a shell has them: several may stand in one string."""
    return [word for option in options for word in str(option).split()]


def parsed(script, *options):
    """The Args of a script for these options, as its last lines get them."""
    options = words(*options)
    args = tyro.cli(script.Args, args=options)
    if source := args.resume or getattr(args, "replay", None):
        own = json.loads(Path(source, "args.json").read_text())
        args = tyro.cli(script.Args, args=options, default=script.Args(**own))
    args.check()
    return args


def folder_of(name):
    """The folder of the run whose --exp-name this is."""
    (folder,) = Path("runs").glob(f"*__{name}__*")
    return folder


def short_run(script, *options):
    """A short run of this module in this process; returns its folder."""
    before = set(Path().glob("runs/*"))
    name = f"{script.__name__}-{len(before)}"  # two of a second need two names
    script.main(parsed(script, SHORT[script.__name__], "--exp-name", name, *options))
    (folder,) = set(Path().glob("runs/*")) - before
    return folder


def run(name, *options):
    """Run rlif_rlpd.py in this process as runs/*__<name>__*; returns that folder.

    Not compiled, which takes longer than a tiny run, and with a charge for falls, unless told so.
    """
    task = "--reward" in words(*options)
    own = "--no-compile" if task else "--no-compile --termination penalty"
    rlif_rlpd.main(parsed(rlif_rlpd, own, *options, "--exp-name", name))
    return folder_of(name)


# dagger.py and hg_dagger.py on a point between two walls
ROUNDS = "--env-id Walled-v0 --hidden-sizes 16 --eval-episodes 2 --demo-episodes 0"
ROUNDS += " --round-episodes 2 --round-updates 50 --eval-frequency 100 --total-timesteps 300"
ROUNDS = words(ROUNDS, "--learning-rate 3e-3 --expert ../expert.safetensors")
# so long, the two learn what the expert can
LEARNS = words("--total-timesteps 1000 --round-updates 100 --eval-episodes 10")
# mile.py, iwr.py and sirius.py there, with the files of write_people
MILE_ROUNDS = f"{MILE} --env-id Walled-v0 --eval-episodes 2 --rounds 3 --round-episodes 2"
MILE_ROUNDS += " --eval-frequency 1 --learning-rate 3e-3 --intervention-scale 3 --batch-size 256"
MILE_ROUNDS = words(MILE_ROUNDS, "--round-updates 20")
MILE_OWN = words("--hidden-sizes 16 --warm-up-episodes 2 --warm-up-updates 20")


def run_rounds(script, name, *options):
    """Run the module dagger or hg_dagger in this process as runs/*__<name>__*; its folder."""
    script.main(parsed(script, *ROUNDS, *options, "--exp-name", name))
    return folder_of(name)


def run_mile(script, name, *options):
    """Run the module mile, iwr or sirius in this process as runs/*__<name>__*; its folder."""
    own = MILE_OWN if script.__name__ == "mile" else []
    script.main(parsed(script, *MILE_ROUNDS, *own, *options, "--exp-name", name))
    return folder_of(name)


def start(*options, script="rlif_rlpd.py", **kwargs):
    """Start a script as a process of its own."""
    return subprocess.Popen([sys.executable, ROOT / script, *words(*options)], text=True, **kwargs)


# --- what a run leaves ----------------------------------------------------------------------------


def rows(folder):
    """The lines of a run's eval.csv, each a dict of strings."""
    with open(folder / "eval.csv") as file:
        return list(csv.DictReader(file))


def evaluations(folder):
    """rows() without the one column that is not the same every time; none if there are none."""
    if not (folder / "eval.csv").exists():
        return []
    return [{name: row[name] for name in row if name != "wall_seconds"} for row in rows(folder)]


def checkpoint(folder):
    """A run's last checkpoint, as --resume reads it: no pickle."""
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same(a, b):
    """Equal to the bit, through nested dicts and sequences, but for names and times."""
    assert type(a) is type(b)
    if isinstance(a, dict | list | tuple):
        keys = a.keys() if isinstance(a, dict) else range(len(a))
        assert len(a) == len(b) and (not isinstance(a, dict) or keys == b.keys())
        for key in set(keys) - {"wall_seconds", "seconds", "exp_name"}:
            assert_same(a[key], b[key])
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    else:
        assert a == b or (a != a and b != b)


def assert_same_run(a, b):
    """The same evaluations, checkpoint and policy in two folders."""
    assert evaluations(a) == evaluations(b) != []
    assert_same(checkpoint(a), checkpoint(b))
    assert_same(*(load_file(folder / "model.safetensors") for folder in (a, b)))


# --- files ----------------------------------------------------------------------------------------


def skip_without(env_id):
    """gym-hil is not in requirements.txt, and draws when it begins."""
    if env_id.startswith("gym_hil/"):
        pytest.importorskip("gym_hil")
        if blind:
            pytest.skip(draws.kwargs["reason"])


def list_experts():
    """The shipped policies: {env_id: [level, ...]}."""
    found = {}
    for path in sorted({*EXPERTS.rglob("*.safetensors")} - {*EXPERTS.rglob("Pixels/**/*")}):
        found.setdefault(path.parent.relative_to(EXPERTS).as_posix(), []).append(path.stem)
    return found


def critics(obs_dim, act_dim):
    """Untrained critics of the sizes that write_expert wants."""
    return rlif_rlpd.QEnsemble(obs_dim, act_dim, (32,), 2)


def write_expert(path, weight, bias=0.0, noise=1e-6, qf=None, discrete=False, **facts):
    """A file of the policy tanh(weight @ obs + bias + noise), one row per action; returns its path.

    If discrete, weight @ obs + bias are the logits.
    """
    weight = torch.tensor(weight)  # (A, O)
    act_dim, obs_dim = weight.shape
    both = torch.cat([torch.eye(obs_dim), -torch.eye(obs_dim)])  # relu(x) - relu(-x) is x
    tensors = {"layers.0.weight": torch.zeros(32, obs_dim), "layers.0.bias": torch.zeros(32)}
    tensors["layers.0.weight"][: 2 * obs_dim] = both
    head = "logits" if discrete else "mean"
    tensors |= {f"{head}.weight": torch.zeros(act_dim, 32), f"{head}.bias": torch.zeros(act_dim)}
    tensors[f"{head}.weight"][:, : 2 * obs_dim] = weight @ both.T
    tensors[f"{head}.bias"] += torch.as_tensor(bias)
    if not discrete:
        tensors["log_std.weight"] = torch.zeros(act_dim, 32)
        tensors["log_std.bias"] = torch.full((act_dim,), math.log(noise))
    save_expert(path, tensors, qf, **{"level": "test"} | facts)
    return str(Path(path).absolute())


def write_people(folder, discrete=False):
    """There: an expert that pushes to 0, an initial and an expected policy that push to the right.

    If actions are continuous there is a reference as well, the expert with untrained critics.
    """
    if discrete:
        weight, nothing = [[40.0, 0.0], [0.0, 0.0], [-40.0, 0.0]], [[0.0, 0.0]] * 3
        write_expert(folder / "expert.safetensors", weight, bias=[-3.0, 0, -3], discrete=True)
        write_expert(folder / "initial.safetensors", nothing, bias=[-2.0, 0, 2], discrete=True)
        write_expert(folder / "mental.safetensors", nothing, bias=[-1.0, 0, 1], discrete=True)
        return
    write_expert(folder / "expert.safetensors", [[-5.0, 0.0]], noise=0.3)
    write_expert(folder / "initial.safetensors", [[0.0, 0.0]], bias=0.6, noise=0.3)
    write_expert(folder / "mental.safetensors", [[0.0, 0.0]], bias=0.4, noise=0.5)
    with torch.random.fork_rng():
        write_expert(folder / "reference.safetensors", [[-5.0, 0.0]], noise=0.3, qf=critics(2, 1))


def write_demonstrations(dataset_id, episodes, steps, env_id="Point-v0"):
    """A Minari dataset of random episodes, rewards 1, 2, 3, ...; the even ones end with a fall.

    The others end by time. Returns them as Minari's buffers.
    """
    import minari
    from minari.data_collector import EpisodeBuffer

    rng, env, buffers = np.random.default_rng(0), gym.make(env_id), []
    low, high = env.action_space.low, env.action_space.high
    for i in range(episodes):
        obs = rng.normal(size=(steps + 1, *env.observation_space.shape)).astype(np.float32)
        actions = rng.uniform(low, high, size=(steps, len(low))).astype(np.float32)
        last = np.arange(steps) == steps - 1
        ends = {"terminations": last & (i % 2 == 0), "truncations": last & (i % 2 == 1)}
        rewards = np.arange(1.0, steps + 1)
        buffers.append(EpisodeBuffer(i, i, None, obs, actions, rewards, infos={}, **ends))
    facts = {"env": env_id, "algorithm_name": "random", "author": "test"}
    minari.create_dataset_from_buffers(dataset_id, buffers, **facts)
    return buffers


def demonstrations(env_id, env, episodes, *_, **__):
    """What load_demonstrations could return: two random episodes of ten steps, or none if none."""
    if episodes == 0:
        return load_demonstrations(env_id, env, 0, 1)
    rng, (act_dim,) = np.random.default_rng(0), env.action_space.shape
    size = 20, *env.observation_space.shape
    data = {name: rng.normal(size=size) for name in ("obs", "next_obs")}
    data["actions"] = rng.uniform(-0.9, 0.9, size=(20, act_dim))
    if isinstance(env.action_space, gym.spaces.MultiBinary):
        data["actions"] = np.eye(act_dim)[rng.integers(act_dim, size=20)]
    data |= {"rewards": np.zeros(20), "terminations": np.zeros(20), "ends": np.arange(20) % 10 == 9}
    return {name: values.astype(np.float32) for name, values in data.items()}


# --- environments ---------------------------------------------------------------------------------


class Point(gym.Env):
    """A point on a line, pushed away from 0; an episode ends out of [-1, 1]. A step is worth 1."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)  # position, last push
    action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)
    total_steps = 0  # of all points in this process: were there rollouts?

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-0.1, 0.1)
        return np.array([self.x, 0], dtype=np.float32), {}

    def step(self, action):
        Point.total_steps += 1
        self.x = 1.1 * self.x + 0.15 * float(action[0]) + 0.02 * self.np_random.normal()
        return np.array([self.x, action[0]], dtype=np.float32), 1.0, abs(self.x) > 1, False, {}


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


class Robot(Shown):
    """There is one; it draws from NumPy's generator; its pictures are in [0, 1], without a rate."""

    metadata, in_use = {"render_modes": ["rgb_array"], "render_fps": None}, False

    def __init__(self, render_mode=None):
        if Robot.in_use:
            raise RuntimeError("the robot is in use")
        super().__init__(render_mode)
        Robot.in_use, self._np_random = True, np.random

    def reset(self, seed=None, options=None):
        return super().reset()

    def render(self):
        return super().render() / 255


class Count(gym.Env):
    """Observes 100 * (episodes so far) + (steps so far); an episode's steps are worth 10, 20 ..."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, length=math.inf, render_mode=None):
        self.length, self.episode = length, -1

    def reset(self, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return np.array([100 * self.episode], dtype=np.float32), {}

    def step(self, action):
        self.t += 1
        obs = np.array([100 * self.episode + self.t], dtype=np.float32)
        return obs, 10.0 * self.t, self.t >= self.length, False, {}


class Seen(Walled):
    """Walled, but observations go through seen()."""

    def reset(self, seed=None, options=None):
        return self.seen(super().reset(seed=seed)[0]), {}

    def step(self, action):
        obs, *rest = super().step(action)
        return self.seen(obs), *rest


class OneArray(Seen):
    """Hands out the same array of observations again and again."""

    array = None

    def seen(self, obs):
        if self.array is None:
            self.array = obs
        self.array[:] = obs
        return self.array


class Loose(Seen):
    """Lists for observations, arrays of one for reward and ends, and nothing for what else is."""

    def seen(self, obs):
        return obs.tolist()

    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, np.array([reward]), np.bool_(terminated), np.array([truncated]), None


class Parts(Seen):
    """Observes the point as a Dict of a Tuple, a matrix and a Discrete: is it on the right?"""

    both = gym.spaces.Tuple([gym.spaces.Box(-1, 1, (1,)), gym.spaces.Box(-9, 9, (1, 2))])
    observation_space = gym.spaces.Dict(both=both, right=gym.spaces.Discrete(2, start=1))

    def seen(self, obs):
        return {"both": (obs[:1], obs[None]), "right": 1 + int(obs[0] > 0)}

    def step(self, action):
        return *super().step(action)[:4], {"success": {"reach": True, "lift": False}}


class NoRenderMode(Walled):
    def __init__(self):
        super().__init__()


class DoubleActions(Walled):
    action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float64)

    def step(self, action):
        assert self.action_space.contains(action), action
        return super().step(action)


class Broken(gym.Env):
    def __init__(self, render_mode=None):
        raise ValueError("no answer from the motor")


REFUSED = {  # Walled with spaces that no script takes
    "WholeActions": gym.spaces.Box(-2, 2, (1,), np.int32),
    "HugeActions": gym.spaces.Box(-3e38, 3e38, (1,), np.float32),
    "NoChoice": gym.spaces.Box(1.0, 1.0, (1,), np.float32),
    "MatrixActions": gym.spaces.Box(-2.0, 2.0, (2, 2), np.float32),
    "ManyChoices": gym.spaces.MultiDiscrete([2, 3]),
    "Unbounded": gym.spaces.Box(-np.inf, np.inf, (1,), np.float32),
    "Picture": gym.spaces.Box(0, 255, (8, 8, 3), np.uint8),  # observations, as the next ones
    "Grey": gym.spaces.Box(0, 255, (8, 8), np.uint8),
    "Text": gym.spaces.Sequence(gym.spaces.Discrete(2)),
}
for name, space in REFUSED.items():
    kind = "observation_space" if name in ("Picture", "Grey", "Text") else "action_space"
    globals()[name] = type(name, (Walled,), {kind: space})
ALL = "Point Walled Shown ShownSwitched Switched SwitchedFrom5 OneArray Loose Parts NoRenderMode"
for name in (*words(ALL, "DoubleActions Robot Broken"), *REFUSED):
    gym.register(f"{name}-v0", f"tests.tiny:{name}", max_episode_steps=50)
gym.register("Endless-v0", "tests.tiny:Walled")
gym.register("Falls-v0", "tests.tiny:Count", max_episode_steps=100, kwargs={"length": 4})
gym.register("TimesOut-v0", "tests.tiny:Count", max_episode_steps=4)
