"""Sirius: cloning weighted by who acted; what went before a takeover counts for little. One file.

Paper: Liu et al., RSS 2023, https://arxiv.org/abs/2211.08416. Setting and person are mile.py's.

    python sirius.py                      # Meta-World's peg insertion: 93 %, in a few minutes
    python sirius.py --resume runs/<run>  # continue a stopped run, bit for bit

Read main(), then label() and weights(). Shapes: O observation, A action, B batch, T or n steps.
"""

import csv
import json
import math
import os
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
from torch.distributions import Independent, Normal, OneHotCategorical, TanhTransform
from torch.distributions import TransformedDistribution as Transformed
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import InputError, Task, load_demonstrations, load_expert, normalized_score
from experts import save_expert
from experts.human import Person

MAX_ACTION = 0.999  # limit of executed and stored actions: cloning takes atanh, infinite at 1
DEMO, ROBOT, INTERVENTION, BEFORE = range(4)  # labels of steps


@dataclass
class Args:
    # --- run ---
    exp_name: str = "sirius"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
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
    demo_episodes: int = 0  # demonstrations to begin with, drawn by the seed; 0: none
    dataset_id: str | None = None  # a Minari dataset; default: the one that is shipped for the task
    # --- learner ---
    pre_intervention_steps: int = 1  # steps before a takeover with a low weight (Sirius: 15)
    round_updates: int = 100  # gradient steps after a round
    batch_size: int = 1_024  # transitions per gradient step
    learning_rate: float = 1e-4  # Adam's
    min_std: float = 0.1  # lower limit of the policy's standard deviation, before the tanh
    cuda: bool = False  # learn on the GPU
    num_threads: int = 1  # of torch on the CPU

    def check(self):
        for name, value in vars(self).items():
            may_be_zero = name in ("seed", "demo_episodes", "pre_intervention_steps")
            if name == "intervention_cost" and math.isfinite(value):
                continue
            if type(value) in (int, float) and not (value > 0 or value == 0 and may_be_zero):
                raise InputError(f"--{name.replace('_', '-')} {value} is too small")
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


def label(nu, window):
    """The labels of an episode's steps, (T,): up to `window` right before a takeover are BEFORE."""
    labels = torch.where(nu > 0, INTERVENTION, ROBOT)
    for t in torch.nonzero(nu > 0).flatten().tolist():
        before = labels[max(0, t - window) : t]  # a view: what is written here is written there
        before[before == ROBOT] = BEFORE
    return labels


def weights(labels):
    """Weights of the steps, (n,): the wanted share of a step's label over its actual share."""
    share = torch.bincount(labels, minlength=4) / len(labels)  # P, (4,)
    # P*: interventions 0.5, steps before them 0.002, demonstrations as in P, robot steps the rest
    wanted = share.clone()
    if share[INTERVENTION] > 0:
        wanted[INTERVENTION], wanted[BEFORE] = 0.5, 0.002 if share[BEFORE] > 0 else 0.0
        wanted[DEMO] = share[DEMO].clamp(max=0.5 - wanted[BEFORE])
        wanted[ROBOT] = 0.5 - wanted[BEFORE] - wanted[DEMO]
    return (wanted / share)[labels]  # no step has a label whose share is 0


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
    actor = Actor(env, initial.facts["hidden_sizes"]).to(device)  # pi_theta
    actor.load_state_dict(initial.state)
    actor.min_log_std = max(initial.facts.get("min_log_std", -20.0), math.log(args.min_std))
    optimizer = torch.optim.Adam(actor.parameters(), args.learning_rate, fused=True)
    demos = load_demonstrations(args.env_id, env, args.demo_episodes, args.seed, args.dataset_id)
    demos["labels"] = np.full(len(demos["obs"]), DEMO)
    data = {name: torch.from_numpy(demos[name]).to(device) for name in ("obs", "actions", "labels")}
    demo_facts = {"demo_transitions": len(demos["obs"]), "demo_hash": zlib.crc32(demos["actions"])}
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
        actor.load_state_dict(state["actor"])
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state["optimizer"]["state"]})
        torch.set_rng_state(state["torch_rng"].cpu())
        data, counts, rows = state["data"], state["counts"], state["rows"]
        global_step, rounds = rows[-1]["global_step"], rows[-1]["round"]  # it was evaluated there
    (folder / "args.tmp").write_text(json.dumps(vars(args) | {"resume": None}, indent=2))
    os.replace(folder / "args.tmp", folder / "args.json")
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
            row |= evaluate(args.env_id, actor, eval_envs, args.seed, 1, global_step)
            rows.append(row | demo_facts | {"wall_seconds": time.perf_counter() - begun})
            write_rows(folder, writer, bar, rows)
            state = {"actor": actor.state_dict(), "optimizer": optimizer.state_dict(), "data": data}
            state |= {"torch_rng": torch.get_rng_state(), "counts": counts, "rows": rows}
            torch.save(state, folder / "checkpoint.tmp")
            os.replace(folder / "checkpoint.tmp", folder / "checkpoint.pt")  # for --resume
        if over:
            break

        # The robot acts, the person takes over, for k episodes. (MILE, section III)
        for e in range(rounds * args.round_episodes, (rounds + 1) * args.round_episodes):
            seed = int(np.random.SeedSequence((args.seed, 0, e)).generate_state(1)[0])
            episode = rollout(env, actor, human, seed)
            global_step += len(episode["nu"])
            counts["expert_steps"] += int(episode["nu"].sum())
            counts["takeovers"] += episode["takeovers"]
            speed = global_step / (time.perf_counter() - begun)
            writer.add_scalar("charts/episodic_return", episode["return"], global_step)
            writer.add_scalar("charts/episodic_length", len(episode["nu"]), global_step)
            writer.add_scalar("charts/takeovers", episode["takeovers"], global_step)
            writer.add_scalar("charts/steps_per_second", speed, global_step)
            episode["labels"] = label(episode["nu"], args.pre_intervention_steps)  # (T,)
            data = {name: torch.cat([data[name], episode[name].to(device)]) for name in data}

        # Clone all steps by their weights, from where the policy stands
        weight = weights(data["labels"])  # (n,)
        for _ in range(args.round_updates):
            i = torch.randint(len(weight), (args.batch_size,)).to(device)
            log_pi = actor(data["obs"][i]).log_prob(data["actions"][i])  # (B,)
            loss = -(weight[i] * log_pi).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"round {rounds}: the loss is {loss}")
        writer.add_scalar("losses/nll", loss, global_step)
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
