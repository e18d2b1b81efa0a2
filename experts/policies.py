"""Policies in files: experts, references with a Q function, and initial policies of robots."""

import json
import sys
from pathlib import Path

import torch
import torch.nn as nn
from gymnasium.spaces import MultiBinary
from safetensors import safe_open
from safetensors.torch import save_file

FOLDER = Path(__file__).parent
MAX_ACTION = 0.999  # actions are kept off the edges of [-1, 1], where atanh is infinite


class InputError(Exception):
    """What is wrong with the input, in one line. A script prints it and exits with code 2."""


def save_expert(path, actor, qf=None, **facts):
    """Write actor and critics, modules or dicts of tensors; README.md lists the tensors' names."""
    tensors = {}
    for prefix, part in (("actor", actor), ("qf", qf or {})):
        state = part if isinstance(part, dict) else part.state_dict()
        tensors |= {f"{prefix}.{name}": x.cpu().contiguous() for name, x in state.items()}
    discrete = "actor.logits.bias" in tensors
    facts["distribution"] = "categorical" if discrete else "tanh_gaussian"
    depth = sum("actor.layers." in name and "bias" in name for name in tensors)
    facts["hidden_sizes"] = [len(tensors[f"actor.layers.{i}.bias"]) for i in range(depth)]
    facts["obs_dim"] = tensors["actor.layers.0.weight"].shape[1]
    facts["act_dim"] = len(tensors["actor.logits.bias" if discrete else "actor.mean.bias"])
    facts["min_log_std"] = getattr(actor, "min_log_std", facts.get("min_log_std", -20.0))
    save_file(Expert(facts, tensors).tensors, f"{path}.tmp", {"facts": json.dumps(facts)})
    Path(f"{path}.tmp").replace(path)


class Expert(nn.Module):
    """A frozen policy; facts: the file's header, state: the tensors of the scripts' Actor."""

    def __init__(self, facts, tensors):
        """tensors: by the names of README.md; raises if a shape is wrong or a number not finite."""
        super().__init__()
        self.facts, self.discrete = facts, facts["distribution"] == "categorical"
        self.eyes = torch.as_tensor  # what it sees where a robot sees obs: (B, O) -> (B, own O)
        obs_dim, act_dim, hidden = facts["obs_dim"], facts["act_dim"], facts["hidden_sizes"]
        self.actor, self.qf = nn.Module(), nn.Module()
        with torch.device("meta"):  # shapes without numbers
            self.actor.obs_mean = nn.Buffer(torch.empty(obs_dim))
            self.actor.obs_std = nn.Buffer(torch.empty(obs_dim))
            self.actor.layers = nn.ModuleList(map(nn.Linear, [obs_dim, *hidden], hidden))
            heads = {"categorical": ["logits"], "tanh_gaussian": ["mean", "log_std"]}
            for head in heads[facts["distribution"]]:
                self.actor.add_module(head, nn.Linear(hidden[-1], act_dim))
            n = len(tensors.get("qf.weights.0", []))  # critics
            sizes = list(zip([obs_dim + act_dim, *hidden], [*hidden, 1])) if n else []
            self.qf.weights = nn.ParameterList(torch.empty(n, i, o) for i, o in sizes)
            self.qf.biases = nn.ParameterList(torch.empty(n, 1, o) for _, o in sizes)
            normed = hidden if "qf.norm_weights.0" in tensors else []
            self.qf.norm_weights = nn.ParameterList(torch.empty(n, 1, h) for h in normed)
            self.qf.norm_biases = nn.ParameterList(torch.empty(n, 1, h) for h in normed)
        plain = {"actor.obs_mean": torch.zeros(obs_dim), "actor.obs_std": torch.ones(obs_dim)}
        found = {name: x.float() for name, x in (plain | tensors).items()}
        self.load_state_dict({name: found[name] for name in self.state_dict()}, assign=True)
        self.requires_grad_(False)
        self.critics = [list(part) for part in self.qf.children()]
        self.tensors, self.state = dict(self.state_dict()), dict(self.actor.state_dict())
        for name, x in self.tensors.items():
            if not x.isfinite().all() or (name == "actor.obs_std" and not x.all()):
                raise InputError(f"{name} has numbers that are not finite, or a deviation of 0")

    def forward(self, obs):
        """Logits, or mean and log std before the tanh: (B, O) in the task's units -> (B, A)."""
        x, actor = torch.as_tensor(self.eyes(obs), dtype=torch.float32), self.actor
        x = (x - actor.obs_mean) / actor.obs_std  # (B, O)
        for layer in actor.layers:
            x = torch.relu(layer(x))  # (B, hidden)
        if self.discrete:
            return actor.logits(x)
        return actor.mean(x), actor.log_std(x).clamp(self.facts.get("min_log_std", -20.0), 2)

    def act(self, obs, deterministic=False):
        """Sampled, or the likeliest, actions within +-0.999, or one-hot: (B, O) -> (B, A)."""
        if self.discrete:
            policy = torch.distributions.OneHotCategorical(logits=self.forward(obs))
            return policy.mode if deterministic else policy.sample()
        mean, log_std = self.forward(obs)
        u = mean if deterministic else mean + log_std.exp() * torch.randn_like(mean)
        return u.tanh().clamp(-MAX_ACTION, MAX_ACTION)

    def q(self, obs, actions):
        """Q(s, a) in the task's discounted reward, its critics' mean: (B, O), (B, A) -> (B,)."""
        obs = torch.as_tensor(self.eyes(obs), dtype=torch.float32)
        actions = torch.as_tensor(actions, dtype=torch.float32)
        assert "qf.weights.0" in self.tensors, "a policy without critics has no Q function"
        x = torch.cat([(obs - self.actor.obs_mean) / self.actor.obs_std, actions], -1)  # (B, O + A)
        weights, biases, norm_weights, norm_biases = self.critics
        for i, (weight, bias) in enumerate(zip(weights, biases)):
            x = (x if i == 0 else torch.relu(x)) @ weight + bias  # (N, B, hidden)
            if i < len(norm_weights):
                x = nn.functional.layer_norm(x, x.shape[-1:]) * norm_weights[i] + norm_biases[i]
        return x.squeeze(-1).mean(0)  # (B,)


def load_expert(env_id, level, env=None, with_q=False, robot=False):
    """The shipped expert of a level, e.g. "top", or that of a .safetensors file. Raises InputError.

    env: as the scripts' make_env makes it, which the policy has to fit; with_q: it needs critics.
    In Pixels/<id> a policy of <id> sees the state unless robot is set.
    """
    state_id, known = env_id.removeprefix("Pixels/"), {}
    for name in (state_id, env_id):  # if both have a level, that of Pixels/ counts
        known |= {path.stem: path for path in (FOLDER / name).glob("*.safetensors")}
    known.pop("encoder", None)  # of experts/vision.py
    if level not in known and not str(level).endswith(".safetensors"):
        there = f"there are {', '.join(sorted(known))}" if known else "none is shipped"
        files = "--expert, --reference, --initial-policy take model.safetensors (README, Your own)"
        raise InputError(f"no expert {level!r} for {env_id}, {there}; {files}")
    path = known.get(level, level)
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expert = Expert(json.loads(file.metadata()["facts"]), tensors)
    except Exception as error:  # whatever is in the file
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path} is no policy (see experts/README.md), {why}") from None
    if env is not None:
        discrete = isinstance(env.action_space, MultiBinary)
        own = *env.observation_space.shape, *env.action_space.shape, discrete
        has = expert.facts["obs_dim"], expert.facts["act_dim"], expert.discrete
        sees_state = env_id != state_id and expert.facts.get("env_id") == state_id
        if sees_state and not robot:
            expert.eyes, own = env.get_wrapper_attr("eyes")(), (has[0], *own[1:])
        if has != own:
            raise InputError(f"{level} has (obs, action, discrete) {has}, but {env_id} needs {own}")
    if with_q and "qf.weights.0" not in expert.tensors:
        raise InputError(f"{level} has no critics: give a model of rlif_rlpd.py --reward task")
    if with_q and expert.facts.get("reward") in ("intervention", "none"):
        raise InputError(f"{level}: its critics value takeovers; give a model of --reward task")
    if expert.facts.get("env_id", env_id) not in (env_id, state_id):
        print(f"{level} is of {expert.facts['env_id']}, not of {env_id}", file=sys.stderr)
    return expert
