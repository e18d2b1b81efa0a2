"""Policies from files: who takes over, by whose Q function the person judges, what a robot can do at first."""

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch

from experts.files import InputError, write_file

FOLDER = Path(__file__).parent
# output layers by distribution
HEADS = {
    "tanh_gaussian": ("mean", "log_std"),
    "categorical": ("logits",),
}
MAX_ACTION = 0.999  # actions are kept off the edges of [-1, 1], where atanh is infinite


def _digest(tensors, facts):
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        digest.update(tensors[name].numpy())
    return digest.hexdigest()


def save_expert(path, tensors, **facts):
    """Write a policy as a file that load_expert reads; the names of tensors and facts are in experts/README.md.

    Its distribution and its sizes are facts that the tensors tell.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    distribution = "categorical" if "actor.logits.bias" in tensors else "tanh_gaussian"
    sizes, i = [], 0  # of the hidden layers: (outputs, inputs)
    while f"actor.layers.{i}.weight" in tensors:
        sizes.append(tensors[f"actor.layers.{i}.weight"].shape)
        i += 1
    facts |= {
        "distribution": distribution,
        "act_dim": len(tensors[f"actor.{HEADS[distribution][0]}.bias"]),
    }
    facts |= {"obs_dim": sizes[0][1], "hidden_sizes": [size[0] for size in sizes]}
    header = {"facts": json.dumps(facts, sort_keys=True), "sha256": _digest(tensors, facts)}
    write_file(path, safetensors_torch.save(tensors, header))


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
            raise InputError(
                f"{path} is damaged or not an expert file (format: experts/README.md)"
            ) from None
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
            self.state = {
                f"{name.removeprefix('actor.')}.{part}": tensors[f"{name}.{part}"]
                for name in (*layers, *heads)
                for part in ("weight", "bias")
            }
            self.layers = [(tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in layers]
            self.heads = [(tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in heads]
            self.obs_mean = tensors.get("actor.obs_mean", torch.zeros(self.obs_dim))
            self.obs_std = tensors.get("actor.obs_std", torch.ones(self.obs_dim))
            self.state |= {"obs_mean": self.obs_mean, "obs_std": self.obs_std}
            self.has_q = "qf.weights.0" in tensors
            layers, norms = (
                depth + 1 if self.has_q else 0,
                depth if "qf.norm_weights.0" in tensors else 0,
            )
            self.q_layers = [
                (tensors[f"qf.weights.{i}"], tensors[f"qf.biases.{i}"]) for i in range(layers)
            ]
            self.q_norms = [
                (tensors[f"qf.norm_weights.{i}"], tensors[f"qf.norm_biases.{i}"])
                for i in range(norms)
            ]
            probe = torch.zeros(1, self.obs_dim)
            action = self.act(probe, deterministic=True)
            fits = action.shape == (1, self.act_dim) and (
                not self.has_q or self.q(probe, action).shape == (1,)
            )
            fits &= [len(bias) for _, bias in self.layers] == list(self.facts["hidden_sizes"])
            fits &= self.obs_mean.shape == self.obs_std.shape == (self.obs_dim,)
        except (KeyError, RuntimeError, TypeError, ValueError):
            fits = False
        if not fits:
            raise InputError(
                f"{path}: its tensors are not those of its header (format: experts/README.md)"
            )

    @torch.no_grad()
    def __call__(self, obs):
        """What describes pi(.|s): mean and log std before the tanh, or logits; (B, obs_dim) -> (B, act_dim) each.

        obs is in the environment's own units, a numpy array or a tensor.
        """
        x = (torch.as_tensor(obs, dtype=torch.float32) - self.obs_mean) / self.obs_std
        for weight, bias in self.layers:
            x = F.relu(F.linear(x, weight, bias))  # (B, hidden)
        if self.discrete:
            return F.linear(x, *self.heads[0])
        mean, log_std = (F.linear(x, *head) for head in self.heads)
        return mean, log_std.clamp(self.facts.get("min_log_std", -20), 2)

    def act(self, obs, deterministic=False):
        """Sampled (or the likeliest) actions: (B, obs_dim) -> (B, act_dim).

        They are tanh-squashed and kept within +-0.999, or one-hot where actions are discrete. Noise comes from torch's
        global generator.
        """
        if self.discrete:
            logits = self(obs)
            choice = (
                logits.argmax(-1)
                if deterministic
                else torch.distributions.Categorical(logits=logits).sample()
            )
            return F.one_hot(choice, self.act_dim).float()
        mean, log_std = self(obs)
        action = mean if deterministic else mean + log_std.exp() * torch.randn_like(mean)
        return action.tanh().clamp(-MAX_ACTION, MAX_ACTION)

    @torch.no_grad()
    def q(self, obs, actions):
        """Q(s, a), the mean over the critics: (B, obs_dim), (B, act_dim) -> (B,), in the task's discounted reward."""
        if not self.has_q:
            raise InputError(
                f"{self.path} carries no critics: it can act, but not serve as --reference"
            )
        obs, actions = (torch.as_tensor(x, dtype=torch.float32) for x in (obs, actions))
        # (B, O + A), shared by all
        x = torch.cat([(obs - self.obs_mean) / self.obs_std, actions], dim=-1)
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


def load_expert(env_id, level, env=None, with_q=False):
    """The shipped expert of that level ("top", "middle", "low", ...) or, if level is a path, that file.

    env: as every script makes it, its outermost wrapper UnitActions. Raises InputError with the known levels, with what
    is wrong with the file, or, given env, if its sizes or the kind of its actions are others. A file of another
    environment is taken, for somebody may want that, but a line on stderr says so.
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
        raise InputError(
            f"no expert {level!r} for {env_id} ({there}); give {choice} of a .safetensors file"
        )
    if env is not None and expert.discrete != env.discrete:
        raise InputError(
            f"{level}: is {'' if expert.discrete else 'not '}for discrete actions, unlike {env_id}"
        )
    if (
        env is not None
        and (expert.obs_dim, expert.act_dim) != env.observation_space.shape + env.action_space.shape
    ):
        raise InputError(
            f"{level}: is for {expert.obs_dim} observations and {expert.act_dim} actions, {env_id} has "
            f"{env.observation_space.shape[0]} and {env.action_space.shape[0]}"
        )
    if with_q and not expert.has_q:
        raise InputError(f"{level}: no critics to judge with in that file")
    own = expert.facts.get("env_id", env_id)
    if own != env_id:
        print(f"warning: {level} was trained for {own}, and is used for {env_id}", file=sys.stderr)
    return expert
