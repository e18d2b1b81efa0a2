"""MILE: model-based intervention learning, from interventions and from their absence. One file.

Paper: Korkmaz and Biyik, ICRA 2025, https://arxiv.org/abs/2502.13519; "Eq. 1" to "Eq. 5" in comments are its.

    python mile.py                                                      # Meta-World's peg insertion
    python mile.py --rounds 1 --round-episodes 15 --round-updates 1000  # the paper's single iteration
    python mile.py --no-mental-model                                    # BC-intervention: a network guesses when
    python mile.py --help                                               # every option
    python mile.py --resume runs/<run>                                  # go on after a stop, to the bit

Read main() first, then intervention_log_probs() (Eq. 2: when does a person take over?) and losses() (Eq. 5). In shapes:
O observation size, A action size, B batch, T steps of an episode.
"""

import functools
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

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from scipy.special import gammaln, roots_genlaguerre
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import (
    MAX_ACTION,
    Checked,
    InputError,
    RunError,
    UnitActions,
    begin_run,
    check_rendering,
    exit_codes,
)
from experts import (
    load_checkpoint,
    load_expert,
    new_run_folder,
    normalized_score,
    open_task,
    require_packages,
)
from experts import save_checkpoint, save_expert, start_tracking, write_file


@dataclass
class Args:
    exp_name: str = "mile"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: int = 1  # of everything: on the CPU, the same seed gives the same run to the bit
    cuda: bool = False  # learn on the GPU
    num_threads: int = 2  # of torch on the CPU
    resume: str | None = (
        None  # go on with this folder, runs/<run>; all other options come from there
    )
    save_model: bool = True  # at the end, write a file that --expert and --initial-policy can load
    capture_video: bool = False  # at the end, film an episode (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)

    env_id: str = (
        "Meta-World/peg-insert-side-v3"  # or LunarLander-v3, or any with Box or discrete actions
    )
    max_episode_steps: int | None = (
        None  # end every episode after so many steps; default: the environment's own limit
    )
    rounds: int = 20  # N: a round is some watched episodes, then training
    round_episodes: int = 1  # k: episodes of a round
    max_interventions: int | None = (
        None  # the last round ends when the expert has acted for so many steps
    )
    eval_frequency: int = 1  # rounds between evaluations
    eval_episodes: int = (
        20  # of an evaluation, with the mean action and again with sampled ones, always fresh
    )

    expert: str = "top"  # pi_h, who takes over: a shipped level or a .safetensors file
    initial_policy: str = (
        "initial"  # what the robot can do at first: a level or a .safetensors file
    )
    # what the person expects of the robot: a level or a .safetensors file, for good; robot: what it does by now
    human_model: str = "mental"
    # c, what it takes to take over; default: found by --target-intervention-rate, with what robot and person do alone
    intervention_cost: float | None = None
    # by which the gap minus c is divided (not in the paper, but in its code); 1 or more where actions are continuous
    intervention_scale: float = 10.0
    target_intervention_rate: float = (
        0.3  # c is the smallest of a grid with less than this share of expert steps
    )
    takeover_steps: int = (
        1  # steps that the expert keeps control; Eq. 2 is of the first, so more are only roughly it
    )

    mental_model: bool = (
        True  # no: another network guesses when, and the policy only clones (BC-intervention)
    )
    intervention_weight: float = 0.5  # lambda of Eq. 5, for continuous actions
    min_std: float = 0.1  # lower limit of the policy's standard deviation, before the tanh
    warm_up_episodes: int = (
        10  # of the initial policy, from which the mental model is cloned before the first round
    )
    warm_up_updates: int = 2_000  # gradient steps of that
    round_updates: int = 100  # gradient steps after a round; 600, the official code's 300 passes, overfit in 20 rounds
    batch_size: int = 1_024  # transitions per gradient step
    learning_rate: float = 1e-4  # Adam's
    hidden_sizes: tuple[int, ...] = (
        256,
        256,
    )  # of the mental model and of the network that guesses


# --- environment -----------------------------------------------------------------------------------------------------


def make_env(env_id, max_episode_steps=None, **options):
    """The environment with flat observations and, whatever its own actions are, some in [-1, 1] or one-hot vectors."""
    env = open_task(
        env_id, max_episode_steps, **options
    )  # gym.make; whatever is wrong becomes one line
    env = gym.wrappers.FlattenObservation(env)
    return UnitActions(Checked(env))


def seed_for(*key):
    """An independent 32-bit seed for each key, e.g. (seed, stream, episode); zeros at its end do not count."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


# --- intervention ----------------------------------------------------------------------------------------------------


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
        policy, robot = (
            [x[0].cpu() for x in model(state)] for model in (self.expert, self.model)
        )  # (A,) each
        if len(policy) == 1:
            log_pi = policy[0].log_softmax(-1)
            a = (log_pi + torch.from_numpy(self.rng.gumbel(size=len(log_pi)))).argmax()
            return log_pi[a] - (robot[0].softmax(-1) * log_pi).sum()
        (mean, log_std), (robot_mean, robot_log_std) = policy, robot
        surprise = ((robot_mean - mean).pow(2) + (2 * robot_log_std).exp()) / (
            2 * (2 * log_std).exp()
        )  # -E[ln pi(a')]
        noise = torch.from_numpy(self.rng.standard_normal(len(mean)))  # a = mean + std * noise
        return (surprise - noise.pow(2) / 2).sum()  # what both logarithms have besides cancels

    def watch(self, obs, proposal):
        """One step: executed action, is the expert in control, did a takeover start, None (no proposal is judged)."""
        started = False
        if self.takeover_left == 0:  # noise > c - gap has probability Phi((gap - c) / scale)
            started = bool(
                self.gap(obs) + self.args.intervention_scale * self.rng.standard_normal()
                > self.cost
            )
        if started:
            self.takeover_left = self.args.takeover_steps
        if self.takeover_left == 0:
            return proposal, False, False, None
        self.takeover_left -= 1
        return self.expert.act(obs[None])[0].numpy(), True, started, None  # (A,)


def rollout(env, actor, human, seed, budget=None):
    """One episode of the policy's likeliest actions, watched by a human, or alone (None).

    It depends on them and the seed alone, and ends where the human has acted for so many steps (budget). Returns a
    dict: obs (T, O), actions (T, A) as executed, nu (T,), takeovers, success (0 or 1 at its last step, nan if it
    does not tell) and return.
    """
    obs, _ = env.reset(seed=seed)
    rows, expert_steps, takeovers, episodic_return, ended = [], 0, 0, 0.0, False
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if human:
            human.rng = np.random.default_rng((seed, 1))  # the environment has default_rng(seed)
            human.new_episode()
        while not ended:
            actions, in_control, started = (
                actor.act(obs[None], deterministic=True)[0],
                False,
                False,
            )  # (A,)
            if human:
                actions, in_control, started, _ = human.watch(obs, actions)
            rows.append((obs, actions, in_control))
            expert_steps, takeovers = expert_steps + in_control, takeovers + started
            obs, reward, terminated, truncated, info = env.step(actions)
            episodic_return += reward
            ended = terminated or truncated or expert_steps == budget
    obs, actions, nu = (
        torch.tensor(np.array(column), dtype=torch.float32) for column in zip(*rows)
    )
    facts = {
        "takeovers": takeovers,
        "success": info.get("success", math.nan),
        "return": episodic_return,
    }
    return {"obs": obs, "actions": actions, "nu": nu} | facts


def rate_and_score(env, actor, human, seeds):
    """Of watched episodes: the share of steps under expert control, and their success (%) or, if none tells, return."""
    episodes = [rollout(env, actor, human, seed) for seed in seeds]
    rate = torch.cat([episode["nu"] for episode in episodes]).mean().item()
    successes = np.array([episode["success"] for episode in episodes])
    if np.isnan(successes).all():
        return rate, float(np.mean([episode["return"] for episode in episodes]))
    return rate, float(100 * np.nan_to_num(successes).mean())  # as evaluate() has it


def calibrate(args, env, actor, human):
    """The smallest c of a grid that keeps the rate of interventions below the target, and what was measured.

    A grid, from below, for the rate does not always fall with c: a rescue changes all that comes after it. What was
    chosen for its rate on 15 episodes looks better there than it is, so the rate must hold on 15 others as well.
    """
    tried = []
    for cost in (
        0.0,
        1.0,
        2.0,
        3.0,
        4.0,
        6.0,
        8.0,
        11.0,
        16.0,
        22.0,
        32.0,
        45.0,
        64.0,
        90.0,
        128.0,
    ):
        human.cost = cost
        for episodes in (range(15), range(15, 30)):
            rate, score = rate_and_score(
                env, actor, human, [seed_for(0, 3, i) for i in episodes]
            )  # whatever --seed is
            tried.append({"cost": cost, "intervention_rate": rate, "score": score})
            if rate >= args.target_intervention_rate:
                break
        else:
            return cost, tried
    lowest = min(one["intervention_rate"] for one in tried)
    raise InputError(f"--target-intervention-rate {args.target_intervention_rate}: the lowest rate of the grid is "
                     f"{lowest:.2f}; another --intervention-scale, or a better initial policy?")  # fmt: skip


def measure(args, env, eval_envs, actor, human):
    """What is known before the first round: c, how it was found, and what robot and person do alone and together."""
    cost, tried = calibrate(args, env, actor, human)
    rate, score = rate_and_score(
        env, actor, human, [seed_for(args.seed, 5, i) for i in range(args.eval_episodes)]
    )
    facts = {
        "intervention_cost": cost,
        "calibration": tried,
        "intervention_rate": rate,
        "assisted_score": score,
    }
    what = eval_envs, args.eval_episodes, seed_for(args.seed, 5)
    initial = evaluate(args.env_id, actor, *what, deterministic=True)
    expert = evaluate(args.env_id, copy_of(env, human.expert), *what, deterministic=False)
    if math.isnan(initial["success_rate"]) and math.isnan(expert["success_rate"]):
        return facts | {
            "initial_score": initial["return_mean"],
            "expert_score": expert["return_mean"],
        }
    # one of them that never tells has never succeeded
    scores = {"initial_score": initial["success_rate"], "expert_score": expert["success_rate"]}
    return facts | {name: float(np.nan_to_num(score)) for name, score in scores.items()}


# --- networks --------------------------------------------------------------------------------------------------------


class Actor(nn.Module):
    """Tanh-Gaussian policy."""

    distribution, heads = "tanh_gaussian", ("mean", "log_std")
    min_log_std = -20.0

    def __init__(self, obs_dim, act_dim, hidden_sizes):
        super().__init__()
        self.act_dim, sizes = act_dim, [obs_dim, *hidden_sizes]
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes[:-1], sizes[1:]))
        for head in self.heads:
            self.add_module(head, nn.Linear(sizes[-1], act_dim))

    def features(self, obs):
        x = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        x = (x - self.obs_mean) / self.obs_std  # (B, O)
        for layer in self.layers:
            x = F.relu(layer(x))  # (B, hidden)
        return x

    def forward(self, obs):
        x = self.features(obs)
        return self.mean(x), self.log_std(x).clamp(self.min_log_std, 2)  # (B, A) each

    def log_prob(self, policy, actions):
        """ln pi(a|s) of actions (B, A) in [-0.999, 0.999] under policy = self(obs): (B,)."""
        mean, log_std = policy
        u = actions.atanh()  # (B, A), before the squashing
        log_prob = (
            -0.5 * ((u - mean) / log_std.exp()).pow(2) - log_std - 0.5 * math.log(2 * math.pi)
        )
        log_prob = log_prob - 2 * (
            math.log(2) - u - F.softplus(-2 * u)
        )  # log |d tanh(u) / du|, stable for large |u|
        return log_prob.sum(-1)

    @torch.no_grad()
    def act(self, obs, deterministic=False):
        """What is executed, kept off the edges of [-1, 1]: numpy (B, O) -> (B, A)."""
        mean, log_std = self(obs)
        actions = (mean if deterministic else mean + log_std.exp() * torch.randn_like(mean)).tanh()
        return actions.clamp(-MAX_ACTION, MAX_ACTION).cpu().numpy()


class CategoricalActor(Actor):
    """Policy over A discrete actions, which are one-hot vectors."""

    distribution, heads = "categorical", ("logits",)

    def forward(self, obs):
        return (self.logits(self.features(obs)),)  # (B, A)

    def log_prob(self, policy, actions):
        return (policy[0].log_softmax(-1) * actions).sum(-1)  # (B,)

    @torch.no_grad()
    def act(self, obs, deterministic=False):
        (logits,) = self(obs)
        choice = (
            logits.argmax(-1)
            if deterministic
            else torch.distributions.Categorical(logits=logits).sample()
        )
        return F.one_hot(choice, self.act_dim).float().cpu().numpy()  # (B, A)


def make_actor(env, hidden_sizes):
    """An untrained policy for the environment's observations and actions."""
    discrete = env.discrete
    sizes = *env.observation_space.shape, *env.action_space.shape, hidden_sizes
    return (CategoricalActor if discrete else Actor)(*sizes)


def likeliest(actor):
    """A policy that always does the likeliest action of another, in the form of Actor.forward: what a robot does."""

    def policy(obs):
        first, *log_std = actor(obs)  # (B, A) each
        if log_std:
            return first, torch.full_like(first, -20)
        return (F.one_hot(first.argmax(-1), first.shape[-1]).float().log(),)

    return policy


def copy_of(env, policy):
    """A policy that was loaded from a file, as one that can learn."""
    actor = make_actor(env, policy.facts["hidden_sizes"])
    actor.load_state_dict(policy.state)
    actor.min_log_std = policy.facts.get("min_log_std", actor.min_log_std)
    return actor


def nll(actor, obs, actions):
    """-log pi(a|s), the mean over a batch: (B, O), (B, A) -> ()."""
    return -actor.log_prob(actor(obs), actions).mean()


def fit(actor, optimizer, obs, actions, updates, batch_size):
    """Gradient steps of maximum likelihood on uniform minibatches of (n, O), (n, A); returns the mean loss."""
    total = 0.0
    for _ in range(updates):
        i = torch.randint(len(obs), (batch_size,), device=obs.device)
        loss = nll(actor, obs[i], actions[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / updates if updates else math.nan


def warm_start(args, env, actor, mental_model):
    """Clone the mental model from the initial policy: at first a person expects the robot to go on as it does."""
    alone = [
        rollout(env, actor, None, seed_for(args.seed, 4, i)) for i in range(args.warm_up_episodes)
    ]
    shown = [
        torch.cat([episode[name] for episode in alone]).to(actor.obs_mean.device)
        for name in ("obs", "actions")
    ]
    optimizer = torch.optim.Adam(mental_model.parameters(), 1e-3, fused=True)
    fit(mental_model, optimizer, *shown, args.warm_up_updates, 256)


class Estimator(nn.Module):
    """Guesses whether a person takes over, from the state alone (the paper's NN-based estimator)."""

    def __init__(self, actor, hidden_sizes):
        super().__init__()
        self.register_buffer("obs_mean", actor.obs_mean.clone())
        self.register_buffer("obs_std", actor.obs_std.clone())
        sizes = [len(actor.obs_mean), *hidden_sizes]
        hidden = [
            layer for i, o in zip(sizes[:-1], sizes[1:]) for layer in (nn.Linear(i, o), nn.ReLU())
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))

    def forward(self, obs):
        return self.layers((obs - self.obs_mean) / self.obs_std).squeeze(-1)  # (B,), a logit


@functools.cache
def laguerre(degrees):
    """Nodes and log weights (nodes,) of generalised Gauss-Laguerre quadrature: the mean over half a chi^2."""
    nodes = (
        32 if degrees <= 4 else 96
    )  # the more actions, the more are needed for the same accuracy
    x, weights = roots_genlaguerre(nodes, degrees / 2 - 1)
    log_weights = np.log(weights) - gammaln(degrees / 2)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(log_weights, dtype=torch.float32)


def intervention_log_probs(policy, mental_model, cost, scale):
    """ln p(nu=1 | s) and ln p(nu=0 | s) of MILE's Eq. 2, not sampled but integrated: (B,) each.

    policy and mental_model are what networks return at s: logits (B, A), or means and log stds (B, A) before the tanh,
    where all is Gaussian. What counts is how much likelier an action a ~ policy is, to the policy, than what the mental
    model expects of the robot: gap(a) = ln pi(a|s) - E_{a' ~ mental model}[ln pi(a'|s)]. For up to 24
    continuous actions and a scale of 1 or more p is exact to 1e-6.
    """
    if len(policy) == 1:  # a sum over actions
        log_weights = policy[0].log_softmax(-1)  # (B, A)
        gap = log_weights - (mental_model[0].softmax(-1) * log_weights).sum(
            -1, keepdim=True
        )  # (B, A)
    else:
        (mean, log_std), (mental_mean, mental_log_std) = policy, mental_model
        # -E[ln pi(a')]; and -ln pi(a) is half a chi^2 of A degrees of freedom; what both have besides cancels
        surprise = ((mental_mean - mean).pow(2) + (2 * mental_log_std).exp()) / (
            2 * (2 * log_std).exp()
        )  # (B, A)
        half_chi2, log_weights = (
            x.to(mean.device) for x in laguerre(mean.shape[-1])
        )  # (nodes,) each
        gap = surprise.sum(-1, keepdim=True) - half_chi2  # (B, nodes)
    z = (gap - cost) / scale
    return tuple(
        torch.logsumexp(log_weights + torch.special.log_ndtr(sign * z), -1) for sign in (1, -1)
    )


def losses(args, cost, actor, mental_model, obs, actions, nu):
    """J_1, J_2 and J of Eq. 5 on a batch: (B, O), (B, A), (B,) -> () each. Without a mental model, J is J_2."""
    policy = actor(obs)
    log_pi = actor.log_prob(policy, actions)  # (B,)
    j2 = -(nu * log_pi).sum() / nu.sum().clamp_min(1)  # Eq. 4: only where a person acted
    if mental_model is None:
        return torch.zeros_like(j2), j2, j2
    log_p, log_not_p = intervention_log_probs(
        policy, mental_model(obs), cost, args.intervention_scale
    )  # (B,) each
    j1 = -(nu * log_p + (1 - nu) * log_not_p).mean()
    if len(policy) == 1:  # cross entropy over A actions (Eq. 3) and no intervention
        return j1, j2, j1 - (nu * log_pi).mean()
    return j1, j2, args.intervention_weight * j1 + (1 - args.intervention_weight) * j2


def prediction_quality(log_p, log_not_p, nu):
    """How well interventions were foretold, (T,) each: accuracy, the mean of both classes' accuracies, log-loss."""
    hits = ((log_p > log_not_p) == (nu > 0)).float()
    balanced = (hits[nu > 0].mean() + hits[nu == 0].mean()) / 2  # nan if one class is missing
    log_loss = -torch.where(nu > 0, log_p, log_not_p).mean()
    return {
        "accuracy": hits.mean().item(),
        "balanced_accuracy": balanced.item(),
        "log_loss": log_loss.item(),
    }


def row_of(rounds, counts, expert_steps, takeovers, foretold):
    """What a row of eval.csv holds besides the evaluation."""
    row = {"round": rounds, "intervention_rate": float(counts[1] / counts[0])}
    row |= {"expert_steps": expert_steps, "takeovers": takeovers}  # in all: the cost
    for i, name in enumerate(("model", "network", "majority")):
        log_p, log_not_p, nu = foretold[:, 1 + 2 * i], foretold[:, 2 + 2 * i], foretold[:, 0]
        row |= {
            f"{name}_{what}": value
            for what, value in prediction_quality(log_p, log_not_p, nu).items()
        }
    return row


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
            actions = actor.act(
                np.stack([obs[env] for env in playing]), deterministic
            )  # (playing, A)
            for (env, i), action in zip(tuple(playing.items()), actions):
                obs[env], reward, terminated, truncated, info = env.step(action)
                returns[i] += reward
                successes[i] = info.get("success", np.nan)  # of the last step, where it is reported
                if terminated or truncated:
                    del playing[env]
    scores = normalized_score(env_id, returns)  # every episode is normalised, then averaged
    if not np.isnan(successes).all():
        successes = np.nan_to_num(
            successes
        )  # some environments report a success only where there is one
    stats = {
        "return_mean": returns.mean(),
        "return_std": returns.std(ddof=1) if episodes > 1 else 0.0,
    }
    stats |= {"normalized_score": scores.mean(), "success_rate": 100 * successes.mean()}
    return {name: float(value) for name, value in stats.items()}


def main_metric(rows):
    """The column to judge a run by, known in all rows: success rate (%), else D4RL's score, else the return."""
    for name in ("success_rate", "normalized_score"):
        if not any(
            math.isnan(row[column]) for row in rows for column in (name, f"stochastic_{name}")
        ):
            return name
    return "return_mean"


# --- keeping a run: options, folder, checkpoints, logs ---------------------------------------------------------------


def parse_args(argv=None):
    """The command line; with --resume, the run's own options, which nothing may contradict."""
    args = tyro.cli(Args, args=argv)
    if args.resume is None:
        typed = [
            word.split("=")[0].replace("_", "-")
            for word in (sys.argv[1:] if argv is None else argv)
        ]
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
        raise InputError(
            f"--resume {args.resume}: no run of this script lies there (by its args.json)"
        ) from None
    for name, value in vars(tyro.cli(Args, args=argv, default=saved)).items():
        if value != getattr(saved, name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(
                f"--resume {args.resume}: it runs with {getattr(saved, name)} as {option}; leave that out"
            )
    return saved


def useless(args):
    """The options that do nothing beside others, and why: typed all the same, they are refused."""
    found = {}
    if args.intervention_cost is not None:
        found["target_intervention_rate"] = "--intervention-cost is given"
    if not args.mental_model:
        for name in ("intervention_weight", "warm_up_episodes", "warm_up_updates"):
            found[name] = "there is no mental model to train"
    elif args.warm_up_updates == 0:
        found["warm_up_episodes"] = "with --warm-up-updates 0 nothing is learned from them"
    return found


def check(args):
    """Everything that can be wrong with the options themselves."""
    positive = (
        "rounds round_episodes eval_frequency eval_episodes batch_size num_threads takeover_steps"
    )
    for names, holds, rule in (
        (f"{positive} round_updates warm_up_episodes", lambda x: x > 0, "positive"),
        ("intervention_scale min_std learning_rate", lambda x: 0 < x < math.inf, "positive"),
        ("intervention_weight", lambda x: 0 <= x <= 1, "in [0, 1]"),
        ("target_intervention_rate", lambda x: 0 < x <= 1, "in (0, 1]"),
        ("intervention_cost", lambda x: x is None or math.isfinite(x), "finite"),
        ("max_interventions max_episode_steps", lambda x: x is None or x > 0, "positive"),
        ("warm_up_updates", lambda x: x >= 0, "zero or more"),
        ("seed", lambda x: 0 <= x < 2**63, "zero or more, below 2 to the 63rd"),
    ):
        for name in names.split():
            if not holds(getattr(args, name)):
                raise InputError(
                    f"--{name.replace('_', '-')} must be {rule}, not {getattr(args, name)}"
                )
    for wrong, message in (
        (
            min(args.hidden_sizes, default=0) < 1,
            "--hidden-sizes needs positive sizes, at least one",
        ),
        (args.cuda and not torch.cuda.is_available(), "--cuda: torch finds no GPU here"),
    ):
        if wrong:
            raise InputError(message)
    require_packages(*["wandb"] * args.track, *["moviepy"] * args.capture_video)
    return args


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
        self.rows, self.total = (
            checkpoint["run"] if checkpoint else ([], 0.0)
        )  # of eval.csv; seconds until then
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
        self.writer = SummaryWriter(
            self.folder, purge_step=global_step + bool(checkpoint) if args.resume else None
        )
        if checkpoint:
            torch.set_rng_state(checkpoint["torch_rng"])
            if args.cuda:
                torch.cuda.set_rng_state(checkpoint["cuda_rng"])
        else:
            table = "\n".join(f"|{name}|{value}|" for name, value in vars(args).items())
            self.writer.add_text("hyperparameters", f"|option|value|\n|-|-|\n{table}")
        self.signals, self.waits = (
            [],
            False,
        )  # SIGINT and SIGTERM that came; does a stop wait for the next checkpoint?
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
        os.write(
            2, b"\nstopping at the next checkpoint; once more stops at once, back at the last one\n"
        )

    def seconds(self):
        """How long the run has taken, interruptions apart."""
        return time.perf_counter() - self.start

    def due(self, clock, now, over):
        """Is it time to evaluate? clock: the column of eval.csv that --eval-frequency counts, now: what it is."""
        last = self.rows[-1][clock] if self.rows else 0
        return now // self.args.eval_frequency > last // self.args.eval_frequency or (
            over and now > last
        )

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
        lines = [",".join(row)] + [
            ",".join("" if v != v else str(v) for v in r.values()) for r in self.rows
        ]  # no nan
        write_file(self.folder / "eval.csv", "\n".join(lines + [""]).encode())
        self.bar.set_postfix(score=f"{row[main_metric(self.rows)]:.0f}", **shown)

    def save(self, global_step, state):
        """Write the checkpoint from which --resume goes on; ends the run, after that, if a signal has come."""
        self.total = self.seconds()
        state = state | {
            "args": self.options,
            "run": (self.rows, self.total),
            "torch_rng": torch.get_rng_state(),
        }
        state["cuda_rng"] = torch.cuda.get_rng_state() if self.args.cuda else None
        self.writer.flush()
        try:
            save_checkpoint(self.folder / "checkpoint.pt", state)
        except OSError as error:
            raise RunError(
                f"step {global_step}: no new checkpoint written ({error.strerror}), make room"
            ) from None
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
            facts = {
                "env_id": args.env_id,
                "level": args.exp_name,
                "distribution": actor.distribution,
            }
            facts |= {
                "obs_dim": len(actor.obs_mean),
                "act_dim": actor.act_dim,
                "min_log_std": actor.min_log_std,
            }
            facts |= {"hidden_sizes": [layer.out_features for layer in actor.layers]}
            facts |= {"trained_by": f"{Path(__file__).name}, seed {args.seed}"}
            facts |= {"score_mean": last[f"stochastic_{key}"], "score_episodes": args.eval_episodes}
            save_expert(self.folder / "model.safetensors", tensors, **facts)
        known = [
            {name: value for name, value in row.items() if value == value} for row in (last, best)
        ]  # no nan
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
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    if args.capture_video:
        check_rendering(make_env, args.env_id, args.max_episode_steps)

    env = make_env(args.env_id, args.max_episode_steps)
    eval_envs = [
        make_env(args.env_id, args.max_episode_steps) for _ in range(min(args.eval_episodes, 20))
    ]
    expert, initial = (
        load_expert(args.env_id, level, env) for level in (args.expert, args.initial_policy)
    )
    human_model = (
        load_expert(args.env_id, args.human_model, env) if args.human_model != "robot" else None
    )
    if not env.discrete and args.mental_model and args.intervention_scale < 1:
        raise InputError(f"--intervention-scale {args.intervention_scale}: with continuous actions it must be 1 or "
                         "more (below, the integral of Eq. 2 is inexact)")  # fmt: skip
    checkpoint = open_run(args)
    actor = copy_of(env, initial)  # pi_theta
    actor.min_log_std = max(actor.min_log_std, math.log(args.min_std))
    mental_model = make_actor(env, args.hidden_sizes) if args.mental_model else None  # \hat pi_xi
    estimator = Estimator(actor, args.hidden_sizes)
    if mental_model:
        mental_model.obs_mean.copy_(actor.obs_mean)
        mental_model.obs_std.copy_(actor.obs_std)
    networks = [network.to(device) for network in (actor, estimator, mental_model) if network]
    learned = [*actor.parameters(), *(mental_model.parameters() if mental_model else ())]
    optimizers = [
        torch.optim.Adam(p, args.learning_rate, fused=True)
        for p in (learned, estimator.parameters())
    ]
    human = ProbitHuman(
        args, expert, human_model or likeliest(actor), rng=None
    )  # every episode has its own generator
    files = [policy.sha256 for policy in (expert, initial, human_model) if policy]

    global_step, rounds, expert_steps, takeovers = 0, 0, 0, 0
    setting = {
        "intervention_cost": args.intervention_cost
    }  # and what is measured before the first round
    data = [
        torch.empty(0, *env.observation_space.shape),
        torch.empty(0, *env.action_space.shape),
        torch.empty(0),
    ]
    data = [
        values.to(device) for values in data
    ]  # D: observations (n, O), executed actions (n, A) and nu (n,)
    foretold = torch.empty(
        0, 7
    )  # since the last evaluation: nu; ln p(nu=1) and ln p(nu=0) by model, network, majority
    counts = np.zeros(2, dtype=int)  # since the last evaluation: steps, under expert control
    if checkpoint:
        if checkpoint["files"] != files:
            raise InputError(f"--resume {args.resume}: an expert's file has changed since")
        for module, state in zip((*networks, *optimizers), checkpoint["states"]):
            module.load_state_dict(state)
        global_step, rounds, expert_steps, takeovers, setting = checkpoint["progress"]
        data = [values.to(device) for values in checkpoint["data"]]
        foretold, counts = checkpoint["foretold"], checkpoint["counts"].numpy()
        human.cost = setting["intervention_cost"]

    run = Run(args, checkpoint, global_step, total=args.rounds, initial=rounds, unit="round")
    if not checkpoint:
        run.bar.set_description("before the first round")
        if args.intervention_cost is None:
            setting = measure(args, env, eval_envs, actor, human)
            human.cost = setting["intervention_cost"]
        if mental_model:
            warm_start(args, env, actor, mental_model)
        run.bar.set_description(None)
    over = rounds == args.rounds or expert_steps == args.max_interventions
    while True:
        if run.due("round", rounds, over):
            row = row_of(rounds, counts, expert_steps, takeovers, foretold)
            run.evaluate(
                actor, eval_envs, global_step, row, interventions=f"{row['intervention_rate']:.0%}"
            )
            foretold = foretold[:0]
            counts[:] = 0
        if over:
            break
        run.waits = True
        # The robot acts, the person takes over, for k episodes. (section III)
        watched = []
        for episode in range(rounds * args.round_episodes, (rounds + 1) * args.round_episodes):
            if expert_steps != args.max_interventions:
                budget = args.max_interventions and args.max_interventions - expert_steps
                watched.append(rollout(env, actor, human, seed_for(args.seed, 0, episode), budget))
                expert_steps += int(watched[-1]["nu"].sum())
                takeovers += watched[-1]["takeovers"]
        new = [
            torch.cat([episode[name] for episode in watched]).to(device)
            for name in ("obs", "actions", "nu")
        ]
        global_step += len(new[0])
        counts += (len(new[0]), int(new[2].sum()))

        # Who would have foretold these interventions from the rounds before? (section VII)
        if rounds:
            with torch.no_grad():
                logit = estimator(new[0])
                network = F.logsigmoid(logit), F.logsigmoid(-logit)
                model = network
                if mental_model:
                    policies = actor(new[0]), mental_model(new[0])
                    model = intervention_log_probs(*policies, human.cost, args.intervention_scale)
                share = data[2].mean().clamp(1e-3, 1 - 1e-3)
                majority = share.log().expand_as(logit), (1 - share).log().expand_as(logit)
            foretold = torch.cat(
                [foretold, torch.stack([new[2], *model, *network, *majority], -1).cpu()]
            )  # (n, 7)
        data = [torch.cat(both) for both in zip(data, new)]

        # Learn from all rounds, from where the networks stand. (Eq. 5)
        for _ in range(args.round_updates):
            i = torch.randint(len(data[0]), (args.batch_size,)).to(device)
            obs, actions, nu = (values[i] for values in data)
            j1, j2, j = losses(args, human.cost, actor, mental_model, obs, actions, nu)
            guess = F.binary_cross_entropy_with_logits(estimator(obs), nu)
            for optimizer, loss in zip(optimizers, (j, guess)):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if not math.isfinite((j + guess).item()):
            raise RunError(
                f"round {rounds}: learning broke down, its losses are not finite ({j}, {guess})"
            )
        for name, value in (("j1", j1), ("j2", j2), ("network", guess)):
            run.writer.add_scalar(f"losses/{name}", value, global_step)
        rounds += 1
        over = rounds == args.rounds or expert_steps == args.max_interventions
        run.bar.update()
        state = {
            "files": files,
            "data": data,
            "foretold": foretold,
            "counts": torch.from_numpy(counts),
        }
        state |= {"states": [module.state_dict() for module in (*networks, *optimizers)]}
        run.save(
            global_step,
            state | {"progress": (global_step, rounds, expert_steps, takeovers, setting)},
        )

    tensors = {f"actor.{name}": value for name, value in actor.state_dict().items()}
    summary = {
        "env_steps": global_step,
        "rounds": rounds,
        "expert_steps": expert_steps,
        "takeovers": takeovers,
    }
    summary |= {"before": setting, "seconds": {"total": run.seconds()}}
    shown = {"c, scale": f"{human.cost}, {args.intervention_scale}"}
    if "expert_score" in setting:
        scores = f"{setting['initial_score']:.1f}, {setting['assisted_score']:.1f}, {setting['expert_score']:.1f}"
        shown |= {"at first, assisted, expert": scores}
    shown |= {"expert steps, takeovers": f"{expert_steps}, {takeovers}"}
    run.finish(run.rows[-1], actor, tensors, summary, shown)


if __name__ == "__main__":
    with exit_codes():
        main(parse_args())
