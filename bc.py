"""Behavioural cloning of demonstrations: what every other method is compared with. One file.

Maximum likelihood of the demonstrated actions under a tanh-Gaussian policy, as the RLIF paper's BC, DAgger and
HG-DAgger (Luo et al., ICLR 2024, https://arxiv.org/abs/2311.12996, section 6): AdamW, actions clipped to +-0.999.

    python bc.py                          # Hopper-v5, 50 demonstrations: about a minute
    python bc.py --help                   # every option
    python bc.py --resume runs/<run>      # go on after a stop, to the bit

Read main() first, then nll(). In shapes: O observation size, A action size, B batch.
"""

import ctypes.util
import json
import math
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import MAX_ACTION, InputError, load_checkpoint, load_demonstrations, normalized_score
from experts import save_checkpoint, save_expert, write_file


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

    env_id: str = "Hopper-v5"  # any Gymnasium environment with Box observations, and Box or discrete actions
    demo_episodes: int = 50  # demonstrations to clone
    dataset_id: str | None = None  # a Minari dataset of demonstrations; default: rollouts of the shipped top expert
    demo_noise: float = 0.09  # standard deviation of noise on the actions of these rollouts, which makes them worse
    total_timesteps: int = 20_000  # gradient steps: cloning takes no steps in the environment
    eval_frequency: int = 2_000  # gradient steps between evaluations
    eval_episodes: int = 20  # of an evaluation, with the mean action and again with sampled ones, always fresh
    validation_fraction: float = 0.1  # share of the episodes held out; 0: none
    patience: int | None = None  # stop after so many evaluations without a better validation loss, keep the best policy

    batch_size: int = 256  # transitions per gradient step
    learning_rate: float = 3e-4  # AdamW's
    weight_decay: float = 1e-3  # AdamW's
    standardize_obs: bool = True  # by the mean and standard deviation of the demonstrations (not in the paper)
    hidden_sizes: tuple[int, ...] = (256, 256)  # of the actor


# --- environment -----------------------------------------------------------------------------------------------------


class MetaWorld(gym.Wrapper):
    """A task of Meta-World with its goal in sight, drawn by the seed of reset; an episode ends at success."""

    def __init__(self, task, render_mode):
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE as tasks

        if f"{task}-goal-observable" not in tasks:
            raise InputError(f"no task {task!r} in Meta-World; it has {', '.join(t[:-16] for t in tasks)}")
        super().__init__(tasks[f"{task}-goal-observable"](render_mode=render_mode))
        self.unwrapped.seeded_rand_vec, self.unwrapped._freeze_rand_vec = True, False

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.unwrapped.seed(seed)  # its own reset ignores the seed
        return self.env.reset(options=options)

    def step(self, action):
        obs, reward, _, truncated, info = self.env.step(action)
        return obs, reward, bool(info["success"]), truncated, info


def make_env(env_id, render_mode=None):
    """The environment with flat observations, actions rescaled to [-1, 1], discrete ones as one-hot vectors."""
    try:
        if env_id.startswith("Meta-World/"):  # the last four observations, as in MILE
            env = MetaWorld(env_id.removeprefix("Meta-World/"), render_mode)
            env = gym.wrappers.FlattenObservation(gym.wrappers.FrameStackObservation(env, 4))
        else:
            module = "gymnasium_robotics:" if env_id.startswith("AdroitHand") else ""  # which registers these
            env = gym.make(module + env_id, render_mode=render_mode)
    except Exception as error:  # an unknown id, a missing package, whatever its constructor raises
        reason = str(error).strip() or type(error).__name__
        raise InputError(f"--env-id {env_id}: {reason.splitlines()[0]}") from None
    if isinstance(env.action_space, gym.spaces.Discrete):
        one_hot = gym.spaces.Box(0, 1, (int(env.action_space.n),), np.float32)
        env = gym.wrappers.TransformAction(env, np.argmax, one_hot)
    for what, space in (("observations", env.observation_space), ("actions", env.action_space)):
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise InputError(f"--env-id {env_id}: needs {what} in a flat Box, not {space}")
    if not env.action_space.is_bounded():
        raise InputError(f"--env-id {env_id}: needs bounded actions, not {env.action_space}")
    if isinstance(env.unwrapped.action_space, gym.spaces.Discrete):
        return env
    return gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


class EndWhenDropped(gym.Wrapper):
    """AdroitHandPen with an end when the pen falls from the hand."""

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, bool(terminated or obs[26] < 0.075), truncated, info  # obs[26]: the pen's height in metres


def make_training_env(env_id):
    """The environment to learn in: AdroitHandPen as D4RL's pen, which ends when the pen is dropped or after 100 steps.

    Evaluation has the full 200 steps, dropped or not.
    """
    env = make_env(env_id)
    return gym.wrappers.TimeLimit(EndWhenDropped(env), 100) if env_id.startswith("AdroitHandPen") else env


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
    discrete = isinstance(env.unwrapped.action_space, gym.spaces.Discrete)
    sizes = *env.observation_space.shape, *env.action_space.shape, hidden_sizes
    return (CategoricalActor if discrete else Actor)(*sizes)


def nll(actor, obs, actions):
    """-log pi(a|s), the mean over a batch: (B, O), (B, A) -> ()."""
    return -actor.log_prob(actor(obs), actions).mean()


# --- data ------------------------------------------------------------------------------------------------------------


def split_demonstrations(args, env, device):
    """Observations (n, O) and actions (n, A) to train on, and those of the episodes held out for validation."""
    demos = load_demonstrations(env, args.env_id, args.demo_episodes, args.dataset_id, args.demo_noise)
    episode = (np.cumsum(demos["ends"]) - demos["ends"]).astype(int)  # (n,), the number of each transition's episode
    episodes = episode[-1] + 1
    held_out = round(args.validation_fraction * episodes)
    if held_out == episodes:
        raise InputError(f"--validation-fraction {args.validation_fraction} holds out all {episodes} episodes")
    chosen = np.random.default_rng(args.seed).permutation(episodes)[:held_out]
    validation = torch.from_numpy(np.isin(episode, chosen))  # (n,)
    obs, actions = (torch.from_numpy(demos[name]) for name in ("obs", "actions"))
    return [values[mask].to(device) for mask in (~validation, validation) for values in (obs, actions)]


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
                successes[i] = info.get("success", info.get("is_success", np.nan))  # of the last step, where reported
                if terminated or truncated:
                    del playing[env]
    scores = normalized_score(env_id, returns)  # every episode is normalised, then averaged
    stats = {"return_mean": returns.mean(), "return_std": returns.std(), "normalized_score": scores.mean()}
    return {name: float(value) for name, value in (stats | {"success_rate": 100 * successes.mean()}).items()}


def headline(row):
    """The column of eval.csv to judge by: the success rate (%), else D4RL's score, else the return; what is known."""
    names = "success_rate", "normalized_score", "return_mean"
    return next(name for name in names if not math.isnan(row.get(name, math.nan)))


# --- keeping a run: options, folder, checkpoints, logs ---------------------------------------------------------------


def parse_args(argv=None):
    """The command line; with --resume, the run's own options, which nothing may contradict."""
    args = tyro.cli(Args, args=argv)
    if args.resume is None:
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


def check(args):
    """Everything that can be wrong with the options themselves."""
    positive = "total_timesteps eval_frequency eval_episodes checkpoint_frequency batch_size demo_episodes num_threads"
    for names, holds, rule in (
        (positive, lambda x: x > 0, "positive"),
        ("patience", lambda x: x is None or x > 0, "positive"),
        ("learning_rate", lambda x: 0 < x < math.inf, "positive"),
        ("validation_fraction", lambda x: 0 <= x < 1, "in [0, 1)"),
        ("weight_decay demo_noise", lambda x: 0 <= x < math.inf, "zero or more"),
        ("seed", lambda x: 0 <= x < 2**63, "zero or more, below 2 to the 63rd"),
    ):
        for name in names.split():
            if not holds(getattr(args, name)):
                raise InputError(f"--{name.replace('_', '-')} must be {rule}, not {getattr(args, name)}")
    missing = [name for name in ["wandb"] * args.track + ["moviepy"] * args.capture_video if not find_spec(name)]
    for wrong, message in (
        (min(args.hidden_sizes, default=0) < 1, "--hidden-sizes needs positive sizes, at least one"),
        (args.patience and not args.validation_fraction, "--patience needs a --validation-fraction above 0"),
        (args.cuda and not torch.cuda.is_available(), "--cuda: torch finds no GPU here"),
        (missing, f"this run needs another package: python -m pip install {' '.join(missing)}"),
    ):
        if wrong:
            raise InputError(message)
    return args


def open_run(args):
    """The run's folder, new or resumed, and its last checkpoint, or None if it has none yet."""
    name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
    run_dir = Path(args.resume) if args.resume else Path("runs") / name.replace("/", "-").replace(":", "-")
    folder = run_dir if args.resume else run_dir.parent
    try:
        folder.mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # can we write there?
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror}") from None
    if not (run_dir / "checkpoint.pt").exists():
        return run_dir, None
    checkpoint = load_checkpoint(run_dir / "checkpoint.pt")
    if checkpoint["args"] != asdict(replace(args, resume=None)):
        raise InputError(f"--resume {run_dir}: its args.json is not what it was started with")
    return run_dir, checkpoint


class Run:
    """A run's folder: its options, TensorBoard events, evaluations and last checkpoint; and the signals to stop it."""

    def __init__(self, args, folder, checkpoint, global_step, **progress):
        """Begins a run, or goes on from a checkpoint of its own, with the generators in the state they had.

        progress: total, initial and unit of what the bar shows.
        """
        self.args, self.options, self.folder = args, asdict(replace(args, resume=None)), folder
        self.rows, self.total = checkpoint["run"] if checkpoint else ([], 0.0)  # of eval.csv; seconds until then
        folder.mkdir(exist_ok=True)
        write_file(folder / "args.json", json.dumps(self.options, indent=2).encode())
        if args.track:
            import wandb

            wandb.init(project="rlif", id=folder.name, resume="allow", config=vars(args), sync_tensorboard=True)
        # what a killed run logged after its checkpoint is logged again: TensorBoard is to forget the first time
        self.writer = SummaryWriter(folder, purge_step=global_step + bool(checkpoint) if args.resume else None)
        if checkpoint:
            torch.set_rng_state(checkpoint["torch_rng"])
            if args.cuda:
                torch.cuda.set_rng_state(checkpoint["cuda_rng"])
        else:
            table = "\n".join(f"|{name}|{value}|" for name, value in vars(args).items())
            self.writer.add_text("hyperparameters", f"|option|value|\n|-|-|\n{table}")
        self.signals = []  # SIGINT and SIGTERM are heard where the loop asks for them
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self.hear)
        self.start = time.perf_counter() - self.total
        self.bar = tqdm(**progress, dynamic_ncols=True, smoothing=0.05)

    def hear(self, signum, _):
        """The first signal lets the run end at its next checkpoint, a second one ends it on the spot."""
        self.signals.append(signum)
        signal.signal(signum, signal.SIG_DFL)
        os.write(2, b"\nstopping at the next checkpoint; once more stops at once, back at the last one\n")

    def seconds(self):
        """How long the run has taken, interruptions apart."""
        return time.perf_counter() - self.start

    def evaluate(self, actor, envs, global_step, facts, **shown):
        """Evaluate: a new row of eval.csv, with these facts in it. What is shown stands beside the progress."""
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
        self.bar.set_postfix(score=f"{row[headline(row)]:.0f}", **shown)

    def save(self, global_step, state):
        """Write the checkpoint from which --resume goes on; ends the run, after that, if a signal has come."""
        self.total = self.seconds()
        state = state | {"args": self.options, "run": (self.rows, self.total), "torch_rng": torch.get_rng_state()}
        state["cuda_rng"] = torch.cuda.get_rng_state() if self.args.cuda else None
        go_on = f"python {Path(__file__).name} --resume {self.folder}"
        self.writer.flush()
        try:
            save_checkpoint(self.folder / "checkpoint.pt", state)
        except OSError as error:
            sys.exit(f"step {global_step}: no checkpoint written ({error.strerror}), the last one is as it was; "
                     f"make room, then: {go_on}")  # fmt: skip
        if self.signals:
            self.bar.close()
            print(f"stopped at step {global_step}; go on with: {go_on}")
            sys.exit(128 + self.signals[0])

    def finish(self, last, actor, tensors, summary, shown):
        """Write what came out, judged by the row `last`: a file that --expert can load, summary.json, a table."""
        self.bar.close()
        self.writer.close()
        args, key = self.args, headline(last)
        best = max(self.rows, key=lambda row: row[key])
        if args.save_model:
            facts = {"env_id": args.env_id, "level": args.exp_name, "distribution": actor.distribution}
            facts |= {"obs_dim": len(actor.obs_mean), "act_dim": actor.act_dim, "min_log_std": actor.min_log_std}
            facts |= {"hidden_sizes": [layer.out_features for layer in actor.layers]}
            facts |= {"trained_by": f"{Path(__file__).name}, seed {args.seed}"}
            facts |= {"score_mean": last[f"stochastic_{key}"], "score_episodes": args.eval_episodes}
            save_expert(self.folder / "model.safetensors", tensors, **facts)
        if args.capture_video:
            film = make_env(args.env_id, "rgb_array")
            film = gym.wrappers.RecordVideo(film, f"{self.folder}/videos", disable_logger=True)
            evaluate(args.env_id, actor, [film], 1, args.seed, deterministic=True)
            film.close()
        known = [{name: value for name, value in row.items() if value == value} for row in (last, best)]  # no nan
        summary = {"final": known[0], "best": known[1], **summary}
        write_file(self.folder / "summary.json", json.dumps(summary, indent=2).encode())
        scores = f"{self.rows[0][key]:.1f}, {last[key]:.1f}, {best[key]:.1f}"
        shown = {"first, last, best evaluation": scores} | shown
        shown |= {"time": f"{self.total / 60:.1f} minutes", "checkpoint": self.folder / "checkpoint.pt"}
        for name, value in shown.items():
            print(f"{name:<30} {value}")


# --- main ------------------------------------------------------------------------------------------------------------


def main(args):
    args = check(args)
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    if args.capture_video and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "osmesa" if ctypes.util.find_library("OSMesa") else "egl")

    env = make_training_env(args.env_id)  # as for the others: demonstrations are recorded in it
    eval_envs = [make_env(args.env_id) for _ in range(min(args.eval_episodes, 20))]
    obs, actions, validation_obs, validation_actions = split_demonstrations(args, env, device)
    run_dir, checkpoint = open_run(args)
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
    run = Run(args, run_dir, checkpoint, global_step, **progress)
    while global_step < args.total_timesteps and waited != args.patience:
        i = torch.randint(len(obs), (args.batch_size,)).to(device)
        loss = nll(actor, obs[i], actions[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        global_step += 1
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            sys.exit(f"step {global_step}: learning broke down (loss {losses[-1]}), checkpoint kept: {run_dir}")

        if global_step % args.eval_frequency == 0 or global_step == args.total_timesteps:
            facts = {"train_loss": float(np.mean(losses)), "validation_loss": math.nan}
            if len(validation_obs):
                with torch.no_grad():
                    facts["validation_loss"] = nll(actor, validation_obs, validation_actions).item()
            shown = {"validation_loss": f"{facts['validation_loss']:.2f}"}
            run.evaluate(actor, eval_envs, global_step, facts, **shown)
            losses, waited = [], waited + 1
            if facts["validation_loss"] < best_loss:
                best_loss, waited = facts["validation_loss"], 0
                best_actor = {name: value.clone() for name, value in actor.state_dict().items()}
        run.bar.update()

        over = global_step == args.total_timesteps or waited == args.patience
        if global_step % args.checkpoint_frequency == 0 or over or run.signals:
            state = {"actor": actor.state_dict(), "optimizer": optimizer.state_dict(), "best_actor": best_actor}
            run.save(global_step, state | {"progress": (global_step, losses, best_loss, waited)})

    last = run.rows[-1]
    if args.patience:  # the policy of the lowest validation loss, not of the best score: a clone cannot know its score
        actor.load_state_dict(best_actor)
        last = next(row for row in run.rows if row["validation_loss"] == best_loss)
    tensors = {f"actor.{name}": value for name, value in actor.state_dict().items()}
    summary = {"gradient_steps": global_step, "demonstrated_transitions": len(obs), "seconds": {"total": run.total}}
    run.finish(last, actor, tensors, summary, {"transitions cloned": len(obs)})


if __name__ == "__main__":
    try:
        main(parse_args())
    except (InputError, OSError) as error:  # bad input, or a full disk
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
