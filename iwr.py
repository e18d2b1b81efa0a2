"""IWR: intervention weighted regression, cloning where interventions count as much as all the rest. One file.

Paper: Mandlekar et al., 2020, https://arxiv.org/abs/2012.06733. The setting, and the person, are those of MILE (Korkmaz
and Biyik, ICRA 2025, https://arxiv.org/abs/2502.13519), which compares itself with it.

    python iwr.py                                                      # Meta-World's peg insertion
    python iwr.py --rounds 1 --round-episodes 15 --round-updates 1000   # MILE's single iteration
    python iwr.py --help                                               # every option
    python iwr.py --resume runs/<run>                                  # go on after a stop, to the bit

Read main() first, then weights(). In shapes: O observation size, A action size, B batch, T steps of an episode.
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
    load_demonstrations,
    load_expert,
    new_run_folder,
    normalized_score,
    open_task,
)
from experts import require_packages, save_checkpoint, save_expert, start_tracking, write_file


@dataclass
class Args:
    exp_name: str = "iwr"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
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
    intervention_cost: float = (
        16.0  # c, what it takes to take over: mile.py finds it, this for peg insertion
    )
    intervention_scale: float = (
        10.0  # by which the gap minus c is divided (not in the paper, but in its code)
    )
    takeover_steps: int = 1  # steps that the expert keeps control

    demo_episodes: int = 0  # demonstrations to begin with, besides the initial policy
    dataset_id: str | None = (
        None  # a Minari dataset of demonstrations; default: rollouts of the shipped top expert
    )
    demo_noise: float = (
        0.0  # standard deviation of noise on the actions of these rollouts, which makes them worse
    )
    min_std: float = 0.1  # lower limit of the policy's standard deviation, before the tanh
    round_updates: int = 100  # gradient steps after a round
    batch_size: int = 1_024  # transitions per gradient step
    learning_rate: float = 1e-4  # Adam's


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


def weights(nu):
    """What each step's likelihood counts (n,): interventions as much, in all, as the rest, which has weight 1."""
    share = nu.mean()
    return torch.where(nu > 0, (1 - share) / share, 1.0) if 0 < share < 1 else torch.ones_like(nu)


def row_of(rounds, counts, expert_steps, takeovers):
    """What a row of eval.csv holds besides the evaluation."""
    row = {"round": rounds, "intervention_rate": float(counts[1] / counts[0])}
    return row | {"expert_steps": expert_steps, "takeovers": takeovers}  # in all: the cost


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
    if args.dataset_id:
        found["demo_noise"] = "a dataset is taken as it is"
    if args.demo_episodes == 0:
        for name in ("dataset_id", "demo_noise"):
            found[name] = "there are no demonstrations with --demo-episodes 0"
    return found


def check(args):
    """Everything that can be wrong with the options themselves."""
    positive = (
        "rounds round_episodes eval_frequency eval_episodes batch_size num_threads takeover_steps"
    )
    for names, holds, rule in (
        (f"{positive} round_updates", lambda x: x > 0, "positive"),
        ("intervention_scale min_std learning_rate", lambda x: 0 < x < math.inf, "positive"),
        ("intervention_cost", math.isfinite, "finite"),
        ("max_interventions max_episode_steps", lambda x: x is None or x > 0, "positive"),
        ("demo_noise", lambda x: 0 <= x < math.inf, "zero or more"),
        ("demo_episodes", lambda x: x >= 0, "zero or more"),
        ("seed", lambda x: 0 <= x < 2**63, "zero or more, below 2 to the 63rd"),
    ):
        for name in names.split():
            if not holds(getattr(args, name)):
                raise InputError(
                    f"--{name.replace('_', '-')} must be {rule}, not {getattr(args, name)}"
                )
    for wrong, message in (
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
    checkpoint = open_run(args)
    actor = make_actor(env, initial.facts["hidden_sizes"])  # pi_theta
    actor.load_state_dict(initial.state)
    actor.min_log_std = max(
        initial.facts.get("min_log_std", actor.min_log_std), math.log(args.min_std)
    )
    actor.to(device)
    optimizer = torch.optim.Adam(actor.parameters(), args.learning_rate, fused=True)
    human = ProbitHuman(
        args, expert, human_model or likeliest(actor), rng=None
    )  # every episode has its own generator
    files = [policy.sha256 for policy in (expert, initial, human_model) if policy]

    global_step, rounds, expert_steps, takeovers = 0, 0, 0, 0
    data = [
        torch.empty(0, *env.observation_space.shape),
        torch.empty(0, *env.action_space.shape),
        torch.empty(0),
    ]
    demo_episodes = 0
    if args.demo_episodes:
        demos = load_demonstrations(
            env, args.env_id, args.demo_episodes, args.dataset_id, args.demo_noise
        )
        demo_episodes = int(demos["ends"].sum())
        data = [torch.from_numpy(demos[name]) for name in ("obs", "actions")]
        data += [torch.zeros(len(data[0]))]
    data = [
        values.to(device) for values in data
    ]  # observations (n, O), executed actions (n, A) and nu (n,)
    counts = np.zeros(2, dtype=int)  # since the last evaluation: steps, under expert control
    if checkpoint:
        if checkpoint["files"] != files:
            raise InputError(f"--resume {args.resume}: an expert's file has changed since")
        actor.load_state_dict(checkpoint["actor"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        global_step, rounds, expert_steps, takeovers = checkpoint["progress"]
        data = [values.to(device) for values in checkpoint["data"]]
        counts = checkpoint["counts"].numpy()

    run = Run(args, checkpoint, global_step, total=args.rounds, initial=rounds, unit="round")
    over = rounds == args.rounds or expert_steps == args.max_interventions
    while True:
        if run.due("round", rounds, over):
            row = row_of(rounds, counts, expert_steps, takeovers)
            run.evaluate(
                actor, eval_envs, global_step, row, interventions=f"{row['intervention_rate']:.0%}"
            )
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

        data = [torch.cat(both) for both in zip(data, new)]

        # Clone all steps by their weights, from where the policy stands.
        weight = weights(data[2])  # (n,)
        for _ in range(args.round_updates):
            i = torch.randint(len(data[0]), (args.batch_size,)).to(device)
            log_pi = actor.log_prob(actor(data[0][i]), data[1][i])  # (B,)
            loss = -(weight[i] * log_pi).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if not math.isfinite(loss.item()):
            raise RunError(f"round {rounds}: learning broke down, its loss is not finite ({loss})")
        run.writer.add_scalar("losses/nll", loss, global_step)
        rounds += 1
        over = rounds == args.rounds or expert_steps == args.max_interventions
        run.bar.update()
        state = {"files": files, "data": data, "counts": torch.from_numpy(counts)}
        state |= {"actor": actor.state_dict(), "optimizer": optimizer.state_dict()}
        run.save(global_step, state | {"progress": (global_step, rounds, expert_steps, takeovers)})

    tensors = {f"actor.{name}": value for name, value in actor.state_dict().items()}
    summary = {
        "env_steps": global_step,
        "rounds": rounds,
        "expert_steps": expert_steps,
        "takeovers": takeovers,
    }
    summary["demo_episodes"] = demo_episodes
    summary["seconds"] = {"total": run.seconds()}
    shown = {"expert steps, takeovers": f"{expert_steps}, {takeovers}"}
    run.finish(run.rows[-1], actor, tensors, summary, shown)


if __name__ == "__main__":
    with exit_codes():
        main(parse_args())
