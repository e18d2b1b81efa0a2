"""RLIF: learning from the decision to intervene, on RLPD. One file; no task reward is ever used for learning.

A person watches a robot's policy and takes over when it does badly. The step before a takeover gets reward -1, every
other step 0, and off-policy RL learns to avoid takeovers: the policy can become better than the person's own driving.
One thing more is charged by default: a fall, as if the robot were taken over for ever (see ReplayBuffer: rewards are
never positive, so without a charge the agent learns to fall).

Paper: Luo et al., RLIF, ICLR 2024, https://arxiv.org/abs/2311.12996. "Alg. 2" and "Eq. 1" in comments are its.
Learner: RLPD (Ball et al., ICML 2023, https://arxiv.org/abs/2302.02948): SAC with LayerNorm, many critics, prior data.

    python rlif_rlpd.py                        # Hopper-v5: an expert of 16 %, a policy near 110 % in seven minutes
    python rlif_rlpd.py --help                 # every option
    python rlif_rlpd.py --resume runs/<run>    # go on after a stop, to the bit

Read the loop in main() first: it is Algorithm 2. Then ValueHuman (when to intervene), Agent (RLPD), ReplayBuffer (what
the end of an episode is worth). The rest makes runs fast, resumable and hard to start wrongly.
In shapes: O observation size, A action size, B batch, G updates a step, N critics.
"""

import ctypes
import json
import math
import os
import re
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import MAX_ACTION, TRAINING_TASKS, Checked, InputError, RunError, UnitActions, begin_run, check_rendering
from experts import exit_codes, load_checkpoint, load_demonstrations, load_expert, new_run_folder, normalized_score
from experts import open_task, require_packages, save_checkpoint, save_expert, start_tracking
from experts import stops_without_exception, write_file


@dataclass
class Args:
    exp_name: str = "rlif_rlpd"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: int = 1  # of everything: on the CPU, the same seed gives the same run to the bit
    cuda: bool = False  # learn on the GPU
    num_threads: int = 2  # of torch on the CPU
    compile: bool = True  # compile the gradients (needs a C++ compiler): the same to rounding, 1.5 times as fast
    bf16: bool = False  # bfloat16 in the hidden layers' products while learning: faster on AMX or AVX512-BF16, and GPUs
    resume: str | None = None  # go on with this folder, runs/<run>; all other options come from there
    checkpoint_frequency: int = 5_000  # steps between checkpoints of everything
    save_model: bool = True  # at the end, write a file that --expert and --reference can load
    capture_video: bool = False  # at the end, film an episode (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)

    env_id: str = "Hopper-v5"  # any Gymnasium environment with continuous actions, but for images
    max_episode_steps: int | None = None  # end every episode after so many steps; default: the environment's own limit
    total_timesteps: int = 50_000  # environment steps
    max_interventions: int | None = None  # stop where the expert has acted for so many steps
    eval_frequency: int = 5_000  # steps between evaluations
    eval_episodes: int = 20  # of an evaluation, with the mean action and again with sampled ones, always fresh

    expert: str = "low"  # who takes over: a shipped level or a .safetensors file
    reference: str = "top"  # by whose policy and Q function the person judges: a level or a .safetensors file
    # by value (Eq. 1), at random, as MILE's person, never
    intervention: Literal["value", "random", "mile", "none"] = "value"
    intervention_alpha: float = 0.995  # flag if Q(s, a) < Q(s, a_ref) - (1 - this) |Q(s, a_ref)| - intervention_delta
    intervention_delta: float = 0.0  # Eq. 1's delta, in units of the reference Q
    intervention_beta: float = 0.95  # probability of a takeover if flagged; 1 - this if not
    # mile: what the person expects: a level or a .safetensors file, for good; robot: what the novice does by now
    human_model: str = "mental"
    intervention_cost: float = 16.0  # mile: c, what it takes to take over
    intervention_scale: float = 10.0  # mile: by which the gap minus c is divided
    takeover_steps: int = 4  # steps that the expert keeps control
    grace_steps: int = 1  # value: unchecked steps of the novice after a takeover (official code: 1)
    random_rate: float = 50.0  # random: percentage of the steps under expert control
    drop_expert_transitions: bool = False  # official code's quirk: store only the last transition of a takeover

    initial_policy: str | None = None  # the actor to begin with: a level or a .safetensors file; default: untrained
    demo_episodes: int = 50  # demonstrations to begin with, their rewards set to zero; 0: none
    dataset_id: str | None = None  # a Minari dataset of demonstrations; default: rollouts of the shipped top expert
    demo_noise: float = 0.09  # standard deviation of noise on the actions of these rollouts, which makes them worse
    offline_ratio: float = 0.0  # share of each batch from demonstrations alone (RLPD: 0.5); 0: they join the buffer
    bc_weight: float = 0.0  # of the mean action's squared distance from the demonstrated one, in the actor's loss
    reward: Literal["intervention", "task"] = "intervention"  # task: the environment's own, i.e. plain RLPD
    label: float = -1.0  # the reward of the step before a takeover; 0: what does the charge for a fall teach alone?
    # what the end of an episode is worth, see ReplayBuffer; default: forever where it is known to be a fall, mask where
    # it is known to be a success and for --reward task; elsewhere it has to be said
    termination: Literal["forever", "reset", "bootstrap", "mask"] | None = None
    clip_target: bool = True  # keep targets in [-1 / (1 - gamma), 0], all that intervention rewards can sum to

    buffer_size: int = 1_000_000  # transitions
    batch_size: int = 256  # transitions per update
    gamma: float = 0.99  # discount
    tau: float = 0.005  # step of the target critics
    learning_rate: float = 3e-4  # Adam's, for actor, critics and temperature
    final_lr_fraction: float = 0.1  # over the second half of training the rate falls linearly to this share of it
    standardize_obs: bool = True  # by the mean and standard deviation of the demonstrations (not in the paper)
    hidden_sizes: tuple[int, ...] = (256, 256)  # of actor and critics; an --initial-policy has its own
    num_qs: int = 3  # critics (RLPD: 10)
    num_min_qs: int = 2  # critics drawn for each target, which takes their minimum
    critic_layer_norm: bool = True  # LayerNorm in the critics
    utd_ratio: int = 1  # critic updates per environment step; the actor gets one, on the last minibatch
    init_temperature: float = 0.1  # of the entropy bonus, at the start (RLPD: 1)
    target_entropy: float | None = None  # default: -A / 2
    backup_entropy: bool = False  # entropy bonus in the targets


# --- environment -----------------------------------------------------------------------------------------------------


def make_env(env_id, max_episode_steps=None, **options):
    """The environment with flat observations and, whatever its own actions are, some in [-1, 1] or one-hot vectors."""
    env = open_task(env_id, max_episode_steps, **options)  # gym.make; whatever is wrong becomes one line
    env = gym.wrappers.FlattenObservation(env)
    return UnitActions(Checked(env))


def seed_for(*key):
    """An independent 32-bit seed for each key, e.g. (seed, stream, episode); zeros at its end do not count."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


# --- intervention ----------------------------------------------------------------------------------------------------


class ValueHuman:
    """Takes over where a reference Q function finds the novice's proposal bad (RLIF, section 5.1)."""

    def __init__(self, args, expert, reference, rng):
        self.args, self.expert, self.reference, self.rng = args, expert, reference, rng
        self.new_episode()

    def new_episode(self):
        self.takeover_left = 0  # steps the expert still keeps control
        self.grace_left = 0  # steps of the novice that are not looked at, after a takeover

    def flags(self, obs, proposal):
        """Does the reference value say that the proposal is worse than what the reference would do? (Eq. 1)"""
        obs = torch.as_tensor(obs, dtype=torch.float32)[None]  # (1, O)
        actions = torch.cat([torch.as_tensor(proposal)[None], self.reference.act(obs)])  # (2, A)
        q_novice, q_reference = self.reference.q(obs.expand(2, -1), actions).tolist()
        # the threshold is relative to |Q|: alpha * Q would flip its meaning where Q < 0
        gap = (1 - self.args.intervention_alpha) * abs(q_reference) + self.args.intervention_delta
        return q_novice < q_reference - gap

    def watch(self, obs, proposal):
        """One step: executed action, is the expert in control, did a takeover start, flagged (None if not looked)."""
        started, flagged = False, None
        if self.takeover_left == 0 and self.grace_left > 0:
            self.grace_left -= 1
        elif self.takeover_left == 0:
            flagged = self.flags(obs, proposal)
            chance = self.args.intervention_beta if flagged else 1 - self.args.intervention_beta
            started = bool(self.rng.random() < chance)  # Eq. 1
        if started:
            self.takeover_left, self.grace_left = self.args.takeover_steps, self.args.grace_steps
        in_control = self.takeover_left > 0
        if in_control:
            self.takeover_left -= 1
            return self.expert.act(obs[None])[0].numpy(), True, started, flagged  # (A,)
        return proposal, False, False, flagged


def takeover_chance(args):
    """At each step of the novice, the probability that a random takeover starts.

    Takeovers of k steps hold a share p of all steps if k (1 - p) / p steps of the novice lie between two, on average.
    """
    share = args.random_rate / 100
    return 1 / (1 + args.takeover_steps * (1 - share) / share)


class RandomHuman:
    """Takes over at random, with the expert in control of random_rate percent of the steps in the long run."""

    grace_left = 0  # it is always ready

    def __init__(self, args, expert, rng):
        self.args, self.expert, self.rng = args, expert, rng
        self.new_episode()

    def new_episode(self):
        self.takeover_left = 0  # steps the expert still keeps control

    def watch(self, obs, proposal):
        """One step: executed action, is the expert in control, did a takeover start, None (no proposal is judged)."""
        started = self.takeover_left == 0 and bool(self.rng.random() < takeover_chance(self.args))
        if started:
            self.takeover_left = self.args.takeover_steps
        if self.takeover_left == 0:
            return proposal, False, False, None
        self.takeover_left -= 1
        return self.expert.act(obs[None])[0].numpy(), True, started, None  # (A,)


class ProbitHuman:
    """Takes over with the probability of MILE's Eq. 2, which depends on the state and not on the robot's proposal."""

    grace_left = 0  # it is always ready

    def __init__(self, args, expert, model, rng):
        self.args, self.expert, self.model, self.rng = args, expert, model, rng
        self.cost = args.intervention_cost  # c
        self.new_episode()

    def new_episode(self):
        self.takeover_left = 0  # steps the expert still keeps control

    @torch.no_grad()
    def gap(self, obs):
        """What MILE's Eq. 2 has inside Phi, but for c and the scale, for an action a ~ pi, before the tanh.

        ln pi(a|s) - E_{a' ~ mental model}[ln pi(a'|s)]: how much better a is than what is expected of the robot.
        """
        state = torch.as_tensor(obs[None], dtype=torch.float32)  # (1, O)
        policy, robot = ([x[0].cpu() for x in model(state)] for model in (self.expert, self.model))  # (A,) each
        if len(policy) == 1:
            log_pi = policy[0].log_softmax(-1)
            a = (log_pi + torch.from_numpy(self.rng.gumbel(size=len(log_pi)))).argmax()
            return log_pi[a] - (robot[0].softmax(-1) * log_pi).sum()
        (mean, log_std), (robot_mean, robot_log_std) = policy, robot
        surprise = ((robot_mean - mean).pow(2) + (2 * robot_log_std).exp()) / (2 * (2 * log_std).exp())  # -E[ln pi(a')]
        noise = torch.from_numpy(self.rng.standard_normal(len(mean)))  # a = mean + std * noise
        return (surprise - noise.pow(2) / 2).sum()  # what both logarithms have besides cancels

    def watch(self, obs, proposal):
        """One step: executed action, is the expert in control, did a takeover start, None (no proposal is judged)."""
        started = False
        if self.takeover_left == 0:  # noise > c - gap has probability Phi((gap - c) / scale)
            started = bool(self.gap(obs) + self.args.intervention_scale * self.rng.standard_normal() > self.cost)
        if started:
            self.takeover_left = self.args.takeover_steps
        if self.takeover_left == 0:
            return proposal, False, False, None
        self.takeover_left -= 1
        return self.expert.act(obs[None])[0].numpy(), True, started, None  # (A,)


# --- networks --------------------------------------------------------------------------------------------------------


def product(x, weight, bf16):
    """x @ weight, from bfloat16 factors if bf16: (..., B, in), (..., in, out) -> (..., B, out)."""
    return (x.bfloat16() @ weight.bfloat16()).float() if bf16 else x @ weight


class Actor(nn.Module):
    """Tanh-Gaussian policy."""

    distribution, min_log_std = "tanh_gaussian", -20.0

    def __init__(self, obs_dim, act_dim, hidden_sizes):
        super().__init__()
        self.act_dim, sizes = act_dim, [obs_dim, *hidden_sizes]
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes[:-1], sizes[1:]))
        self.mean = nn.Linear(sizes[-1], act_dim)
        self.log_std = nn.Linear(sizes[-1], act_dim)

    def forward(self, obs, bf16=False):
        x = (obs - self.obs_mean) / self.obs_std  # (B, O)
        for layer in self.layers:
            x = F.relu(product(x, layer.weight.T, bf16) + layer.bias)  # (B, hidden)
        return self.mean(x), self.log_std(x).clamp(self.min_log_std, 2)  # (B, A) each

    def sample(self, obs, noise, bf16=False):
        """Reparametrised actions for this standard normal noise, and their log-probabilities: (B, A), (B,)."""
        mean, log_std = self(obs, bf16)
        u = mean + log_std.exp() * noise  # (B, A), before the squashing
        log_prob = -0.5 * noise.pow(2) - log_std - 0.5 * math.log(2 * math.pi)
        log_prob = log_prob - 2 * (math.log(2) - u - F.softplus(-2 * u))  # log |d tanh(u) / du|, stable for large |u|
        return u.tanh(), log_prob.sum(-1)

    @torch.no_grad()
    def act(self, obs, deterministic=False):
        """What is executed and stored, kept off the edges of [-1, 1]: numpy (B, O) -> (B, A)."""
        mean, log_std = self(torch.as_tensor(obs, dtype=torch.float32, device=self.mean.weight.device))
        actions = (mean if deterministic else mean + log_std.exp() * torch.randn_like(mean)).tanh()
        return actions.clamp(-MAX_ACTION, MAX_ACTION).cpu().numpy()


class QEnsemble(nn.Module):
    """N critics as one batched network: every parameter has a leading dimension N."""

    def __init__(self, obs_dim, act_dim, hidden_sizes, num_qs, layer_norm):
        super().__init__()
        sizes = [obs_dim + act_dim, *hidden_sizes, 1]
        shapes = [(num_qs, i, o, 1 / math.sqrt(i)) for i, o in zip(sizes[:-1], sizes[1:])]  # bounds as in nn.Linear
        norms = hidden_sizes if layer_norm else ()
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.weights = nn.ParameterList(torch.empty(n, i, o).uniform_(-bound, bound) for n, i, o, bound in shapes)
        self.biases = nn.ParameterList(torch.empty(n, 1, o).uniform_(-bound, bound) for n, _, o, bound in shapes)
        self.norm_weights = nn.ParameterList(torch.ones(num_qs, 1, h) for h in norms)
        self.norm_biases = nn.ParameterList(torch.zeros(num_qs, 1, h) for h in norms)

    def forward(self, obs, actions, members=slice(None), bf16=False):
        """Q_i(s, a) of the chosen members: (B, O), (B, A) -> (N, B)."""
        x = torch.cat([(obs - self.obs_mean) / self.obs_std, actions], dim=-1)  # (B, O + A), the same for all
        for i in range(len(self.weights) - 1):
            x = product(x, self.weights[i][members], bf16) + self.biases[i][members]  # (N, B, hidden)
            if i < len(self.norm_weights):
                x = F.layer_norm(x, x.shape[-1:])
                x = torch.addcmul(self.norm_biases[i][members], x, self.norm_weights[i][members])
            x = F.relu(x)
        # a matrix product with a single column, as a product and a sum: these fuse with what is around them
        return (x * self.weights[-1][members].mT).sum(-1) + self.biases[-1][members].squeeze(-1)


class Agent(nn.Module):
    """RLPD's learner: actor, critics, temperature and their updates."""

    def __init__(self, obs_dim, act_dim, args, device):
        super().__init__()
        self.args = args
        sizes = obs_dim, act_dim, args.hidden_sizes, args.num_qs, args.critic_layer_norm
        self.actor, self.qf, self.qf_target = Actor(*sizes[:3]), QEnsemble(*sizes), QEnsemble(*sizes)
        self.qf_target.load_state_dict(self.qf.state_dict())
        self.log_alpha = nn.Parameter(torch.tensor([math.log(args.init_temperature)]))
        self.to(device)
        self.target_entropy = -act_dim / 2 if args.target_entropy is None else args.target_entropy
        self.learning_rate = torch.tensor(args.learning_rate, device=device)
        learned = [*self.actor.parameters(), self.log_alpha], list(self.qf.parameters())
        options = {"lr": self.learning_rate, "fused": True, "capturable": args.cuda}
        self.optimizers = [torch.optim.Adam(parameters, **options) for parameters in learned]
        self.actor_optimizer, self.qf_optimizer = self.optimizers

    def standardize(self, obs):
        """Let all networks see observations with the mean and standard deviation of these, (n, O)."""
        for network in (self.actor, self.qf, self.qf_target):
            network.obs_mean.copy_(obs.mean(0))
            network.obs_std.copy_(obs.std(0).clamp_min(0.01))

    def begin_with(self, policy):
        """Take over a pretrained actor, and for all networks what it standardises observations by."""
        self.actor.load_state_dict(policy.state)
        self.actor.min_log_std = policy.facts.get("min_log_std", self.actor.min_log_std)
        for network in (self.qf, self.qf_target):
            network.obs_mean.copy_(policy.obs_mean)
            network.obs_std.copy_(policy.obs_std)

    def set_learning_rate(self, progress):
        """Constant over the first half of training, then linear down to final_lr_fraction; progress in [0, 1]."""
        scale = 1 - (1 - self.args.final_lr_fraction) * max(0.0, 2 * progress - 1)
        self.learning_rate.fill_(self.args.learning_rate * scale)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self.learning_rate  # after load_state_dict, a copy is there

    def critic_gradients(self, batch, noise, members):
        """Losses, and the gradients of all critics; noise (B, A) is of the next actions, members (M,) of the target."""
        args = self.args
        with torch.no_grad():
            next_actions, next_log_prob = self.actor.sample(batch["next_obs"], noise, args.bf16)  # (B, A), (B,)
            next_q = self.qf_target(batch["next_obs"], next_actions, members, args.bf16).min(0).values  # (M, B) -> (B,)
            if args.backup_entropy:
                next_q = next_q - self.log_alpha.exp() * next_log_prob
            target = batch["rewards"] + args.gamma * (1 - batch["terminations"]) * next_q  # (B,)
            if args.reward == "intervention" and args.clip_target:
                target = target.clamp(-1 / (1 - args.gamma), 0)
        q = self.qf(batch["obs"], batch["actions"], bf16=args.bf16)  # (N, B)
        loss = (q - target).pow(2).mean(1).sum()  # a sum over members: each learns as if alone
        losses = {"qf_loss": loss.detach() / args.num_qs, "qf_values": q.detach().mean()}
        return losses, torch.autograd.grad(loss, list(self.qf.parameters()))

    def actor_gradients(self, batch, noise):
        """Losses, and the gradients of actor and log-temperature; the actor climbs the mean of all N critics."""
        actions, log_prob = self.actor.sample(batch["obs"], noise, self.args.bf16)  # (B, A), (B,)
        q = self.qf(batch["obs"], actions, bf16=self.args.bf16).mean(0)  # (N, B) -> (B,)
        alpha, entropy = self.log_alpha.exp(), -log_prob.mean()
        actor_loss = (alpha.detach() * log_prob - q).mean()
        if self.args.bc_weight:  # hold the actor to the demonstrations, which are the first rows of a batch
            n = round(self.args.offline_ratio * len(q))
            distances = self.actor(batch["obs"][:n], self.args.bf16)[0].tanh() - batch["actions"][:n]  # (n, A)
            actor_loss = actor_loss + self.args.bc_weight * distances.pow(2).sum(-1).mean()
        alpha_loss = (alpha * (entropy.detach() - self.target_entropy)).sum()
        losses = {"actor_loss": actor_loss.detach(), "alpha": alpha.detach()[0], "entropy": entropy.detach()}
        return losses, torch.autograd.grad(actor_loss + alpha_loss, [*self.actor.parameters(), self.log_alpha])

    def update_critics(self, batch):
        """A gradient step of all critics and a step of their targets (RLPD, Alg. 1)."""
        noise = torch.randn_like(batch["actions"])
        members = torch.rand(self.args.num_qs, device=noise.device).argsort()[: self.args.num_min_qs]
        losses, gradients = self.critic_gradients(batch, noise, members)
        descend(self.qf_optimizer, gradients)
        self.update_targets()
        return losses

    @torch.no_grad()
    def update_targets(self):
        torch._foreach_lerp_(list(self.qf_target.parameters()), list(self.qf.parameters()), self.args.tau)

    def update_actor(self, batch):
        """A gradient step of actor and temperature (RLPD, Alg. 1)."""
        losses, gradients = self.actor_gradients(batch, torch.randn_like(batch["actions"]))
        descend(self.actor_optimizer, gradients)
        return losses

    def update(self, batches):
        """RLPD's whole update on minibatches (G, B, ...): the critics on each, then the actor on the last."""
        for g in range(len(batches["obs"])):
            batch = {name: values[g] for name, values in batches.items()}
            losses = self.update_critics(batch)
        return losses | self.update_actor(batch)


def descend(optimizer, gradients):
    """An optimiser's step along these gradients."""
    for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients):
        parameter.grad = gradient.contiguous()  # the fused Adam reads memory in order, whatever the strides
    optimizer.step()


# --- replay buffer ---------------------------------------------------------------------------------------------------


class ReplayBuffer:
    """Transitions in a ring.

    A transition's reward depends on whether the person takes over at the *next* step, so it is staged first and
    counted by commit(). The end of an episode is worth what --termination says. The suicide trap: rewards are never
    positive, so an episode that ends has value 0, and with `mask` the agent learns to fall as fast as it can.
    `bootstrap` reads the critic at terminal states, which are never updated. `reset` counts a fall as an
    intervention (a person has to pick the robot up): reward -1, next state the first of the next episode; where the
    robot stands badly, a fall is then a cheap way back to a good start. `forever` lets a fall cost what a robot costs
    that is taken over again and again: -1 now and after every m steps from one takeover to the next,
    -1 / (1 - E[gamma^m]).
    """

    FIELDS = ("obs", "next_obs", "actions", "rewards", "terminations")

    def __init__(self, capacity, obs_dim, act_dim, demonstrations):
        """demonstrations: rows that stay, drawn by themselves if offline_ratio > 0; the ring begins after them."""
        shapes = (capacity, obs_dim), (capacity, obs_dim), (capacity, act_dim), (capacity,), (capacity,)
        self.data = {name: torch.zeros(shape) for name, shape in zip(self.FIELDS, shapes)}
        self.arrays = {name: values.numpy() for name, values in self.data.items()}  # the same memory, quick to write to
        self.first, self.ring = demonstrations, capacity - demonstrations
        self.pos, self.size = 0, 0  # next row to write and rows committed, both within the ring

    def stage(self, *transition):
        for name, value in zip(self.FIELDS, transition):
            self.arrays[name][self.first + self.pos] = value

    def commit(self, reward=None):
        """Count the staged transition in, with this reward if one is given."""
        if reward is not None:
            self.arrays["rewards"][self.first + self.pos] = reward
        self.pos = (self.pos + 1) % self.ring
        self.size = min(self.size + 1, self.ring - 1)  # the staged row is never drawn

    def sample(self, rng, num_batches, batch_size, offline_ratio, device):
        """num_batches minibatches in one gather: a dict of tensors (G, B, ...).

        Every one of them, not just their sum, holds its share of demonstrations (symmetric sampling): its first rows.
        """
        offline = round(offline_ratio * batch_size) if self.first else 0
        ages = rng.integers(self.size, size=(num_batches, batch_size - offline))  # 0: the newest
        indices = self.first + (self.pos - 1 - ages) % self.ring
        if offline:
            indices = np.concatenate([rng.integers(self.first, size=(num_batches, offline)), indices], axis=1)
        indices = torch.from_numpy(indices)
        return {name: values[indices].to(device) for name, values in self.data.items()}

    def state(self):
        used = self.first + min(self.size + 1, self.ring)  # the staged row included
        data = {name: values[:used].clone() for name, values in self.data.items()}
        return {"data": data, "first": self.first, "pos": self.pos, "size": self.size}

    def load_state(self, state):
        self.first, self.pos, self.size = state["first"], state["pos"], state["size"]
        for name, values in state["data"].items():
            self.data[name][: len(values)] = values


def discount_between_takeovers(args):
    """E[gamma^m], where m steps lie between the starts of two takeovers of a robot that always needs one."""
    if args.intervention == "value":
        return args.gamma ** (args.takeover_steps + args.grace_steps)
    if args.intervention == "random":  # after k steps a geometric number of the novice's own
        chance = takeover_chance(args)
        return args.gamma**args.takeover_steps * chance / (1 - (1 - chance) * args.gamma)
    return args.gamma**args.takeover_steps  # MILE's person is always ready


def end_of_episode(args, terminated, reward, next_obs, reset_obs):
    """How the last transition of an episode is stored: reward, next_obs, termination (see ReplayBuffer)."""
    if terminated and args.termination == "forever":
        return -1.0 / (1.0 - discount_between_takeovers(args)), next_obs, 1.0
    if terminated and args.termination == "reset":
        return -1.0, reset_obs, 0.0
    return reward, next_obs, float(terminated and args.termination == "mask")  # a time limit is no end


def make_buffer(args, env):
    """The replay buffer with the demonstrations in it, their observations (n, O), and how many episodes they are."""
    obs_dim, act_dim = env.observation_space.shape + env.action_space.shape
    demos, n, ends = {}, 0, np.zeros(0)
    if args.demo_episodes:
        options = args.demo_episodes, args.dataset_id, args.demo_noise, args.reward == "task"
        demos = load_demonstrations(env, args.env_id, *options)
        n, ends = len(demos["rewards"]), demos.pop("ends")
    if n + args.batch_size >= args.buffer_size:
        raise InputError(f"--buffer-size {args.buffer_size} does not hold {n} demonstrated transitions and a batch")
    for i in np.flatnonzero(ends):
        end = demos["terminations"][i], demos["rewards"][i], demos["next_obs"][i], demos["obs"][(i + 1) % n]
        demos["rewards"][i], demos["next_obs"][i], demos["terminations"][i] = end_of_episode(args, *end)
    apart = n if args.offline_ratio else 0
    capacity = min(args.buffer_size, n + args.total_timesteps + 2)
    rb = ReplayBuffer(capacity, obs_dim, act_dim, apart)
    for name, values in demos.items():
        rb.data[name][:n] = torch.from_numpy(values)
    rb.pos = rb.size = n - apart
    return rb, rb.data["obs"][:n], int(ends.sum())


# --- evaluation ------------------------------------------------------------------------------------------------------


def evaluate(env_id, actor, envs, episodes, seed, deterministic):
    """Fresh episodes, as many at a time as there are environments, with batched actions: statistics over all.

    They depend on the actor and the seed alone and leave torch's generator as it was, so a resumed run gets the same.
    """
    returns, successes = np.zeros(episodes), np.full(episodes, np.nan)
    waiting, playing, obs = list(range(episodes)), {}, {}  # playing: environment -> its episode
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        while waiting or playing:
            for env in envs:
                if waiting and env not in playing:
                    playing[env] = waiting.pop(0)
                    obs[env], _ = env.reset(seed=seed_for(seed, playing[env]))
            actions = actor.act(np.stack([obs[env] for env in playing]), deterministic)  # (playing, A)
            for (env, i), action in zip(tuple(playing.items()), actions):
                obs[env], reward, terminated, truncated, info = env.step(action)
                returns[i] += reward
                successes[i] = info.get("success", np.nan)  # of the last step, where it is reported
                if terminated or truncated:
                    del playing[env]
    scores = normalized_score(env_id, returns)  # every episode is normalised, then averaged
    if not np.isnan(successes).all():
        successes = np.nan_to_num(successes)  # some environments report a success only where there is one
    stats = {"return_mean": returns.mean(), "return_std": returns.std(ddof=1) if episodes > 1 else 0.0}
    stats |= {"normalized_score": scores.mean(), "success_rate": 100 * successes.mean()}
    return {name: float(value) for name, value in stats.items()}


def main_metric(rows):
    """The column to judge a run by, known in all rows: success rate (%), else D4RL's score, else the return."""
    for name in ("success_rate", "normalized_score"):
        if not any(math.isnan(row[column]) for row in rows for column in (name, f"stochastic_{name}")):
            return name
    return "return_mean"


# --- speed -----------------------------------------------------------------------------------------------------------


def compile_gradients(agent):
    """Compile both gradient functions for the shapes of training; where that fails, say so and go on without."""
    size, device = agent.args.batch_size, agent.log_alpha.device
    obs_dim, act_dim = len(agent.actor.obs_mean), len(agent.actor.mean.bias)
    shapes = (size, obs_dim), (size, obs_dim), (size, act_dim), (size,), (size,)
    # no tensor twice: a graph for equal inputs would not do for others
    batch = {name: torch.zeros(shape, device=device) for name, shape in zip(ReplayBuffer.FIELDS, shapes)}
    noise = torch.zeros(size, act_dim, device=device)
    members = torch.arange(agent.args.num_min_qs, device=device)
    print("compiling, once, for about 20 s (--no-compile does without)")
    torch._dynamo.config.trace_autograd_ops = True  # makes torch.autograd.grad a part of the graph
    for function in (agent.critic_gradients, agent.actor_gradients):
        setattr(agent, function.__name__, torch.compile(function, dynamic=False, fullgraph=True))
    try:
        with stops_without_exception():
            agent.critic_gradients(batch, noise, members)
            agent.actor_gradients(batch, noise)
    except Exception as error:  # no compiler, or none that works
        del agent.critic_gradients, agent.actor_gradients  # which leaves the plain methods
        print(f"not compiled ({str(error).splitlines()[0]}), going on without, slower: is g++ installed?")


class CudaGraph:
    """A function of a dict of tensors as one CUDA graph: a call is one launch, however many kernels it has."""

    WARM_UP = 3  # calls that run as they are, on a stream of their own: they compile, and allocate Adam's moments

    def __init__(self, function):
        self.function, self.stream, self.calls = function, torch.cuda.Stream(), 0

    def __call__(self, inputs):
        if self.calls == 0:
            self.inputs = {name: torch.empty_like(values) for name, values in inputs.items()}
        for name, values in inputs.items():
            self.inputs[name].copy_(values)
        self.calls += 1
        if self.calls <= self.WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                outputs = self.function(self.inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return outputs
        if self.calls == self.WARM_UP + 1:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records, and runs nothing
                self.outputs = self.function(self.inputs)
        self.graph.replay()
        return self.outputs


def keep_memory():
    """Let glibc keep what is freed: it would hand large blocks back and fetch them anew, page by page, every update."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            for option, value in ((-3, 2**25), (-1, 2**30)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, in bytes
                libc.mallopt(option, value)


# --- keeping a run: options, folder, checkpoints, logs ---------------------------------------------------------------


def parse_args(argv=None):
    """The command line; with --resume, the run's own options, which nothing may contradict."""
    args = tyro.cli(Args, args=argv)
    if args.resume is None:
        typed = [word.split("=")[0].replace("_", "-") for word in (sys.argv[1:] if argv is None else argv)]
        for name, why in useless(args).items():
            for option in (f"--{name.replace('_', '-')}", f"--no-{name.replace('_', '-')}"):
                if option in typed:
                    raise InputError(f"{option} would do nothing here: {why}; leave it out")
        return args
    try:
        saved = json.loads((Path(args.resume) / "args.json").read_text())
        tuples = {name: tuple(saved[name]) for name in vars(args) if isinstance(saved[name], list)}
        saved = check(Args(**saved | tuples | {"resume": args.resume}))
    except (OSError, TypeError, ValueError, KeyError):
        raise InputError(f"--resume {args.resume}: no run of this script lies there (by its args.json)") from None
    for name, value in vars(tyro.cli(Args, args=argv, default=saved)).items():
        if value != getattr(saved, name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"--resume {args.resume}: it runs with {getattr(saved, name)} as {option}; leave that out")
    return saved


def useless(args):
    """The options that do nothing beside others, and why: typed all the same, they are refused."""
    found = {}
    if args.intervention != "value":
        for name in ("reference", "intervention_alpha", "intervention_delta", "intervention_beta", "grace_steps"):
            found[name] = f"--intervention {args.intervention} does not judge by value"
    if args.intervention != "random":
        found["random_rate"] = f"--intervention {args.intervention} does not act at random"
    if args.intervention != "mile":
        for name in ("human_model", "intervention_cost", "intervention_scale"):
            found[name] = f"--intervention {args.intervention} is not MILE's person"
    if args.intervention == "none":
        for name in ("expert", "takeover_steps", "drop_expert_transitions", "max_interventions"):
            found[name] = "nobody takes over"
    elif args.takeover_steps == 1:
        found["drop_expert_transitions"] = "a takeover of one step has no other transitions than its last"
    if args.dataset_id:
        found["demo_noise"] = "a dataset is taken as it is"
    if args.demo_episodes == 0:
        for name in ("dataset_id", "demo_noise", "standardize_obs"):
            found[name] = "there are no demonstrations with --demo-episodes 0"
    if args.initial_policy:
        for name in ("standardize_obs", "hidden_sizes"):
            found[name] = "an --initial-policy has its own"
    if args.reward == "task":
        for name in ("clip_target", "label"):
            found[name] = "it is about intervention rewards, not --reward task"
    return found


def check(args):
    """Everything that can be wrong with the options themselves; returns them with defaults filled in."""
    positive = "total_timesteps eval_frequency eval_episodes checkpoint_frequency batch_size buffer_size num_threads"
    for names, holds, rule in (
        ("intervention_beta offline_ratio tau final_lr_fraction", lambda x: 0 <= x <= 1, "in [0, 1]"),
        ("gamma", lambda x: 0 <= x < 1, "in [0, 1)"),
        (f"{positive} num_qs num_min_qs utd_ratio takeover_steps", lambda x: x > 0, "positive"),
        ("learning_rate init_temperature intervention_scale", lambda x: 0 < x < math.inf, "positive"),
        ("grace_steps demo_episodes", lambda x: x >= 0, "zero or more"),
        ("seed", lambda x: 0 <= x < 2**63, "zero or more, below 2 to the 63rd"),
        ("demo_noise bc_weight", lambda x: 0 <= x < math.inf, "zero or more"),
        ("intervention_alpha intervention_delta intervention_cost", math.isfinite, "finite"),
        ("max_interventions max_episode_steps", lambda x: x is None or x > 0, "positive"),
        ("random_rate", lambda x: 0 < x < 100, "between 0 and 100"),
        ("label", lambda x: -1 <= x <= 0, "in [-1, 0]"),
    ):
        for name in names.split():
            if not holds(getattr(args, name)):
                raise InputError(f"--{name.replace('_', '-')} must be {rule}, not {getattr(args, name)}")
    if args.termination is None:
        args = replace(args, termination=usual_termination(args))
    size, task = args.batch_size, args.reward == "task"
    for wrong, message in (
        (args.num_min_qs > args.num_qs, f"--num-min-qs {args.num_min_qs} is more than --num-qs {args.num_qs}"),
        (size >= args.buffer_size, f"--batch-size {size} does not fit into --buffer-size {args.buffer_size}"),
        (min(args.hidden_sizes, default=0) < 1, "--hidden-sizes needs positive sizes, at least one"),
        (args.bc_weight and not args.offline_ratio, "--bc-weight needs an --offline-ratio above 0"),
        (args.offline_ratio and not args.demo_episodes, "--offline-ratio needs demonstrations, not --demo-episodes 0"),
        (task and args.termination in ("forever", "reset"), "--reward task needs --termination bootstrap or mask"),
        (not task and args.intervention == "none", "--intervention none leaves no reward but --reward task"),
        (args.cuda and not torch.cuda.is_available(), "--cuda: torch finds no GPU here"),
    ):
        if wrong:
            raise InputError(message)
    require_packages(*["wandb"] * args.track, *["moviepy"] * args.capture_video)
    return args


def usual_termination(args):
    """What the end of an episode is worth where that is known: on these tasks it is a fall, on Meta-World a success."""
    falls = "Hopper", "Walker2d", "HalfCheetah", "Ant", "Humanoid", "InvertedPendulum", "AdroitHandPen"
    if args.reward == "task" or args.env_id.startswith("Meta-World/"):
        return "mask"
    return "forever" if args.env_id.split("-v")[0] in falls else None


def open_run(args):
    """The last checkpoint of the run to go on with, or None; and can we write where the run's files go?"""
    folder = Path(args.resume or "runs")
    try:
        folder.mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror}") from None
    if args.resume:
        begin_run(folder)
    if args.resume is None or not (folder / "checkpoint.pt").exists():
        return None
    checkpoint = load_checkpoint(folder / "checkpoint.pt")
    if checkpoint["args"] != asdict(replace(args, resume=None)):
        raise InputError(f"--resume {folder}: its args.json is not what it was started with")
    return checkpoint


class Run:
    """A run's folder: its options, TensorBoard events, evaluations and last checkpoint; and the signals to stop it."""

    def __init__(self, args, checkpoint, global_step, **progress):
        """Begins a run, or goes on from a checkpoint of its own, with the generators in the state they had.

        progress: total, initial and unit of what the bar shows.
        """
        self.args, self.options = args, asdict(replace(args, resume=None))
        self.rows, self.total = checkpoint["run"] if checkpoint else ([], 0.0)  # of eval.csv; seconds until then
        if args.resume:
            self.folder = Path(args.resume)
        else:
            name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
            self.folder = new_run_folder("runs", re.sub(r"[^\w.-]", "-", name, flags=re.ASCII))
        if args.track:
            start_tracking(self.folder, self.options)
        write_file(self.folder / "args.json", json.dumps(self.options, indent=2).encode())
        begin_run(self.folder)
        # what a killed run logged after its checkpoint is logged again: TensorBoard is to forget the first time
        self.writer = SummaryWriter(self.folder, purge_step=global_step + bool(checkpoint) if args.resume else None)
        if checkpoint:
            torch.set_rng_state(checkpoint["torch_rng"])
            if args.cuda:
                torch.cuda.set_rng_state(checkpoint["cuda_rng"])
        else:
            table = "\n".join(f"|{name}|{value}|" for name, value in vars(args).items())
            self.writer.add_text("hyperparameters", f"|option|value|\n|-|-|\n{table}")
        self.signals, self.waits = [], False  # SIGINT and SIGTERM that came; does a stop wait for the next checkpoint?
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self.hear)
        self.start = time.perf_counter() - self.total
        self.bar = tqdm(**progress, dynamic_ncols=True, smoothing=0.05)

    def hear(self, signum, _):
        """While it learns, the first signal ends the run at its next checkpoint; otherwise, and a second one, at once.

        An evaluation comes after a checkpoint and is done again by --resume, so nothing is lost then.
        """
        if self.signals or not self.waits:
            raise KeyboardInterrupt(signum)
        self.signals.append(signum)
        os.write(2, b"\nstopping at the next checkpoint; once more stops at once, back at the last one\n")

    def seconds(self):
        """How long the run has taken, interruptions apart."""
        return time.perf_counter() - self.start

    def due(self, clock, now, over):
        """Is it time to evaluate? clock: the column of eval.csv that --eval-frequency counts, now: what it is."""
        last = self.rows[-1][clock] if self.rows else 0
        return now // self.args.eval_frequency > last // self.args.eval_frequency or (over and now > last)

    def evaluate(self, actor, envs, global_step, facts, **shown):
        """Evaluate: a new row of eval.csv, with these facts in it. What is shown stands beside the progress."""
        self.waits = False
        if self.signals:  # one that came just after the checkpoint
            raise KeyboardInterrupt(self.signals[0])
        seed = seed_for(self.args.seed, 1, global_step)
        what = self.args.env_id, actor, envs, self.args.eval_episodes, seed
        row = {"global_step": global_step} | evaluate(*what, deterministic=True) | facts
        row["wall_seconds"] = self.seconds()
        sampled = evaluate(*what, deterministic=False)
        row |= {f"stochastic_{name}": value for name, value in sampled.items()}
        for name, value in row.items():
            if name != "global_step" and not math.isnan(value):
                self.writer.add_scalar(f"eval/{name}", value, global_step)
        self.rows.append(row)
        lines = [",".join(row)] + [",".join("" if v != v else str(v) for v in r.values()) for r in self.rows]  # no nan
        write_file(self.folder / "eval.csv", "\n".join(lines + [""]).encode())
        self.bar.set_postfix(score=f"{row[main_metric(self.rows)]:.0f}", **shown)

    def save(self, global_step, state):
        """Write the checkpoint from which --resume goes on; ends the run, after that, if a signal has come."""
        self.total = self.seconds()
        state = state | {"args": self.options, "run": (self.rows, self.total), "torch_rng": torch.get_rng_state()}
        state["cuda_rng"] = torch.cuda.get_rng_state() if self.args.cuda else None
        self.writer.flush()
        try:
            save_checkpoint(self.folder / "checkpoint.pt", state)
        except OSError as error:
            raise RunError(f"step {global_step}: no new checkpoint written ({error.strerror}), make room") from None
        if self.signals:
            self.bar.close()
            raise KeyboardInterrupt(self.signals[0])

    def finish(self, last, actor, tensors, summary, shown):
        """Write what came out, judged by the row `last`: a file that --expert can load, summary.json, a table."""
        self.bar.close()
        self.writer.close()
        args, key = self.args, main_metric(self.rows)
        best = max(self.rows, key=lambda row: row[key])
        if args.save_model:
            facts = {"env_id": args.env_id, "level": args.exp_name, "distribution": actor.distribution}
            facts |= {"obs_dim": len(actor.obs_mean), "act_dim": actor.act_dim, "min_log_std": actor.min_log_std}
            facts |= {"hidden_sizes": [layer.out_features for layer in actor.layers]}
            facts |= {"trained_by": f"{Path(__file__).name}, seed {args.seed}"}
            facts |= {"score_mean": last[f"stochastic_{key}"], "score_episodes": args.eval_episodes}
            save_expert(self.folder / "model.safetensors", tensors, **facts)
        known = [{name: value for name, value in row.items() if value == value} for row in (last, best)]  # no nan
        summary = {"main_metric": key, "final": known[0], "best": known[1], **summary}
        write_file(self.folder / "summary.json", json.dumps(summary, indent=2).encode())
        if args.capture_video:
            film = make_env(args.env_id, args.max_episode_steps, render_mode="rgb_array")
            film = gym.wrappers.RecordVideo(film, f"{self.folder}/videos", disable_logger=True)
            evaluate(args.env_id, actor, [film], 1, args.seed, deterministic=True)
            film.close()
        scores = f"{self.rows[0][key]:.1f}, {last[key]:.1f}, {best[key]:.1f}"
        shown = {f"{key}: first, last, best": scores} | shown
        shown |= {"time": f"{self.seconds() / 60:.1f} minutes", "folder": self.folder}
        for name, value in shown.items():
            print(f"{name:<36} {value}")


# --- main ------------------------------------------------------------------------------------------------------------


def main(args):
    args = check(args)
    keep_memory()
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    if args.capture_video:
        check_rendering(make_env, args.env_id, args.max_episode_steps)

    env = make_env(TRAINING_TASKS.get(args.env_id, args.env_id), args.max_episode_steps)
    if env.discrete:
        raise InputError(f"--env-id {args.env_id}: RLPD needs continuous actions, as in LunarLanderContinuous-v3")
    if args.termination is None:
        raise InputError(
            f"--env-id {args.env_id}: is it good or bad if an episode ends before its time? --termination forever "
            "(bad: a fall, it is charged), mask (good: nothing comes after it, worth 0) or bootstrap (both occur)"
        )
    eval_envs = [make_env(args.env_id, args.max_episode_steps) for _ in range(min(args.eval_episodes, 20))]
    expert = load_expert(args.env_id, args.expert, env) if args.intervention != "none" else None
    reference = load_expert(args.env_id, args.reference, env) if args.intervention == "value" else None
    expects = args.intervention == "mile" and args.human_model != "robot"
    human_model = load_expert(args.env_id, args.human_model, env) if expects else None
    initial = load_expert(args.env_id, args.initial_policy, env) if args.initial_policy else None
    if initial:
        args = replace(args, hidden_sizes=tuple(initial.facts["hidden_sizes"]))
    if reference and not reference.has_q:
        raise InputError(f"--reference {args.reference}: that file has no critics to judge with")
    checkpoint = open_run(args)
    obs_dim, act_dim = env.observation_space.shape + env.action_space.shape
    agent = Agent(obs_dim, act_dim, args, device)
    if args.intervention == "value":
        human = ValueHuman(args, expert, reference, rng)
    elif args.intervention == "random":
        human = RandomHuman(args, expert, rng)
    elif args.intervention == "mile":
        human = ProbitHuman(args, expert, human_model or (lambda obs: agent.actor(obs.to(device))), rng)
    else:
        human = None  # plain RLPD
    rb, demo_obs, demo_episodes = make_buffer(args, env)
    if initial:
        agent.begin_with(initial)
    elif args.standardize_obs and len(demo_obs):
        agent.standardize(demo_obs)
    if args.compile:
        compile_gradients(agent)
    update = CudaGraph(agent.update) if args.cuda else agent.update
    files = [policy.sha256 for policy in (expert, reference, human_model, initial) if policy]

    global_step, updates, labels, takeovers, expert_steps, episode = 0, 0, 0, 0, 0, 0
    episode_actions, staged = [], False  # since its start; is the last transition in the buffer, but for its label?
    counts = np.zeros(4, dtype=int)  # since the last evaluation: steps, under expert control, looks, flagged
    seconds = np.zeros(3)  # environment, update, evaluation
    if checkpoint:
        if checkpoint["files"] != files:
            raise InputError(f"--resume {args.resume}: an expert's file has changed since")
        agent.load_state_dict(checkpoint["agent"])
        for optimizer, state in zip(agent.optimizers, checkpoint["optimizers"]):
            optimizer.load_state_dict(state)
        rb.load_state(checkpoint["rb"])
        rng.bit_generator.state = checkpoint["rng"]
        global_step, updates, labels, takeovers, expert_steps, episode, staged = checkpoint["progress"]
        counts, seconds = checkpoint["counts"].numpy(), checkpoint["seconds"].numpy()
        episode_actions = list(checkpoint["episode_actions"].numpy())
        if human:
            human.takeover_left, human.grace_left = checkpoint["human"]
    # an environment's state is the seed of its reset and the actions since: replay them
    obs, episodic_return = env.reset(seed=seed_for(args.seed, 0, episode))[0], 0.0
    for actions in episode_actions:
        obs, task_reward, terminated, truncated, _ = env.step(actions)
        episodic_return += task_reward
        if terminated or truncated:  # which it did not the first time
            break
    if checkpoint and not torch.equal(torch.as_tensor(obs), checkpoint["obs"]):
        print(f"warning: {args.env_id} did not come back to where it was, for its seed does not settle what happens in "
              "it: going on with a new episode, not to the bit", file=sys.stderr)  # fmt: skip
        episode, episode_actions, episodic_return, staged = episode + 1, [], 0.0, False
        obs, _ = env.reset(seed=seed_for(args.seed, 0, episode))
        if human:
            human.new_episode()

    run = Run(args, checkpoint, global_step, total=args.total_timesteps, initial=global_step, unit="step")
    over = global_step >= args.total_timesteps or expert_steps == args.max_interventions
    while True:
        t0 = time.perf_counter()
        if run.due("global_step", global_step, over):
            facts = {"intervention_rate": float(counts[1] / counts[0])}  # share of steps under expert control
            facts["flagged_rate"] = float(counts[3] / counts[2]) if counts[2] else math.nan  # share of looks
            facts |= {"labels": labels, "expert_steps": expert_steps, "takeovers": takeovers}  # in all: the cost
            shown = {"interventions": f"{facts['intervention_rate']:.0%}"}
            run.evaluate(agent.actor, eval_envs, global_step, facts, **shown)
            counts[:] = 0
        if over:
            break
        run.waits = True

        t1 = time.perf_counter()
        # The novice proposes; does the person take over? (Alg. 2, line 4)
        proposal = agent.actor.act(obs[None])[0]  # (A,)
        actions, in_control, started, flagged = proposal, False, False, None
        if human:
            actions, in_control, started, flagged = human.watch(obs, proposal)
        counts += (1, in_control, flagged is not None, flagged is True)
        expert_steps, takeovers = expert_steps + in_control, takeovers + started
        # Now (s_{t-1}, a_{t-1}, s_t) gets its label and is appended. (Alg. 2, lines 5 and 7)
        if staged:
            labelled = started and args.reward == "intervention"
            rb.commit(reward=args.label if labelled else None)
            labels += labelled

        next_obs, task_reward, terminated, truncated, _ = env.step(actions)
        global_step += 1
        over = global_step == args.total_timesteps or expert_steps == args.max_interventions
        episode_actions.append(actions)
        episodic_return += task_reward
        rewards = task_reward if args.reward == "task" else 0.0
        # official quirk: while the expert keeps control, nothing is stored
        staged = not (args.drop_expert_transitions and human.takeover_left > 0)
        if terminated or truncated:
            run.writer.add_scalar("charts/episodic_return", episodic_return, global_step)
            episode, episode_actions, episodic_return = episode + 1, [], 0.0
            reset_obs, _ = env.reset(seed=seed_for(args.seed, 0, episode))
            if human:
                human.new_episode()
            rewards, last_obs, terminations = end_of_episode(args, terminated, rewards, next_obs, reset_obs)
            rb.stage(obs, last_obs, actions, rewards, terminations)
            rb.commit()  # no takeover can follow it
            obs, staged = reset_obs, False
        else:
            rb.stage(obs, next_obs, actions, rewards, 0.0)
            obs = next_obs
        t2 = time.perf_counter()

        # Train pi on D with reinforcement learning. (Alg. 2, line 2; after every step, as RLPD does)
        losses = {}
        if rb.size >= args.batch_size:
            agent.set_learning_rate(global_step / args.total_timesteps)
            batches = rb.sample(rng, args.utd_ratio, args.batch_size, args.offline_ratio, device)  # (G, B, ...)
            losses = update(batches)
            updates += args.utd_ratio
            if not math.isfinite(sum(losses.values())):
                what = ", ".join(f"{name} {value.item():.3g}" for name, value in losses.items())
                raise RunError(f"step {global_step}: learning broke down, its losses are not finite ({what})")
        if losses and global_step % 500 == 0:
            for name, value in losses.items():
                run.writer.add_scalar(f"losses/{name}", value.item(), global_step)
            run.writer.add_scalar("charts/steps_per_second", global_step / run.seconds(), global_step)
        seconds += (t2 - t1, time.perf_counter() - t2, t1 - t0)
        run.bar.update()

        if global_step % args.checkpoint_frequency == 0 or run.due("global_step", global_step, over) or run.signals:
            state = {"files": files, "agent": agent.state_dict(), "rb": rb.state(), "rng": rng.bit_generator.state}
            state |= {"optimizers": [optimizer.state_dict() for optimizer in agent.optimizers]}
            state |= {"obs": torch.as_tensor(obs), "episode_actions": torch.tensor(np.array(episode_actions))}
            state |= {"counts": torch.from_numpy(counts), "seconds": torch.from_numpy(seconds)}
            state |= {"human": (human.takeover_left, human.grace_left) if human else None}
            progress = global_step, updates, labels, takeovers, expert_steps, episode, staged
            run.save(global_step, state | {"progress": progress})

    tensors = {k: v for k, v in agent.state_dict().items() if k.startswith(("actor.", "qf."))}
    times = dict(zip(("environment", "update", "evaluation"), seconds.tolist())) | {"total": run.seconds()}
    summary = {"env_steps": global_step, "demo_episodes": demo_episodes, "labels": labels, "takeovers": takeovers}
    summary |= {"expert_steps": expert_steps, "critic_updates": updates, "seconds": times}
    rates = [f"{row['intervention_rate']:.0%}" for row in (run.rows[0], run.rows[-1])]
    shown = {"expert's own score": f"{expert.facts.get('score_mean', math.nan):.1f}" if expert else "no expert"}
    shown |= {"demonstrations": f"{demo_episodes} episodes", "interventions, first and last": ", ".join(rates)}
    run.finish(run.rows[-1], agent.actor, tensors, summary, shown)


if __name__ == "__main__":
    with exit_codes():
        main(parse_args())
