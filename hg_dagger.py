"""HG-DAgger: the expert takes over when it sees fit, and what it does then is cloned. One file.

Paper: Kelly et al., ICRA 2019, https://arxiv.org/abs/1810.02890; "Alg. 1" is its.
When the expert takes over follows its use as a baseline of RLIF (Luo et al., ICLR 2024,
https://arxiv.org/abs/2311.12996): where the two actions differ, by value as in rlif_rlpd.py, or at
random. In MILE's setting it is `iwr.py --interventions-only`.

    python hg_dagger.py                          # Hopper-v5, an expert of 16 %: about ten minutes
    python hg_dagger.py --intervention value     # the same person as in rlif_rlpd.py
    python hg_dagger.py --help                   # every option
    python hg_dagger.py --resume runs/<run>      # go on after a stop, to the bit

Read main() first: its loop is Algorithm 1. Then ThresholdHuman (when to intervene), nll() and
doubt(). In shapes: O observation size, A action size, B batch, M novices.
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
from experts.human import Person, check_person
from experts.options import Count, Finite, Natural, NonNegative, Percentage, Positive, Seed, Share


@dataclass
class Args:
    # --- run ---
    exp_name: str = "hg_dagger"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
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
    expert: str = "low"  # who takes over: a shipped level or a .safetensors file
    # when: where the two actions differ, by value (RLIF's Eq. 1), at random, or when you do
    intervention: Literal["threshold", "value", "random", "human"] = "threshold"
    # tau, an L1 distance of actions; default: what 95 % of the expert's own pairs stay below
    threshold: NonNegative | None = None
    reference: str = "top"  # value: whose policy and Q function judge
    intervention_alpha: Finite = 0.995  # bad: Q(s, a) < Q(s, a_ref) - (1 - this) |Q(s, a_ref)|
    intervention_delta: Finite = 0.0  # and this, Eq. 1's delta, less; in units of Q
    intervention_beta: Share = 0.95  # probability of a takeover if flagged as bad; 1 - this if not
    random_rate: Percentage = 50.0  # random: percentage of the steps under expert control
    takeover_steps: Count = 4  # steps that the expert keeps control
    keys: str | None = None  # human: a file that says what they do, as experts/keys.toml
    replay: str | None = None  # human: the session that was recorded in this folder, runs/<run>
    doubt_novices: Natural = 2  # more novices, trained alike, whose disagreement is the doubt

    # --- data ---
    initial_policy: str | None = None  # to begin with; default: clone the demonstrations
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
    of_persons = {
        "threshold": "threshold intervention_beta",
        "value": "reference intervention_alpha intervention_delta intervention_beta",
        "random": "random_rate",
        "human": "",
    }
    own = of_persons[args.intervention].split()
    for person, names in of_persons.items():
        others = " ".join(name for name in names.split() if name not in own)
        unused(typed, others, f"it belongs to --intervention {person}")
    check_person(args, typed, "expert takeover_steps")
    if args.intervention == "threshold" and args.threshold is None and not args.demo_episodes:
        raise InputError("--threshold is needed where no demonstrations are there to choose it by")
    check_demonstrations(args, typed, "standardize_obs pretrain_updates")
    if args.initial_policy:
        why = "an --initial-policy is taken as it is"
        unused(typed, "standardize_obs hidden_sizes pretrain_updates", why)


# --- environment ----------------------------------------------------------------------------------


def make_env(env_id, max_episode_steps=None, **options):
    """The environment with flat observations, and actions in [-1, 1] or as one-hot vectors."""
    env = open_task(env_id, max_episode_steps, **options)  # gym.make, or one line on what is wrong
    env = gym.wrappers.FlattenObservation(env)
    return UnitActions(Checked(env))


# --- intervention ---------------------------------------------------------------------------------


class ThresholdHuman:
    """Takes over where the novice's proposal is far from what the expert would do."""

    grace_steps = 1  # steps of the novice after a takeover that are not checked (official code)

    def __init__(self, args, expert, threshold, rng):
        self.args, self.expert, self.threshold, self.rng = args, expert, threshold, rng

    def check(self, obs, proposal):
        """Flagged as bad? Does a takeover start, and how long? (O,), (A,) -> bool, bool, steps."""
        distance = np.abs(self.expert.act(obs[None])[0].numpy() - proposal).sum()
        flagged = bool(distance >= self.threshold)
        chance = self.args.intervention_beta if flagged else 1 - self.args.intervention_beta
        started = self.rng.random() < chance
        return flagged, started, self.args.takeover_steps if started else 0


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


class ValueHuman:
    """Takes over where a reference Q function finds the novice's proposal bad (RLIF, Eq. 1)."""

    grace_steps = 1  # steps of the novice after a takeover that are not checked (official code)

    def __init__(self, args, reference, rng):
        self.args, self.reference, self.rng = args, reference, rng

    def check(self, obs, proposal):
        """Flagged as bad? Does a takeover start, and how long? (O,), (A,) -> bool, bool, steps."""
        obs = torch.as_tensor(obs, dtype=torch.float32)[None]  # (1, O)
        actions = torch.cat([torch.as_tensor(proposal)[None], self.reference.act(obs)])  # (2, A)
        q_novice, q_reference = self.reference.q(obs.expand(2, -1), actions).tolist()
        # relative to |Q|, for alpha * Q would turn its meaning round where Q < 0
        margin = (1 - self.args.intervention_alpha) * abs(q_reference)
        flagged = q_novice < q_reference - margin - self.args.intervention_delta  # Eq. 1
        chance = self.args.intervention_beta if flagged else 1 - self.args.intervention_beta
        started = self.rng.random() < chance
        return flagged, started, self.args.takeover_steps if started else 0


class RandomHuman:
    """Takes over at random, and acts in a share p = random_rate / 100 of the steps."""

    grace_steps = 0

    def __init__(self, args, rng):
        # takeovers of k steps hold that share if k (1 - p) / p steps of the novice lie between two
        k, p, self.rng = args.takeover_steps, args.random_rate / 100, rng
        self.takeover_steps = k
        self.chance = 1 / (1 + k * (1 - p) / p)

    def check(self, obs, proposal):
        """Flags nothing; does a takeover start, and how long? (O,), (A,) -> bool, bool, steps."""
        started = self.rng.random() < self.chance
        return False, started, self.takeover_steps if started else 0


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


def doubt(novices, obs):
    """Kelly et al.'s doubt: the norm of the variances of the novices' mean actions, at one (O,)."""
    actions = [novice.act(obs[None], deterministic=True)[0] for novice in novices]  # M of (A,)
    return float(np.linalg.norm(np.var(actions, axis=0)))


def risk_threshold(doubts):
    """Kelly et al.'s risk threshold: the mean of the last quarter of the doubts at takeovers."""
    return float(np.mean(doubts[-max(1, len(doubts) // 4) :])) if doubts else math.nan


# --- main -----------------------------------------------------------------------------------------


def main(args):
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    device = torch.device("cuda" if args.cuda else "cpu")
    task = args.env_id, args.max_episode_steps
    if args.capture_video:
        check_rendering(make_env, *task)

    training = TRAINING_TASKS.get(args.env_id, args.env_id), args.max_episode_steps
    env = make_env(*training)
    eval_envs = [make_env(*task) for _ in range(min(args.eval_episodes, 20))]
    source = args.demo_episodes, args.dataset_id, args.demo_noise
    demos = load_demonstrations(env, args.env_id, *source)
    obs, actions = torch.from_numpy(demos["obs"]), torch.from_numpy(demos["actions"])
    data = {"obs": obs.to(device), "actions": actions.to(device)}  # D: (n, O), (n, A)
    policies, threshold = [], args.threshold
    if args.intervention == "human":
        env = expert = human = Person(make_env(*training, render_mode="rgb_array"), args)
    else:
        expert = load_expert(args.env_id, args.expert, env)
        policies = [expert]
    if args.intervention == "threshold":
        threshold = own_spread(expert, obs) if threshold is None else threshold
        human = ThresholdHuman(args, expert, threshold, rng)
    elif args.intervention == "value":
        policies.append(load_expert(args.env_id, args.reference, env, with_q=True))
        human = ValueHuman(args, policies[-1], rng)
    elif args.intervention == "random":
        human = RandomHuman(args, rng)

    novices = [make_actor(env, args.hidden_sizes) for _ in range(1 + args.doubt_novices)]
    if args.initial_policy:
        policies.append(load_expert(args.env_id, args.initial_policy, env))
        novices = [load_actor(env, policies[-1]) for _ in novices]
    actor = novices[0]  # the one that acts
    optimizers = []
    for novice in novices:
        if args.standardize_obs and len(obs) and not args.initial_policy:
            novice.standardize(obs)
        novice.to(device)
        options = {"weight_decay": args.weight_decay, "fused": True}
        optimizers.append(torch.optim.AdamW(novice.parameters(), args.learning_rate, **options))

    kept = {"rng": rng}  # what learns or draws
    kept |= {f"novice_{m}": novice for m, novice in enumerate(novices)}
    kept |= {f"optimizer_{m}": optimizer for m, optimizer in enumerate(optimizers)}
    counts = {"labels": 0, "takeovers": 0, "expert_steps": 0, "checks": 0, "flags": 0}
    global_step, rounds, rows, doubts = 0, 0, [], []  # rows: of eval.csv; doubts: at takeovers
    folder, checkpoint = open_run(args, policies)
    if checkpoint:
        restore(checkpoint, kept)
        global_step, rounds, rows, counts, doubts, data = checkpoint["progress"]
        data = {name: values.to(device) for name, values in data.items()}
    writer = SummaryWriter(folder, purge_step=global_step + 1 if checkpoint else None)
    bar = tqdm(total=args.total_timesteps, initial=global_step, unit="step", dynamic_ncols=True)
    stop = Stop()
    if not checkpoint and len(obs) and not args.initial_policy:  # the first policy, of Alg. 1
        bar.set_description("cloning the demonstrations")
        for novice, optimizer in zip(novices, optimizers):
            updates = args.pretrain_updates, args.batch_size
            fit(novice, optimizer, data["obs"], data["actions"], *updates)
        bar.set_description(None)
    while True:
        # Between two rounds: a checkpoint, from which --resume goes on, and an evaluation
        over = global_step >= args.total_timesteps
        before = rows[-1] if rows else {"global_step": 0} | dict.fromkeys(counts, 0)
        passed = global_step // args.eval_frequency - before["global_step"] // args.eval_frequency
        due = over or passed > 0
        if due or stop.asked:
            progress = global_step, rounds, rows, counts, doubts, data
            save_run(folder, args, kept, progress, policies)
            stop.heed()
        if due:
            row = {"global_step": global_step, **counts}
            new = {name: row[name] - before[name] for name in row}  # since the last evaluation
            row["intervention_rate"] = new["expert_steps"] / new["global_step"]
            row["flagged_rate"] = new["flags"] / max(1, new["checks"])
            row["risk_threshold"] = risk_threshold(doubts)
            fresh = seed_for(args.seed, 1, global_step)
            row |= evaluate(args.env_id, actor, eval_envs, args.eval_episodes, fresh)
            rows.append(row | {"wall_seconds": run_seconds()})
            write_rows(folder, writer, rows)
            shown = {"interventions": f"{row['intervention_rate']:.0%}"}
            bar.set_postfix(score=f"{row[main_metric(rows)]:.0f}", **shown)
        if over:
            break
        stop.wait()

        # The novice acts until the expert takes over; its steps are kept. (Alg. 1, the rollouts)
        visited, executed = [], []
        for i in range(args.round_episodes):
            obs, _ = env.reset(seed=seed_for(args.seed, 0, rounds * args.round_episodes + i))
            t, expert_until, next_check = 0, 0, 0  # steps of this episode
            ended, episodic_return = False, 0.0
            while not ended:
                actions = actor.act(obs[None])[0]  # (A,)
                if t >= next_check:
                    flagged, started, steps = human.check(obs, actions)
                    counts["checks"] += 1
                    counts["flags"] += flagged
                    if started and steps:  # a person may also only say that it was bad
                        counts["takeovers"] += 1
                        doubts.append(doubt(novices, obs))
                    if steps:
                        expert_until, next_check = t + steps, t + steps + human.grace_steps
                if t < expert_until:
                    actions = expert.act(obs[None])[0].numpy()  # (A,)
                    counts["expert_steps"] += 1
                    visited.append(obs)
                    executed.append(actions)
                obs, task_reward, terminated, truncated, _ = env.step(actions)
                episodic_return += task_reward
                ended = terminated or truncated
                t, global_step = t + 1, global_step + 1
                bar.update()
            writer.add_scalar("charts/episodic_return", episodic_return, global_step)
        if visited:  # D <- D and D_j (Alg. 1)
            new_obs = torch.from_numpy(np.array(visited, dtype=np.float32))  # (n, O)
            new_actions = torch.from_numpy(np.array(executed))  # (n, A)
            data["obs"] = torch.cat([data["obs"], new_obs.to(device)])
            data["actions"] = torch.cat([data["actions"], new_actions.to(device)])
            counts["labels"] += len(visited)
        # Train on D, which is all of it. (Alg. 1)
        if len(data["obs"]):
            for novice, optimizer in zip(novices, optimizers):
                updates = args.round_updates, args.batch_size
                loss = fit(novice, optimizer, data["obs"], data["actions"], *updates)
            writer.add_scalar("losses/nll", loss, global_step)
        rounds += 1

    bar.close()
    summary = {"demo_episodes": int(demos["ends"].sum()), "demo_transitions": len(demos["rewards"])}
    summary |= {"env_steps": global_step, **counts, "rounds": rounds, "threshold": threshold}
    summary["seconds"] = rows[-1]["wall_seconds"]
    finish_run(folder, writer, args, rows, actor, **summary)
    if args.capture_video:
        film(make_env(*task, render_mode="rgb_array"), actor, folder, args.seed, human, expert)


if __name__ == "__main__":
    with exit_codes():
        main(parse(Args, check))
