"""Trains the shipped experts; every file in experts/ comes from one of these commands.

    python -m experts.train --env-id Hopper-v5 --level top --dataset-id <Minari demonstrations of a good agent>
    python -m experts.train --env-id Hopper-v5 --level middle
    python -m experts.train --env-id Hopper-v5 --level low

experts/README.md lists the shipped files; RECIPES holds what each command does. A top expert is cloned from
demonstrations; where the clone falls too often, reinforcement learning on the true reward goes on from it. The other
levels are cloned from a few transitions of the top expert (RLIF: policies trained on subsampled datasets).
On MILE's tasks, Meta-World and LunarLander, all comes from a scripted policy (see distil). A file that is there already
is replaced only if --output names it.

Some levels come with critics, the reference Q functions. They are trained on the true reward by policy evaluation:
RLPD's critic update with the actor held fixed, on rollouts that are disturbed for a while and then left to the policy
again, so that they know what a bad action costs.

An expert by RLPD alone, on the environment's own reward:

    python rlif_rlpd.py --reward task --intervention none --offline-ratio 0.5 --dataset-id <demonstrations>
"""

import copy
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm, trange

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for python experts/train.py

import bc
import rlif_rlpd
from experts import FOLDER, MAX_ACTION, InputError, RunError, evaluate, list_experts
from experts import load_demonstrations, load_expert, main_metric, normalized_score, save_expert
from experts import seed_for
from experts.speed import compiled

NOISE = 0.1  # standard deviation of every policy, before the tanh
POOL = 50_000  # transitions of the top expert, from which the subsamples are taken
EVALUATE_EVERY = 5_000  # steps of reinforcement learning
FEW_LESSONS = {"disturbances": (0.0,), "label_noise": 0.0, "updates": 1_000}
BEGINNERS = {  # of MILE's tasks: on Meta-World they stop learning early, on LunarLander they see little
    "Meta-World/peg-insert-side-v3": {"lessons": 60, "updates": 150},
    "Meta-World/drawer-open-v3": {"lessons": 60, "updates": 30},
    "Meta-World/button-press-v3": {"lessons": 60, "updates": 7, "seed": 4},
    "LunarLander-v3": {"lessons": 3, "seed": 2, **FEW_LESSONS},
    "LunarLanderContinuous-v3": {"lessons": 2, "seed": 3, **FEW_LESSONS},
}
# Subsamples were tried until the score lay in its level's band, and then measured on new episodes.
RECIPES = {
    ("Hopper-v5", "top"): {"min_score": 100.0, "critics": True},
    ("Hopper-v5", "middle"): {"transitions": 1_000, "seed": 6},
    ("Hopper-v5", "low"): {"transitions": 700, "seed": 7},
    ("Walker2d-v5", "top"): {
        "min_score": 93.0, "improve_steps": 300_000, "final_hold": 0.0, "bf16": True, "critics": True,
        "weak_clones": (300, 500, 1_000, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 7_000),
        "critic_transitions": 300_000,
    },
    ("Walker2d-v5", "high"): {"transitions": 6_000, "seed": 2, "bf16": True, "critics": True},
    ("Walker2d-v5", "middle"): {"transitions": 4_000, "seed": 1},
    ("Walker2d-v5", "low"): {"transitions": 2_000, "seed": 1},
    ("Walker2d-v5", "poor"): {"transitions": 300, "seed": 1, "bf16": True, "critics": True},
    ("AdroitHandPen-v1", "top"): {
        "min_score": 97.0, "improve_steps": 30_000, "reward_scale": 0.001, "critics": True,
        "weak_clones": (30, 50, 70, 100, 150, 200, 300, 500, 1_000, 2_000),
        "critic_transitions": 300_000, "critic_steps": 50_000,
    },
    ("AdroitHandPen-v1", "middle"): {"transitions": 300, "seed": 2},
    ("AdroitHandPen-v1", "low"): {"transitions": 50, "seed": 2},
    **{(id, "mental"): {"lessons": 20, "updates": 2_000} for id in BEGINNERS},
    **{(id, "initial"): recipe for id, recipe in BEGINNERS.items()},
    ("LunarLander-v3", "top"): {"label_noise": 0.02},
}  # fmt: skip


@dataclass
class Args:
    """The defaults of a shipped level are its recipe."""

    env_id: str = "Hopper-v5"
    # top: cloned from --dataset-id; high, middle, low, poor: cloned from the top expert's rollouts. Meta-World and
    # LunarLander have others: top and initial, cloned from the scripted policy, and mental, from the initial policy
    level: str = "low"
    dataset_id: str | None = None  # top (not of Meta-World and LunarLander): Minari demonstrations
    min_score: float = -np.inf  # with --dataset-id: clone the episodes of this score or more
    improve_steps: int = 0  # with --dataset-id: steps of reinforcement learning from the clone
    final_hold: float = 1.0  # what is left of the hold on the demonstrations after these steps
    transitions: int = 1_000  # high, middle, low, poor: size of the subsample
    lessons: int = 120  # Meta-World, LunarLander: episodes to clone
    # these, but not mental: noise on the actions done, from episode to episode
    disturbances: tuple[float, ...] = (0.0, 0.1, 0.3, 0.6)
    label_noise: float = 0.2  # these, but not mental: noise on the actions cloned
    updates: int = 12_000  # these: gradient steps of cloning
    seed: int = 1
    critics: bool = False  # train critics as well (not for Meta-World and LunarLander)
    critic_transitions: int = 200_000  # disturbed rollouts to train them on
    critic_steps: int = 40_000  # gradient steps
    weak_clones: tuple[int, ...] = ()  # clones of so few transitions disturb as well
    num_qs: int = 5  # critics
    reward_scale: float = 0.01  # so that Q is of order 1 while learning
    bf16: bool = False  # bfloat16 in the hidden layers' products
    output: str | None = None  # default: experts/<env_id>/<level>.safetensors, if there is none yet


def clone(obs, actions):
    """Behavioural cloning of obs (n, O) and actions (n, A) by the squared error of the mean action."""
    steps, batch_size = (3_000, 256) if len(obs) < 10_000 else (9_000, 1024)
    actor = rlif_rlpd.Actor(obs.shape[1], actions.shape[1], (256, 256))
    actor.obs_mean.copy_(obs.mean(0))
    actor.obs_std.copy_(obs.std(0).clamp_min(0.01))
    torch.nn.init.zeros_(actor.log_std.weight)
    torch.nn.init.constant_(actor.log_std.bias, np.log(NOISE))
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in trange(steps, desc="cloning"):
        i = torch.randint(len(obs), (batch_size,))
        loss = (actor(obs[i])[0].tanh() - actions[i]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return actor.requires_grad_(False)


def subsample(data, size):
    """So many of the observations (size, O) and actions (size, A) in data, at random."""
    i = torch.randperm(len(data["obs"]))[:size]
    return data["obs"][i], data["actions"][i]


def rollouts(env_id, act, transitions, seed, disturb, others=()):
    """Transitions of a policy, with true rewards: a dict of tensors, obs (n, O), actions (n, A), rewards (n,), ...

    If disturbed: in spells of 1 to 40 steps the actions get a drift and noise of random size. Half of the episodes
    begin with one; after each the policy is left alone for 50 steps on average. Given other policies, one of them acts
    instead for up to 100 steps, in half of the spells.
    """
    rng, env = np.random.default_rng(seed), rlif_rlpd.make_env(env_id)
    data = {"obs": [], "next_obs": [], "actions": [], "rewards": [], "terminations": []}
    bar = tqdm(total=transitions, desc="rollouts")
    episode = 0
    while len(data["obs"]) < transitions:
        obs, _ = env.reset(seed=seed_for(seed, episode))
        episode += 1
        spell_left = 0  # steps that are still to be disturbed
        chance = 0.5  # that a spell begins with this step
        ended = False
        while not ended:
            action = act(obs[None])[0]  # (A,)
            if disturb and spell_left == 0 and rng.random() < chance:
                spell_left = rng.integers(1, 41)
                drift, scale = rng.normal(size=len(action)), rng.random()
                other = None
                if others and rng.random() < 0.5:
                    other = others[rng.integers(len(others))]
                    spell_left = rng.integers(1, 101)
            if spell_left > 0:
                spell_left -= 1
                if other is not None:
                    action = other(obs[None])[0]
                else:
                    action = action + scale * (drift + rng.normal(size=len(action)))
                    action = action.clip(-MAX_ACTION, MAX_ACTION).astype(np.float32)
            next_obs, reward, terminated, truncated, _ = env.step(action)
            data["obs"].append(obs)
            data["next_obs"].append(next_obs)
            data["actions"].append(action)
            data["rewards"].append(reward)
            data["terminations"].append(terminated)
            obs = next_obs
            ended = terminated or truncated
            chance = 0.02
            bar.update()
    bar.close()
    for name, values in data.items():
        data[name] = torch.tensor(np.array(values), dtype=torch.float32)
    return data


def scripted(env_id, env):
    """The scripted policy that the task's library brings along: (O,) -> (A,) in [-0.95, 0.95], or one-hot."""
    if env_id.startswith("Meta-World/"):
        from metaworld.policies import ENV_POLICY_MAP

        policy = ENV_POLICY_MAP[env_id.removeprefix("Meta-World/")]()

        def act(obs):
            newest = obs[-39:]  # of the four observations that are seen
            return policy.get_action(newest).clip(-0.95, 0.95)

        return act
    from gymnasium.envs.box2d.lunar_lander import heuristic

    def act(obs):
        own = heuristic(env.unwrapped, obs)
        return env.unit([own])[0] if env.discrete else own.clip(-0.95, 0.95)

    return act


def disturbed(rng, action, noise, discrete):
    """An action (A,) with noise of this standard deviation before the tanh; a random one, so often, if discrete."""
    if discrete and rng.random() < noise:
        return np.eye(len(action))[rng.integers(len(action))]
    if discrete:
        return action
    return np.tanh(np.arctanh(action) + noise * rng.normal(size=len(action)))


def lessons(args, env, act, episodes, disturbances, label_noise):
    """What a policy does in episodes that are disturbed more and less in turn: obs (n, O), and its actions (n, A)."""
    rng = np.random.default_rng(args.seed)
    seen, done = [], []
    for episode in trange(episodes, desc="lessons"):
        noise = disturbances[episode % len(disturbances)]
        obs, _ = env.reset(seed=seed_for(args.seed, 7, episode))
        ended = False
        while not ended:
            action = act(obs)  # (A,)
            seen.append(obs)
            done.append(disturbed(rng, action, label_noise, env.discrete))
            executed = disturbed(rng, action, noise, env.discrete).astype(np.float32)
            obs, _, terminated, truncated, _ = env.step(executed)
            ended = terminated or truncated
    return [torch.tensor(np.array(values), dtype=torch.float32) for values in (seen, done)]


def distil(args, env):
    """MILE's policies: an expert and a beginner cloned from the scripted policy, and what is expected of the beginner.

    They learn their noise as well, for MILE's person compares log-probabilities; what is expected of the beginner
    has next to none, being cloned from likeliest actions. Returns the policy, a note and what was cloned.
    """
    if args.level == "mental":
        beginner = model_of(args, env, "initial")

        def act(obs):
            return beginner.act(obs[None], deterministic=True)[0].numpy()

        obs, actions = lessons(args, env, act, args.lessons, (0.0,), 0.0)
        note = f"cloned from {args.lessons} episodes of the initial policy, seed {args.seed}"
    else:
        teacher = scripted(args.env_id, env)
        noise = args.disturbances, args.label_noise
        obs, actions = lessons(args, env, teacher, args.lessons, *noise)
        note = f"cloned from {args.lessons} episodes of the scripted policy, seed {args.seed}"
    torch.manual_seed(args.seed)
    actor = bc.make_actor(env, (256, 256))
    actor.standardize(obs)
    if args.level == "top":
        # the labels have their noise everywhere; the policy's is not to vanish where it has seen little
        actor.min_log_std = float(np.log(args.label_noise))
    optimizer = torch.optim.Adam(actor.parameters(), 1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, args.updates)
    for _ in trange(args.updates, desc="cloning"):
        i = torch.randint(len(obs), (256,))
        loss = bc.nll(actor, obs[i], actions[i])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return actor, note, {"obs": obs, "actions": actions}


def model_of(args, env, level):
    """The expert of another level, which this one is cloned from."""
    if level not in list_experts().get(args.env_id, []):
        why = f"is cloned from the {level} expert of {args.env_id}, which is not there"
        raise InputError(f"--level {args.level} {why}: train it first, with --level {level}")
    return load_expert(args.env_id, level, env)


def batch_of(data, size, count):
    """A minibatch of the first `count` rows of every tensor in data."""
    i = torch.randint(count, (size,))
    return {name: values[i] for name, values in data.items()}


def learner(actor, args, **options):
    """RLPD's agent around an actor, with untrained critics."""
    options = rlif_rlpd.Args(reward="task", num_qs=args.num_qs, bf16=args.bf16, **options)
    agent = rlif_rlpd.Agent(len(actor.obs_mean), len(actor.mean.bias), options, "cpu")
    for network in (agent.qf, agent.qf_target):
        network.obs_mean.copy_(actor.obs_mean)
        network.obs_std.copy_(actor.obs_std)
    agent.actor.load_state_dict(actor.state_dict())
    return agent


def evaluate_policy(actor, data, args, steps):
    """Critics of a fixed actor by RLPD's critic update; returns the agent. Rewards in data are scaled already.

    Targets take one random critic instead of a minimum: the value itself is wanted, not a cautious one.
    """
    agent = learner(actor, args, num_min_qs=1, learning_rate=1e-3, final_lr_fraction=0.01)
    agent.critic_gradients = compiled(agent.critic_gradients)
    bar = trange(steps, desc="critics")
    for step in bar:
        agent.set_learning_rate(step / steps)
        losses = agent.update_critics(batch_of(data, agent.args.batch_size, len(data["rewards"])))
        if step % 500 == 0:
            loss, q = losses["qf_loss"].item(), losses["qf_values"].item()
            bar.set_postfix(loss=f"{loss:.2g}", q=f"{q:.2g}")
    return agent


def improve(actor, demos, args):
    """Reinforcement learning from a clone: TD3+BC (Fujimoto and Gu, 2021, Eq. 5) with RLPD's critics, online.

    A quarter of each batch are demonstrations; on them the actor is also held to the demonstrated actions, in the end
    final_hold times as firmly. The critics begin as those of the clone. Returns the best actor of the evaluations on
    the way.
    """
    warm_up, steps = 60_000, args.improve_steps
    data = rollouts(args.env_id, actor.act, warm_up, args.seed + 2, disturb=True)
    data["rewards"] *= args.reward_scale
    agent = learner(actor, args, num_min_qs=2, final_lr_fraction=0.05)
    critics = evaluate_policy(actor, data, args, steps=20_000)
    agent.qf.load_state_dict(critics.qf.state_dict())
    agent.qf_target.load_state_dict(critics.qf_target.state_dict())
    for name, values in data.items():  # room for the steps to come
        data[name] = torch.cat([values, torch.zeros(steps, *values.shape[1:])])
    size = agent.args.batch_size
    learned = [*agent.actor.layers.parameters(), *agent.actor.mean.parameters()]
    optimizer = torch.optim.Adam(learned, lr=torch.tensor(1e-4), fused=True)

    def actor_gradients(batch, noise, hold):
        mean = agent.actor(batch["obs"])[0]  # (B, A), before the tanh
        q = agent.qf(batch["obs"], (mean + NOISE * noise).tanh()).mean(0)  # (N, B) -> (B,)
        held = (mean[: size // 4].tanh() - batch["actions"][: size // 4]).pow(2).mean()
        return torch.autograd.grad(hold * held - 2.5 * q.mean() / q.detach().abs().mean(), learned)

    agent.critic_gradients = compiled(agent.critic_gradients)
    actor_gradients = compiled(actor_gradients)
    env = rlif_rlpd.make_env(args.env_id)
    envs = [rlif_rlpd.make_env(args.env_id) for _ in range(20)]
    episode, best_score, best = 0, -np.inf, None
    obs, _ = env.reset(seed=seed_for(args.seed, 5, episode))
    bar = trange(1, steps + 1, desc="improving")
    for step in bar:
        action = agent.actor.act(obs[None])[0]
        next_obs, reward, terminated, truncated, _ = env.step(action)
        last = warm_up + step - 1
        data["obs"][last] = torch.as_tensor(obs)
        data["next_obs"][last] = torch.as_tensor(next_obs)
        data["actions"][last] = torch.as_tensor(action)
        data["rewards"][last] = reward * args.reward_scale
        data["terminations"][last] = float(terminated)
        obs = next_obs
        if terminated or truncated:
            episode += 1
            obs, _ = env.reset(seed=seed_for(args.seed, 5, episode))
        shown = batch_of(demos, size // 4, len(demos["obs"]))
        seen = batch_of(data, size - size // 4, warm_up + step)
        batch = {name: torch.cat([shown[name], seen[name]]) for name in seen}
        agent.set_learning_rate(step / steps)
        agent.update_critics(batch)
        optimizer.param_groups[0]["lr"] = agent.learning_rate / 3
        hold = torch.tensor(1 - (1 - args.final_hold) * step / steps)
        gradients = actor_gradients(batch, torch.randn_like(batch["actions"]), hold)
        rlif_rlpd.descend(optimizer, gradients)
        if step % EVALUATE_EVERY == 0 or step == steps:
            row = evaluate(args.env_id, agent.actor, envs, 20, seed_for(args.seed, 6, step))
            score = row[f"stochastic_{main_metric([row])}"]
            bar.write(f"step {step}: {score:.1f}")
            if score > best_score:
                best_score, best = score, copy.deepcopy(agent.actor.state_dict())
    actor.load_state_dict(best)
    return actor


def top_expert(args, env):
    """The clone of good demonstrations, improved if wanted; returns it, a note and what was cloned."""
    if env.discrete:
        raise InputError(f"--env-id {args.env_id}: needs continuous actions")
    demos = load_demonstrations(env, args.env_id, None, args.dataset_id, keep_rewards=True)
    episode = (np.cumsum(demos["ends"]) - demos["ends"]).astype(int)  # (n,), of each transition
    scores = normalized_score(args.env_id, np.bincount(episode, demos["rewards"]))
    bad = scores < args.min_score  # none of them where the task has no scores: they are nan then
    good = ~bad[episode]
    if not good.any():
        best = f"the best episode of {args.dataset_id} has {scores.max():.1f}"
        raise InputError(f"--min-score {args.min_score}: {best}")
    data = {name: torch.from_numpy(values[good]) for name, values in demos.items()}
    data["rewards"] *= args.reward_scale
    note = f"cloned from {good.sum()} transitions of {args.dataset_id}"
    actor = clone(data["obs"], data["actions"])
    if args.improve_steps:
        actor = improve(actor, data, args)
        note += f", {args.improve_steps} steps of reinforcement learning"
    return actor, note, data


def worse_expert(args, env):
    """The clone of a few transitions of the top expert; returns it, a note and what was cloned."""
    expert = model_of(args, env, "top")

    def act(obs):
        return expert.act(obs).numpy()

    data = rollouts(args.env_id, act, POOL, args.seed, disturb=False)
    torch.manual_seed(args.seed)
    obs, actions = subsample(data, args.transitions)
    note = f"cloned from {args.transitions} transitions of the top expert, seed {args.seed}"
    return clone(obs, actions), note, {"obs": obs, "actions": actions}


def parse_args(argv=None):
    """The command line, on top of the level's recipe."""
    args = tyro.cli(Args, args=argv)
    recipe = RECIPES.get((args.env_id, args.level), {})
    return tyro.cli(Args, args=argv, default=Args(args.env_id, args.level, **recipe))


def taught(args):
    """Is it one of MILE's tasks, whose policies come from a scripted one?"""
    return args.env_id.startswith(("Meta-World/", "LunarLander"))


def refusal(args, name, rule):
    """The InputError for an option whose value breaks a rule."""
    return InputError(f"--{name.replace('_', '-')} must be {rule}, not {getattr(args, name)}")


def check(args):
    """Everything that can be wrong with the options themselves."""
    for name in ("lessons", "updates", "critic_transitions", "critic_steps", "num_qs"):
        if getattr(args, name) <= 0:
            raise refusal(args, name, "positive")
    if not 0 < args.reward_scale < np.inf:
        raise refusal(args, "reward_scale", "positive")
    if not 2 <= args.transitions <= POOL:  # one has no standard deviation to standardise by
        raise refusal(args, "transitions", f"from 2 to {POOL}")
    for name in ("seed", "improve_steps", "label_noise", "final_hold"):
        if not 0 <= getattr(args, name) < np.inf:
            raise refusal(args, name, "zero or more")
    if np.isnan(args.min_score):
        raise refusal(args, "min_score", "a number")
    if not args.disturbances or not all(0 <= noise < np.inf for noise in args.disturbances):
        raise InputError("--disturbances needs numbers of zero or more, at least one")
    if any(size < 2 for size in args.weak_clones):
        raise InputError("--weak-clones needs sizes of 2 or more")

    levels = ("top", "high", "middle", "low", "poor")
    if taught(args):
        levels = ("top", "initial", "mental")
    if args.level not in levels:
        known = f"{', '.join(levels)} for {args.env_id}"
        raise InputError(f"--level must be one of {known}, not {args.level}")
    if args.level == "top" and not taught(args):
        if not args.dataset_id:
            raise InputError("--level top needs --dataset-id, demonstrations of a good agent")
        if args.min_score > -np.inf and np.isnan(normalized_score(args.env_id, 0.0)):
            raise InputError(f"--min-score: there are no scores for {args.env_id}; leave it out")
        if args.improve_steps and args.num_qs < 2:
            raise InputError("--improve-steps needs --num-qs 2 or more")
    else:
        why = f"--level {args.level} of {args.env_id} is not cloned from demonstrations"
        if args.dataset_id:
            raise InputError(f"--dataset-id: {why}; leave it out")
        if args.improve_steps:
            raise InputError(f"--improve-steps: {why}; leave it out")
        if args.min_score > -np.inf:
            raise InputError(f"--min-score: {why}; leave it out")
    if taught(args):
        if args.critics:
            raise InputError(f"--critics: there are none for {args.env_id}; leave it out")
        if args.level == "top" and not args.label_noise:
            why = "the policy's noise never falls below it"
            raise InputError(f"--label-noise must be positive for --level top: {why}")


def output_path(args):
    """Where the policy is to be written: it can be, and takes the place of another file only if --output names it."""
    path = Path(args.output or FOLDER / args.env_id / f"{args.level}.safetensors")
    try:
        if path.exists() and not args.output:
            ways = f"give --output and a new path, or --output {path} to replace it"
            raise InputError(f"{path} is there: {ways}")
        if path.suffix != ".safetensors" or path.is_dir():
            raise InputError(f"--output must be the path of a .safetensors file, not {path}")
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        tempfile.TemporaryFile(dir=folder).close()  # can we write there?
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; give another --output") from None
    return path


def main(args):
    """Train a policy, with critics if wanted, and write it with its scores."""
    check(args)
    torch.manual_seed(args.seed)
    env = rlif_rlpd.make_env(args.env_id)
    path = output_path(args)
    if taught(args):
        actor, note, data = distil(args, env)
    elif args.level == "top":
        actor, note, data = top_expert(args, env)
    else:
        actor, note, data = worse_expert(args, env)
    tensors = {f"actor.{name}": values for name, values in actor.state_dict().items()}
    if args.critics:
        others = [clone(*subsample(data, size)).act for size in args.weak_clones]
        source = args.critic_transitions, args.seed + 1
        data = rollouts(args.env_id, actor.act, *source, disturb=True, others=others)
        data["rewards"] *= args.reward_scale
        qf = evaluate_policy(actor, data, args, args.critic_steps).qf.requires_grad_(False)
        # Q in the task's own reward: the last layer is linear
        qf.weights[-1].div_(args.reward_scale)
        qf.biases[-1].div_(args.reward_scale)
        tensors |= {f"qf.{name}": values for name, values in qf.state_dict().items()}
        note += "; critics: policy evaluation"

    envs = [rlif_rlpd.make_env(args.env_id) for _ in range(20)]
    row = evaluate(args.env_id, actor, envs, 100, seed_for(12345))
    print(row)
    metric = main_metric([row])
    mean = row[f"stochastic_{metric}"]
    if metric == "success_rate":
        std = (mean * (100 - mean)) ** 0.5  # of a single episode, which succeeds or not
    elif metric == "normalized_score":
        above = row["stochastic_return_mean"] + row["stochastic_return_std"]
        std = normalized_score(args.env_id, above) - mean
    else:
        std = row["stochastic_return_std"]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_expert(
        path, tensors, env_id=args.env_id, level=args.level, trained_by=note,
        min_log_std=actor.min_log_std, score_mean=mean, score_std=std, score_episodes=100,
        score_of_mean_action=row[metric],
    )  # fmt: skip
    print(f"{path}: score {mean:.1f} +- {std:.1f} over 100 episodes")


if __name__ == "__main__":
    try:
        main(parse_args())
    except (InputError, RunError, OSError) as error:  # bad input, a broken environment, a full disk
        print(f"experts.train: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        print("experts.train: stopped, nothing is written", file=sys.stderr)
        sys.exit(130)
