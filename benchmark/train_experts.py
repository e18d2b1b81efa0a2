"""Makes the policies and demonstrations in experts/, each by one command, as recipes.toml says.

    python benchmark/train_experts.py --env-id Hopper-v5 --level middle --output middle.safetensors
    python benchmark/train_experts.py --env-id Hopper-v5 --level top --dataset-id <demonstrations>
    python benchmark/train_experts.py --env-id Hopper-v5 --level demonstrations
    python benchmark/train_experts.py --env-id Hopper-v5 --level middle --policy middle.safetensors

A top expert is cloned from a good agent's demonstrations, the others from a few of its transitions
(RLIF: policies trained on subsampled datasets); on MILE's tasks all comes from a scripted policy.
Critics, the reference Q functions, learn from the true reward of disturbed rollouts, so that they
know what a bad action costs; with --policy they are learned for a policy that is there already.
Demonstrations, the top expert's, differ by processor: keep them. In Pixels/<id> an encoder is
learned first, by cloning from pictures an expert who sees the state; then beginners that see by it.
"""

import itertools
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from files import ROOT, InputError, command_line, compiled, scores_of, seed_for  # and the scripts
from gymnasium.spaces import MultiBinary
from safetensors.torch import save_file
from tqdm import tqdm, trange

import bc
import rlif_rlpd
from experts import TRAINING_TASKS, Task, load_demonstrations, load_expert, normalized_score, record
from experts import save_expert
from experts.demonstrations import write_dataset
from experts.vision import Learned
from rlif_rlpd import MAX_ACTION

NOISE = 0.1  # standard deviation of every policy of RLIF's tasks, before the tanh
GAMMA = 0.99  # the critics' discount
POOL = 50_000  # transitions of the top expert, from which the subsamples are taken


@dataclass
class Args:
    env_id: str = "Hopper-v5"
    level: str = "low"  # a level in recipes.toml, or demonstrations, or encoder
    dataset_id: str | None = None  # for a top level of RLIF's tasks: Minari demonstrations
    policy: str | None = None  # a level or file: this policy, with new critics
    output: str | None = None  # a new file; default: the shipped file's path, if it is free


# --- clones, of RLIF's tasks ----------------------------------------------------------------------
def fit(actor, obs, loss, steps, batch_size, last):
    """Minimise loss(i), of some rows i of obs (n, O), by Adam, whose rate falls to this share."""
    actor.obs_mean.copy_(obs.mean(0))
    actor.obs_std.copy_(obs.std(0).clamp_min(0.01))
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, last, steps)
    for _ in trange(steps, desc="cloning"):
        optimizer.zero_grad()
        loss(torch.randint(len(obs), (batch_size,))).backward()
        optimizer.step()
        schedule.step()
    return actor.requires_grad_(False)


def clone(data, size=None):
    """Behavioural cloning of data, or of so many random rows, by the mean action's error."""
    rows = slice(None) if size is None else torch.randperm(len(data["obs"]))[:size]
    obs, actions = data["obs"][rows], data["actions"][rows]  # (n, O), (n, A)
    actor = rlif_rlpd.Actor(obs.shape[1], actions.shape[1], (256, 256))
    torch.nn.init.zeros_(actor.log_std.weight)
    torch.nn.init.constant_(actor.log_std.bias, np.log(NOISE))

    def loss(i):
        return (actor(obs[i])[0].tanh() - actions[i]).pow(2).mean()

    return fit(actor, obs, loss, *((3_000, 256) if len(obs) < 10_000 else (9_000, 1024)), 0.01)


def rollouts(env_id, act, transitions, seed, disturb, others=()):
    """Transitions of a policy, with true rewards: a dict of tensors, obs (n, O), rewards (n,), ...

    If disturbed: in spells of 1 to 40 steps the actions get a drift and noise of random size. Half
    of the episodes begin with one; after each the policy is left alone for 50 steps on average.
    Given other policies, one of them acts instead for up to 100 steps, in half of the spells.
    """
    rng, env, rows = np.random.default_rng(seed), rlif_rlpd.make_env(env_id), []
    episode, ended, bar = 0, True, tqdm(total=transitions, desc="rollouts")
    while len(rows) < transitions or not ended:
        if ended:
            obs, _ = env.reset(seed=seed_for(seed, episode))
            episode, left, chance = episode + 1, 0, 0.5  # steps to disturb; that a spell begins
        action = act(obs[None])[0]  # (A,)
        if disturb and left == 0 and rng.random() < chance:
            left, other = rng.integers(1, 41), None
            drift, scale = rng.normal(size=len(action)), rng.random()
            if others and rng.random() < 0.5:
                other, left = others[rng.integers(len(others))], rng.integers(1, 101)
        if left > 0 and other:
            action = other(obs[None])[0]
        elif left > 0:
            action = action + scale * (drift + rng.normal(size=len(action)))
            action = action.clip(-MAX_ACTION, MAX_ACTION).astype(np.float32)
        next_obs, reward, terminated, truncated, info = env.step(action)
        if terminated and info["success"] == 1:
            reward /= 1 - GAMMA  # as if it were paid for ever, or an end would be a loss
        rows.append((obs, next_obs, action, reward, terminated))
        obs, ended, left, chance = next_obs, terminated or truncated, max(0, left - 1), 0.02
        bar.update()
    columns = [torch.tensor(np.array(values), dtype=torch.float32) for values in zip(*rows)]
    return dict(zip(("obs", "next_obs", "actions", "rewards", "terminations"), columns))


def from_demonstrations(args, recipe, env):
    """The clone of good demonstrations, a note, and what was cloned."""
    if not args.dataset_id:
        raise InputError(f"--level {args.level} needs --dataset-id, demonstrations of a good agent")
    demos = load_demonstrations(args.env_id, env, 10**9, 0, args.dataset_id)  # all of them
    episode = (np.cumsum(demos["ends"]) - demos["ends"]).astype(int)  # (n,), of each transition
    scores = normalized_score(args.env_id, np.bincount(episode, demos["rewards"]))
    good = (scores >= recipe.min_score)[episode]  # (n,)
    if not good.any():
        raise InputError(f"the best episode of {args.dataset_id} has only {scores.max():.1f}")
    data = {name: torch.from_numpy(values[good]) for name, values in demos.items()}
    return clone(data), f"cloned from {good.sum()} transitions of {args.dataset_id}", data


def from_top(args, recipe, env):
    """The clone of a few transitions of the top expert."""
    expert = load_expert(args.env_id, "top", env)
    data = rollouts(args.env_id, lambda obs: expert.act(obs).numpy(), POOL, recipe.seed, False)
    torch.manual_seed(recipe.seed)
    note = f"cloned from {recipe.transitions} transitions of the top expert, seed {recipe.seed}"
    return clone(data, recipe.transitions), note, data


def from_file(args, recipe, env):
    """A policy that is there, what is known of it, and no data."""
    expert = load_expert(args.env_id, args.policy, env)
    sizes = expert.facts["obs_dim"], expert.facts["act_dim"], expert.facts["hidden_sizes"]
    actor = rlif_rlpd.Actor(*sizes)
    actor.load_state_dict(expert.state)
    actor.min_log_std = expert.facts.get("min_log_std", actor.min_log_std)
    return actor, expert.facts.get("trained_by", "from a file"), None


# --- critics --------------------------------------------------------------------------------------
def evaluate_policy(actor, data, recipe):
    """Critics of a fixed actor by RLPD's critic update. Rewards in data are scaled already.

    Their targets take one random critic, no minimum: the value is wanted, not a cautious one.
    """
    options = {"reward": "task", "num_qs": 5, "num_min_qs": 1, "precision": recipe.precision}
    options["hidden_sizes"] = [layer.out_features for layer in actor.layers]
    obs_dim, act_dim = len(actor.obs_mean), len(actor.mean.bias)
    agent = rlif_rlpd.Agent(obs_dim, act_dim, rlif_rlpd.Args(**options), "cpu")
    for network in (agent.qf, agent.qf_target):
        network.obs_mean.copy_(actor.obs_mean)
        network.obs_std.copy_(actor.obs_std)
    agent.actor.load_state_dict(actor.state_dict())
    agent.actor.min_log_std = actor.min_log_std
    agent.critic_gradients = compiled(agent.critic_gradients)
    for step in trange(recipe.critic_steps, desc="critics"):
        # constant over the first half, then linear down to a hundredth
        rate = 1e-3 * (1 - 0.99 * max(0.0, 2 * step / recipe.critic_steps - 1))
        agent.qf_optimizer.param_groups[0]["lr"] = rate
        i = torch.randint(len(data["rewards"]), (256,))
        batch = {name: values[i] for name, values in data.items()}  # (B, ...)
        agent.update_critics(batch | {"discounts": torch.full((256,), GAMMA)})
    return agent.qf.requires_grad_(False)


# --- clones of a scripted policy, on MILE's tasks -------------------------------------------------
def teacher(env_id, source, env):
    """Who is cloned, (O,) -> (A,): the library's script, or a policy's likeliest action."""
    if source in ("initial", "expert"):
        policy = load_expert(env_id, "top" if source == "expert" else source, env)
        return lambda obs: policy.act(obs[None], deterministic=True)[0].numpy()
    if env_id.startswith("Meta-World/"):
        from metaworld.policies import ENV_POLICY_MAP

        policy = ENV_POLICY_MAP[env_id.removeprefix("Meta-World/")]()
        return lambda obs: policy.get_action(obs[-39:]).clip(-0.95, 0.95)  # the last of four seen
    if env_id.startswith("gym_hil/"):
        return lambda obs: pick(obs).astype(np.float32).clip(-0.95, 0.95)
    from gymnasium.envs.box2d.lunar_lander import heuristic

    if isinstance(env.action_space, MultiBinary):
        return lambda obs: np.eye(4)[heuristic(env.unwrapped, obs)]
    return lambda obs: heuristic(env.unwrapped, obs).clip(-0.95, 0.95)


def pick(obs):
    """Picks gym-hil's cube up, by its state (21,): open above it, down, close, up; -> (4,)."""
    closed, hand, cube = obs[14] / 255, obs[15:18], obs[18:21]
    way = (cube - hand) / 0.025  # (3,), in largest steps
    if np.abs(way[:2]).max() > 0.4 and closed < 0.8:  # not yet above it
        return np.array([way[0], way[1], way[2] + 3, -1])
    if way[2] < -0.4 and closed < 0.4:
        return np.array([*way, -1])
    return np.array([0, 0, 1 if closed > 0.8 else 0, 1])


def lessons(args, recipe, env):
    """What a teacher saw in disturbed episodes, and what is to be done there: (n, O), (n, A)."""
    rng, discrete = np.random.default_rng(recipe.seed), isinstance(env.action_space, MultiBinary)
    act = teacher(args.env_id, recipe.source, env)

    def disturbed(action, noise):
        """(A,) with noise of this deviation before the tanh; if one-hot at random, so often."""
        if discrete and rng.random() < noise:
            return np.eye(len(action))[rng.integers(len(action))]
        if discrete:
            return action
        return np.tanh(np.arctanh(action) + noise * rng.normal(size=len(action)))

    seen, done = [], []
    for episode in trange(recipe.lessons, desc="lessons"):
        noise = recipe.disturbances[episode % len(recipe.disturbances)]
        (obs, _), ended = env.reset(seed=seed_for(recipe.seed, 7, episode)), False
        while not ended:
            action = act(obs)  # (A,)
            seen.append(obs)
            done.append(disturbed(action, recipe.label_noise))
            obs, _, *ends, _ = env.step(disturbed(action, noise).astype(np.float32))
            ended = any(ends)
    return [torch.tensor(np.array(x), dtype=torch.float32) for x in (seen, done)]


def from_teacher(args, recipe, env):
    """An expert or a beginner, cloned from the scripted policy, or what is expected of it.

    They learn their noise as well, for MILE's person compares log-probabilities; what is expected
    of the beginner has next to none, being cloned from likeliest actions.
    """
    obs, actions = lessons(args, recipe, env)
    torch.manual_seed(recipe.seed)
    actor = bc.Actor(env, (256, 256))
    if args.level == "top":  # labels have noise everywhere: it is not to vanish where it saw little
        actor.min_log_std = math.log(recipe.label_noise)

    def loss(i):
        return -actor(obs[i]).log_prob(actions[i]).mean()

    note = f"{recipe.lessons} episodes of the {recipe.source} policy, seed {recipe.seed}"
    return fit(actor, obs, loss, recipe.updates, 256, 0.05), f"cloned from {note}", None


# --- eyes -----------------------------------------------------------------------------------------
class Album(gym.Wrapper):
    """Keeps the pictures on which actions were chosen, (V, 3, 84, 84), of V cameras each."""

    def step(self, action):
        self.pages.append((255 * self.get_wrapper_attr("pictures")).byte())
        return super().step(action)


def learn_to_see(args, recipe):
    """The encoder of experts/vision.py, with a head that clones the expert and is thrown away."""
    torch.manual_seed(recipe.seed)
    net = Learned()
    env = gym.wrappers.FlattenObservation(Task(args.env_id, encoder=net))
    env = Album(gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1)))
    env.pages = []
    obs, actions = lessons(args, recipe, env)
    pictures, env.pages = torch.stack(env.pages), []  # (n, V, 3, 84, 84)
    views = 64 * pictures.shape[1]
    felt = obs[:, views:]  # (n, P)
    felt = felt - felt.mean(0)
    felt = felt / felt.pow(2).mean(0).sqrt().clamp_min(0.01)
    hidden = [nn.Linear(views + felt.shape[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    head = nn.Sequential(*hidden, nn.Linear(256, actions.shape[1]), nn.Tanh())
    optimizer = torch.optim.AdamW([*net.parameters(), *head.parameters()], 1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, recipe.updates)
    can = torch.cpu.get_capabilities()  # without these bfloat16 takes far longer than float32
    quick = can.get("avx512_bf16") or can.get("amx_bf16")
    for _ in trange(recipe.updates, desc="cloning"):
        i = torch.randint(len(pictures), (128,))  # (B,)
        batch = pictures[i].flatten(0, 1).float() / 255  # (B * V, 3, 84, 84)
        padded = F.pad(batch, (4, 4, 4, 4), mode="replicate")
        corners = torch.randint(9, (len(batch), 2)).tolist()  # each moves by up to 4 pixels
        seen = [x[:, y : y + 84, z : z + 84] for x, (y, z) in zip(padded, corners)]
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(quick)):
            features = net(torch.stack(seen)).view(128, views)  # (B, F)
            mean = head(torch.cat([features, felt[i]], 1))  # (B, A)
        loss = (mean.float() - actions[i]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"the head's squared error is {loss.item():.4f} at the end")
    return net.state_dict()


# --- demonstrations -------------------------------------------------------------------------------
class Driver(gym.Wrapper):
    """The top expert, with noise on its actions, as somebody who drives all of an episode."""

    def check(self, obs, _):
        action = self.expert.act(obs[None])[0]  # (A,)
        if self.noise:
            action = (action + self.noise * torch.randn_like(action)).clamp(-MAX_ACTION, MAX_ACTION)
        self.line = {"obs": obs, "action": action.numpy(), "control": 1, "given_up": 0}


def demonstrate(env_id, recipe, path):
    """Record the shipped demonstrations of a task, in the task that is learned in."""
    env = bc.make_env(TRAINING_TASKS.get(env_id, env_id))
    driver = Driver(env)
    driver.expert, driver.noise = load_expert(env_id, "top", env), recipe.noise
    torch.manual_seed(0)
    episodes, seeds = [], itertools.count()
    while len(episodes) < recipe.episodes:
        episode = record.play(env, driver, next(seeds))
        if episode["terminations"][-1] or not recipe.successes:
            episodes.append(episode)
    name = f"interventions/{env_id.lower().replace('/', '-')}-v0"
    write_dataset(path, env, episodes, name, "shipped top expert")


# --- main -----------------------------------------------------------------------------------------
def main(args: Args):
    recipes = tomllib.loads((ROOT / "benchmark" / "recipes.toml").read_text())
    known = [f"{task} {level}" for task in recipes for level in recipes[task] if task != "defaults"]
    if f"{args.env_id} {args.level}" not in known:
        raise InputError(f"no recipe for {args.env_id} {args.level}; there are {', '.join(known)}")
    recipe = SimpleNamespace(**recipes["defaults"] | recipes[args.env_id][args.level])
    name = args.level + ".safetensors" * (args.level != "demonstrations")
    path = Path(args.output or ROOT / "experts" / args.env_id / name)
    if path.exists() and not args.output:
        raise InputError(f"{path} is there; give --output a new path, or this one to replace it")
    if args.level == "demonstrations":
        return demonstrate(args.env_id, recipe, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if args.level == "encoder":
        save_file(learn_to_see(args, recipe), f"{path}.tmp")
        return Path(f"{path}.tmp").replace(path)
    torch.manual_seed(recipe.seed)
    env, qf = bc.make_env(args.env_id), None
    ways = {"demonstrations": from_demonstrations, "top": from_top}
    way = from_file if args.policy else ways.get(recipe.source, from_teacher)
    actor, note, data = way(args, recipe, env)
    if recipe.critics or args.policy:
        others = [clone(data, size).act for size in recipe.weak_clones]
        size, seed = recipe.critic_transitions, recipe.seed + 1
        data = rollouts(args.env_id, actor.act, size, seed, True, others)
        data["rewards"] *= recipe.reward_scale
        qf = evaluate_policy(actor, data, recipe)
        for last in (qf.weights[-1], qf.biases[-1]):  # Q in the task's own reward
            last.div_(recipe.reward_scale)
        note += "; critics: policy evaluation"
    rows = [bc.evaluate(args.env_id, actor, [env], 12345, i) for i in range(recipe.score_episodes)]
    scores = np.array([scores_of(row, "stochastic_") for row in rows])
    facts = {"env_id": args.env_id, "level": args.level, "trained_by": note}
    facts |= {"score_mean": scores.mean(), "score_std": scores.std(), "score_episodes": len(rows)}
    facts["score_of_mean_action"] = np.mean([scores_of(row) for row in rows])
    save_expert(path, actor, qf, **facts)
    print(f"{path}: score {scores.mean():.1f} ± {scores.std():.1f} over {len(scores)} episodes")


if __name__ == "__main__":
    command_line(main, __doc__)
