"""RLIF: RL from the decision to intervene. One file; by default no task reward is learned from.

A person watches a robot's policy and takes over when it does badly. The step before a takeover gets
reward -1, every other step 0, and off-policy RL learns to avoid takeovers: the policy can become
better than the person's own driving. By default a fall is charged, too (see end_of_episode).

Paper: Luo et al., RLIF, ICLR 2024, https://arxiv.org/abs/2311.12996 ("Alg. 2", "Eq. 1").
Learner: RLPD (Ball et al., ICML 2023, https://arxiv.org/abs/2302.02948), SAC with many critics.

    python rlif_rlpd.py                      # Hopper-v5: the expert scores 16, the policy 105
    python rlif_rlpd.py --resume runs/<run>  # continue a stopped run, bit for bit

Read the loop in main() first: it is Algorithm 2. Then ValueHuman (when to intervene), Agent (RLPD),
end_of_episode. Shapes: O observation, A action, B batch, G updates, N critics, E episodes.
"""

import csv
import json
import math
import os
import re
import shutil
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from filelock import FileLock, Timeout
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import TRAINING_TASKS, InputError, Task, load_demonstrations, load_expert
from experts import normalized_score, save_expert
from experts.human import Person

MAX_ACTION = 0.999  # limit of executed and stored actions: cloning takes atanh, infinite at 1
INTERVENTION_REWARD = -1.0  # of the step before a takeover; critic_gradients clamps above 0


@dataclass
class Args:
    # --- run ---
    exp_name: str = "rlif_rlpd"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: int = 1  # random seed: on a machine's CPU, the same seed gives the same run to the bit
    resume: str | None = None  # continue this run, runs/<run>; options typed now replace its own
    capture_video: bool = False  # film the policy at the end (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)
    # --- task ---
    env_id: str = "Hopper-v5"  # a Gymnasium environment with continuous actions, or Pixels/<its id>
    max_episode_steps: int | None = None  # time limit of an episode; default: the environment's
    total_timesteps: int = 25_000  # environment steps
    eval_frequency: int = 2_500  # evaluate every so many steps, once the episode has ended
    eval_episodes: int = 20  # episodes with mean actions, and as many with sampled actions
    single_env: bool = False  # evaluate in the training environment (if there is but one robot)
    # --- person ---
    expert: str = "low"  # who takes over: a shipped level or a .safetensors file
    # value: by Eq. 1; progress: when V falls; random; none: never; human: you (docs/keys.md)
    intervention: Literal["value", "progress", "random", "none", "human"] = "value"
    reference: str = "top"  # the simulated judge's policy and Q function: a level or a file
    intervention_alpha: float = 0.995  # bad: Q(s, a) < Q(s, a_ref) - (1 - this) |Q(s, a_ref)|
    intervention_delta: float = 0.0  # Eq. 1's delta in units of Q, on top of the margin by alpha
    progress_steps: int = 10  # progress: V(s) = Q(s, a_ref) is compared with that so many steps ago
    progress_share: float = -0.05  # bad if V rose by less than this share; -0.05: fell by over 5 %
    intervention_beta: float = 0.95  # probability of a takeover if flagged as bad; 1 - this if not
    takeover_steps: int = 4  # steps that the expert keeps control
    random_rate: float = 0.5  # random: share of the steps under expert control
    keys: str | None = None  # human: a file of key bindings, like experts/keys.toml
    replay: str | None = None  # human: learn again from the session in this folder, runs/<run>
    # --- data ---
    demo_episodes: int = 50  # demonstrations to begin with, drawn by the seed; 0: none
    dataset_id: str | None = None  # a Minari dataset; default: the one that is shipped for the task
    offline_ratio: float = 0.0  # share of a batch from demonstrations (RLPD: 0.5); 0: uniform
    bc_weight: float = 0.0  # of the behavioural-cloning term in the actor's loss; 0: off
    # intervention: -1 before a takeover; task: its own, as RLPD; none: only falls are charged
    reward: Literal["intervention", "task", "none"] = "intervention"
    # an early end is charged (penalty), worth 0 (mask), or bootstrapped; default: by the task
    termination: Literal["penalty", "mask", "bootstrap"] | None = None
    # --- learner ---
    batch_size: int = 256  # transitions per update
    n_step: int = 3  # n-step returns, which also run through the expert's steps (RLPD: 1)
    gamma: float = 0.99  # discount
    tau: float = 0.005  # Polyak step of the target critics
    learning_rate: float = 3e-4  # Adam's, for actor, critics and temperature
    final_lr_fraction: float = 0.1  # over the second half the rate falls linearly to this share
    standardize_obs: bool = True  # by demonstrations' mean and deviation, if any (not in the paper)
    hidden_sizes: tuple[int, ...] = (256, 256)  # of actor and critics
    num_qs: int = 3  # critics (RLPD: 10)
    num_min_qs: int = 2  # critics drawn for each target (or all), whose minimum it takes
    utd_ratio: int = 1  # critic updates per environment step (RLPD: 20); the actor gets one
    target_entropy: float | None = None  # default: -A for A action components (RLPD: -A / 2)
    cuda: bool = False  # learn on the GPU
    num_threads: int = 1  # of torch on the CPU; more are slower where other programs run
    compile: bool = True  # compile the gradients (needs g++; not at the keys): faster
    precision: Literal["auto", "bf16", "float32"] = "auto"  # auto: bf16 if supported

    def check(self):
        signed = "target_entropy", "intervention_delta", "progress_share"
        shares = "intervention_alpha", "intervention_beta", "random_rate", "offline_ratio", "tau"
        for name, value in vars(self).items():
            least = 1 if type(value) is int and name not in ("seed", "demo_episodes") else 0
            least = -1e38 if name in signed else least
            most = 1 if name in shares else 1e38
            if type(value) in (int, float) and not least <= value <= most:  # nor may it be nan
                raise InputError(f"--{name.replace('_', '-')} {value} is not in {least} to {most}")
        if self.gamma >= 1 or min(self.hidden_sizes, default=0) < 1:
            raise InputError("--gamma must be below 1, --hidden-sizes 1 or more")
        if self.intervention == "none" and self.reward != "task":
            raise InputError("--intervention none needs --reward task: there is no other reward")
        if self.reward == "task" and self.termination == "penalty":
            raise InputError("--reward task needs --termination mask or bootstrap")
        offline = round(self.offline_ratio * self.batch_size)
        if (self.offline_ratio or self.bc_weight) and not (offline and self.demo_episodes):
            raise InputError("give both --offline-ratio, say 0.25, and --demo-episodes, say 50")
        if self.cuda and (self.intervention == "human" or not torch.cuda.is_available()):
            raise InputError("leave --cuda out: there is no GPU, or --intervention is human")


# --- environment ----------------------------------------------------------------------------------
def make_env(env_id, max_episode_steps=None, render_mode=None):
    """gym.make's, with flat observations, and actions in [-1, 1]."""
    env = gym.wrappers.FlattenObservation(Task(env_id, max_episode_steps, render_mode))
    space = env.action_space
    vector = isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"
    if not vector or not ((space.high > space.low) & (space.high - space.low < 1e9)).all():
        raise InputError(f"--env-id {env_id}: needs bounded continuous actions, not {space}")
    return gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


# --- person ---------------------------------------------------------------------------------------
class ValueHuman:
    """Takes over where a reference Q function finds the novice's proposal bad (Eq. 1)."""

    grace_steps = 1  # steps of the novice after a takeover that are not checked (RLIF's code)

    def __init__(self, args, reference, rng):
        self.args, self.reference, self.rng = args, reference, rng
        # gamma^m: if every check starts a takeover, one starts every m steps
        self.discount = args.gamma ** (args.takeover_steps + self.grace_steps)

    def is_bad(self, obs, proposal, t):
        """Eq. 1: is the proposal's Q below that of the reference's action? (1, O), (A,) -> bool."""
        actions = torch.cat([torch.as_tensor(proposal)[None], self.reference.act(obs)])  # (2, A)
        q_novice, q_reference = self.reference.q(obs.expand(2, -1), actions).tolist()
        # relative to |Q|: where Q < 0, alpha * Q would lie above Q
        margin = (1 - self.args.intervention_alpha) * abs(q_reference)
        return q_novice < q_reference - margin - self.args.intervention_delta

    def check(self, obs, proposal, t):
        """Flagged as bad? Does a takeover start, and how long? (O,), (A,) -> bool, bool, steps."""
        flagged = self.is_bad(torch.as_tensor(obs, dtype=torch.float32)[None], proposal, t)
        chance = self.args.intervention_beta if flagged else 1 - self.args.intervention_beta
        started = self.rng.random() < chance
        return flagged, started, self.args.takeover_steps if started else 0


class ProgressHuman(ValueHuman):
    """Takes over where V has fallen: judges what some steps have led to, not the next action."""

    def is_bad(self, obs, proposal, t):
        """Is V(s_t) < V' + share |V'|, with V' progress_steps ago? (1, O), (A,) -> bool."""
        if t == 0:
            self.values = {}  # of this episode, by the step: {t: V(s_t)}
        self.values[t] = self.reference.q(obs, self.reference.act(obs, deterministic=True)).item()
        before = self.values.get(t - self.args.progress_steps, math.nan)  # nan: not looked at
        return self.values[t] < before + self.args.progress_share * abs(before)


class RandomHuman:
    """Takes over at random, and acts in a share p = random_rate of the steps."""

    grace_steps = 0  # a takeover may follow at once; the expert's last step then gets the -1

    def __init__(self, args, rng):
        # share p: on average k (1 - p) / p novice steps lie between two takeovers of k steps
        k, p, self.rng = args.takeover_steps, args.random_rate, rng
        self.takeover_steps = k
        self.chance = p / (p + k * (1 - p))
        # E[gamma^m], m as above: k and a geometric number of the novice's steps
        self.discount = args.gamma**k * self.chance / (1 - (1 - self.chance) * args.gamma)

    def check(self, obs, proposal, t):
        """Flags nothing; does a takeover start, and how long? (O,), (A,) -> bool, bool, steps."""
        started = self.rng.random() < self.chance
        return False, started, self.takeover_steps if started else 0


# --- networks -------------------------------------------------------------------------------------
class Actor(nn.Module):
    """Tanh-Gaussian policy."""

    min_log_std = -20.0

    def __init__(self, obs_dim, act_dim, hidden_sizes):
        super().__init__()
        sizes = [obs_dim, *hidden_sizes]
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes[:-1], sizes[1:]))
        self.mean, self.log_std = (nn.Linear(sizes[-1], act_dim) for _ in range(2))

    def forward(self, obs, dtype=torch.float32):
        """Mean and ln std before the tanh, by products of this dtype: (B, O) -> (B, A) each."""
        x = (obs - self.obs_mean) / self.obs_std  # (B, O)
        for layer in self.layers:
            x = x.to(dtype) @ layer.weight.to(dtype).T  # (B, hidden)
            x = F.relu(x.float() + layer.bias)
        return self.mean(x), self.log_std(x).clamp(self.min_log_std, 2)

    def sample(self, obs, noise, dtype=torch.float32):
        """Actions for this standard normal noise, and ln pi of them: (B, A), (B,)."""
        mean, log_std = self(obs, dtype)
        u = mean + log_std.exp() * noise  # (B, A), before the tanh
        log_normal = -0.5 * noise.pow(2) - log_std - 0.5 * math.log(2 * math.pi)
        log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))  # ln(d tanh(u) / du)
        return u.tanh(), (log_normal - log_slope).sum(-1)

    @torch.no_grad()
    def act(self, obs, deterministic=False):
        """What is executed and stored, kept off the edges of [-1, 1]: numpy (B, O) -> (B, A)."""
        obs = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        mean, log_std = self(obs)
        u = mean if deterministic else mean + log_std.exp() * torch.randn_like(mean)
        return u.tanh().clamp(-MAX_ACTION, MAX_ACTION).cpu().numpy()


class QEnsemble(nn.Module):
    """N critics as one batched network: every parameter has a leading dimension N."""

    def __init__(self, obs_dim, act_dim, hidden_sizes, num_qs):
        super().__init__()
        sizes = [obs_dim + act_dim, *hidden_sizes, 1]
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        shapes = [(num_qs, i, o) for i, o in zip(sizes[:-1], sizes[1:])]
        bounds = [1 / math.sqrt(i) for i in sizes[:-1]]  # as in nn.Linear
        weights = [torch.empty(shape).uniform_(-b, b) for shape, b in zip(shapes, bounds)]
        biases = [torch.empty(n, 1, o).uniform_(-b, b) for (n, _, o), b in zip(shapes, bounds)]
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        self.norm_weights = nn.ParameterList(torch.ones(num_qs, 1, h) for h in hidden_sizes)
        self.norm_biases = nn.ParameterList(torch.zeros(num_qs, 1, h) for h in hidden_sizes)

    def forward(self, obs, actions, members=slice(None), dtype=torch.float32):
        """Q_i(s, a) of the M chosen members, by default all N: (B, O), (B, A) -> (M, B)."""
        x = torch.cat([(obs - self.obs_mean) / self.obs_std, actions], dim=-1)  # (B, O + A)
        x = x.expand(len(self.weights[0][members]), *x.shape)  # (M, B, O + A), not copied
        for i, norm_weight in enumerate(self.norm_weights):
            x = x.to(dtype) @ self.weights[i][members].to(dtype)  # (M, B, hidden)
            x = F.layer_norm(x.float() + self.biases[i][members], x.shape[-1:])
            x = F.relu(torch.addcmul(self.norm_biases[i][members], x, norm_weight[members]))
        return (x * self.weights[-1][members].mT).sum(-1) + self.biases[-1][members].squeeze(-1)


class Agent(nn.Module):
    """RLPD's learner: actor, critics, temperature and their updates."""

    def __init__(self, obs_dim, act_dim, args, device):
        super().__init__()
        self.args = args
        self.dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
        self.actor = Actor(obs_dim, act_dim, args.hidden_sizes)
        self.qf = QEnsemble(obs_dim, act_dim, args.hidden_sizes, args.num_qs)
        self.qf_target = QEnsemble(obs_dim, act_dim, args.hidden_sizes, args.num_qs)
        self.qf_target.load_state_dict(self.qf.state_dict())
        self.log_alpha = nn.Parameter(torch.tensor([math.log(0.1)]))  # temperature (RLPD: 1)
        self.to(device)
        self.target_entropy = -act_dim if args.target_entropy is None else args.target_entropy
        self.learned = [*self.actor.parameters(), self.log_alpha]
        self.actor_optimizer = torch.optim.Adam(self.learned, args.learning_rate, fused=True)
        self.qf_optimizer = torch.optim.Adam(self.qf.parameters(), args.learning_rate, fused=True)

    def critic_gradients(self, batch, noise, members):
        """Losses and gradients of all critics, for noise (B, A) and members (M,) of the target."""
        with torch.no_grad():
            next_actions, _ = self.actor.sample(batch["next_obs"], noise, self.dtype)  # (B, A)
            next_q = self.qf_target(batch["next_obs"], next_actions, members, self.dtype)  # (M, B)
            next_q = next_q.min(0).values  # (B,), without an entropy bonus
            target = batch["rewards"] + batch["discounts"] * (1 - batch["terminations"]) * next_q
            if self.args.reward != "task":  # returns lie in [-1 / (1 - gamma), 0]
                target = target.clamp(INTERVENTION_REWARD / (1 - self.args.gamma), 0)
        q = self.qf(batch["obs"], batch["actions"], dtype=self.dtype)  # (N, B)
        loss = (q - target).pow(2).mean(1).sum()  # a sum over critics: each learns as if alone
        losses = {"qf_loss": loss.detach() / len(q), "qf_values": q.detach().mean()}
        return losses, torch.autograd.grad(loss, list(self.qf.parameters()))

    def actor_gradients(self, batch, noise):
        """Losses and gradients of log-temperature and actor, which climbs the critics' mean."""
        actions, log_prob = self.actor.sample(batch["obs"], noise, self.dtype)  # (B, A), (B,)
        q = self.qf(batch["obs"], actions, dtype=self.dtype).mean(0)  # (N, B) -> (B,)
        alpha, entropy = self.log_alpha.exp(), -log_prob.detach().mean()
        actor_loss = (alpha.detach() * log_prob - q).mean()
        if self.args.bc_weight:  # to the demonstrations, which are the first rows of a batch
            n = round(self.args.offline_ratio * len(q))
            mean = self.actor(batch["obs"][:n], self.dtype)[0].tanh()  # (n, A)
            distance = (mean - batch["actions"][:n]).pow(2).sum(-1)  # (n,)
            actor_loss = actor_loss + self.args.bc_weight * distance.mean()
        alpha_loss = (alpha * (entropy - self.target_entropy)).sum()
        losses = {"actor_loss": actor_loss.detach(), "alpha": alpha[0].detach(), "entropy": entropy}
        return losses, torch.autograd.grad(actor_loss + alpha_loss, self.learned)

    def update_critics(self, batch):
        """A gradient step of all critics and a step of their targets (RLPD, Alg. 1)."""
        noise = torch.randn_like(batch["actions"])
        members = torch.rand(self.args.num_qs, device=noise.device).argsort()  # (N,)
        losses, gradients = self.critic_gradients(batch, noise, members[: self.args.num_min_qs])
        descend(self.qf_optimizer, gradients)
        with torch.no_grad():
            targets, qf = list(self.qf_target.parameters()), list(self.qf.parameters())
            torch._foreach_lerp_(targets, qf, self.args.tau)  # targets += tau (qf - targets)
        return losses

    def update(self, batches, progress):
        """RLPD's update on minibatches (G, B, ...): critics on each, the actor on the last."""
        scale = 1 - (1 - self.args.final_lr_fraction) * max(0.0, 2 * progress - 1)
        for optimizer in (self.actor_optimizer, self.qf_optimizer):
            optimizer.param_groups[0]["lr"] = scale * self.args.learning_rate
        for g in range(len(batches["obs"])):
            batch = {name: values[g] for name, values in batches.items()}
            critic_losses = self.update_critics(batch)
        losses, gradients = self.actor_gradients(batch, torch.randn_like(batch["actions"]))
        descend(self.actor_optimizer, gradients)
        return critic_losses | losses


def descend(optimizer, gradients):
    """An optimizer's step, given the gradients."""
    for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients):
        parameter.grad = gradient.contiguous()  # the fused Adam reads memory in order
    optimizer.step()


# --- replay buffer --------------------------------------------------------------------------------
class ReplayBuffer:
    """All transitions of a run in the order they happened; the demonstrations come first."""

    def __init__(self, capacity, obs_dim, act_dim):
        sizes = {"obs": (obs_dim,), "next_obs": (obs_dim,), "actions": (act_dim,)}
        sizes |= {"rewards": (), "terminations": (), "ends": ()}  # ends: 1 at an episode's last
        self.data = {name: np.zeros((capacity, *size), "f") for name, size in sizes.items()}
        print(f"the replay buffer takes {sum(x.nbytes for x in self.data.values()) / 1e6:.0f} MB")
        self.size, self.num_offline = 0, 0  # rows in all; offline rows, which come first

    def state_dict(self):
        return {name: torch.from_numpy(x[: self.size]) for name, x in self.data.items()}

    def load_state_dict(self, state):
        self.size = len(state["obs"])
        for name in self.data:  # each leaves the memory as soon as it is copied
            self.data[name][: self.size] = state.pop(name)

    def add(self, transition):
        for name, value in transition.items():
            self.data[name][self.size] = value
        self.size += 1

    def sample(self, rng, args, device):
        """Minibatches, a dict of tensors (G, B, ...); each begins with its offline rows.

        A row is a step with n rewards from it on, fewer than n_step at an episode's end and for the
        newest: r_0 + gamma r_1 + ... + gamma^(n-1) r_(n-1), to which gamma^n Q(s_n, .) is added.
        """
        offline = round(args.offline_ratio * args.batch_size)
        first = rng.integers(self.num_offline, self.size, size=(args.utd_ratio, args.batch_size))
        if offline:
            first[:, :offline] = rng.integers(self.num_offline, size=(args.utd_ratio, offline))
        last, rewards = first, self.data["rewards"][first]  # (G, B); rows of r_(n-1), and the sum
        discounts = np.full_like(rewards, args.gamma)  # (G, B), gamma^n
        for _ in range(args.n_step - 1):
            more = (self.data["ends"][last] == 0) & (last + 1 < self.size)  # (G, B)
            last = last + more
            rewards = rewards + more * discounts * self.data["rewards"][last]
            discounts = np.where(more, np.float32(args.gamma) * discounts, discounts)
        batch = {"rewards": rewards, "discounts": discounts}
        batch |= {name: self.data[name][first] for name in ("obs", "actions")}
        batch |= {name: self.data[name][last] for name in ("next_obs", "terminations")}
        return {name: torch.from_numpy(values).to(device) for name, values in batch.items()}


def usual_termination(args):
    """What --termination is where it is known what the end of an episode means, else None."""
    if args.reward == "task" or "Meta-World/" in args.env_id:
        return "mask"  # on Meta-World it is a success
    if "LunarLander" in args.env_id:  # it comes to rest, or crashes
        return "bootstrap"
    falls = "Hopper|Walker2d|HalfCheetah|Ant|Humanoid|InvertedPendulum|AdroitHandPen|gym_hil/.*"
    return "penalty" if re.match(f"(Pixels/)?({falls})-v", args.env_id) else None


def end_of_episode(args, human, transition, terminated, success=False):
    """How an episode's last transition is stored. A success is worth 0, a time limit is no end.

    mask: nothing comes after an end, it is worth 0. Where it is a fall that is the suicide trap:
    all other rewards are 0 or -1, so the agent learns to fall as fast as it can.
    penalty: a fall costs what being taken over for ever costs, -1 now and at every next takeover.
    bootstrap: the critic says what the last state is worth, although it never learns about it.
    """
    if terminated and args.termination == "penalty" and not success:
        charge = INTERVENTION_REWARD / (1 - human.discount)
        return transition | {"rewards": charge, "terminations": 1.0}
    final = terminated and (success or args.termination == "mask")
    return transition | {"terminations": float(final)}


# --- evaluation -----------------------------------------------------------------------------------
def evaluate(env_id, actor, envs, *key):
    """In each env one episode with mean and one with sampled actions, seeded by the key."""
    row, seeds = {}, np.random.SeedSequence(key).generate_state(len(envs)).tolist()
    for prefix, deterministic in (("", True), ("stochastic_", False)):
        returns, successes = np.zeros(len(envs)), np.full(len(envs), math.nan)  # (E,) each
        with torch.random.fork_rng():
            torch.manual_seed(seeds[0])
            for first in range(0, len(envs), n := len(set(envs))):  # n at a time; --single-env: 1
                playing = list(range(first, first + n))
                obs = {i: envs[i].reset(seed=seeds[i])[0] for i in playing}  # (O,) each
                while playing:
                    actions = actor.act(np.stack([obs[i] for i in playing]), deterministic)
                    for i, action in zip(tuple(playing), actions):  # (A,) each
                        obs[i], reward, terminated, truncated, info = envs[i].step(action)
                        returns[i] += reward
                        if terminated or truncated:
                            successes[i] = info["success"]
                            playing.remove(i)
        known = not np.isnan(successes).all()  # some report a success only where there is one
        row[f"{prefix}success_rate"] = 100 * np.nan_to_num(successes).mean() if known else math.nan
        row[f"{prefix}return_mean"] = returns.mean()
        row[f"{prefix}normalized_score"] = normalized_score(env_id, returns).mean()  # D4RL's
    return {name: float(value) for name, value in row.items()}


def write_rows(folder, writer, bar, rows):
    """All evaluations as eval.csv, the last to TensorBoard and the bar; nan: what is not known."""
    bar.set_postfix({x: rows[-1][x] for x in ("normalized_score", "success_rate", "return_mean")})
    for name, value in rows[-1].items():
        if not math.isnan(value):
            writer.add_scalar(f"eval/{name}", value, rows[-1]["global_step"])
    with open(folder / "eval.tmp", "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    os.replace(folder / "eval.tmp", folder / "eval.csv")  # as a whole, or not at all


# --- main -----------------------------------------------------------------------------------------
def main(args):
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    args.termination = args.termination or usual_termination(args)
    if args.precision == "auto":
        can = torch.cpu.get_capabilities()  # {name: yes or no}
        bf16 = args.cuda or can.get("avx512_bf16") or can.get("amx_bf16")
        args.precision = "bf16" if bf16 else "float32"
    mode = "rgb_array" if args.capture_video or args.intervention == "human" else None
    task = args.env_id, args.max_episode_steps, mode
    env = make_env(TRAINING_TASKS.get(args.env_id, args.env_id), *task[1:])
    eval_envs = [env if args.single_env else make_env(*task) for _ in range(args.eval_episodes)]
    if args.termination is None:
        raise InputError("give --termination penalty (falls), mask (successes), bootstrap (others)")
    human = RandomHuman(args, rng) if args.intervention == "random" else None
    if args.intervention in ("value", "progress"):
        judge = ValueHuman if args.intervention == "value" else ProgressHuman
        human = judge(args, load_expert(args.env_id, args.reference, env, with_q=True), rng)
    if human:
        expert = load_expert(args.env_id, args.expert, env)
    demos = load_demonstrations(args.env_id, env, args.demo_episodes, args.seed, args.dataset_id)
    # gym-hil's reward of 1 is a success; other demonstrations do not tell
    successes = (demos["rewards"] == 1) & ("gym_hil/" in args.env_id)
    if args.reward != "task":
        demos["rewards"][:] = 0  # nobody tells RLIF how good a demonstration is
    demo_facts = {"demo_transitions": len(demos["obs"]), "demo_hash": zlib.crc32(demos["actions"])}
    obs_dim, act_dim = env.observation_space.shape + env.action_space.shape
    rb = ReplayBuffer(len(demos["rewards"]) + args.total_timesteps, obs_dim, act_dim)

    # The run's folder, a new one or that of --resume
    name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(args.resume or f"runs/{name.replace('/', '-').replace(':', '-')}-{os.getpid()}")
    if args.intervention == "human" or args.replay:
        env = expert = human = Person(env, args, folder)  # all three: it steps, acts and judges
    agent = Agent(obs_dim, act_dim, args, device)
    for i, terminated in enumerate(demos["terminations"]):
        transition = {name: values[i] for name, values in demos.items()}
        rb.add(end_of_episode(args, human, transition, terminated, successes[i]))
    rb.num_offline = rb.size if args.offline_ratio else 0
    demo_obs = torch.from_numpy(demos["obs"])  # (n, O)
    if args.standardize_obs and rb.size:
        std = demo_obs.std(0).clamp_min(0.01)  # (O,), and 1 for what never varied
        for network in (agent.actor, agent.qf, agent.qf_target):
            network.obs_mean.copy_(demo_obs.mean(0))
            network.obs_std.copy_(torch.where((demo_obs == demo_obs[0]).all(0), 1.0, std))
    if args.compile and shutil.which("g++") and args.intervention != "human":
        print("compiling at the first update, for about 10 s (--no-compile does without)")
        torch._dynamo.config.trace_autograd_ops = True  # torch.autograd.grad becomes a part of it
        torch._dynamo.config.suppress_errors = True  # without a compiler that works it goes on
        agent.critic_gradients = torch.compile(agent.critic_gradients, dynamic=False)
        agent.actor_gradients = torch.compile(agent.actor_gradients, dynamic=False)
    kept = {"agent": agent, "rb": rb, "actor": agent.actor_optimizer, "qf": agent.qf_optimizer}
    counts = {"labels": 0, "takeovers": 0, "expert_steps": 0, "checks": 0, "flags": 0, "updates": 0}
    global_step, episode, rows = 0, 0, []  # rows: of eval.csv
    folder.mkdir(parents=True, exist_ok=args.resume is not None)
    _lock = FileLock(folder / "in_use.lock", timeout=0).acquire()  # no other process writes here
    args.resume = str(folder)  # for the message after Ctrl-C
    print(f"in {folder}: evaluations, checkpoint, policy; matrix products in {args.precision}")
    if (folder / "checkpoint.pt").exists():
        state = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")
        if state["global_step"] > args.total_timesteps:
            raise InputError(f"give --total-timesteps above {state['global_step']}, the steps done")
        for name, thing in kept.items():
            thing.load_state_dict(state[name])
        rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch_rng"])
        global_step, episode = state["global_step"], state["episode"]
        counts, rows = state["counts"], state["rows"]
    (folder / "args.tmp").write_text(json.dumps(vars(args) | {"resume": None}, indent=2))
    os.replace(folder / "args.tmp", folder / "args.json")
    if args.track:
        import wandb

        wandb.init(project="interventions", id=folder.name, resume="allow", sync_tensorboard=True)
    writer = SummaryWriter(folder, purge_step=global_step + 1)
    writer.add_text("options", "\n".join(f"- {name}: {x}" for name, x in vars(args).items()))
    begun = time.perf_counter() - (rows[-1]["wall_seconds"] if rows else 0.0)
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", dynamic_ncols=True)
    while True:
        over = global_step >= args.total_timesteps
        evaluated = rows[-1]["global_step"] if rows else -1  # at which step, the last time
        passed = global_step // args.eval_frequency > evaluated // args.eval_frequency
        if passed or (over and global_step > evaluated):
            row = {"global_step": global_step, **counts}
            previous = rows[-1] if rows else row
            since = {name: row[name] - previous[name] for name in row}
            row["intervention_rate"] = since["expert_steps"] / max(1, since["global_step"])
            row["flagged_rate"] = since["flags"] / max(1, since["checks"])
            row |= evaluate(args.env_id, agent.actor, eval_envs, args.seed, 1, global_step)
            rows.append(row | demo_facts | {"wall_seconds": time.perf_counter() - begun})
            write_rows(folder, writer, bar, rows)
            state = {name: thing.state_dict() for name, thing in kept.items()}
            state |= {"rng": rng.bit_generator.state, "torch_rng": torch.get_rng_state()}
            state |= {"global_step": global_step, "episode": episode}
            torch.save(state | {"counts": counts, "rows": rows}, folder / "checkpoint.tmp")
            os.replace(folder / "checkpoint.tmp", folder / "checkpoint.pt")  # for --resume
        if over:
            break

        seed = np.random.SeedSequence((args.seed, 0, episode)).generate_state(1)[0]
        obs, _ = env.reset(seed=int(seed))
        t, expert_until, next_check, takeovers = 0, 0, 0, 0  # of this episode
        pending, ended, episodic_return = None, False, 0.0  # pending: a takeover may follow it
        while not ended:
            # The novice proposes; does the person take over? (Alg. 2, line 4)
            actions = agent.actor.act(obs[None])[0]  # (A,)
            started = False
            if human and t >= next_check:
                flagged, started, steps = human.check(obs, actions, t)
                counts["checks"] += 1
                counts["flags"] += flagged
                if steps:  # at the keys also when an earlier takeover continues
                    takeovers += started
                    counts["takeovers"] += started
                    expert_until, next_check = t + steps, t + steps + human.grace_steps
            if t < expert_until:
                actions = expert.act(obs[None])[0].numpy()  # (A,)
                counts["expert_steps"] += 1
            # a_1 leads to s_2, where the robot proposes a_2 and the person takes over:
            #     s_0 -- a_0 --> s_1 -- a_1 --> s_2 (takes over)
            # So (s_1, a_1) gets -1; a_2 is neither done nor stored. (Alg. 2, lines 5, 7)
            if started and pending and args.reward == "intervention":
                pending["rewards"] = INTERVENTION_REWARD
                counts["labels"] += 1
            if pending:
                rb.add(pending)

            next_obs, task_reward, terminated, truncated, info = env.step(actions)
            ended = terminated or truncated or global_step + 1 == args.total_timesteps
            pending = {"obs": obs, "next_obs": next_obs, "actions": actions, "terminations": 0.0}
            pending |= {"rewards": task_reward if args.reward == "task" else 0.0, "ends": ended}
            if ended:  # no takeover can follow it
                rb.add(end_of_episode(args, human, pending, terminated, info["success_now"] == 1))
            obs, t, global_step = next_obs, t + 1, global_step + 1
            episodic_return += task_reward

            # Train pi on D by reinforcement learning. (Alg. 2, line 2; as RLPD does, at every step)
            if rb.size - rb.num_offline >= args.batch_size:
                batches = rb.sample(rng, args, device)  # (G, B, ...)
                losses = agent.update(batches, global_step / args.total_timesteps)
                counts["updates"] += args.utd_ratio
                if not math.isfinite(losses["qf_loss"] + losses["actor_loss"]):
                    raise FloatingPointError(f"step {global_step}: the losses are {losses}")
                if global_step % 500 == 0:
                    for name, value in losses.items():
                        writer.add_scalar(f"losses/{name}", value.item(), global_step)
            bar.update()
        episode += 1
        charts = {"episodic_return": episodic_return, "episodic_length": t, "takeovers": takeovers}
        charts["steps_per_second"] = global_step / (time.perf_counter() - begun)
        for name, value in charts.items():
            writer.add_scalar(f"charts/{name}", value, global_step)

    bar.close()
    writer.close()
    facts = {"env_id": args.env_id, "reward": args.reward}  # what the critics value
    save_expert(folder / "model.safetensors", agent.actor, agent.qf, **facts)
    if args.capture_video:
        with gym.wrappers.RecordVideo(eval_envs[0], f"{folder}/videos") as film:
            evaluate(args.env_id, agent.actor, [film], args.seed, 2)


if __name__ == "__main__":
    args = tyro.cli(Args)
    try:
        if source := args.resume or getattr(args, "replay", None):
            saved = Path(source, "args.json")  # its options, but for those that are typed
            own = json.loads(saved.read_text() if saved.exists() else "{}")
            own = {k: tuple(x) if isinstance(x, list) else x for k, x in own.items()}
            if own.keys() != vars(args).keys():
                raise InputError(f"no run of this script and version is in {source}")
            args = tyro.cli(Args, default=Args(**own))
            fixed = "seed env_id reward hidden_sizes num_qs demo_episodes dataset_id mental_model"
            fixed += " interventions_only doubt_novices initial_policy round_episodes termination"
            for name in fixed.split():
                if args.resume and vars(args).get(name) != own.get(name):
                    raise InputError(f"--{name.replace('_', '-')} must stay {own[name]}, the run's")
        args.check()
        main(args)
    except (InputError, MemoryError, Timeout, gym.error.Error, ImportError) as error:
        print(f"{sys.argv[0]}: {error.with_traceback(None)}", file=sys.stderr)  # below the bar
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\nstopped; to go on: python {sys.argv[0]} --resume {args.resume or '...'}")
        sys.exit(130)
