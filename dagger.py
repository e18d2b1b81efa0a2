"""DAgger: the novice acts, the expert says afterwards what it would have done, and all labels are cloned. One file.

Paper: Ross, Gordon and Bagnell, AISTATS 2011, https://arxiv.org/abs/1011.0686; "Alg. 3.1" in comments is its. Which
steps get a label follows its use as a baseline of RLIF (Luo et al., ICLR 2024, https://arxiv.org/abs/2311.12996):
those where expert and novice differ, or a random share of them, or all.

    python dagger.py                          # Hopper-v5, an expert of 16 %: about two minutes
    python dagger.py --expert top             # a good expert
    python dagger.py --help                   # every option
    python dagger.py --resume runs/<run>      # go on after a stop, to the bit

Read main() first: its loop is Algorithm 3.1. Then Labeller (which steps get a label) and nll(). In shapes:
O observation size, A action size, B batch.
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
    exp_name: str = "dagger"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
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
    eval_frequency: int = (
        5_000  # an evaluation after the round in which so many more steps are reached
    )
    eval_episodes: int = (
        20  # of an evaluation, with the mean action and again with sampled ones, always fresh
    )

    expert: str = "low"  # who labels: a shipped level or a .safetensors file
    labels: Literal["threshold", "random", "all"] = (
        "threshold"  # where they differ, at random, everywhere
    )
    # tau: label if the L1 distance of the two actions is this or more; default: what 95 % of the expert's own pairs of
    # actions stay below, at the demonstrations' observations
    threshold: float | None = None
    label_beta: float = 0.95  # threshold: probability of a label if so; 1 - this if not
    random_rate: float = 50.0  # random: percentage of the steps that get a label
    mixture_decay: float = (
        0.0  # the expert acts itself with probability this^i in round i = 0, 1, ... (0: in none)
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
    standardize_obs: bool = (
        True  # by the mean and standard deviation of the demonstrations (not in the paper)
    )
    hidden_sizes: tuple[int, ...] = (256, 256)  # of the actor


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


class Labeller:
    """Which steps of the novice's episodes the expert labels; both propose sampled actions."""

    def __init__(self, args, threshold, rng):
        self.args, self.threshold, self.rng = args, threshold, rng

    def chooses(self, proposals, labels):
        """For actions of novice and expert (n, A): which of them count, (n,) booleans."""
        draws = self.rng.random(len(labels))
        if self.args.labels == "all":
            return np.ones(len(labels), dtype=bool)
        if self.args.labels == "random":
            return draws < self.args.random_rate / 100
        differ = np.abs(labels - proposals).sum(-1) >= self.threshold
        return draws < np.where(differ, self.args.label_beta, 1 - self.args.label_beta)


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
    if args.labels != "threshold":
        for name in ("threshold", "label_beta"):
            found[name] = f"--labels {args.labels} does not judge by distance"
    if args.labels != "random":
        found["random_rate"] = f"--labels {args.labels} does not label at random"
    if args.dataset_id:
        found["demo_noise"] = "a dataset is taken as it is"
    if args.demo_episodes == 0:
        for name in ("dataset_id", "demo_noise", "standardize_obs", "pretrain_updates"):
            found[name] = "there are no demonstrations with --demo-episodes 0"
    return found


def check(args):
    """Everything that can be wrong with the options themselves."""
    positive = "total_timesteps eval_frequency eval_episodes batch_size num_threads round_episodes round_updates"
    for names, holds, rule in (
        (positive, lambda x: x > 0, "positive"),
        ("label_beta mixture_decay", lambda x: 0 <= x <= 1, "in [0, 1]"),
        ("random_rate", lambda x: 0 < x < 100, "between 0 and 100"),
        ("max_episode_steps", lambda x: x is None or x > 0, "positive"),
        ("learning_rate", lambda x: 0 < x < math.inf, "positive"),
        ("weight_decay demo_noise", lambda x: 0 <= x < math.inf, "zero or more"),
        ("threshold", lambda x: x is None or 0 <= x < math.inf, "zero or more"),
        ("demo_episodes pretrain_updates", lambda x: x >= 0, "zero or more"),
        ("seed", lambda x: 0 <= x < 2**63, "zero or more, below 2 to the 63rd"),
    ):
        for name in names.split():
            if not holds(getattr(args, name)):
                raise InputError(
                    f"--{name.replace('_', '-')} must be {rule}, not {getattr(args, name)}"
                )
    for wrong, message in (
        (min(args.hidden_sizes, default=0) < 1, "--hidden-sizes needs positive sizes, at least one"),
        (args.labels == "threshold" and args.threshold is None and not args.demo_episodes,
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
    actor = make_actor(env, args.hidden_sizes)
    if args.standardize_obs and args.demo_episodes:
        actor.obs_mean.copy_(data[0].mean(0))
        actor.obs_std.copy_(data[0].std(0).clamp_min(0.01))
    actor.to(device)
    threshold = args.threshold
    if args.labels == "threshold" and threshold is None:
        threshold = own_spread(expert, data[0])
    data = [values.to(device) for values in data]
    optimizer = torch.optim.AdamW(
        actor.parameters(), args.learning_rate, weight_decay=args.weight_decay, fused=True
    )
    labeller = Labeller(args, threshold, rng)

    global_step, rounds, labels, expert_steps, episode = 0, 0, 0, 0, 0
    counts = np.zeros(
        3, dtype=int
    )  # since the last evaluation: steps, labels, steps under expert control
    if checkpoint:
        if checkpoint["file"] != expert.sha256:
            raise InputError(f"--resume {args.resume}: the expert's file has changed since")
        actor.load_state_dict(checkpoint["actor"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        data = [values.to(device) for values in checkpoint["data"]]
        rng.bit_generator.state = checkpoint["rng"]
        global_step, rounds, labels, expert_steps, episode = checkpoint["progress"]
        counts = checkpoint["counts"].numpy()

    progress = {"total": args.total_timesteps, "initial": global_step, "unit": "step"}
    run = Run(args, checkpoint, global_step, **progress)
    if not checkpoint and args.demo_episodes:  # the first policy (Alg. 3.1, line 2)
        run.bar.set_description("cloning the demonstrations")
        fit(actor, optimizer, *data, args.pretrain_updates, args.batch_size)
        run.bar.set_description(None)
    over = global_step >= args.total_timesteps
    while True:
        if run.due("global_step", global_step, over):
            facts = {"label_rate": float(counts[1] / counts[0])}  # share of steps that got a label
            facts["intervention_rate"] = float(
                counts[2] / counts[0]
            )  # share of steps under expert control
            facts |= {
                "labels": labels,
                "expert_steps": expert_steps,
                "takeovers": 0,
            }  # in all: the cost
            run.evaluate(actor, eval_envs, global_step, facts, labels=labels)
            counts[:] = 0
        if over:
            break
        run.waits = True
        # Sample trajectories of the novice, or of its mixture with the expert. (Alg. 3.1, lines 4 and 5)
        visited, proposals = [], []
        for _ in range(args.round_episodes):
            obs, _ = env.reset(seed=seed_for(args.seed, 0, episode))
            episode, ended, episodic_return = episode + 1, False, 0.0
            while not ended:
                visited.append(obs)
                proposals.append(actor.act(obs[None])[0])
                actions = proposals[-1]  # (A,)
                if args.mixture_decay and rng.random() < args.mixture_decay**rounds:
                    actions = expert.act(obs[None])[0].numpy()
                    expert_steps += 1
                    counts[2] += 1
                obs, task_reward, terminated, truncated, _ = env.step(actions)
                global_step += 1
                run.bar.update()
                episodic_return += task_reward
                ended = terminated or truncated
            run.writer.add_scalar("charts/episodic_return", episodic_return, global_step)
        # Get the expert's actions there and aggregate. (Alg. 3.1, lines 6 and 7)
        visited, proposals = np.array(visited, dtype=np.float32), np.array(proposals)
        answers = expert.act(visited)  # (n, A)
        chosen = torch.from_numpy(labeller.chooses(proposals, answers.numpy()))
        new = torch.from_numpy(visited)[chosen], answers[chosen]
        data = [torch.cat([values, more.to(device)]) for values, more in zip(data, new)]
        labels += len(new[0])
        counts[:2] += (len(visited), len(new[0]))
        # Train on all of it. (Alg. 3.1, line 8)
        if len(data[0]):
            loss = fit(actor, optimizer, *data, args.round_updates, args.batch_size)
            if not math.isfinite(loss):
                raise RunError(
                    f"step {global_step}: learning broke down, its loss is not finite ({loss})"
                )
            run.writer.add_scalar("losses/nll", loss, global_step)
        rounds += 1
        over = global_step >= args.total_timesteps

        state = {"file": expert.sha256, "data": data, "counts": torch.from_numpy(counts)}
        state |= {
            "actor": actor.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": rng.bit_generator.state,
        }
        run.save(
            global_step, state | {"progress": (global_step, rounds, labels, expert_steps, episode)}
        )

    tensors = {f"actor.{name}": value for name, value in actor.state_dict().items()}
    summary = {
        "env_steps": global_step,
        "demo_episodes": demo_episodes,
        "rounds": rounds,
        "labels": labels,
    }
    summary |= {"expert_steps": expert_steps, "takeovers": 0, "threshold": threshold}
    summary["seconds"] = {"total": run.seconds()}
    shown = {"expert's own score": f"{expert.facts.get('score_mean', math.nan):.1f}"}
    shown["demonstrations"] = f"{demo_episodes} episodes"
    if threshold is not None:
        shown["tau"] = f"{threshold:.2f}"
    shown["labels, rounds"] = f"{labels}, {rounds}"
    run.finish(run.rows[-1], actor, tensors, summary, shown)


if __name__ == "__main__":
    with exit_codes():
        main(parse_args())
