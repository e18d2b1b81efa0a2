"""Behavioural cloning of demonstrations: what every other method is compared with. One file.

Maximum likelihood of the demonstrated actions under a tanh-Gaussian policy, as the RLIF paper's BC,
DAgger and HG-DAgger (Luo et al., ICLR 2024, https://arxiv.org/abs/2311.12996).

    python bc.py                          # Hopper-v5, 50 demonstrations: about a minute
    python bc.py --help                   # every option
    python bc.py --resume runs/<run>      # go on after a stop, to the bit

Read main() first, then nll(). In shapes: O observation size, A action size, B batch.
"""

import math
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import MAX_ACTION, TRAINING_TASKS, Checked, RunError, Stop, UnitActions
from experts import check_rendering, evaluate, exit_codes, film, finish_run, load_demonstrations
from experts import main_metric, open_run, open_task, parse, restore, run_seconds, save_run
from experts import seed_for, unused, write_rows
from experts.human import record_demonstrations
from experts.options import Count, Natural, NonNegative, Positive, Seed
from experts.window import require_screen


@dataclass
class Args:
    # --- run ---
    exp_name: str = "bc"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: Seed = 1  # of everything: on the CPU, the same seed gives the same run to the bit
    resume: str | None = None  # go on with this folder, runs/<run>, and its options
    capture_video: bool = False  # at the end, film what it can do (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)

    # --- task ---
    env_id: str = "Hopper-v5"  # any Gymnasium environment, but for images
    max_episode_steps: Count | None = None  # of every episode; default: the environment's own limit
    total_timesteps: Count = 20_000  # gradient steps: cloning takes no steps in the environment
    eval_frequency: Count = 2_000  # gradient steps between evaluations
    eval_episodes: Count = 20  # of an evaluation by mean actions, and of one by sampled actions

    # --- data ---
    record_demos: Natural = 0  # drive so many episodes yourself, in a window, and clone those
    keys: str | None = None  # record_demos: a file that says what they do, as experts/keys.toml
    demo_episodes: Count = 50  # demonstrations to clone
    dataset_id: str | None = None  # a Minari dataset; default: rollouts of the shipped top expert
    demo_noise: NonNegative = 0.09  # standard deviation of noise on these rollouts' actions

    # --- learner ---
    batch_size: Count = 256  # transitions per gradient step
    learning_rate: Positive = 3e-4  # AdamW's
    weight_decay: NonNegative = 1e-3  # AdamW's
    standardize_obs: bool = True  # by the demonstrations' mean and deviation (not in the paper)
    hidden_sizes: tuple[Count, ...] = (256, 256)  # of the actor

    # --- speed ---
    cuda: bool = False  # learn on the GPU
    num_threads: Count = 2  # of torch on the CPU


def check(args, typed):
    """Refuse options that do nothing beside others."""
    if args.record_demos:
        unused(typed, "dataset_id demo_episodes demo_noise", "the demonstrations are yours")
        if args.dataset_id is None:
            require_screen()
    else:
        unused(typed, "keys", "nobody is at the keys without --record-demos")
    if args.dataset_id:
        unused(typed, "demo_noise", "a dataset is taken as it is")


# --- environment ----------------------------------------------------------------------------------


def make_env(env_id, max_episode_steps=None, **options):
    """The environment with flat observations, and actions in [-1, 1] or as one-hot vectors."""
    env = open_task(env_id, max_episode_steps, **options)  # gym.make, or one line on what is wrong
    env = gym.wrappers.FlattenObservation(env)
    return UnitActions(Checked(env))


# --- network --------------------------------------------------------------------------------------


class Actor(nn.Module):
    """Tanh-Gaussian policy."""

    heads, min_log_std = ("mean", "log_std"), -20.0

    def __init__(self, obs_dim, act_dim, hidden_sizes):
        super().__init__()
        self.act_dim, sizes = act_dim, [obs_dim, *hidden_sizes]
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes[:-1], sizes[1:]))
        for head in self.heads:
            self.add_module(head, nn.Linear(sizes[-1], act_dim))

    def standardize(self, obs):
        """See observations with the mean and standard deviation of these, (n, O)."""
        self.obs_mean.copy_(obs.mean(0))
        self.obs_std.copy_(obs.std(0).clamp_min(0.01))

    def features(self, obs):
        x = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        x = (x - self.obs_mean) / self.obs_std  # (B, O)
        for layer in self.layers:
            x = F.relu(layer(x))  # (B, hidden)
        return x

    def forward(self, obs):
        """Mean and log standard deviation before the tanh: (B, O) -> (B, A) each."""
        x = self.features(obs)
        return self.mean(x), self.log_std(x).clamp(self.min_log_std, 2)

    def log_prob(self, policy, actions):
        """ln pi(a|s) of actions (B, A) in [-0.999, 0.999] under policy = self(obs): (B,)."""
        mean, log_std = policy
        u = actions.atanh()  # (B, A), before the tanh
        log_normal = -0.5 * ((u - mean) / log_std.exp()).pow(2) - log_std
        log_normal = log_normal - 0.5 * math.log(2 * math.pi)
        log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))  # ln(d tanh(u) / du)
        return (log_normal - log_slope).sum(-1)

    @torch.no_grad()
    def act(self, obs, deterministic=False):
        """What is executed, kept off the edges of [-1, 1]: numpy (B, O) -> (B, A)."""
        mean, log_std = self(obs)
        u = mean if deterministic else mean + log_std.exp() * torch.randn_like(mean)
        return u.tanh().clamp(-MAX_ACTION, MAX_ACTION).cpu().numpy()


class CategoricalActor(Actor):
    """Policy over A discrete actions, which are one-hot vectors."""

    heads = ("logits",)

    def forward(self, obs):
        return self.logits(self.features(obs))  # (B, A)

    def log_prob(self, policy, actions):
        return (policy.log_softmax(-1) * actions).sum(-1)  # (B,)

    @torch.no_grad()
    def act(self, obs, deterministic=False):
        logits = self(obs)
        sampled = torch.distributions.Categorical(logits=logits).sample
        choice = logits.argmax(-1) if deterministic else sampled()  # (B,)
        return F.one_hot(choice, self.act_dim).float().cpu().numpy()


def make_actor(env, hidden_sizes):
    """An untrained policy for the environment's observations and actions."""
    sizes = *env.observation_space.shape, *env.action_space.shape, hidden_sizes
    return CategoricalActor(*sizes) if env.discrete else Actor(*sizes)


def nll(actor, obs, actions):
    """-ln pi(a|s), the mean over a batch: (B, O), (B, A) -> ()."""
    return -actor.log_prob(actor(obs), actions).mean()


# --- main -----------------------------------------------------------------------------------------


def main(args):
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    task = args.env_id, args.max_episode_steps
    if args.capture_video:
        check_rendering(make_env, *task)

    # demonstrations are recorded in the environment that the others learn in
    training = TRAINING_TASKS.get(args.env_id, args.env_id), args.max_episode_steps
    if args.record_demos and args.dataset_id is None:
        args = record_demonstrations(make_env(*training, render_mode="rgb_array"), args)
    env = make_env(*training)
    eval_envs = [make_env(*task) for _ in range(min(args.eval_episodes, 20))]
    demos = load_demonstrations(
        env, args.env_id, args.demo_episodes, args.dataset_id, args.demo_noise
    )
    obs, actions = (torch.from_numpy(demos[name]).to(device) for name in ("obs", "actions"))

    actor = make_actor(env, args.hidden_sizes)
    if args.standardize_obs:
        actor.standardize(obs)
    actor.to(device)
    options = {"weight_decay": args.weight_decay, "fused": True}
    optimizer = torch.optim.AdamW(actor.parameters(), args.learning_rate, **options)

    kept = {"actor": actor, "optimizer": optimizer}  # what learns
    global_step, losses, rows = 0, [], []  # losses: since the last of the rows of eval.csv
    folder, checkpoint = open_run(args)
    if checkpoint:
        restore(checkpoint, kept)
        global_step, losses, rows = checkpoint["progress"]
    writer = SummaryWriter(folder, purge_step=global_step + 1 if checkpoint else None)
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", dynamic_ncols=True)
    stop = Stop()
    while True:
        # A checkpoint, from which --resume goes on, and an evaluation
        over = global_step == args.total_timesteps
        evaluated = rows[-1]["global_step"] if rows else 0
        due = over or global_step // args.eval_frequency > evaluated // args.eval_frequency
        if due or stop.asked:
            save_run(folder, args, kept, (global_step, losses, rows))
            stop.heed()
        if due:
            fresh = seed_for(args.seed, 1, global_step)
            row = {"global_step": global_step, "train_loss": float(np.mean(losses))}
            row |= evaluate(args.env_id, actor, eval_envs, args.eval_episodes, fresh)
            rows.append(row | {"wall_seconds": run_seconds()})
            write_rows(folder, writer, rows)
            bar.set_postfix(score=f"{row[main_metric(rows)]:.0f}", loss=f"{row['train_loss']:.2f}")
            losses = []
        if over:
            break
        stop.wait()

        i = torch.randint(len(obs), (args.batch_size,)).to(device)
        loss = nll(actor, obs[i], actions[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise RunError(f"step {global_step}: learning broke down, the loss is {losses[-1]}")
        global_step += 1
        bar.update()

    bar.close()
    summary = {"gradient_steps": global_step, "demo_episodes": int(demos["ends"].sum())}
    summary |= {"demo_transitions": len(obs), "seconds": rows[-1]["wall_seconds"]}
    finish_run(folder, writer, args, rows, actor, **summary)
    if args.capture_video:
        film(make_env(*task, render_mode="rgb_array"), actor, folder, args.seed)


if __name__ == "__main__":
    with exit_codes():
        main(parse(Args, check))
