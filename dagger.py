"""DAgger: the novice acts, the expert says afterwards what it would have done; that is cloned.

Paper: Ross, Gordon and Bagnell, AISTATS 2011, https://arxiv.org/abs/1011.0686 ("Alg. 3.1").
Labels as in RLIF's baseline (https://arxiv.org/abs/2311.12996): where actions differ, or at random.

    python dagger.py                      # four minutes; saves the last policy (Alg. 3.1: the best)
    python dagger.py --resume runs/<run>  # continue a stopped run, bit for bit

Read main() first, then choose_labels(). Shapes: O observation, A action, B batch, E episodes.
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

from experts import TRAINING_TASKS, InputError, Task, load_demonstrations, load_expert
from experts import normalized_score, save_expert

MAX_ACTION = 0.999  # limit of executed and stored actions: cloning takes atanh, infinite at 1


@dataclass
class Args:
    # --- run ---
    exp_name: str = "dagger"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: int = 1  # random seed: on a machine's CPU, the same seed gives the same run to the bit
    resume: str | None = None  # continue this run, runs/<run>; options typed now replace its own
    capture_video: bool = False  # film the policy at the end (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)
    # --- task ---
    env_id: str = "Hopper-v5"  # any Gymnasium environment, or Pixels/<its id>
    max_episode_steps: int | None = None  # time limit of an episode; default: the environment's
    total_timesteps: int = 50_000  # environment steps; the round that reaches them is the last
    eval_frequency: int = 5_000  # evaluate every so many steps, once the round has ended
    eval_episodes: int = 20  # episodes with mean actions, and as many with sampled actions
    single_env: bool = False  # evaluate in the training environment (if there is but one robot)
    # --- person ---
    expert: str = "low"  # who labels: a shipped level or a .safetensors file
    labels: Literal["threshold", "random", "all"] = "threshold"  # which steps the expert labels
    threshold: float | None = None  # tau, in L1; default: 95th percentile between expert samples
    label_beta: float = 0.95  # threshold: probability of a label if actions differ; else 1 - this
    random_rate: float = 0.5  # random: share of the steps that get a label
    mixture_decay: float = 0.0  # the expert acts with probability this^i in round i (0: never)
    # --- data ---
    demo_episodes: int = 50  # demonstrations to begin with, drawn by the seed; 0: none
    dataset_id: str | None = None  # a Minari dataset; default: the one that is shipped for the task
    round_episodes: int = 5  # episodes of a round
    # --- learner ---
    pretrain_updates: int = 10_000  # gradient steps on the demonstrations, at first
    round_updates: int = 2_500  # gradient steps after a round, from where the policy stands
    batch_size: int = 256  # transitions per gradient step
    learning_rate: float = 3e-4  # AdamW's
    weight_decay: float = 1e-3  # AdamW's
    standardize_obs: bool = True  # by demonstrations' mean and deviation, if any (not in the paper)
    hidden_sizes: tuple[int, ...] = (256, 256)  # of the actor
    cuda: bool = False  # learn on the GPU
    num_threads: int = 1  # of torch on the CPU

    def check(self):
        shares = "label_beta", "random_rate", "mixture_decay"
        zeros = *shares, "seed", "threshold", "demo_episodes", "pretrain_updates", "weight_decay"
        for name, value in vars(self).items():
            small = type(value) in (int, float) and not (value > 0 or value == 0 and name in zeros)
            if small or (name in shares and value > 1):
                raise InputError(f"--{name.replace('_', '-')} {value} is out of range")
        if min(self.hidden_sizes, default=0) < 1:
            raise InputError("--hidden-sizes must be positive")
        if (self.labels, self.threshold, self.demo_episodes) == ("threshold", None, 0):
            raise InputError("give --threshold, or --demo-episodes, from which its default comes")
        if self.cuda and not torch.cuda.is_available():
            raise InputError("leave --cuda out: torch finds no GPU here")


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
def choose_labels(args, proposals, labels, rng):
    """Which of the novice's sampled actions get the expert's as a label: (n, A) each -> (n,)."""
    draws = rng.random(len(labels))  # (n,)
    if args.labels == "all":
        return np.ones(len(labels), dtype=bool)
    if args.labels == "random":
        return draws < args.random_rate
    differ = np.abs(labels - proposals).sum(-1) >= args.threshold  # L1
    return draws < np.where(differ, args.label_beta, 1 - args.label_beta)


def own_spread(expert, obs):
    """Default tau: 95th percentile of the L1 distance of two expert actions at obs (n, O)."""
    if expert.discrete:
        return 2.0  # the L1 distance of two different one-hot vectors
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the same expert and demonstrations, the same tau
        return float((expert.act(obs) - expert.act(obs)).abs().sum(-1).quantile(0.95))


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


def fit(actor, optimizer, data, updates, batch_size):
    """Gradient steps of maximum likelihood on minibatches of (n, O), (n, A); the mean loss."""
    losses = []
    for _ in range(updates):
        i = torch.randint(len(data["obs"]), (batch_size,)).to(data["obs"].device)  # (B,)
        loss = -actor(data["obs"][i]).log_prob(data["actions"][i]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is {losses[-1]}")
    return sum(losses) / max(1, updates)


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
    task = args.env_id, args.max_episode_steps, "rgb_array" if args.capture_video else None
    env = make_env(TRAINING_TASKS.get(args.env_id, args.env_id), *task[1:])
    eval_envs = [env if args.single_env else make_env(*task) for _ in range(args.eval_episodes)]
    expert = load_expert(args.env_id, args.expert, env)
    demos = load_demonstrations(args.env_id, env, args.demo_episodes, args.seed, args.dataset_id)
    demo_facts = {"demo_transitions": len(demos["obs"]), "demo_hash": zlib.crc32(demos["actions"])}
    data = {name: torch.from_numpy(demos[name]).to(device) for name in ("obs", "actions")}  # D
    if args.labels == "threshold" and args.threshold is None:
        args.threshold = own_spread(expert, demos["obs"])
    actor = Actor(env, args.hidden_sizes)
    if args.standardize_obs and args.demo_episodes:
        std = data["obs"].std(0).clamp_min(0.01)  # (O,), and 1 for what never varied
        actor.obs_mean.copy_(data["obs"].mean(0))
        actor.obs_std.copy_(torch.where((data["obs"] == data["obs"][0]).all(0), 1.0, std))
    actor.to(device)
    options = {"weight_decay": args.weight_decay, "fused": True}
    optimizer = torch.optim.AdamW(actor.parameters(), args.learning_rate, **options)
    counts = {"labels": 0, "expert_steps": 0}  # in all
    global_step, rounds, rows = 0, 0, []  # rows: of eval.csv

    # The run's folder, a new one or that of --resume
    name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(args.resume or f"runs/{name.replace('/', '-').replace(':', '-')}-{os.getpid()}")
    folder.mkdir(parents=True, exist_ok=args.resume is not None)
    _lock = FileLock(folder / "in_use.lock", timeout=0).acquire()  # no other process writes here
    args.resume = str(folder)  # for the message after Ctrl-C
    print(f"in {folder}: evaluations, checkpoint, policy")
    if (folder / "checkpoint.pt").exists():
        state = torch.load(folder / "checkpoint.pt", weights_only=True, map_location=device)
        actor.load_state_dict(state["actor"])
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state["optimizer"]["state"]})
        rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch_rng"].cpu())
        global_step, rounds = state["global_step"], state["rounds"]
        data, counts, rows = state["data"], state["counts"], state["rows"]
    (folder / "args.tmp").write_text(json.dumps(vars(args) | {"resume": None}, indent=2))
    os.replace(folder / "args.tmp", folder / "args.json")
    if args.track:
        import wandb

        wandb.init(project="interventions", id=folder.name, resume="allow", sync_tensorboard=True)
    writer = SummaryWriter(folder, purge_step=global_step + 1)
    writer.add_text("options", "\n".join(f"- {name}: {x}" for name, x in vars(args).items()))
    begun = time.perf_counter() - (rows[-1]["wall_seconds"] if rows else 0.0)
    if args.demo_episodes and not rows:  # the first policy (Alg. 3.1, line 2)
        print("cloning the demonstrations")
        fit(actor, optimizer, data, args.pretrain_updates, args.batch_size)
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", dynamic_ncols=True)
    while True:
        over = global_step >= args.total_timesteps
        evaluated = rows[-1]["global_step"] if rows else -1  # at which step, the last time
        passed = global_step // args.eval_frequency > evaluated // args.eval_frequency
        if passed or (over and global_step > evaluated):
            row = {"global_step": global_step, "round": rounds, **counts}
            previous = rows[-1] if rows else row
            since = {name: row[name] - previous[name] for name in row}
            row["label_rate"] = since["labels"] / max(1, since["global_step"])
            row["intervention_rate"] = since["expert_steps"] / max(1, since["global_step"])
            row |= evaluate(args.env_id, actor, eval_envs, args.seed, 1, global_step)
            rows.append(row | demo_facts | {"wall_seconds": time.perf_counter() - begun})
            write_rows(folder, writer, bar, rows)
            state = {"actor": actor.state_dict(), "optimizer": optimizer.state_dict(), "data": data}
            state |= {"rng": rng.bit_generator.state, "torch_rng": torch.get_rng_state()}
            state |= {"global_step": global_step, "rounds": rounds}
            torch.save(state | {"counts": counts, "rows": rows}, folder / "checkpoint.tmp")
            os.replace(folder / "checkpoint.tmp", folder / "checkpoint.pt")  # for --resume
        if over:
            break

        # Sample trajectories of the novice, or of its mixture with the expert. (Alg. 3.1, line 5)
        visited, proposals = [], []
        for e in range(rounds * args.round_episodes, (rounds + 1) * args.round_episodes):
            seed = int(np.random.SeedSequence((args.seed, 0, e)).generate_state(1)[0])
            obs, _ = env.reset(seed=seed)
            t, episodic_return, terminated, truncated = 0, 0.0, False, False
            while not (terminated or truncated):
                actions = actor.act(obs[None])[0]  # (A,)
                visited.append(obs)
                proposals.append(actions)
                if args.mixture_decay and rng.random() < args.mixture_decay**rounds:
                    actions = expert.act(obs[None])[0].numpy()  # (A,)
                    counts["expert_steps"] += 1
                obs, task_reward, terminated, truncated, _ = env.step(actions)
                episodic_return += task_reward
                t, global_step = t + 1, global_step + 1
                bar.update()
            charts = {"episodic_return": episodic_return, "episodic_length": t}
            charts["steps_per_second"] = global_step / (time.perf_counter() - begun)
            for name, value in charts.items():
                writer.add_scalar(f"charts/{name}", value, global_step)

        # Get the expert's actions there and aggregate. (Alg. 3.1, lines 6 and 7)
        visited, proposals = np.array(visited, dtype=np.float32), np.array(proposals)
        labels = expert.act(visited)  # (n, A)
        chosen = choose_labels(args, proposals, labels.numpy(), rng)  # (n,)
        data["obs"] = torch.cat([data["obs"], torch.from_numpy(visited[chosen]).to(device)])
        data["actions"] = torch.cat([data["actions"], labels[chosen].to(device)])
        counts["labels"] += int(chosen.sum())
        # Train on all of it. (Alg. 3.1, line 8)
        if len(data["obs"]):
            loss = fit(actor, optimizer, data, args.round_updates, args.batch_size)
            writer.add_scalar("losses/nll", loss, global_step)
        rounds += 1

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
