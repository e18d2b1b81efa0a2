"""DAgger: the novice acts, the expert says afterwards what it would have done; that is cloned.

Paper: Ross, Gordon and Bagnell, AISTATS 2011, https://arxiv.org/abs/1011.0686; "Alg. 3.1" is its.
Which steps get a label follows its use as a baseline of RLIF (Luo et al., ICLR 2024,
https://arxiv.org/abs/2311.12996): those where expert and novice differ, a random share, or all.

    python dagger.py                          # Hopper-v5, an expert of 16 %: about two minutes
    python dagger.py --expert top             # a good expert
    python dagger.py --help                   # every option
    python dagger.py --resume runs/<run>      # go on after a stop, to the bit

Read main() first: its loop is Algorithm 3.1. Then choose_labels() (which steps get a label) and
nll(). In shapes: O observation size, A action size, B batch.
"""

import math
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import MAX_ACTION, TRAINING_TASKS, Checked, InputError, RunError, Stop, UnitActions
from experts import check_demonstrations, check_rendering, evaluate, exit_codes, film, finish_run
from experts import load_demonstrations, load_expert, main_metric, open_run, open_task, parse
from experts import restore, run_seconds, save_run, seed_for, unused, write_rows
from experts.options import Count, Natural, NonNegative, Percentage, Positive, Seed, Share


@dataclass
class Args:
    # --- run ---
    exp_name: str = "dagger"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: Seed = 1  # of everything: on the CPU, the same seed gives the same run to the bit
    resume: str | None = None  # go on with this folder, runs/<run>, and its options
    capture_video: bool = False  # at the end, film what it can do (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)

    # --- task ---
    env_id: str = "Hopper-v5"  # any Gymnasium environment, but for images
    max_episode_steps: Count | None = None  # of every episode; default: the environment's own limit
    total_timesteps: Count = 50_000  # environment steps; the round that reaches them is the last
    eval_frequency: Count = 5_000  # steps: evaluated after the round that passes a multiple of this
    eval_episodes: Count = 20  # of an evaluation by mean actions, and of one by sampled actions

    # --- person ---
    expert: str = "low"  # who labels: a shipped level or a .safetensors file
    # which steps: those where the two actions differ, a random share, all
    labels: Literal["threshold", "random", "all"] = "threshold"
    # tau, an L1 distance of actions; default: what 95 % of the expert's own pairs stay below
    threshold: NonNegative | None = None
    label_beta: Share = 0.95  # threshold: probability of a label if so; 1 - this if not
    random_rate: Percentage = 50.0  # random: percentage of the steps that get a label
    mixture_decay: Share = 0.0  # the expert acts with probability this^i in round i (0: never)

    # --- data ---
    demo_episodes: Natural = 50  # demonstrations to begin with; 0: none
    dataset_id: str | None = None  # a Minari dataset; default: rollouts of the shipped top expert
    demo_noise: NonNegative = 0.09  # standard deviation of noise on these rollouts' actions
    round_episodes: Count = 5  # episodes of a round

    # --- learner ---
    pretrain_updates: Natural = 10_000  # gradient steps on the demonstrations, at first
    round_updates: Count = 2_500  # gradient steps after a round, from where the policy stands
    batch_size: Count = 256  # transitions per gradient step
    learning_rate: Positive = 3e-4  # AdamW's
    weight_decay: NonNegative = 1e-3  # AdamW's
    standardize_obs: bool = True  # by the demonstrations' mean and deviation (not in the paper)
    hidden_sizes: tuple[Count, ...] = (256, 256)  # of the actor

    # --- speed ---
    cuda: bool = False  # learn on the GPU
    num_threads: Count = 2  # of torch on the CPU


def check(args, typed):
    """Refuse options that contradict each other, and those that do nothing beside others."""
    if args.labels != "threshold":
        why = f"--labels {args.labels} does not judge by distance"
        unused(typed, "threshold label_beta", why)
    elif args.threshold is None and not args.demo_episodes:
        raise InputError("--threshold is needed where no demonstrations are there to choose it by")
    if args.labels != "random":
        unused(typed, "random_rate", f"--labels {args.labels} does not label at random")
    check_demonstrations(args, typed, "standardize_obs pretrain_updates")


# --- environment ----------------------------------------------------------------------------------


def make_env(env_id, max_episode_steps=None, **options):
    """The environment with flat observations, and actions in [-1, 1] or as one-hot vectors."""
    env = open_task(env_id, max_episode_steps, **options)  # gym.make, or one line on what is wrong
    env = gym.wrappers.FlattenObservation(env)
    return UnitActions(Checked(env))


# --- intervention ---------------------------------------------------------------------------------


def choose_labels(args, threshold, proposals, labels, rng):
    """Which of the novice's sampled actions get the expert's as a label: (n, A) each -> (n,)."""
    draws = rng.random(len(labels))  # (n,)
    if args.labels == "all":
        return np.ones(len(labels), dtype=bool)
    if args.labels == "random":
        return draws < args.random_rate / 100
    differ = np.abs(labels - proposals).sum(-1) >= threshold
    return draws < np.where(differ, args.label_beta, 1 - args.label_beta)


def own_spread(expert, obs):
    """The L1 distance that 95 % of the expert's pairs of actions at these (n, O) stay below.

    The default of tau: what is farther away is not what this expert might have done itself. Two
    different one-hot vectors are 2 apart, so a discrete action differs wherever it is another one.
    """
    if expert.discrete:
        return 2.0
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the same expert and demonstrations, the same tau
        distances = (expert.act(obs) - expert.act(obs)).abs().sum(-1)  # (n,)
    return float(distances.quantile(0.95))


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


def fit(actor, optimizer, obs, actions, updates, batch_size):
    """Gradient steps of maximum likelihood on minibatches of (n, O), (n, A); the mean loss."""
    total = 0.0
    for _ in range(updates):
        i = torch.randint(len(obs), (batch_size,), device=obs.device)
        loss = nll(actor, obs[i], actions[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    if not math.isfinite(total):
        raise RunError("learning broke down: the loss is not finite")
    return total / max(1, updates)


# --- main -----------------------------------------------------------------------------------------


def main(args):
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    task = args.env_id, args.max_episode_steps
    if args.capture_video:
        check_rendering(make_env, *task)

    env = make_env(TRAINING_TASKS.get(args.env_id, args.env_id), args.max_episode_steps)
    eval_envs = [make_env(*task) for _ in range(min(args.eval_episodes, 20))]
    expert = load_expert(args.env_id, args.expert, env)
    source = args.demo_episodes, args.dataset_id, args.demo_noise
    demos = load_demonstrations(env, args.env_id, *source)
    obs, actions = torch.from_numpy(demos["obs"]), torch.from_numpy(demos["actions"])
    threshold = args.threshold
    if args.labels == "threshold" and threshold is None:
        threshold = own_spread(expert, obs)
    data = {"obs": obs.to(device), "actions": actions.to(device)}  # D: (n, O), (n, A)

    actor = make_actor(env, args.hidden_sizes)
    if args.standardize_obs and len(obs):
        actor.standardize(obs)
    actor.to(device)
    options = {"weight_decay": args.weight_decay, "fused": True}
    optimizer = torch.optim.AdamW(actor.parameters(), args.learning_rate, **options)

    kept = {"actor": actor, "optimizer": optimizer, "rng": rng}  # what learns or draws
    counts = {"labels": 0, "expert_steps": 0, "takeovers": 0}
    global_step, rounds, rows = 0, 0, []  # rows: of eval.csv
    folder, checkpoint = open_run(args, [expert])
    if checkpoint:
        restore(checkpoint, kept)
        global_step, rounds, rows, counts, data = checkpoint["progress"]
        data = {name: values.to(device) for name, values in data.items()}
    writer = SummaryWriter(folder, purge_step=global_step + 1 if checkpoint else None)
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", dynamic_ncols=True)
    stop = Stop()
    if not checkpoint and len(obs):  # the first policy (Alg. 3.1, line 2)
        bar.set_description("cloning the demonstrations")
        fit(actor, optimizer, data["obs"], data["actions"], args.pretrain_updates, args.batch_size)
        bar.set_description(None)
    while True:
        # Between two rounds: a checkpoint, from which --resume goes on, and an evaluation
        over = global_step >= args.total_timesteps
        before = rows[-1] if rows else {"global_step": 0} | dict.fromkeys(counts, 0)
        passed = global_step // args.eval_frequency - before["global_step"] // args.eval_frequency
        due = over or passed > 0
        if due or stop.asked:
            progress = global_step, rounds, rows, counts, data
            save_run(folder, args, kept, progress, [expert])
            stop.heed()
        if due:
            row = {"global_step": global_step, **counts}
            new = {name: row[name] - before[name] for name in row}  # since the last evaluation
            row["label_rate"] = new["labels"] / new["global_step"]
            row["intervention_rate"] = new["expert_steps"] / new["global_step"]
            fresh = seed_for(args.seed, 1, global_step)
            row |= evaluate(args.env_id, actor, eval_envs, args.eval_episodes, fresh)
            rows.append(row | {"wall_seconds": run_seconds()})
            write_rows(folder, writer, rows)
            bar.set_postfix(score=f"{row[main_metric(rows)]:.0f}", labels=counts["labels"])
        if over:
            break
        stop.wait()

        # Sample trajectories of the novice, or of its mixture with the expert. (Alg. 3.1, line 5)
        visited, proposals = [], []
        for i in range(args.round_episodes):
            obs, _ = env.reset(seed=seed_for(args.seed, 0, rounds * args.round_episodes + i))
            ended, episodic_return = False, 0.0
            while not ended:
                actions = actor.act(obs[None])[0]  # (A,)
                visited.append(obs)
                proposals.append(actions)
                if args.mixture_decay and rng.random() < args.mixture_decay**rounds:
                    actions = expert.act(obs[None])[0].numpy()
                    counts["expert_steps"] += 1
                obs, task_reward, terminated, truncated, _ = env.step(actions)
                episodic_return += task_reward
                ended = terminated or truncated
                global_step += 1
                bar.update()
            writer.add_scalar("charts/episodic_return", episodic_return, global_step)
        # Get the expert's actions there and aggregate. (Alg. 3.1, lines 6 and 7)
        visited, proposals = np.array(visited, dtype=np.float32), np.array(proposals)
        labels = expert.act(visited)  # (n, A)
        chosen = choose_labels(args, threshold, proposals, labels.numpy(), rng)  # (n,)
        new_obs, new_actions = torch.from_numpy(visited[chosen]), labels[torch.from_numpy(chosen)]
        data["obs"] = torch.cat([data["obs"], new_obs.to(device)])
        data["actions"] = torch.cat([data["actions"], new_actions.to(device)])
        counts["labels"] += int(chosen.sum())
        # Train on all of it. (Alg. 3.1, line 8)
        if len(data["obs"]):
            updates = args.round_updates, args.batch_size
            loss = fit(actor, optimizer, data["obs"], data["actions"], *updates)
            writer.add_scalar("losses/nll", loss, global_step)
        rounds += 1

    bar.close()
    summary = {"demo_episodes": int(demos["ends"].sum()), "demo_transitions": len(demos["rewards"])}
    summary |= {"env_steps": global_step, **counts, "rounds": rounds, "threshold": threshold}
    summary["seconds"] = rows[-1]["wall_seconds"]
    finish_run(folder, writer, args, rows, actor, **summary)
    if args.capture_video:
        film(make_env(*task, render_mode="rgb_array"), actor, folder, args.seed)


if __name__ == "__main__":
    with exit_codes():
        main(parse(Args, check))
