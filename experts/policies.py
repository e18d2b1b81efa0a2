"""Policies in files: who takes over, by whose Q function a person judges, what a robot can do."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from gymnasium.spaces import MultiBinary
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

FOLDER = Path(__file__).parent
MAX_ACTION = 0.999  # actions are kept off the edges of [-1, 1], where atanh is infinite


class InputError(Exception):
    """What is wrong with the input, in one line. A script prints it and exits with code 2."""


def save_expert(path, actor, qf=None, **facts):
    """Write a policy, and critics, modules or dicts of tensors, by the names of README.md."""
    tensors = {}
    for prefix, part in (("actor", actor), ("qf", qf or {})):
        state = part if isinstance(part, dict) else part.state_dict()
        tensors |= {f"{prefix}.{name}": x.cpu().contiguous() for name, x in state.items()}
    discrete = "actor.logits.bias" in tensors
    facts["distribution"] = "categorical" if discrete else "tanh_gaussian"
    biases = [name for name in sorted(tensors) if "actor.layers." in name and "bias" in name]
    facts["hidden_sizes"] = [len(tensors[name]) for name in biases]
    facts["obs_dim"] = tensors["actor.layers.0.weight"].shape[1]
    facts["act_dim"] = len(tensors["actor.logits.bias" if discrete else "actor.mean.bias"])
    facts["min_log_std"] = getattr(actor, "min_log_std", -20.0)
    header = {"facts": json.dumps(facts, sort_keys=True)}
    save_file(checked(path, facts, tensors), f"{path}.tmp", header)
    os.replace(f"{path}.tmp", path)


def checked(path, facts, tensors):
    """Those of these tensors that a policy with such facts has, as float32; raises InputError."""
    obs_dim, act_dim, hidden = facts["obs_dim"], facts["act_dim"], facts["hidden_sizes"]
    shapes = {"actor.obs_mean": (obs_dim,), "actor.obs_std": (obs_dim,)}
    for i, (n_in, n_out) in enumerate(zip([obs_dim, *hidden], hidden)):
        shapes |= {f"actor.layers.{i}.weight": (n_out, n_in), f"actor.layers.{i}.bias": (n_out,)}
    heads = {"categorical": ["logits"], "tanh_gaussian": ["mean", "log_std"]}
    for head in heads[facts["distribution"]]:
        shapes |= {f"actor.{head}.weight": (act_dim, hidden[-1]), f"actor.{head}.bias": (act_dim,)}
    if "qf.weights.0" in tensors:
        n = len(tensors["qf.weights.0"])  # critics
        for i, (n_in, n_out) in enumerate(zip([obs_dim + act_dim, *hidden], [*hidden, 1])):
            shapes |= {f"qf.weights.{i}": (n, n_in, n_out), f"qf.biases.{i}": (n, 1, n_out)}
            for part in ("weights", "biases") if i < len(hidden) else ():
                if "qf.norm_weights.0" in tensors:
                    shapes[f"qf.norm_{part}.{i}"] = (n, 1, n_out)
    optional = {"actor.obs_mean": torch.zeros(obs_dim), "actor.obs_std": torch.ones(obs_dim)}
    tensors = optional | tensors
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            raise InputError(f"{path}: {name} is to have the shape {shape} (experts/README.md)")
        if not tensors[name].isfinite().all():
            raise InputError(f"{path}: {name} has numbers that are not finite")
    return {name: tensors[name].float() for name in shapes}


class Expert:
    """A frozen policy; facts: the file's header, state: the tensors of the scripts' Actor."""

    def __init__(self, path):
        try:
            with safe_open(path, "pt") as file:
                self.facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.tensors = checked(path, self.facts, tensors)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        except (SafetensorError, AttributeError, LookupError, TypeError, ValueError):
            raise InputError(f"{path} is damaged, or no policy (see experts/README.md)") from None
        self.depth = len(self.facts["hidden_sizes"])
        self.discrete = self.facts["distribution"] == "categorical"
        of_actor = [name for name in self.tensors if name.startswith("actor.")]
        self.state = {name.removeprefix("actor."): self.tensors[name] for name in of_actor}

    @torch.no_grad()
    def __call__(self, obs):
        """Logits, or mean and log std before the tanh: (B, O) in the task's units -> (B, A)."""
        x, s = torch.as_tensor(obs, dtype=torch.float32), self.state
        x = (x - s["obs_mean"]) / s["obs_std"]  # (B, O)
        for i in range(self.depth):
            x = F.relu(F.linear(x, s[f"layers.{i}.weight"], s[f"layers.{i}.bias"]))  # (B, hidden)
        if self.discrete:
            return F.linear(x, s["logits.weight"], s["logits.bias"])
        log_std = F.linear(x, s["log_std.weight"], s["log_std.bias"])
        low = self.facts.get("min_log_std", -20.0)
        return F.linear(x, s["mean.weight"], s["mean.bias"]), log_std.clamp(low, 2)

    def act(self, obs, deterministic=False):
        """Sampled, or the likeliest, actions within +-0.999, or one-hot: (B, O) -> (B, A)."""
        if self.discrete:
            policy = torch.distributions.OneHotCategorical(logits=self(obs))
            return policy.mode if deterministic else policy.sample()
        mean, log_std = self(obs)
        u = mean if deterministic else mean + log_std.exp() * torch.randn_like(mean)
        return u.tanh().clamp(-MAX_ACTION, MAX_ACTION)

    @torch.no_grad()
    def q(self, obs, actions):
        """Q(s, a) in the task's discounted reward, its critics' mean: (B, O), (B, A) -> (B,)."""
        obs, actions = (torch.as_tensor(x, dtype=torch.float32) for x in (obs, actions))
        obs = (obs - self.state["obs_mean"]) / self.state["obs_std"]
        x, qf = torch.cat([obs, actions], dim=-1), self.tensors  # (B, O + A)
        for i in range(self.depth + 1):
            x = x @ qf[f"qf.weights.{i}"] + qf[f"qf.biases.{i}"]  # (N, B, hidden)
            if f"qf.norm_weights.{i}" in qf:
                x = F.layer_norm(x, x.shape[-1:])
                x = x * qf[f"qf.norm_weights.{i}"] + qf[f"qf.norm_biases.{i}"]
            if i < self.depth:
                x = F.relu(x)
        return x.squeeze(-1).mean(0)  # (B,)


def load_expert(env_id, level, env=None, with_q=False):
    """The shipped expert of a level, e.g. "top", or that of a .safetensors file. Raises InputError.

    env: as the scripts' make_env makes it, which the policy has to fit; with_q: it needs critics.
    """
    known = sorted(path.stem for path in (FOLDER / env_id).glob("*.safetensors"))
    if level not in known and not str(level).endswith(".safetensors"):
        there = f"there are {', '.join(known)}" if known else "none is shipped"
        raise InputError(f"no expert {level!r} for {env_id}, {there}: give a .safetensors file")
    expert = Expert(FOLDER / env_id / f"{level}.safetensors" if level in known else level)
    facts = expert.facts
    if env is not None:
        discrete = isinstance(env.action_space, MultiBinary)
        own = *env.observation_space.shape, *env.action_space.shape, discrete
        has = facts["obs_dim"], facts["act_dim"], expert.discrete
        if has != own:
            what = "numbers of observations and actions, discrete or not"
            raise InputError(f"{level} does not fit, {what}: {has}, but {env_id} {own}")
    if with_q and "qf.weights.0" not in expert.tensors:
        raise InputError(f"{level} has no critics to judge by; a file of rlif_rlpd.py has some")
    if facts.get("env_id", env_id) != env_id:
        print(f"{level} was trained for {facts['env_id']}, not for {env_id}", file=sys.stderr)
    return expert
