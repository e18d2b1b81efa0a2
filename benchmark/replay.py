"""RLIF from the very episodes that MILE learns from: one round of 15, replayed for many updates (MILE's Figure 3).

    python benchmark/replay.py --task peg
    python benchmark/replay.py --task drawer --critic-updates 10000    # the actor stands still for the first 10,000
    python benchmark/replay.py --task peg --bc-weight 1                # the actor is held to what was done, too

rlif_rlpd.py collects its own data while it learns, and its critics start from nothing. Here the initial policy collects
all of the data, as it does for MILE, with the same seeds, and RLPD makes as many updates as it is given. Evaluations on
the way are in benchmark/results/replay/<task>-<critic-updates>-<bc-weight>/seed_<seed>.csv.
"""

import csv
import io
import json
from dataclasses import asdict, dataclass

import numpy as np
import tables
import torch
import tyro
from run import results_of  # which makes the scripts importable
from tqdm import trange

import mile
import rlif_rlpd
from experts import InputError, exit_codes, load_expert, write_file


@dataclass
class Args:
    task: str = "peg"  # drawer or peg, as in benchmark/tables.py
    seed: int = 1
    updates: int = 20_000  # RLPD updates, each of the critics and of the actor
    critic_updates: int = 0  # for so many first ones the actor stands still
    bc_weight: float = 0.0  # of the mean action's squared distance from the executed one, in the actor's loss
    eval_updates: int = 2_000  # updates between evaluations
    eval_episodes: int = 50


def watched_episodes(args, env_id, scale, cost):
    """MILE's first round: 15 episodes of the initial policy under the person, and how often they acted."""
    options = mile.Args(env_id=env_id, intervention_scale=scale, intervention_cost=cost)
    env = mile.make_env(env_id)
    expert, initial, mental = (load_expert(env_id, level, env) for level in ("top", "initial", "mental"))
    human = mile.ProbitHuman(options, expert, mental, rng=None)
    actor = mile.copy_of(env, initial)
    seeds = [mile.seed_for(args.seed, 0, i) for i in range(15)]
    return initial, [mile.rollout(env, actor, human, seed) for seed in seeds]


def fill(rb, episodes):
    """All transitions, -1 before a takeover; success ends an episode, which is worth 0 (--termination mask)."""
    for episode in episodes:
        obs, actions, started = episode["obs"], episode["actions"], episode["nu"]  # takeovers of one step
        for t in range(len(obs) - 1):
            reward = -1.0 if started[t + 1] else 0.0
            rb.stage(obs[t], obs[t + 1], actions[t], reward, 0.0)
            rb.commit()
        # the last observation is not kept by mile.rollout; after a success there is none that counts
        if episode["success"] == 1:
            rb.stage(obs[-1], obs[-1], actions[-1], 0.0, 1.0)
            rb.commit()


def main(args):
    if args.task not in ("drawer", "peg"):
        raise InputError(f"--task must be drawer or peg, not {args.task}")
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    env_id, *rest = tables.MILE_TASKS[args.task].split()
    scale = float(rest[1]) if rest else mile.Args.intervention_scale
    person = results_of(f"figure3/{args.task}-person") / "seed_1.json"
    cost = json.loads(person.read_text())["before"]["intervention_cost"]
    initial, episodes = watched_episodes(args, env_id, scale, cost)
    steps = sum(len(episode["obs"]) for episode in episodes)

    options = rlif_rlpd.Args(env_id=env_id, termination="mask", bc_weight=args.bc_weight, offline_ratio=1.0)
    env = rlif_rlpd.make_env(env_id)
    obs_dim, act_dim = env.observation_space.shape + env.action_space.shape
    agent = rlif_rlpd.Agent(obs_dim, act_dim, options, "cpu")
    agent.begin_with(initial)
    rlif_rlpd.compile_gradients(agent)
    rb = rlif_rlpd.ReplayBuffer(steps + 2, obs_dim, act_dim, 0)
    fill(rb, episodes)
    envs = [rlif_rlpd.make_env(env_id) for _ in range(20)]
    name = f"{args.task}-{args.critic_updates}-{args.bc_weight:g}"
    folder = results_of(f"replay/{name}")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for update in trange(1, args.updates + 1):
        batch = {key: values[0] for key, values in rb.sample(rng, 1, options.batch_size, 0.0, "cpu").items()}
        losses = agent.update_critics(batch)
        if update > args.critic_updates:
            agent.update_actor(batch)
        if update % args.eval_updates == 0 or update == args.updates:
            seed = rlif_rlpd.seed_for(args.seed, 1, update)
            row = rlif_rlpd.evaluate(env_id, agent.actor, envs, args.eval_episodes, seed, deterministic=True)
            row = {"updates": update, "success_rate": row["success_rate"], "q": losses["qf_values"].item()}
            rows.append(row)
            text = io.StringIO()
            writer = csv.DictWriter(text, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_file(folder / f"seed_{args.seed}.csv", text.getvalue().encode())
    facts = {"args": asdict(args), "env_steps": steps, "expert_steps": int(sum(e["nu"].sum() for e in episodes))}
    facts |= {"labels": int((rb.data["rewards"][: rb.size] < 0).sum()), "rows": rows}
    write_file(folder / f"seed_{args.seed}.json", (json.dumps(facts, indent=2) + "\n").encode())


if __name__ == "__main__":
    with exit_codes():
        main(tyro.cli(Args))
