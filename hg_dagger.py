"""HG-DAgger: the expert takes over when it sees fit, and the steps under its control are cloned. One file.

Paper: Kelly et al., ICRA 2019, https://arxiv.org/abs/1810.02890; "Alg. 1" and "Eq. 1" to "Eq. 4" in comments are its.
When the expert takes over follows its use as a baseline of RLIF (Luo et al., ICLR 2024,
https://arxiv.org/abs/2311.12996): where the two actions differ, by value as in rlif_rlpd.py, or at random; or of MILE
(Korkmaz and Biyik, ICRA 2025, https://arxiv.org/abs/2502.13519): as its simulated human.

    python hg_dagger.py                          # Hopper-v5, an expert of 16 %: about ten minutes
    python hg_dagger.py --intervention value     # the same person as in rlif_rlpd.py
    python hg_dagger.py --help                   # every option
    python hg_dagger.py --resume runs/<run>      # go on after a stop, to the bit

Read main() first: its loop is Algorithm 1. Then ThresholdHuman (when to intervene), nll() and doubt(). In shapes:
O observation size, A action size, B batch, M novices.
"""

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

from experts import (
    MAX_ACTION,
    TRAINING_TASKS,
    Checked,
    InputError,
    RunError,
    UnitActions,
    begin_run,
    check_rendering,
)
from experts import (
    exit_codes,
    load_checkpoint,
    load_demonstrations,
    load_expert,
    new_run_folder,
    normalized_score,
)
from experts import (
    open_task,
    require_packages,
    save_checkpoint,
    save_expert,
    start_tracking,
    write_file,
)


@dataclass
class Args:
    exp_name: str = "hg_dagger"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: int = 1  # of everything: on the CPU, the same seed gives the same run to the bit
    cuda: bool = False  # learn on the GPU
    num_threads: int = 2  # of torch on the CPU
    resume: str | None = (
        None  # go on with this folder, runs/<run>; all other options come from there
    )
    save_model: bool = True  # at the end, write a file that --expert of the other scripts can load
    capture_video: bool = False  # at the end, film an episode (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)

    env_id: str = "Hopper-v5"  # any Gymnasium environment, but for images
    max_episode_steps: int | None = (
        None  # end every episode after so many steps; default: the environment's own limit
    )
    total_timesteps: int = (
        50_000  # environment steps; the round in which they are reached is the last
    )
    rounds: int | None = None  # stop after so many rounds
    max_interventions: int | None = None  # stop where the expert has acted for so many steps
    eval_frequency: int = (
        5_000  # an evaluation after the round in which so many more steps are reached
    )
    eval_episodes: int = (
        20  # of an evaluation, with the mean action and again with sampled ones, always fresh
    )

    expert: str = "low"  # who takes over: a shipped level or a .safetensors file
    reference: str = "top"  # value: by whose policy and Q function the person judges: a level or a .safetensors file
    # where actions differ, by value, at random, or as MILE's person
    intervention: Literal["threshold", "value", "random", "mile"] = "threshold"
    # tau: flag if the L1 distance of the two actions is this or more; default: what 95 % of the expert's own pairs of
    # actions stay below, at the demonstrations' observations
    threshold: float | None = None
    intervention_alpha: float = (
        0.995  # flag if Q(s, a) < Q(s, a_ref) - (1 - this) |Q(s, a_ref)| - intervention_delta
    )
    intervention_delta: float = 0.0  # value: in units of the reference Q
    intervention_beta: float = (
        0.95  # threshold, value: probability of a takeover if flagged; 1 - this if not
    )
    # mile: what the person expects: a level or a .safetensors file, for good; robot: what the novice does by now
    human_model: str = "mental"
    intervention_cost: float = 16.0  # mile: c, what it takes to take over
    intervention_scale: float = 10.0  # mile: by which the gap minus c is divided
    takeover_steps: int = 4  # steps that the expert keeps control
    grace_steps: int = (
        1  # threshold, value: unchecked steps of the novice after a takeover (official code: 1)
    )
    random_rate: float = 50.0  # random: percentage of the steps under expert control
    store_novice_steps: bool = False  # official code's quirk: clone the novice's own steps as well
    doubt_novices: int = (
        2  # more novices, trained alike, whose disagreement is logged as doubt; 0: none
    )

    initial_policy: str | None = (
        None  # begin with a level or a .safetensors file; default: clone the demonstrations
    )
    demo_episodes: int = 50  # demonstrations to begin with; 0: none
    dataset_id: str | None = (
        None  # a Minari dataset of demonstrations; default: rollouts of the shipped top expert
    )
    demo_noise: float = (
        0.09  # standard deviation of noise on the actions of these rollouts, which makes them worse
    )
    pretrain_updates: int = 10_000  # gradient steps on the demonstrations, before the first round
    round_episodes: int = 5  # episodes of a round
    round_updates: int = 2_500  # gradient steps after a round, from where the policy stands

    batch_size: int = 256  # transitions per gradient step
    learning_rate: float = 3e-4  # AdamW's
    weight_decay: float = 1e-3  # AdamW's
    min_std: float | None = (
        None  # lower limit of the policy's standard deviation, before the tanh; default: e^-20
    )
    standardize_obs: bool = (
        True  # by the mean and standard deviation of the demonstrations (not in the paper)
    )
    hidden_sizes: tuple[int, ...] = (256, 256)  # of the actor; an --initial-policy has its own


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


class ThresholdHuman(ValueHuman):
    """Flags a proposal that is far from what the expert would do."""

    def __init__(self, args, expert, threshold, rng):
        super().__init__(args, expert, None, rng)
        self.threshold = threshold  # tau

    def flags(self, obs, proposal):
        return bool(
            np.abs(self.expert.act(obs[None])[0].numpy() - proposal).sum() >= self.threshold
        )


def own_spread(expert, obs):
    """The L1 distance of two actions of the expert at these observations (n, O) that 95 % of its pairs stay below.

    The default of tau: what is farther away is not what this expert might have done itself. Two different one-hot
    vectors are 2 apart, so a discrete action is flagged wherever it is another one.
    """
    if expert.discrete:
        return 2.0
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the same expert and demonstrations, the same tau
        distances = (expert.act(obs) - expert.act(obs)).abs().sum(-1)  # (n,)
    return float(distances.quantile(0.95))


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


# --- network ---------------------------------------------------------------------------------------------------------


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


def doubt(novices, obs):
    """Kelly et al., Eq. 1: the norm of the diagonal of the covariance of the novices' mean actions, at one (O,)."""
    actions = np.stack(
        [novice.act(obs[None], deterministic=True)[0] for novice in novices]
    )  # (M, A)
    return float(np.linalg.norm(actions.var(0)))


def risk_threshold(doubts):
    """Kelly et al., Eq. 2: the mean of the last quarter of the doubts at takeovers."""
    return float(np.mean(doubts[-max(1, len(doubts) // 4) :])) if doubts else math.nan


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
    if args.intervention != "value":
        for name in ("reference", "intervention_alpha", "intervention_delta"):
            found[name] = f"--intervention {args.intervention} does not judge by value"
    if args.intervention != "threshold":
        found["threshold"] = f"--intervention {args.intervention} does not judge by distance"
    if args.intervention not in ("value", "threshold"):
        for name in ("intervention_beta", "grace_steps"):
            found[name] = f"--intervention {args.intervention} does not look at proposals"
    if args.intervention != "random":
        found["random_rate"] = f"--intervention {args.intervention} does not act at random"
    if args.intervention != "mile":
        for name in ("human_model", "intervention_cost", "intervention_scale"):
            found[name] = f"--intervention {args.intervention} is not MILE's person"
    if args.dataset_id:
        found["demo_noise"] = "a dataset is taken as it is"
    if args.demo_episodes == 0:
        for name in ("dataset_id", "demo_noise", "standardize_obs", "pretrain_updates"):
            found[name] = "there are no demonstrations with --demo-episodes 0"
    if args.initial_policy:
        for name in ("standardize_obs", "hidden_sizes", "pretrain_updates"):
            found[name] = "an --initial-policy is taken as it is"
    return found


def check(args):
    """Everything that can be wrong with the options themselves."""
    positive = "total_timesteps eval_frequency eval_episodes batch_size num_threads round_episodes round_updates"
    for names, holds, rule in (
        (f"{positive} takeover_steps", lambda x: x > 0, "positive"),
        ("random_rate", lambda x: 0 < x < 100, "between 0 and 100"),
        ("intervention_beta", lambda x: 0 <= x <= 1, "in [0, 1]"),
        ("intervention_alpha intervention_delta intervention_cost", math.isfinite, "finite"),
        ("learning_rate intervention_scale", lambda x: 0 < x < math.inf, "positive"),
        (
            "rounds max_interventions max_episode_steps min_std",
            lambda x: x is None or 0 < x < math.inf,
            "positive",
        ),
        ("weight_decay demo_noise", lambda x: 0 <= x < math.inf, "zero or more"),
        ("threshold", lambda x: x is None or 0 <= x < math.inf, "zero or more"),
        (
            "demo_episodes pretrain_updates grace_steps doubt_novices",
            lambda x: x >= 0,
            "zero or more",
        ),
        ("seed", lambda x: 0 <= x < 2**63, "zero or more, below 2 to the 63rd"),
    ):
        for name in names.split():
            if not holds(getattr(args, name)):
                raise InputError(
                    f"--{name.replace('_', '-')} must be {rule}, not {getattr(args, name)}"
                )
    for wrong, message in (
        (min(args.hidden_sizes, default=0) < 1, "--hidden-sizes needs positive sizes, at least one"),
        (args.intervention == "threshold" and args.threshold is None and not args.demo_episodes,
         "--threshold is needed where there are no demonstrations by which it could be chosen"),
        (args.cuda and not torch.cuda.is_available(), "--cuda: torch finds no GPU here"),
    ):  # fmt: skip
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
    rng = np.random.default_rng(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    if args.capture_video:
        check_rendering(make_env, args.env_id, args.max_episode_steps)

    env = make_env(TRAINING_TASKS.get(args.env_id, args.env_id), args.max_episode_steps)
    eval_envs = [
        make_env(args.env_id, args.max_episode_steps) for _ in range(min(args.eval_episodes, 20))
    ]
    expert = load_expert(args.env_id, args.expert, env)
    reference = (
        load_expert(args.env_id, args.reference, env) if args.intervention == "value" else None
    )
    initial = load_expert(args.env_id, args.initial_policy, env) if args.initial_policy else None
    expects = args.intervention == "mile" and args.human_model != "robot"
    human_model = load_expert(args.env_id, args.human_model, env) if expects else None
    if reference and not reference.has_q:
        raise InputError(f"--reference {args.reference}: that file has no critics to judge with")
    obs_dim, act_dim = env.observation_space.shape + env.action_space.shape
    data = [
        torch.empty(0, obs_dim),
        torch.empty(0, act_dim),
    ]  # D: observations (n, O) and the expert's actions (n, A)
    demo_episodes = 0
    if args.demo_episodes:
        demos = load_demonstrations(
            env, args.env_id, args.demo_episodes, args.dataset_id, args.demo_noise
        )
        data = [torch.from_numpy(demos[name]) for name in ("obs", "actions")]
        demo_episodes = int(demos["ends"].sum())
    checkpoint = open_run(args)
    sizes = initial.facts["hidden_sizes"] if initial else args.hidden_sizes
    novices = [make_actor(env, sizes) for _ in range(1 + args.doubt_novices)]
    actor = novices[0]  # the one that acts
    for novice in novices:
        if initial:
            novice.load_state_dict(initial.state)
            novice.min_log_std = initial.facts.get("min_log_std", novice.min_log_std)
        elif args.standardize_obs and args.demo_episodes:
            novice.obs_mean.copy_(data[0].mean(0))
            novice.obs_std.copy_(data[0].std(0).clamp_min(0.01))
        if args.min_std is not None:
            novice.min_log_std = max(novice.min_log_std, math.log(args.min_std))
        novice.to(device)
    options = {"lr": args.learning_rate, "weight_decay": args.weight_decay, "fused": True}
    optimizers = [torch.optim.AdamW(novice.parameters(), **options) for novice in novices]
    threshold = args.threshold
    if args.intervention == "threshold" and threshold is None:
        threshold = own_spread(expert, data[0])
    if args.intervention == "threshold":
        human = ThresholdHuman(args, expert, threshold, rng)
    elif args.intervention == "value":
        human = ValueHuman(args, expert, reference, rng)
    elif args.intervention == "random":
        human = RandomHuman(args, expert, rng)
    else:
        human = ProbitHuman(args, expert, human_model or likeliest(actor), rng)
    data = [values.to(device) for values in data]
    files = [policy.sha256 for policy in (expert, reference, human_model, initial) if policy]

    global_step, rounds, expert_steps, takeovers, episode = 0, 0, 0, 0, 0
    doubts = []  # at takeovers
    counts = np.zeros(
        4, dtype=int
    )  # since the last evaluation: steps, under expert control, looks, flagged
    if checkpoint:
        if checkpoint["files"] != files:
            raise InputError(f"--resume {args.resume}: an expert's file has changed since")
        for novice, optimizer, states in zip(novices, optimizers, checkpoint["novices"]):
            novice.load_state_dict(states[0])
            optimizer.load_state_dict(states[1])
        data = [values.to(device) for values in checkpoint["data"]]
        rng.bit_generator.state = checkpoint["rng"]
        global_step, rounds, expert_steps, takeovers, episode, doubts = checkpoint["progress"]
        counts = checkpoint["counts"].numpy()

    progress = {"total": args.total_timesteps, "initial": global_step, "unit": "step"}
    run = Run(args, checkpoint, global_step, **progress)
    if (
        not checkpoint and args.demo_episodes and not initial
    ):  # train the novice on the demonstrations (Alg. 1, line 1)
        run.bar.set_description("cloning the demonstrations")
        for novice, optimizer in zip(novices, optimizers):
            fit(novice, optimizer, *data, args.pretrain_updates, args.batch_size)
        run.bar.set_description(None)
    over = (
        global_step >= args.total_timesteps
        or rounds == args.rounds
        or expert_steps == args.max_interventions
    )
    while True:
        if run.due("global_step", global_step, over):
            facts = {
                "intervention_rate": float(counts[1] / counts[0])
            }  # share of steps under expert control
            facts["flagged_rate"] = (
                float(counts[3] / counts[2]) if counts[2] else math.nan
            )  # share of looks
            facts |= {
                "labels": expert_steps,
                "expert_steps": expert_steps,
                "takeovers": takeovers,
            }  # in all: the cost
            facts["risk_threshold"] = risk_threshold(doubts)
            run.evaluate(actor, eval_envs, global_step, facts, takeovers=takeovers)
            counts[:] = 0
        if over:
            break
        run.waits = True
        # The novice acts until the expert takes over; its steps are recorded. (Alg. 1, lines 4 to 12)
        visited, executed = [], []
        for _ in range(args.round_episodes):
            if expert_steps == args.max_interventions:
                break
            obs, _ = env.reset(seed=seed_for(args.seed, 0, episode))
            human.new_episode()
            episode, ended, episodic_return = episode + 1, False, 0.0
            while not ended:
                proposal = actor.act(obs[None], args.intervention == "mile")[
                    0
                ]  # (A,), in MILE the mean action
                actions, in_control, started, flagged = human.watch(obs, proposal)
                counts += (1, in_control, flagged is not None, flagged is True)
                expert_steps, takeovers = expert_steps + in_control, takeovers + started
                if started and args.doubt_novices:
                    doubts.append(doubt(novices, obs))
                if in_control or args.store_novice_steps:
                    visited.append(obs)
                    executed.append(actions)
                obs, task_reward, terminated, truncated, _ = env.step(actions)
                global_step += 1
                run.bar.update()
                episodic_return += task_reward
                ended = terminated or truncated or expert_steps == args.max_interventions
            run.writer.add_scalar("charts/episodic_return", episodic_return, global_step)
        if visited:  # (Alg. 1, line 13)
            new = np.array(visited, dtype=np.float32), np.array(executed, dtype=np.float32)
            data = [
                torch.cat([values, torch.from_numpy(more).to(device)])
                for values, more in zip(data, new)
            ]
        # Train on all of it. (Alg. 1, line 14)
        if len(data[0]):
            for novice, optimizer in zip(novices, optimizers):
                loss = fit(novice, optimizer, *data, args.round_updates, args.batch_size)
                if not math.isfinite(loss):
                    raise RunError(
                        f"step {global_step}: learning broke down, its loss is not finite ({loss})"
                    )
            run.writer.add_scalar("losses/nll", loss, global_step)
        rounds += 1
        over = (
            global_step >= args.total_timesteps
            or rounds == args.rounds
            or expert_steps == args.max_interventions
        )

        states = [
            (novice.state_dict(), optimizer.state_dict())
            for novice, optimizer in zip(novices, optimizers)
        ]
        state = {
            "files": files,
            "data": data,
            "counts": torch.from_numpy(counts),
            "novices": states,
        }
        state |= {"rng": rng.bit_generator.state}
        state |= {"progress": (global_step, rounds, expert_steps, takeovers, episode, doubts)}
        run.save(global_step, state)

    tensors = {f"actor.{name}": value for name, value in actor.state_dict().items()}
    summary = {
        "env_steps": global_step,
        "demo_episodes": demo_episodes,
        "rounds": rounds,
        "labels": expert_steps,
    }
    summary |= {"expert_steps": expert_steps, "takeovers": takeovers, "threshold": threshold}
    summary["seconds"] = {"total": run.seconds()}
    shown = {"expert's own score": f"{expert.facts.get('score_mean', math.nan):.1f}"}
    shown["demonstrations"] = f"{demo_episodes} episodes"
    if threshold is not None:
        shown["tau"] = f"{threshold:.2f}"
    shown["expert steps, takeovers"] = f"{expert_steps}, {takeovers}"
    run.finish(run.rows[-1], actor, tensors, summary, shown)


if __name__ == "__main__":
    with exit_codes():
        main(parse_args())
