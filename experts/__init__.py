"""Pretrained policies, reference Q functions and demonstrations: all that the scripts share.

    expert = load_expert("Hopper-v5", "low")       # or load_expert("Hopper-v5", "path/to/file.safetensors")
    actions = expert.act(obs)                      # (B, obs_dim) -> (B, act_dim), sampled
    values = expert.q(obs, actions)                # (B,), if the file carries critics

Actions are always in [-1, 1]; the scripts rescale them to the environment's range. The file format, and the
score of every shipped file, are in experts/README.md.
"""

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.spaces import Discrete
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch

FOLDER = Path(__file__).parent
HEADS = {"tanh_gaussian": ("mean", "log_std"), "categorical": ("logits",)}  # output layers by distribution
MAX_ACTION = 0.999  # actions are kept off the edges of [-1, 1], where atanh is infinite

# D4RL's returns of a random and of an expert policy: score = 100 (R - random) / (expert - random)
REFERENCE_RETURNS = {
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "HalfCheetah": (-280.178953, 12135.0),
    "AdroitHandPen": (96.262799, 3076.8331),
}


class InputError(Exception):
    """What is wrong with the user's input: one line. The scripts print it and exit with code 2."""


def normalized_score(env_id, returns):
    """Episode returns -> D4RL scores, where 0 is a random policy and 100 D4RL's expert (nan without references)."""
    low, high = REFERENCE_RETURNS.get(env_id.split("-")[0], (np.nan, np.nan))
    return 100.0 * (np.asarray(returns, dtype=np.float64) - low) / (high - low)


# --- files -----------------------------------------------------------------------------------------------------------


def write_file(path, data):
    """Write bytes completely or not at all, whether the process is killed or the disk is full (OSError)."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path, state):
    """Write nested dicts and lists of tensors, numbers and strings: a SHA-256, then what torch.save makes of them."""
    data = io.BytesIO()
    torch.save(state, data)
    write_file(path, hashlib.sha256(data.getbuffer()).digest() + data.getbuffer())


def load_checkpoint(path):
    """Read what save_checkpoint wrote. Raises InputError if it was cut short or changed; never runs code in it."""
    data = Path(path).read_bytes()
    if len(data) <= 32 or hashlib.sha256(memoryview(data)[32:]).digest() != data[:32]:
        raise InputError(f"{path} is damaged: its checksum does not match its content")
    try:
        return torch.load(io.BytesIO(memoryview(data)[32:]), weights_only=True, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError, EOFError):
        raise InputError(f"{path} is not a checkpoint") from None


def _digest(tensors, facts):
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        digest.update(tensors[name].numpy())
    return digest.hexdigest()


def save_expert(path, tensors, **facts):
    """Write a policy as a file that load_expert reads; the names of tensors and facts are in experts/README.md."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"facts": json.dumps(facts, sort_keys=True), "sha256": _digest(tensors, facts)}
    write_file(path, safetensors_torch.save(tensors, header))


# --- policies --------------------------------------------------------------------------------------------------------


class Expert:
    """A frozen policy, with critics if its file has them.

    Attributes: path, facts (the file's header), sha256 (of facts and tensors), obs_dim, act_dim, discrete, has_q, state
    (the policy's tensors, by the names they have in the scripts' Actor).
    """

    def __init__(self, path):
        self.path = Path(path)
        try:
            data = self.path.read_bytes()
            tensors = safetensors_torch.load(data)
            # safetensors begins with the length of its header (8 bytes) and the header (JSON)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            self.facts, self.sha256 = json.loads(header["facts"]), header["sha256"]
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise InputError(f"{path} is damaged or not an expert file (format: experts/README.md)") from None
        if self.sha256 != _digest(tensors, self.facts):
            raise InputError(f"{path} is damaged: its checksum does not match its content")
        try:
            self.obs_dim, self.act_dim = int(self.facts["obs_dim"]), int(self.facts["act_dim"])
            if self.facts["distribution"] not in HEADS:
                raise InputError(f"{path}: the distribution must be one of {', '.join(HEADS)}, "
                                 f"not {self.facts['distribution']}")  # fmt: skip
            self.discrete = self.facts["distribution"] == "categorical"
            depth = len(self.facts["hidden_sizes"])
            layers = [f"actor.layers.{i}" for i in range(depth)]
            heads = [f"actor.{head}" for head in HEADS[self.facts["distribution"]]]
            self.layers = [(tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in layers]
            self.heads = [(tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in heads]
            self.obs_mean = tensors.get("actor.obs_mean", torch.zeros(self.obs_dim))
            self.obs_std = tensors.get("actor.obs_std", torch.ones(self.obs_dim))
            self.state = {n.removeprefix("actor."): t for n, t in tensors.items() if n.startswith("actor.")}
            self.state |= {"obs_mean": self.obs_mean, "obs_std": self.obs_std}
            self.has_q = "qf.weights.0" in tensors
            layers, norms = depth + 1 if self.has_q else 0, depth if "qf.norm_weights.0" in tensors else 0
            self.q_layers = [(tensors[f"qf.weights.{i}"], tensors[f"qf.biases.{i}"]) for i in range(layers)]
            self.q_norms = [(tensors[f"qf.norm_weights.{i}"], tensors[f"qf.norm_biases.{i}"]) for i in range(norms)]
            probe = torch.zeros(1, self.obs_dim)
            action = self.act(probe, deterministic=True)
            fits = action.shape == (1, self.act_dim) and (not self.has_q or self.q(probe, action).shape == (1,))
            fits &= [len(bias) for _, bias in self.layers] == list(self.facts["hidden_sizes"])
        except (KeyError, RuntimeError, TypeError, ValueError):
            fits = False
        if not fits:
            raise InputError(f"{path}: its tensors are not those of its header (format: experts/README.md)")

    @torch.no_grad()
    def __call__(self, obs):
        """The parameters of pi(.|s): mean and log std before the tanh, or logits alone; (B, obs_dim) -> (B, act_dim).

        obs is in the environment's own units, a numpy array or a tensor.
        """
        x = (torch.as_tensor(obs, dtype=torch.float32) - self.obs_mean) / self.obs_std
        for weight, bias in self.layers:
            x = F.relu(F.linear(x, weight, bias))  # (B, hidden)
        first, *log_std = (F.linear(x, *head) for head in self.heads)
        return first, *(x.clamp(self.facts.get("min_log_std", -20), 2) for x in log_std)

    def act(self, obs, deterministic=False):
        """Sampled (or the likeliest) actions: (B, obs_dim) -> (B, act_dim).

        They are tanh-squashed and kept within +-0.999, or one-hot where actions are discrete. Noise comes from torch's
        global generator.
        """
        if self.discrete:
            (logits,) = self(obs)
            choice = logits.argmax(-1) if deterministic else torch.distributions.Categorical(logits=logits).sample()
            return F.one_hot(choice, self.act_dim).float()
        mean, log_std = self(obs)
        action = mean if deterministic else mean + log_std.exp() * torch.randn_like(mean)
        return action.tanh().clamp(-MAX_ACTION, MAX_ACTION)

    @torch.no_grad()
    def q(self, obs, actions):
        """Q(s, a), the mean over the critics: (B, obs_dim), (B, act_dim) -> (B,), in the task's discounted reward."""
        if not self.has_q:
            raise InputError(f"{self.path} carries no critics: it can act, but not serve as --reference")
        obs, actions = (torch.as_tensor(x, dtype=torch.float32) for x in (obs, actions))
        x = torch.cat([(obs - self.obs_mean) / self.obs_std, actions], dim=-1)  # (B, O + A), shared by all
        for i, (weight, bias) in enumerate(self.q_layers[:-1]):
            x = torch.matmul(x, weight) + bias  # (N, B, hidden)
            if self.q_norms:
                x = F.layer_norm(x, x.shape[-1:]) * self.q_norms[i][0] + self.q_norms[i][1]
            x = F.relu(x)
        weight, bias = self.q_layers[-1]
        return (torch.matmul(x, weight) + bias).squeeze(-1).mean(0)  # (B,)


def list_experts():
    """The shipped experts: {env_id: [level, ...]}, found by their place, experts/<env_id>/<level>.safetensors."""
    experts = {}
    for path in sorted(FOLDER.rglob("*.safetensors")):
        experts.setdefault(path.parent.relative_to(FOLDER).as_posix(), []).append(path.stem)
    return experts


def load_expert(env_id, level, env=None):
    """The shipped expert of that level ("top", "middle", "low", ...) or, if level is a path, that file.

    Raises InputError with the known levels, with what is wrong with the file, or, given env, if its sizes are others.
    A file of another environment is taken, for somebody may want that, but a line on stderr says so.
    """
    shipped = list_experts()
    known = shipped.get(env_id, [])
    if level in known:
        expert = Expert(FOLDER / env_id / f"{level}.safetensors")
    elif str(level).endswith(".safetensors"):
        expert = Expert(level)
    else:
        there = f"known: {', '.join(known)}" if known else "none are shipped for it"
        tasks = [task for task, levels in shipped.items() if level in levels]
        there += f"; {level!r} is there for {', '.join(tasks)}" if tasks else ""
        choice = "a level or the path" if known else "the path"
        raise InputError(f"no expert {level!r} for {env_id} ({there}); give {choice} of a .safetensors file")
    if env is not None and expert.discrete != isinstance(env.unwrapped.action_space, Discrete):
        raise InputError(f"{level}: is {'' if expert.discrete else 'not '}for discrete actions, unlike {env_id}")
    if env is not None and (expert.obs_dim, expert.act_dim) != env.observation_space.shape + env.action_space.shape:
        raise InputError(
            f"{level}: is for {expert.obs_dim} observations and {expert.act_dim} actions, {env_id} has "
            f"{env.observation_space.shape[0]} and {env.action_space.shape[0]}"
        )
    own = expert.facts.get("env_id", env_id)
    if own != env_id:
        print(f"warning: {level} was trained for {own}, and is used for {env_id}", file=sys.stderr)
    return expert


# --- demonstrations --------------------------------------------------------------------------------------------------


def load_demonstrations(env, env_id, episodes, dataset_id=None, noise=0.0, keep_rewards=False):
    """The first `episodes` episodes of a Minari dataset as arrays of transitions, in the order they happened.

    Without dataset_id, stochastic rollouts of the shipped top expert in env, with Gaussian noise of this standard
    deviation on the actions: made once, kept as a local Minari dataset.
    With one, that dataset, downloaded if it is not there. Rewards are zero unless keep_rewards, which only
    `--reward task` asks for.

    Returns a dict: obs, next_obs (n, obs_dim), actions (n, act_dim) in [-1, 1] or one-hot, rewards, terminations (n,),
    ends (n,): ends marks the last transition of every episode. Raises InputError if the dataset is not to be had or
    does not fit env (whose actions are in [-1, 1] or one-hot, wrapped around the raw ones).
    """
    import minari

    dataset_id = dataset_id or _record_demonstrations(env, env_id, episodes, noise)
    try:
        dataset = minari.load_dataset(dataset_id, download=True)
        chosen = list(dataset.iterate_episodes(range(min(episodes, dataset.total_episodes))))
    except Exception as error:  # minari raises whatever its storage or the network raised
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"no Minari dataset {dataset_id!r} here, and it could not be downloaded ({reason[:160]}); "
            "`minari list local` shows what is here"
        ) from None
    spaces = (dataset.observation_space, dataset.action_space)
    wanted = (env.observation_space, env.unwrapped.action_space)
    if any(a.shape != b.shape for a, b in zip(spaces, wanted)):
        shapes = " and ".join(str(space.shape) for space in spaces)
        raise InputError(
            f"dataset {dataset_id!r} has observations and actions of shapes {shapes}, "
            f"{env_id} {' and '.join(str(space.shape) for space in wanted)}"
        )
    actions = np.concatenate([e.actions for e in chosen])
    if isinstance(wanted[1], Discrete):
        actions = np.eye(int(wanted[1].n))[actions]  # (n, A), one-hot
    else:
        low, high = wanted[1].low, wanted[1].high
        actions = (2 * (actions - low) / (high - low) - 1).clip(-MAX_ACTION, MAX_ACTION)
    data = {
        "obs": np.concatenate([e.observations[:-1] for e in chosen]),
        "next_obs": np.concatenate([e.observations[1:] for e in chosen]),
        "actions": actions,
        "rewards": np.concatenate([e.rewards * keep_rewards for e in chosen]),
        "terminations": np.concatenate([e.terminations for e in chosen]),
        "ends": np.concatenate([np.arange(len(e)) == len(e) - 1 for e in chosen]),
    }
    return {name: values.astype(np.float32) for name, values in data.items()}


def _record_demonstrations(env, env_id, episodes, noise):
    """Roll out the shipped top expert unless that was done before; returns the Minari id."""
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.storage.datasets_root_dir import get_dataset_path
    from tqdm import trange

    if "top" not in list_experts().get(env_id, []):
        raise InputError(
            f"no top expert is shipped for {env_id}: give --dataset-id, or --demo-episodes 0 (bc.py cannot do without)"
        )
    expert = load_expert(env_id, "top")
    # another file of the expert, or another noise, means other demonstrations
    fingerprint = hashlib.sha256(expert.path.read_bytes() + str(float(noise)).encode()).hexdigest()[:8]
    dataset_id = f"interventions/{re.sub(r'[^a-z0-9]+', '-', env_id.lower())}/top-{fingerprint}-{episodes}-v0"
    place = get_dataset_path(dataset_id)
    if place.exists():
        return dataset_id
    space, buffers = env.unwrapped.action_space, []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for episode in trange(episodes, desc=f"demonstrations of the top {env_id} expert (once)"):
            obs, _ = env.reset(seed=episode)
            observations, actions, rewards, terminated, truncated = [obs], [], [], False, False
            while not (terminated or truncated):
                action = expert.act(obs[None])[0]  # (A,)
                if noise and not expert.discrete:
                    action = (action + noise * torch.randn_like(action)).clamp(-MAX_ACTION, MAX_ACTION)
                action = action.numpy()
                obs, reward, terminated, truncated, _ = env.step(action)
                observations.append(obs)
                # in the environment's own units
                own = action.argmax() if expert.discrete else space.low + (action + 1) / 2 * (space.high - space.low)
                actions.append(own)
                rewards.append(reward)
            last = np.arange(len(rewards)) == len(rewards) - 1
            ends = {"terminations": last & terminated, "truncations": last & truncated}
            buffers.append(EpisodeBuffer(episode, episode, None, observations, actions, rewards, infos={}, **ends))
    # written in a folder of its own and moved into place: a kill leaves no half-written dataset, and of two runs that
    # record at the same time one wins
    staging = get_dataset_path() / f".recording-{os.getpid()}"
    root = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(staging)
    try:
        minari.create_dataset_from_buffers(
            dataset_id, buffers, env=env.unwrapped if env.unwrapped.spec else None, author="experts",
            observation_space=env.observation_space, action_space=space,
            algorithm_name=f"shipped top expert {fingerprint}",
        )  # fmt: skip
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            os.replace(staging / dataset_id, place)
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if root is not None:
            os.environ["MINARI_DATASETS_PATH"] = root
        shutil.rmtree(staging, ignore_errors=True)
    return dataset_id
