"""MILE: model-based intervention learning, from interventions and from their absence. One file.

Paper: Korkmaz and Biyik, ICRA 2025, https://arxiv.org/abs/2502.13519 ("Eq. 1" to "Eq. 5").

    python mile.py                      # Meta-World's peg insertion: 99 %, in a few minutes
    python mile.py --no-mental-model    # BC-intervention
    python mile.py --rounds 1 --round-episodes 15 --round-updates 1000  # the paper's single round
    python mile.py --resume runs/<run>  # continue a stopped run, bit for bit

Read main() first, then intervention_log_probs() (Eq. 2: when does a person take over?) and losses()
(Eq. 5). In shapes: O observation size, A action size, B batch, T steps of an episode, E episodes.
"""

import csv
import functools
import json
import math
import os
import sys
import time
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
from scipy.special import gammaln, roots_genlaguerre
from torch.distributions import Independent, Normal, OneHotCategorical, TanhTransform
from torch.distributions import TransformedDistribution as Transformed
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import InputError, Task, load_expert, normalized_score, save_expert
from experts.human import Person

MAX_ACTION = 0.999  # limit of executed and stored actions: cloning takes atanh, infinite at 1


@dataclass
class Args:
    # --- run ---
    exp_name: str = "mile"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: int = 1  # random seed: on a machine's CPU, the same seed gives the same run to the bit
    resume: str | None = None  # continue this run, runs/<run>; options typed now replace its own
    capture_video: bool = False  # film the policy at the end (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)
    # --- task ---
    env_id: str = "Meta-World/peg-insert-side-v3"  # any Gymnasium environment, or Pixels/<its id>
    max_episode_steps: int | None = None  # time limit of an episode; default: the environment's
    rounds: int = 20  # N: a round is some watched episodes, then training
    round_episodes: int = 1  # k: episodes of a round
    eval_frequency: int = 1  # rounds between evaluations
    eval_episodes: int = 20  # episodes with mean actions, and as many with sampled actions
    single_env: bool = False  # evaluate in the training environment (if there is but one robot)
    # --- person ---
    intervention: Literal["model", "human"] = "model"  # model: MILE's Eq. 2; human: you (a window)
    expert: str = "top"  # who takes over: a shipped level or a .safetensors file
    human_model: str = "mental"  # what a simulated person expects of the robot: a level or a file
    intervention_cost: float = 16.0  # c of Eq. 2, for control below 30 % (benchmark/person.py)
    intervention_scale: float = 10.0  # probability of a takeover: Phi((advantage - c) / this)
    takeover_steps: int = 1  # steps that the expert keeps control
    keys: str | None = None  # human: a file of key bindings, like experts/keys.toml
    replay: str | None = None  # human: learn again from the session in this folder, runs/<run>
    # --- data ---
    initial_policy: str = "initial"  # what the robot can do at first: a level or a file
    warm_up_episodes: int = 10  # of the initial policy; the mental model is first cloned from them
    # --- learner ---
    mental_model: bool = True  # learned; no: BC-intervention, which clones the person's steps
    warm_up_updates: int = 2_000  # gradient steps on the warm-up episodes
    round_updates: int = 100  # gradient steps after a round (official code: 300 passes)
    batch_size: int = 1_024  # transitions per gradient step
    learning_rate: float = 1e-4  # Adam's
    intervention_weight: float = 0.5  # lambda of Eq. 5, for continuous actions
    min_std: float = 0.1  # lower limit of the policy's standard deviation, before the tanh
    hidden_sizes: tuple[int, ...] = (256, 256)  # of the mental model and of the predicting network
    cuda: bool = False  # learn on the GPU
    num_threads: int = 1  # of torch on the CPU

    def check(self):
        for name, value in vars(self).items():
            may_be_zero = name in ("seed", "warm_up_updates", "intervention_weight")
            if name == "intervention_cost" and math.isfinite(value):
                continue
            if type(value) in (int, float) and not (value > 0 or value == 0 and may_be_zero):
                raise InputError(f"--{name.replace('_', '-')} {value} is too small")
        if min(self.hidden_sizes, default=0) < 1 or self.intervention_weight > 1:
            raise InputError("--hidden-sizes must be positive, --intervention-weight at most 1")
        if self.cuda and (self.intervention == "human" or not torch.cuda.is_available()):
            raise InputError("leave --cuda out: there is no GPU, or --intervention is human")


# --- environment ----------------------------------------------------------------------------------
def make_env(env_id, max_episode_steps=None, render_mode=None):
    """gym.make's, with flat observations, and actions in [-1, 1] or as one-hot vectors."""
    env = gym.wrappers.FlattenObservation(Task(env_id, max_episode_steps, render_mode))
    space = env.action_space
    if isinstance(space, gym.spaces.Discrete):
        one_hot = gym.spaces.MultiBinary(int(space.n))
        return gym.wrappers.TransformAction(env, lambda a: int(space.start + a.argmax()), one_hot)
    vector = isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"
    if not vector or not ((space.high > space.low) & (space.high - space.low < 1e9)).all():
        raise InputError(f"--env-id {env_id}: needs discrete or bounded float actions, not {space}")
    return gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


# --- person ---------------------------------------------------------------------------------------
class ProbitHuman:
    """Takes over as MILE's Eq. 2 has it: by the state, whatever the robot proposes."""

    def __init__(self, args, expert, human_model):
        self.expert, self.human_model = expert, human_model  # pi, and what is expected of the robot
        self.cost, self.scale = args.intervention_cost, args.intervention_scale  # c, and the scale
        self.takeover_steps, self.began = args.takeover_steps, True  # each takeover is a new one

    def takes_over(self, obs, rng):
        """Does a takeover start at obs, (O,)?

        The advantage of an action a ~ pi: ln pi(a|s) - E_{a' ~ human model}[ln pi(a'|s)], how much
        better it is than what the person expects of the robot. Densities are those before the tanh.
        """
        if self.expert.discrete:
            log_pi = self.expert(obs[None])[0].log_softmax(-1)  # (A,)
            expected = (self.human_model(obs[None])[0].softmax(-1) * log_pi).sum()
            gumbel = torch.from_numpy(rng.gumbel(size=len(log_pi)))
            advantage = log_pi[(log_pi + gumbel).argmax()] - expected  # at a sample of pi
        else:
            mean, log_std = (x[0] for x in self.expert(obs[None]))  # (A,) each
            robot_mean, robot_log_std = (x[0] for x in self.human_model(obs[None]))
            # the constants of both logarithms cancel; -E[ln pi(a')] without them:
            surprise = (robot_mean - mean).pow(2) + (2 * robot_log_std).exp()
            surprise = surprise / (2 * (2 * log_std).exp())  # (A,)
            noise = torch.from_numpy(rng.standard_normal(len(mean)))  # a = mean + std * noise
            advantage = (surprise - noise.pow(2) / 2).sum()
        # true with probability Phi((advantage - c) / scale)
        return bool(advantage + self.scale * rng.standard_normal() > self.cost)


def rollout(env, actor, human, seed):
    """One episode of the policy's mean actions, watched by a human, or alone (None); by its seed.

    Returns a dict: obs (T, O), actions (T, A) as executed, nu (T,), takeovers, return, success.
    """
    obs, _ = env.reset(seed=seed)
    steps, takeovers, episodic_return, ended = [], 0, 0.0, False
    expert_until = 0  # the step at which the robot has control again
    rng = np.random.default_rng((seed, 1))  # the environment has default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        while not ended:
            t, actions = len(steps), actor.act(obs[None], deterministic=True)[0]  # (A,)
            if human and t >= expert_until and human.takes_over(obs, rng):
                expert_until = t + human.takeover_steps
                takeovers += int(human.began)  # at the keys one may go on from the step before
            if t < expert_until:
                actions = human.expert.act(obs[None])[0].numpy()
            steps.append((obs, actions, t < expert_until))
            obs, reward, terminated, truncated, info = env.step(actions)
            episodic_return += reward
            ended = terminated or truncated
    obs, actions, nu = (torch.tensor(np.array(x), dtype=torch.float32) for x in zip(*steps))
    facts = {"takeovers": takeovers, "success": info["success"], "return": episodic_return}
    return {"obs": obs, "actions": actions, "nu": nu} | facts


# --- network --------------------------------------------------------------------------------------
class Actor(nn.Module):
    """Tanh-Gaussian policy; for discrete actions, a categorical one over one-hot vectors."""

    min_log_std = -20.0

    def __init__(self, env, hidden_sizes):
        super().__init__()
        (obs_dim,), (act_dim,) = env.observation_space.shape, env.action_space.shape
        sizes = [obs_dim, *hidden_sizes]
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes[:-1], sizes[1:]))
        self.discrete = isinstance(env.action_space, gym.spaces.MultiBinary)
        for head in ("logits",) if self.discrete else ("mean", "log_std"):
            self.add_module(head, nn.Linear(sizes[-1], act_dim))

    def forward(self, obs):
        """pi(.|s), a distribution over (B, A): actions in (-1, 1), or one-hot ones; from (B, O)."""
        x = (obs - self.obs_mean) / self.obs_std  # (B, O)
        for layer in self.layers:
            x = F.relu(layer(x))  # (B, hidden)
        if self.discrete:
            return OneHotCategorical(logits=self.logits(x), validate_args=False)
        std = self.log_std(x).clamp(self.min_log_std, 2).exp()  # (B, A)
        normal = Independent(Normal(self.mean(x), std, validate_args=False), 1, validate_args=False)
        return Transformed(normal, TanhTransform(), validate_args=False)

    @torch.no_grad()
    def act(self, obs, deterministic=False):
        """What is executed: a sampled action, or the mean's; numpy (B, O) -> (B, A)."""
        policy = self(torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device))
        if self.discrete:
            return (policy.mode if deterministic else policy.sample()).cpu().numpy()
        actions = policy.base_dist.mean.tanh() if deterministic else policy.sample()  # (B, A)
        return actions.clamp(-MAX_ACTION, MAX_ACTION).cpu().numpy()


class Estimator(nn.Module):
    """Guesses whether a person takes over, from the state alone (the NN-based estimator)."""

    def __init__(self, actor, hidden_sizes):
        super().__init__()
        self.register_buffer("obs_mean", actor.obs_mean.clone())
        self.register_buffer("obs_std", actor.obs_std.clone())
        sizes = [len(actor.obs_mean), *hidden_sizes]
        layers = [nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in zip(sizes[:-1], sizes[1:])]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, obs):
        return self.layers((obs - self.obs_mean) / self.obs_std).squeeze(-1)  # (B,), a logit


def warm_start(args, env, actor, mental_model):
    """Clone the initial policy: at first the person expects the robot to act like it."""
    alone = []
    for e in range(args.warm_up_episodes):
        seed = int(np.random.SeedSequence((args.seed, 4, e)).generate_state(1)[0])
        alone.append(rollout(env, actor, None, seed))
    obs = torch.cat([episode["obs"] for episode in alone]).to(actor.obs_mean.device)
    actions = torch.cat([episode["actions"] for episode in alone]).to(obs.device)
    optimizer = torch.optim.Adam(mental_model.parameters(), 1e-3, fused=True)
    for _ in range(args.warm_up_updates):
        i = torch.randint(len(obs), (256,)).to(obs.device)
        loss = -mental_model(obs[i]).log_prob(actions[i]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@functools.cache
def laguerre(degrees):
    """Nodes and log weights (nodes,) of a mean over half a chi^2 variable (Gauss-Laguerre)."""
    nodes = 32 if degrees <= 4 else 96  # more action components need more
    x, weights = roots_genlaguerre(nodes, degrees / 2 - 1)
    log_weights = np.log(weights) - gammaln(degrees / 2)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(log_weights, dtype=torch.float32)


def intervention_log_probs(policy, mental_model, cost, scale):
    """ln p(nu=1 | s) and ln p(nu=0 | s) of Eq. 2, not sampled but integrated: (B,) each.

    policy and mental_model are what actors return at s, distributions over (B, A). There
    p(nu=1 | s) = E_{a ~ pi}[Phi((Delta(a) - c) / scale)], in the paper with scale 1, and
    Delta(a) = ln pi(a|s) - E_{a' ~ mental model}[ln pi(a'|s)], before the tanh, as in the official
    code. For up to 24 actions and scales from 1 on p(nu=1) is exact to 1e-5, ln p(nu=0) to 0.5.
    """
    if isinstance(policy, OneHotCategorical):  # the mean over a is a sum
        log_weights = far_log_weights = policy.logits  # (B, A), ln pi(a|s)
        expected = (mental_model.probs * log_weights).sum(-1, keepdim=True)
        advantage, x = log_weights - expected, 0.0  # (B, A)
    else:
        # With mean m, deviation s, constants K of a component, and m', s' of the mental model:
        #   ln pi(a) = K - ((a - m) / s)^2 / 2,   E[ln pi(a')] = K - ((m' - m)^2 + s'^2) / (2 s^2).
        # For a ~ pi the first square is standard normal: their sum over A components is a chi^2,
        # and Delta is the second sum minus half of it.
        pi, robot = policy.base_dist, mental_model.base_dist  # before the tanh
        squares = (robot.mean - pi.mean).pow(2) + robot.variance  # (B, A)
        surprise = (squares / (2 * pi.variance)).sum(-1, keepdim=True)  # (B, 1)
        half_chi2, log_weights = (x.to(squares.device) for x in laguerre(squares.shape[-1]))
        advantage = surprise - half_chi2  # (B, nodes)
        # After a great surprise p(nu=0) comes from half a chi^2 near surprise - c - scale^2. So the
        # nodes y begin at x, 20 below; weights y^k e^-y become (x + y)^k e^-(x + y), k = A/2 - 1.
        x, k = (surprise - cost - scale**2 - 20).relu(), squares.shape[-1] / 2 - 1  # (B, 1)
        far_log_weights = log_weights + k * torch.log1p(x / half_chi2) - x  # (B, nodes)
    z, far_z = (advantage - cost) / scale, (advantage - x - cost) / scale
    log_phi, log_not_phi = torch.special.log_ndtr(z), torch.special.log_ndtr(-far_z)  # 1 - Phi(z)
    log_p = torch.logsumexp(log_weights + log_phi, -1)
    return log_p, torch.logsumexp(far_log_weights + log_not_phi, -1)


def losses(args, actor, mental_model, obs, actions, nu):
    """J_1, J_2 and J of Eq. 5 (discrete: by Eq. 3) on a batch: (B, O), (B, A), (B,) -> () each.

    J_1 is a mean over all steps, as each says whether a person took over; J_2 is a mean over the
    person's steps, for only they say what to do. Without a mental model J is J_2.
    """
    policy = actor(obs)
    log_pi = policy.log_prob(actions)  # (B,)
    j2 = -(nu * log_pi).sum() / nu.sum().clamp_min(1)  # Eq. 4
    if mental_model is None:
        return torch.zeros_like(j2), j2, j2
    person = args.intervention_cost, args.intervention_scale
    log_p, log_not_p = intervention_log_probs(policy, mental_model(obs), *person)
    j1 = -(nu * log_p + (1 - nu) * log_not_p).mean()
    if actor.discrete:  # of a person's step: pi(a|s) p(nu=1) (Eq. 3), of another: p(nu=0)
        return j1, j2, j1 - (nu * log_pi).mean()
    return j1, j2, args.intervention_weight * j1 + (1 - args.intervention_weight) * j2


@torch.no_grad()
def predict(args, actor, mental_model, estimator, obs, nu, earlier_nu):
    """How likely the interventions nu (n,) at obs (n, O) were, before they are learned from.

    Returns a dict: nu, and ln p(nu=0) and ln p(nu=1), (n, 2), by model, network and majority:
    the share of interventions so far (the paper's always says no).
    """
    logit = estimator(obs)
    network = torch.stack([F.logsigmoid(-logit), F.logsigmoid(logit)], -1)
    model = network  # BC-intervention has no other
    if mental_model:
        person = args.intervention_cost, args.intervention_scale
        log_p, log_not_p = intervention_log_probs(actor(obs), mental_model(obs), *person)
        model = torch.stack([log_not_p, log_p], -1)
    share = earlier_nu.mean().clamp(1e-3, 1 - 1e-3)
    majority = torch.stack([1 - share, share]).log().expand_as(model)
    return {"nu": nu, "model": model, "network": network, "majority": majority}


def prediction_quality(predictions):
    """By model, network and majority: accuracy, the mean of both classes' accuracies, log-loss."""
    nu, quality = predictions["nu"], {}
    for name in ("model", "network", "majority"):
        log_probs = predictions[name]  # (n, 2)
        hits = (log_probs.argmax(-1) == nu).float()  # (n,)
        balanced = (hits[nu > 0].mean() + hits[nu == 0].mean()) / 2  # nan if one class is missing
        quality[f"{name}_accuracy"] = hits.mean().item()
        quality[f"{name}_balanced_accuracy"] = balanced.item()
        quality[f"{name}_log_loss"] = F.nll_loss(log_probs, nu.long()).item()
    return quality


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
    device = torch.device("cuda" if args.cuda else "cpu")
    mode = "rgb_array" if args.capture_video or args.intervention == "human" else None
    task = args.env_id, args.max_episode_steps, mode
    env = make_env(*task)
    eval_envs = [env if args.single_env else make_env(*task) for _ in range(args.eval_episodes)]
    initial = load_expert(args.env_id, args.initial_policy, env, robot=True)
    actor = Actor(env, initial.facts["hidden_sizes"])  # pi_theta
    actor.load_state_dict(initial.state)
    actor.min_log_std = max(initial.facts.get("min_log_std", -20.0), math.log(args.min_std))
    mental_model = None
    if args.mental_model:
        if not actor.discrete and args.intervention_scale < 1:
            raise InputError("--intervention-scale must be 1 or more: below, Eq. 2 is inexact")
        mental_model = Actor(env, args.hidden_sizes)  # \hat pi_xi
        mental_model.obs_mean.copy_(actor.obs_mean)
        mental_model.obs_std.copy_(actor.obs_std)
    estimator = Estimator(actor, args.hidden_sizes)
    networks = nn.ModuleDict({"actor": actor, "mental_model": mental_model, "estimator": estimator})
    networks.to(device)
    optimizer = torch.optim.Adam(networks.parameters(), args.learning_rate, fused=True)
    data = {"obs": torch.empty(0, *env.observation_space.shape, device=device)}  # of all rounds
    data["actions"] = torch.empty(0, *env.action_space.shape, device=device)
    data["nu"] = torch.empty(0, device=device)  # 1 where a person acted
    none = torch.empty(0, 2, device=device)
    predictions = {"nu": data["nu"], "model": none, "network": none, "majority": none}
    counts = {"expert_steps": 0, "takeovers": 0}  # in all
    global_step, rounds, rows = 0, 0, []  # rows: of eval.csv

    # The run's folder, a new one or that of --resume
    name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(args.resume or f"runs/{name.replace('/', '-').replace(':', '-')}-{os.getpid()}")
    if args.intervention == "human" or args.replay:
        env = human = Person(env, args, folder)
    else:
        policies = [load_expert(args.env_id, x, env) for x in (args.expert, args.human_model)]
        human = ProbitHuman(args, *policies)
    folder.mkdir(parents=True, exist_ok=args.resume is not None)
    _lock = FileLock(folder / "in_use.lock", timeout=0).acquire()  # no other process writes here
    args.resume = str(folder)  # for the message after Ctrl-C
    print(f"in {folder}: evaluations, checkpoint, policy")
    if (folder / "checkpoint.pt").exists():
        state = torch.load(folder / "checkpoint.pt", weights_only=True, map_location=device)
        networks.load_state_dict(state["networks"])
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state["optimizer"]["state"]})
        torch.set_rng_state(state["torch_rng"].cpu())
        data, counts, rows = state["data"], state["counts"], state["rows"]
        global_step, rounds = rows[-1]["global_step"], rows[-1]["round"]  # it was evaluated there
    (folder / "args.tmp").write_text(json.dumps(vars(args) | {"resume": None}, indent=2))
    os.replace(folder / "args.tmp", folder / "args.json")
    if mental_model and not rows:
        warm_start(args, eval_envs[0], actor, mental_model)
    if args.track:
        import wandb

        wandb.init(project="interventions", id=folder.name, resume="allow", sync_tensorboard=True)
    writer = SummaryWriter(folder, purge_step=global_step + 1)
    writer.add_text("options", "\n".join(f"- {name}: {x}" for name, x in vars(args).items()))
    begun = time.perf_counter() - (rows[-1]["wall_seconds"] if rows else 0.0)
    bar = tqdm(total=args.rounds, initial=rounds, unit="round", dynamic_ncols=True)
    while True:
        over = rounds >= args.rounds
        evaluated = bool(rows) and rows[-1]["round"] == rounds
        if (rounds % args.eval_frequency == 0 or over) and not evaluated:
            row = {"global_step": global_step, "round": rounds, **counts}
            previous = rows[-1] if rows else row
            since = {name: row[name] - previous[name] for name in row}
            row["intervention_rate"] = since["expert_steps"] / max(1, since["global_step"])
            row |= prediction_quality(predictions)
            row |= evaluate(args.env_id, actor, eval_envs, args.seed, 1, global_step)
            rows.append(row | {"wall_seconds": time.perf_counter() - begun})
            write_rows(folder, writer, bar, rows)
            predictions = {name: values[:0] for name, values in predictions.items()}
            state = {"networks": networks.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"torch_rng": torch.get_rng_state(), "data": data, "counts": counts}
            torch.save(state | {"rows": rows}, folder / "checkpoint.tmp")
            os.replace(folder / "checkpoint.tmp", folder / "checkpoint.pt")  # for --resume
        if over:
            break

        # The robot acts, the person takes over, for k episodes. (MILE, section III)
        episodes = []
        for e in range(rounds * args.round_episodes, (rounds + 1) * args.round_episodes):
            seed = int(np.random.SeedSequence((args.seed, 0, e)).generate_state(1)[0])
            episode = rollout(env, actor, human, seed)
            episodes.append(episode)
            global_step += len(episode["nu"])
            counts["expert_steps"] += int(episode["nu"].sum())
            counts["takeovers"] += episode["takeovers"]
            speed = global_step / (time.perf_counter() - begun)
            writer.add_scalar("charts/episodic_return", episode["return"], global_step)
            writer.add_scalar("charts/episodic_length", len(episode["nu"]), global_step)
            writer.add_scalar("charts/takeovers", episode["takeovers"], global_step)
            writer.add_scalar("charts/steps_per_second", speed, global_step)
        new = {name: torch.cat([one[name] for one in episodes]).to(device) for name in data}

        # Would what was learned so far have predicted these interventions? (section VII)
        if rounds:
            seen = predict(args, actor, mental_model, estimator, new["obs"], new["nu"], data["nu"])
            predictions = {name: torch.cat([predictions[name], seen[name]]) for name in seen}
        data = {name: torch.cat([data[name], new[name]]) for name in data}

        # Learn from all rounds, from where the networks stand. (Eq. 5)
        for _ in range(args.round_updates):
            i = torch.randint(len(data["nu"]), (args.batch_size,)).to(device)
            batch = {name: values[i] for name, values in data.items()}  # (B, ...)
            j1, j2, j = losses(args, actor, mental_model, **batch)
            guess = F.binary_cross_entropy_with_logits(estimator(batch["obs"]), batch["nu"])
            loss = j + guess  # the network that guesses shares no weights with the others
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"round {rounds}: the losses are {j} and {guess}")
        for name, value in (("j1", j1), ("j2", j2), ("network", guess)):
            writer.add_scalar(f"losses/{name}", value, global_step)
        rounds += 1
        bar.update()

    bar.close()
    writer.close()
    save_expert(folder / "model.safetensors", actor, env_id=args.env_id)
    if args.capture_video:
        with gym.wrappers.RecordVideo(eval_envs[0], f"{folder}/videos") as film:
            evaluate(args.env_id, actor, [film], args.seed, 2)


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
