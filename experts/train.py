"""Trains the shipped experts; every file in experts/ comes from one of these commands.

    python -m experts.train --env-id Hopper-v5 --level top --dataset-id <Minari demonstrations of a good agent>
    python -m experts.train --env-id Hopper-v5 --level middle
    python -m experts.train --env-id Hopper-v5 --level low

The top expert is cloned from the demonstrations that score 100 or more. Its critics, the reference Q functions, are
trained on the true reward by policy evaluation: RLPD's critic update with the actor held fixed, on rollouts that are
disturbed for a while and then left to the expert again, so that they know what a bad action costs. The other levels
are cloned from a few transitions of the top expert (RLIF, section 5.2: policies trained on subsampled datasets).

An expert by RLPD instead, on the environment's own reward:

    python rlif_rlpd.py --reward task --intervention none --offline-ratio 0.5 --dataset-id <demonstrations>
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm, trange

import rlif_rlpd
from experts import FOLDER, MAX_ACTION, InputError, load_demonstrations, load_expert, normalized_score, save_expert

NOISE = 0.1  # standard deviation of every policy, before the tanh
# (transitions, seed) of the subsample: tried until the score lay in its level's band, then measured on new episodes
RECIPES = {("Hopper-v5", "low"): (700, 7), ("Hopper-v5", "middle"): (1_000, 6)}


@dataclass
class Args:
    env_id: str = "Hopper-v5"
    level: str = "low"  # top: cloned from --dataset-id, with critics; others: cloned from the top expert's rollouts
    dataset_id: str | None = None  # top: Minari demonstrations
    transitions: int | None = None  # others: size of the subsample; default: the recipe's
    seed: int | None = None  # default: the recipe's, 1 for top
    critic_transitions: int = 200_000  # top: disturbed rollouts to train the critics on
    critic_steps: int = 40_000  # top: gradient steps of the critics
    num_qs: int = 5  # top: critics
    output: str | None = None  # default: experts/<env_id>/<level>.safetensors


def clone(obs, actions):
    """Behavioural cloning of standardised obs (n, O) and actions (n, A) by the squared error of the mean action."""
    steps, batch_size = (3_000, 256) if len(obs) < 10_000 else (9_000, 1024)
    actor = rlif_rlpd.Actor(obs.shape[1], actions.shape[1], (256, 256))
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


def rollouts(env_id, act, transitions, seed, disturb):
    """Transitions of a policy, with true rewards: a dict of tensors, obs (n, O), actions (n, A), rewards (n,), ...

    If disturbed: in spells of 1 to 40 steps, half of them at the start of an episode, the actions get a drift and
    noise of random size; then the policy is left alone until it has recovered or fallen.
    """
    rng, env, episode, rows = np.random.default_rng(seed), rlif_rlpd.make_env(env_id), 0, []
    with tqdm(total=transitions, desc="rollouts") as bar:
        while len(rows) < transitions:
            obs, _ = env.reset(seed=rlif_rlpd.seed_for(seed, episode))
            episode, ended, spell, chance = episode + 1, False, 0, 0.5
            while not ended:
                action = act(obs[None])[0]
                if disturb and spell == 0 and rng.random() < chance:
                    spell, drift, scale = rng.integers(1, 41), rng.normal(size=len(action)), rng.random()
                if spell > 0:
                    spell -= 1
                    action = action + scale * (drift + rng.normal(size=len(action)))
                    action = action.clip(-MAX_ACTION, MAX_ACTION).astype(np.float32)
                next_obs, reward, terminated, truncated, _ = env.step(action)
                rows.append((obs, next_obs, action, reward, terminated))
                obs, ended, chance = next_obs, terminated or truncated, 0.02
                bar.update()
    names = rlif_rlpd.ReplayBuffer.FIELDS
    return {name: torch.tensor(np.array(column), dtype=torch.float32) for name, column in zip(names, zip(*rows))}


def evaluate_policy(actor, data, args):
    """Critics of a fixed actor by RLPD's critic update, on standardised observations; returns the agent.

    Rewards are scaled by 1 - gamma, so that Q is of order 1, and the last layer is scaled back at the end. Targets
    take one random critic instead of a minimum: the value itself is wanted, not a cautious one.
    """
    rates = {"learning_rate": 1e-3, "final_lr_fraction": 0.01}
    options = rlif_rlpd.Args(reward="task", num_qs=args.num_qs, num_min_qs=1, **rates)
    agent = rlif_rlpd.Agent(data["obs"].shape[1], data["actions"].shape[1], options, "cpu")
    agent.actor.load_state_dict(actor.state_dict())
    rlif_rlpd.compile_gradients(agent)
    data["rewards"] = data["rewards"] * (1 - options.gamma)
    bar = trange(args.critic_steps, desc="critics")
    for step in bar:
        agent.set_learning_rate(step / args.critic_steps)
        i = torch.randint(len(data["rewards"]), (options.batch_size,))
        losses = agent.update_critics({name: values[i] for name, values in data.items()})
        if step % 500 == 0:
            bar.set_postfix(loss=f"{losses['qf_loss'].item():.2g}", q=f"{losses['qf_values'].item() / 0.01:.0f}")
    for part in (agent.qf.weights, agent.qf.biases):
        part[-1].data /= 1 - options.gamma
    return agent


def fold(weight, bias, mean, std):
    """Fold (x - mean) / std into a first layer, weight (..., in, out) and bias (..., 1, out), in place."""
    rows = weight[..., : len(mean), :]
    rows /= std[:, None]
    bias -= mean @ rows if weight.dim() == 2 else (mean @ rows)[:, None]


def main(args):
    recipe = RECIPES.get((args.env_id, args.level), (None, 1))
    transitions, seed = args.transitions or recipe[0], recipe[1] if args.seed is None else args.seed
    top = args.level == "top"
    if top and not args.dataset_id or not top and not transitions:
        raise InputError("--level top needs --dataset-id, a level without a recipe needs --transitions")
    torch.manual_seed(seed)
    env = rlif_rlpd.make_env(args.env_id)
    if top:
        demos = load_demonstrations(env, args.env_id, 1_000_000, args.dataset_id, keep_rewards=True)
        episode = (np.cumsum(demos["ends"]) - demos["ends"]).astype(int)  # (n,), the number of each one's episode
        good = normalized_score(args.env_id, np.bincount(episode, demos["rewards"]))[episode] >= 100  # (n,)
        data = {name: torch.from_numpy(values[good]) for name, values in demos.items()}
        note = f"cloned from {good.sum()} transitions of {args.dataset_id}; critics: policy evaluation"
    else:
        expert = load_expert(args.env_id, "top", env)
        data = rollouts(args.env_id, lambda obs: expert.act(obs).numpy(), 50_000, seed, disturb=False)
        torch.manual_seed(seed)
        subsample = torch.randperm(len(data["obs"]))[:transitions]
        data = {name: values[subsample] for name, values in data.items()}
        note = f"cloned from {transitions} transitions of the top expert, seed {seed}"
    mean, std = data["obs"].mean(0), data["obs"].std(0)
    actor = clone((data["obs"] - mean) / std, data["actions"])
    networks = {"actor": actor}
    if top:
        standard = rlif_rlpd.Actor(len(mean), env.action_space.shape[0], (256, 256))
        standard.load_state_dict(actor.state_dict())
    fold(actor.layers[0].weight.T, actor.layers[0].bias, mean, std)
    if top:
        data = rollouts(args.env_id, actor.act, args.critic_transitions, seed + 1, disturb=True)
        data |= {name: (data[name] - mean) / std for name in ("obs", "next_obs")}
        networks["qf"] = evaluate_policy(standard, data, args).qf.requires_grad_(False)
        fold(networks["qf"].weights[0], networks["qf"].biases[0], mean, std)

    options = rlif_rlpd.Args(env_id=args.env_id)
    envs = [rlif_rlpd.make_env(args.env_id) for _ in range(100)]
    score = rlif_rlpd.evaluate(options, actor, envs, seed=rlif_rlpd.seed_for(12345), deterministic=False)
    print(score)
    facts = {"env_id": args.env_id, "level": args.level, "distribution": "tanh_gaussian", "hidden_sizes": (256, 256)}
    facts |= {"obs_dim": len(mean), "act_dim": env.action_space.shape[0], "trained_by": note}
    low, high = normalized_score(args.env_id, score["return_mean"] + np.array([0, score["return_std"]]))
    facts |= {"score_mean": low, "score_std": high - low, "score_episodes": 100}
    tensors = {f"{name}.{key}": p for name, network in networks.items() for key, p in network.state_dict().items()}
    path = Path(args.output or FOLDER / args.env_id / f"{args.level}.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_expert(path, tensors, **facts)
    print(f"{path}: score {low:.1f} +- {high - low:.1f} over 100 episodes")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except InputError as error:
        print(f"experts.train: {error}", file=sys.stderr)
        sys.exit(2)
