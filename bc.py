"""Behavioural cloning of demonstrations: what every other method is compared with. One file.

Maximum likelihood of the demonstrated actions under a tanh-Gaussian policy, as the RLIF paper's BC, DAgger and
HG-DAgger (Luo et al., ICLR 2024, https://arxiv.org/abs/2311.12996, section 6): AdamW, actions clipped to +-0.999.

    python bc.py                          # Hopper-v5, 50 demonstrations: about a minute
    python bc.py --help                   # every option
    python bc.py --resume runs/<run>      # go on after a stop, to the bit

Read main() first, then nll(). In shapes: O observation size, A action size, B batch.
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

from experts import MAX_ACTION, TRAINING_TASKS, Checked, InputError, RunError, UnitActions, begin_run, check_rendering
from experts import exit_codes, load_checkpoint, load_demonstrations, new_run_folder, normalized_score, open_task
from experts import require_packages, save_checkpoint, save_expert, start_tracking, write_file


@dataclass
class Args:
    exp_name: str = "bc"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: int = 1  # of everything: on the CPU, the same seed gives the same run to the bit
    cuda: bool = False  # learn on the GPU
    num_threads: int = 2  # of torch on the CPU
    resume: str | None = None  # go on with this folder, runs/<run>; all other options come from there
    checkpoint_frequency: int = 5_000  # gradient steps between checkpoints of everything
    save_model: bool = True  # at the end, write a file that --expert of the other scripts can load
    capture_video: bool = False  # at the end, film an episode (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)

    env_id: str = "Hopper-v5"  # any Gymnasium environment, but for images
    max_episode_steps: int | None = None  # end every episode after so many steps; default: the environment's own limit
    demo_episodes: int = 50  # demonstrations to clone
    dataset_id: str | None = None  # a Minari dataset of demonstrations; default: rollouts of the shipped top expert
    demo_noise: float = 0.09  # standard deviation of noise on the actions of these rollouts, which makes them worse
    total_timesteps: int = 20_000  # gradient steps: cloning takes no steps in the environment
    eval_frequency: int = 2_000  # gradient steps between evaluations
    eval_episodes: int = 20  # of an evaluation, with the mean action and again with sampled ones, always fresh
    validation_fraction: float = 0.0  # share of the episodes held out, whose loss is shown; 0: all are cloned
    patience: int | None = None  # stop after so many evaluations without a better validation loss, keep the best policy

    batch_size: int = 256  # transitions per gradient step
    learning_rate: float = 3e-4  # AdamW's
    weight_decay: float = 1e-3  # AdamW's
    standardize_obs: bool = True  # by the mean and standard deviation of the demonstrations (not in the paper)
    hidden_sizes: tuple[int, ...] = (256, 256)  # of the actor


# --- environment -----------------------------------------------------------------------------------------------------


def make_env(env_id, max_episode_steps=None, **options):
    """The environment with flat observations and, whatever its own actions are, some in [-1, 1] or one-hot vectors."""
    env = open_task(env_id, max_episode_steps, **options)  # gym.make; whatever is wrong becomes one line
    env = gym.wrappers.FlattenObservation(env)
    return UnitActions(Checked(env))


def seed_for(*key):
    """An independent 32-bit seed for each key, e.g. (seed, stream, episode); zeros at its end do not count."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


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
        log_prob = -0.5 * ((u - mean) / log_std.exp()).pow(2) - log_std - 0.5 * math.log(2 * math.pi)
        log_prob = log_prob - 2 * (math.log(2) - u - F.softplus(-2 * u))  # log |d tanh(u) / du|, stable for large |u|
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
        choice = logits.argmax(-1) if deterministic else torch.distributions.Categorical(logits=logits).sample()
        return F.one_hot(choice, self.act_dim).float().cpu().numpy()  # (B, A)


def make_actor(env, hidden_sizes):
    """An untrained policy for the environment's observations and actions."""
    discrete = env.discrete
    sizes = *env.observation_space.shape, *env.action_space.shape, hidden_sizes
    return (CategoricalActor if discrete else Actor)(*sizes)


def nll(actor, obs, actions):
    """-log pi(a|s), the mean over a batch: (B, O), (B, A) -> ()."""
    return -actor.log_prob(actor(obs), actions).mean()


# --- data ------------------------------------------------------------------------------------------------------------


def split_demonstrations(args, env, device):
    """Observations (n, O) and actions (n, A) to train on, those held out for validation, and how many episodes each."""
    demos = load_demonstrations(env, args.env_id, args.demo_episodes, args.dataset_id, args.demo_noise)
    episode = (np.cumsum(demos["ends"]) - demos["ends"]).astype(int)  # (n,), the number of each transition's episode
    episodes = int(episode[-1]) + 1
    held_out = round(args.validation_fraction * episodes)
    if held_out == episodes or (held_out == 0 and args.validation_fraction):
        many = "all" if held_out else "none"
        raise InputError(f"--validation-fraction {args.validation_fraction} holds out {many} of {episodes} episodes")
    chosen = np.random.default_rng(args.seed).permutation(episodes)[:held_out]
    validation = torch.from_numpy(np.isin(episode, chosen))  # (n,)
    obs, actions = (torch.from_numpy(demos[name]) for name in ("obs", "actions"))
    data = [values[mask].to(device) for mask in (~validation, validation) for values in (obs, actions)]
    return *data, (episodes - held_out, held_out)


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
    return {"demo_noise": "a dataset is taken as it is"} if args.dataset_id else {}


def check(args):
    """Everything that can be wrong with the options themselves."""
    positive = "total_timesteps eval_frequency eval_episodes checkpoint_frequency batch_size demo_episodes num_threads"
    for names, holds, rule in (
        (positive, lambda x: x > 0, "positive"),
        ("patience max_episode_steps", lambda x: x is None or x > 0, "positive"),
        ("learning_rate", lambda x: 0 < x < math.inf, "positive"),
        ("validation_fraction", lambda x: 0 <= x < 1, "in [0, 1)"),
        ("weight_decay demo_noise", lambda x: 0 <= x < math.inf, "zero or more"),
        ("seed", lambda x: 0 <= x < 2**63, "zero or more, below 2 to the 63rd"),
    ):
        for name in names.split():
            if not holds(getattr(args, name)):
                raise InputError(f"--{name.replace('_', '-')} must be {rule}, not {getattr(args, name)}")
    for wrong, message in (
        (min(args.hidden_sizes, default=0) < 1, "--hidden-sizes needs positive sizes, at least one"),
        (args.patience and not args.validation_fraction, "--patience needs a --validation-fraction above 0"),
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
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    if args.capture_video:
        check_rendering(make_env, args.env_id, args.max_episode_steps)

    # demonstrations are recorded in the environment that the others learn in
    env = make_env(TRAINING_TASKS.get(args.env_id, args.env_id), args.max_episode_steps)
    eval_envs = [make_env(args.env_id, args.max_episode_steps) for _ in range(min(args.eval_episodes, 20))]
    obs, actions, validation_obs, validation_actions, episodes = split_demonstrations(args, env, device)
    checkpoint = open_run(args)
    actor = make_actor(env, args.hidden_sizes)
    if args.standardize_obs:
        actor.obs_mean.copy_(obs.mean(0))
        actor.obs_std.copy_(obs.std(0).clamp_min(0.01))
    actor.to(device)
    optimizer = torch.optim.AdamW(actor.parameters(), args.learning_rate, weight_decay=args.weight_decay, fused=True)

    global_step, losses = 0, []  # losses: since the last evaluation
    best_loss, best_actor, waited = math.inf, None, 0  # by validation loss
    if checkpoint:
        actor.load_state_dict(checkpoint["actor"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        global_step, losses, best_loss, waited = checkpoint["progress"]
        best_actor = checkpoint["best_actor"]

    progress = {"total": args.total_timesteps, "initial": global_step, "unit": "step"}
    run = Run(args, checkpoint, global_step, **progress)
    while True:
        over = global_step >= args.total_timesteps
        if run.due("global_step", global_step, over):
            facts = {"train_loss": float(np.mean(losses)), "validation_loss": math.nan}
            if len(validation_obs):
                with torch.no_grad():
                    facts["validation_loss"] = nll(actor, validation_obs, validation_actions).item()
            run.evaluate(actor, eval_envs, global_step, facts, train_loss=f"{facts['train_loss']:.2f}")
            losses, waited = [], waited + 1
            if facts["validation_loss"] < best_loss:
                best_loss, waited = facts["validation_loss"], 0
                best_actor = {name: value.clone() for name, value in actor.state_dict().items()}
        if over or waited == args.patience:
            break
        run.waits = True

        i = torch.randint(len(obs), (args.batch_size,)).to(device)
        loss = nll(actor, obs[i], actions[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        global_step += 1
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise RunError(f"step {global_step}: learning broke down, its loss is not finite ({losses[-1]})")
        run.bar.update()

        over = global_step == args.total_timesteps
        if global_step % args.checkpoint_frequency == 0 or run.due("global_step", global_step, over) or run.signals:
            state = {"actor": actor.state_dict(), "optimizer": optimizer.state_dict(), "best_actor": best_actor}
            run.save(global_step, state | {"progress": (global_step, losses, best_loss, waited)})

    last = run.rows[-1]
    if args.patience:  # the policy of the lowest validation loss, not of the best score: a clone cannot know its score
        actor.load_state_dict(best_actor)
        last = next(row for row in run.rows if row["validation_loss"] == best_loss)
    tensors = {f"actor.{name}": value for name, value in actor.state_dict().items()}
    summary = {"gradient_steps": global_step, "demo_episodes": episodes[0], "held_out_episodes": episodes[1]}
    summary |= {"demonstrated_transitions": len(obs), "seconds": {"total": run.seconds()}}
    cloned = f"{len(obs)} transitions of {episodes[0]} episodes, {episodes[1]} held out"
    run.finish(last, actor, tensors, summary, {"demonstrations": cloned})


if __name__ == "__main__":
    with exit_codes():
        main(parse_args())
