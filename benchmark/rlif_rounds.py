"""RLIF in MILE's setting: it learns from the rounds of watched episodes that the others learn from.

    python benchmark/rlif_rounds.py                                                   # peg insertion
    python benchmark/rlif_rounds.py --rounds 1 --round-episodes 15 --round-updates 20000

rlif_rlpd.py learns while it acts, from tens of thousands of steps. Here the robot acts as in mile.py, by its mean
action and with the same seeds and person, and between two rounds RLPD makes as many updates as it is given, on the
episodes of all rounds. In the first round these are the very episodes that mile.py, iwr.py and sirius.py see. The actor
begins with the initial policy, the critics with nothing.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm, trange

import run  # noqa: F401, which makes the scripts importable
import mile
import rlif_rlpd
from experts import (
    InputError,
    RunError,
    evaluate,
    exit_codes,
    finish_run,
    load_demonstrations,
    load_expert,
    open_run,
    parse,
    seed_for,
    write_rows,
)
from experts.options import Count, Finite, Natural, NonNegative, Positive, Seed
from experts.speed import compiled


@dataclass
class Args:
    exp_name: str = "rlif_rounds"  # the run lies in runs/<env_id>__<exp_name>__<seed>__<time>
    seed: Seed = 1  # of everything
    resume: str | None = None  # not here: a run takes minutes
    capture_video: bool = False  # not here
    track: bool = False  # log to Weights & Biases as well (python -m pip install wandb)
    env_id: str = "Meta-World/peg-insert-side-v3"  # or any, with Box actions
    rounds: Count = 20  # a round is some watched episodes, then training
    round_episodes: Count = 1  # episodes of a round
    round_updates: Count = 1_000  # RLPD updates after a round, each of the critics and of the actor
    eval_frequency: Count = 1  # rounds between evaluations
    eval_episodes: Count = 20  # of an evaluation
    expert: str = "top"  # who takes over
    human_model: str = "mental"  # what the person expects of the robot
    intervention_cost: Finite = 16.0  # c
    intervention_scale: Positive = 10.0
    takeover_steps: Count = 1  # steps that the expert keeps control
    initial_policy: str = "initial"  # what the robot can do at first
    demo_episodes: Natural = 0  # demonstrations of the shipped top expert, without rewards
    termination: str = "mask"  # of an episode's end: mask where it is a success, bootstrap where it may be a fall too
    bc_weight: NonNegative = 0.0  # of a pull towards what was done, in the actor's loss
    cuda: bool = False  # not here
    num_threads: Count = 2  # of torch


def check(args, typed):
    if args.termination not in ("mask", "bootstrap"):
        raise InputError(f"--termination must be mask or bootstrap, not {args.termination}")
    for name in ("resume", "capture_video", "cuda"):
        if getattr(args, name):
            raise InputError(f"--{name.replace('_', '-')} is not there in this script")


def takeover_starts(nu, takeover_steps):
    """Does a takeover start at each step? One can begin where another ends: (T,) -> T booleans."""
    starts, expert_until = [], 0
    for t, acts in enumerate(nu):
        starts.append(bool(acts) and t >= expert_until)
        if starts[-1]:
            expert_until = t + takeover_steps
    return starts


def add_episode(args, rb, episode):
    """Its transitions, -1 before a takeover.

    What was observed after the last step is not kept by mile.rollout, and that step is left out. After a success it is
    not needed: with mask, whatever comes then counts for nothing.
    """
    obs, actions = episode["obs"], episode["actions"]  # (T, O), (T, A)
    starts = takeover_starts(episode["nu"], args.takeover_steps)
    for t in range(len(obs) - 1):
        rb.add({
            "obs": obs[t], "next_obs": obs[t + 1], "actions": actions[t],
            "rewards": -1.0 if starts[t + 1] else 0.0, "terminations": 0.0,
        })  # fmt: skip
    if episode["success"] == 1 and args.termination == "mask":
        rb.add({
            "obs": obs[-1], "next_obs": obs[-1], "actions": actions[-1],
            "rewards": 0.0, "terminations": 1.0,
        })  # fmt: skip


def main(args):
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    env = mile.make_env(args.env_id)
    if env.discrete:
        raise InputError(f"--env-id {args.env_id}: RLPD needs continuous actions")
    eval_envs = [mile.make_env(args.env_id) for _ in range(min(args.eval_episodes, 20))]
    policies = [
        load_expert(args.env_id, level, env)
        for level in (args.expert, args.initial_policy, args.human_model)
    ]
    expert, initial, human_model = policies
    human = mile.ProbitHuman(args, expert, human_model)
    demos = load_demonstrations(env, args.env_id, args.demo_episodes)

    # with an offline share of 1, bc_weight holds the actor to every transition of a batch
    options = rlif_rlpd.Args(
        hidden_sizes=tuple(initial.facts["hidden_sizes"]),
        bc_weight=args.bc_weight,
        offline_ratio=1.0,
    )
    obs_dim, act_dim = env.observation_space.shape + env.action_space.shape
    agent = rlif_rlpd.Agent(obs_dim, act_dim, options, "cpu")
    agent.actor.load_state_dict(initial.state)
    agent.actor.min_log_std = initial.facts.get("min_log_std", agent.actor.min_log_std)
    for network in (agent.qf, agent.qf_target):
        network.obs_mean.copy_(initial.obs_mean)
        network.obs_std.copy_(initial.obs_std)
    agent.critic_gradients, agent.actor_gradients = (
        compiled(agent.critic_gradients),
        compiled(agent.actor_gradients),
    )
    most_steps = args.rounds * args.round_episodes * env.spec.max_episode_steps
    rb = rlif_rlpd.ReplayBuffer(len(demos["rewards"]) + most_steps, obs_dim, act_dim)
    for i, terminated in enumerate(demos["terminations"]):
        transition = {name: values[i] for name, values in demos.items() if name in rb.data}
        rb.add(rlif_rlpd.end_of_episode(args, None, transition, terminated))

    folder, _ = open_run(args, policies)
    writer, start, rows = SummaryWriter(folder), time.perf_counter(), []
    counts = {"global_step": 0, "expert_steps": 0, "takeovers": 0}
    for round in trange(1, args.rounds + 1, unit="round"):
        for i in range(args.round_episodes):
            seed = seed_for(args.seed, 0, (round - 1) * args.round_episodes + i)
            episode = mile.rollout(env, agent.actor, human, seed)
            add_episode(args, rb, episode)
            counts["global_step"] += len(episode["nu"])
            counts["expert_steps"] += int(episode["nu"].sum())
            counts["takeovers"] += episode["takeovers"]
        for update in tqdm(range(args.round_updates), leave=False):
            batch = rb.sample(rng, 1, options.batch_size, 0.0, "cpu")  # (1, B, ...)
            losses = agent.update(batch)
            if not math.isfinite(losses["qf_loss"] + losses["actor_loss"]):
                raise RunError(f"round {round}, update {update}: learning broke down, {losses}")
        if round % args.eval_frequency == 0 or round == args.rounds:
            row = {**counts, "round": round, "q": losses["qf_values"].item()}
            fresh = seed_for(args.seed, 1, counts["global_step"])
            row |= evaluate(args.env_id, agent.actor, eval_envs, args.eval_episodes, fresh)
            rows.append(row | {"wall_seconds": time.perf_counter() - start})
            write_rows(folder, writer, rows)
    summary = {"env_steps": counts.pop("global_step"), "rounds": args.rounds, **counts}
    summary |= {"demo_episodes": int(demos["ends"].sum()), "seconds": rows[-1]["wall_seconds"]}
    finish_run(folder, writer, args, rows, agent.actor, agent.qf, **summary)


if __name__ == "__main__":
    with exit_codes():
        main(parse(Args, check))
