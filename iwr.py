"""IWR: intervention weighted regression: interventions count as much as all the rest. One file.

Paper: Mandlekar et al., 2020, https://arxiv.org/abs/2012.06733. The setting, and the person, are
those of MILE (Korkmaz and Biyik, ICRA 2025, https://arxiv.org/abs/2502.13519).

    python iwr.py                                                       # Meta-World's peg insertion
    python iwr.py --rounds 1 --round-episodes 15 --round-updates 1000   # MILE's single iteration
    python iwr.py --interventions-only                                  # HG-DAgger, in this setting
    python iwr.py --help                                                # every option
    python iwr.py --resume runs/<run>                                   # go on, to the bit

Read main() first, then weights(). In shapes: O observation size, A action size, B batch, T steps of
an episode.
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

from experts import MAX_ACTION, Checked, InputError, RunError, Stop, UnitActions, check_rendering
from experts import check_demonstrations, evaluate, exit_codes, film, finish_run
from experts import load_demonstrations, load_expert, main_metric, open_run, open_task, parse
from experts import restore, run_seconds, save_run, seed_for, write_rows
from experts.human import Person, check_person
from experts.options import Count, Finite, Natural, NonNegative, Positive, Seed


@dataclass
class Args:
    # --- run ---
    exp_name: str = "iwr"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: Seed = 1  # of everything: on the CPU, the same seed gives the same run to the bit
    resume: str | None = None  # go on with this folder, runs/<run>, and its options
    capture_video: bool = False  # at the end, film what it can do (python -m pip install moviepy)
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)

    # --- task ---
    env_id: str = "Meta-World/peg-insert-side-v3"  # or any, with Box or discrete actions
    max_episode_steps: Count | None = None  # of every episode; default: the environment's own limit
    rounds: Count = 20  # N: a round is some watched episodes, then training
    round_episodes: Count = 1  # k: episodes of a round
    eval_frequency: Count = 1  # rounds between evaluations
    eval_episodes: Count = 20  # of an evaluation by mean actions, and of one by sampled actions

    # --- person ---
    intervention: Literal["model", "human"] = "model"  # by MILE's Eq. 2, or you, in a window
    expert: str = "top"  # who takes over: a shipped level or a .safetensors file
    human_model: str = "mental"  # what the person expects of the robot: a level or a file
    intervention_cost: Finite = 16.0  # c, what it takes to take over: benchmark/person.py finds it
    intervention_scale: Positive = 10.0  # by which the advantage minus c is divided
    takeover_steps: Count = 1  # steps that the expert keeps control
    keys: str | None = None  # human: a file that says what they do, as experts/keys.toml
    replay: str | None = None  # human: the session that was recorded in this folder, runs/<run>

    # --- data ---
    initial_policy: str = "initial"  # what the robot can do at first: a level or a file
    demo_episodes: Natural = 0  # demonstrations to begin with, besides the initial policy
    dataset_id: str | None = None  # a Minari dataset; default: rollouts of the shipped top expert
    demo_noise: NonNegative = 0.0  # standard deviation of noise on these rollouts' actions

    # --- learner ---
    interventions_only: bool = False  # HG-DAgger: leave out what the robot did
    round_updates: Count = 100  # gradient steps after a round
    batch_size: Count = 1_024  # transitions per gradient step
    learning_rate: Positive = 1e-4  # Adam's
    min_std: Positive = 0.1  # lower limit of the policy's standard deviation, before the tanh

    # --- speed ---
    cuda: bool = False  # learn on the GPU
    num_threads: Count = 2  # of torch on the CPU


def check(args, typed):
    """Refuse options that do nothing beside others."""
    of_model = "expert human_model intervention_cost intervention_scale takeover_steps"
    check_person(args, typed, of_model)
    check_demonstrations(args, typed)


# --- environment ----------------------------------------------------------------------------------


def make_env(env_id, max_episode_steps=None, **options):
    """The environment with flat observations, and actions in [-1, 1] or as one-hot vectors."""
    env = open_task(env_id, max_episode_steps, **options)  # gym.make, or one line on what is wrong
    env = gym.wrappers.FlattenObservation(env)
    return UnitActions(Checked(env))


# --- intervention ---------------------------------------------------------------------------------


class ProbitHuman:
    """Takes over as MILE's Eq. 2 has it: by the state, whatever the robot proposes."""

    def __init__(self, args, expert, human_model):
        self.expert, self.human_model = expert, human_model  # pi, and what is expected of the robot
        self.cost, self.scale = args.intervention_cost, args.intervention_scale  # c, and the scale
        self.takeover_steps, self.began = args.takeover_steps, True  # each takeover is a new one

    def takes_over(self, obs, rng):
        """Does a takeover start at obs, (O,)?

        The advantage of an action a ~ pi: ln pi(a|s) - E_{a' ~ human model}[ln pi(a'|s)], how much
        better it is than what the person expects of the robot. Gaussians count before the tanh.
        """
        state = torch.as_tensor(obs, dtype=torch.float32)[None]  # (1, O)
        if self.expert.discrete:
            log_pi = self.expert(state)[0].log_softmax(-1)  # (A,)
            expected = (self.human_model(state)[0].softmax(-1) * log_pi).sum()
            gumbel = torch.from_numpy(rng.gumbel(size=len(log_pi)))
            advantage = log_pi[(log_pi + gumbel).argmax()] - expected
        else:
            mean, log_std = (x[0] for x in self.expert(state))  # (A,) each
            robot_mean, robot_log_std = (x[0] for x in self.human_model(state))
            # both logarithms have the same constants; -E[ln pi(a')] without them:
            surprise = (robot_mean - mean).pow(2) + (2 * robot_log_std).exp()
            surprise = surprise / (2 * (2 * log_std).exp())  # (A,)
            noise = torch.from_numpy(rng.standard_normal(len(mean)))  # a = mean + std * noise
            advantage = (surprise - noise.pow(2) / 2).sum()
        # true with probability Phi((advantage - c) / scale)
        return bool(advantage + self.scale * rng.standard_normal() > self.cost)


def rollout(env, actor, human, seed):
    """One episode of the policy's mean actions, watched by a human, or alone (None).

    It depends on them and the seed alone. Returns a dict: obs (T, O), actions (T, A) as executed,
    nu (T,), takeovers, success (0 or 1 at its last step, nan if it does not tell) and return.
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
                takeovers += int(human.began)  # at the keys it may be the same as a step before
            if t < expert_until:
                actions = human.expert.act(obs[None])[0].numpy()
            steps.append((obs, actions, t < expert_until))
            obs, reward, terminated, truncated, info = env.step(actions)
            episodic_return += reward
            ended = terminated or truncated
    obs, actions, nu = (torch.tensor(np.array(x), dtype=torch.float32) for x in zip(*steps))
    facts = {"success": info.get("success", math.nan), "return": episodic_return}
    return {"obs": obs, "actions": actions, "nu": nu, "takeovers": takeovers} | facts


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


def load_actor(env, policy):
    """A policy from a file, as one that can learn."""
    actor = make_actor(env, policy.facts["hidden_sizes"])
    actor.load_state_dict(policy.state)
    actor.min_log_std = policy.facts.get("min_log_std", actor.min_log_std)
    return actor


def weights(nu, interventions_only):
    """What each step's likelihood counts, (n,).

    Interventions count as much, in all, as the rest, whose weight is 1. Without the robot's steps
    everything counts alike.
    """
    share = nu.mean()
    if interventions_only or share == 0 or share == 1:
        return torch.ones_like(nu)
    return torch.where(nu > 0, (1 - share) / share, 1.0)


# --- main -----------------------------------------------------------------------------------------


def main(args):
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    task = args.env_id, args.max_episode_steps
    if args.capture_video:
        check_rendering(make_env, *task)
    env = make_env(*task)
    eval_envs = [make_env(*task) for _ in range(min(args.eval_episodes, 20))]
    policies = [load_expert(args.env_id, args.initial_policy, env)]
    if env.discrete and args.min_std != 0.1:
        raise InputError("--min-std does nothing where actions are discrete")
    actor = load_actor(env, policies[0])  # pi_theta
    actor.min_log_std = max(actor.min_log_std, math.log(args.min_std))
    actor.to(device)
    optimizer = torch.optim.Adam(actor.parameters(), args.learning_rate, fused=True)
    source = args.demo_episodes, args.dataset_id, args.demo_noise
    demos = load_demonstrations(env, args.env_id, *source)
    if args.intervention == "human":
        env = human = Person(make_env(*task, render_mode="rgb_array"), args)
    else:
        policies += [load_expert(args.env_id, x, env) for x in (args.expert, args.human_model)]
        human = ProbitHuman(args, *policies[1:])
    data = {name: torch.from_numpy(demos[name]) for name in ("obs", "actions")}  # (n, O), (n, A)
    data["nu"] = torch.zeros(len(data["obs"]))  # (n,), 1 where a person acted
    data = {name: values.to(device) for name, values in data.items()}

    kept = {"actor": actor, "optimizer": optimizer}  # what learns
    counts = {"expert_steps": 0, "takeovers": 0}
    global_step, rounds, rows = 0, 0, []  # rows: of eval.csv
    folder, checkpoint = open_run(args, policies)
    if checkpoint:
        restore(checkpoint, kept)
        global_step, rounds, rows, counts, data = checkpoint["progress"]
        data = {name: values.to(device) for name, values in data.items()}
    writer = SummaryWriter(folder, purge_step=global_step + 1 if checkpoint else None)
    bar = tqdm(total=args.rounds, initial=rounds, unit="round", dynamic_ncols=True)
    stop = Stop()
    while True:
        # Between two rounds: a checkpoint, from which --resume goes on, and an evaluation
        over = rounds == args.rounds
        before = rows[-1] if rows else {"global_step": 0, "round": 0} | dict.fromkeys(counts, 0)
        due = over or rounds // args.eval_frequency > before["round"] // args.eval_frequency
        if due or stop.asked:
            save_run(folder, args, kept, (global_step, rounds, rows, counts, data), policies)
            stop.heed()
        if due:
            row = {"global_step": global_step, "round": rounds, **counts}
            new = {name: row[name] - before[name] for name in row}  # since the last evaluation
            row["intervention_rate"] = new["expert_steps"] / new["global_step"]
            fresh = seed_for(args.seed, 1, global_step)
            row |= evaluate(args.env_id, actor, eval_envs, args.eval_episodes, fresh)
            rows.append(row | {"wall_seconds": run_seconds()})
            write_rows(folder, writer, rows)
            shown = {"interventions": f"{row['intervention_rate']:.0%}"}
            bar.set_postfix(score=f"{row[main_metric(rows)]:.0f}", **shown)
        if over:
            break
        stop.wait()

        # The robot acts, the person takes over, for k episodes. (MILE, section III)
        first = rounds * args.round_episodes
        seeds = [seed_for(args.seed, 0, first + i) for i in range(args.round_episodes)]
        episodes = [rollout(env, actor, human, seed) for seed in seeds]
        new = {name: torch.cat([one[name] for one in episodes]).to(device) for name in data}
        global_step += len(new["obs"])
        if args.interventions_only:
            new = {name: values[new["nu"] > 0] for name, values in new.items()}
        data = {name: torch.cat([data[name], new[name]]) for name in data}
        counts["expert_steps"] += int(sum(episode["nu"].sum() for episode in episodes))
        counts["takeovers"] += sum(episode["takeovers"] for episode in episodes)

        # Clone all steps by their weights, from where the policy stands.
        weight = weights(data["nu"], args.interventions_only)  # (n,)
        for _ in range(args.round_updates if len(weight) else 0):
            i = torch.randint(len(data["obs"]), (args.batch_size,)).to(device)
            log_pi = actor.log_prob(actor(data["obs"][i]), data["actions"][i])  # (B,)
            loss = -(weight[i] * log_pi).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not math.isfinite(loss.item()):
                raise RunError(f"round {rounds}: learning broke down, the loss is {loss}")
        if len(weight):
            writer.add_scalar("losses/nll", loss, global_step)
        rounds += 1
        bar.update()

    bar.close()
    summary = {"demo_episodes": int(demos["ends"].sum()), "demo_transitions": len(demos["rewards"])}
    summary |= {"env_steps": global_step, "rounds": rounds, **counts}
    summary["seconds"] = rows[-1]["wall_seconds"]
    finish_run(folder, writer, args, rows, actor, **summary)
    if args.capture_video:
        film(make_env(*task, render_mode="rgb_array"), actor, folder, args.seed, human)


if __name__ == "__main__":
    with exit_codes():
        main(parse(Args, check))
