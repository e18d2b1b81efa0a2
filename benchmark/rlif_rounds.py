"""RLIF in MILE's setting: it learns from the rounds of watched episodes that the others learn from.

    python benchmark/rlif_rounds.py --rounds 1 --round-episodes 15 --round-updates 20000

Here the robot acts as in iwr.py, by its mean action and with the same seeds and person, and between
two rounds RLPD makes its updates, on the episodes of all rounds. In the first round these are those
that mile.py, iwr.py, sirius.py see. The actor begins with the initial policy, critics with nothing;
with --critics-first they learn first what that policy is worth.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
from files import InputError, command_line, compiled, seed_for, write_rows  # and the scripts
from tqdm import trange

import iwr
import rlif_rlpd
from experts import load_demonstrations, load_expert, save_expert


@dataclass
class Args(iwr.Args):
    exp_name: str = "rlif_rounds"
    round_updates: int = 1_000  # of RLPD after a round, each of the critics and of the actor
    critics_first: bool = False  # before the first round's updates, as many of the critics alone
    batch_size: int = 256  # this and the next two as in rlif_rlpd.py
    learning_rate: float = 3e-4
    n_step: int = 3
    termination: Literal["mask", "bootstrap"] = "mask"  # an end: a success; or it may be a fall too

    def check(self):
        super().check()
        others = "resume track capture_video cuda interventions_only single_env max_episode_steps"
        others += " intervention keys replay min_std"
        if any(getattr(self, x) != getattr(iwr.Args, x) for x in others.split()):
            raise InputError("an option of iwr.py that is not there in this script")


def add_episode(args, rb, episode):
    """Its transitions, -1 before a takeover; one can begin where another ends.

    rollout() does not keep what came after the last step, which is left out but after a success:
    with mask, whatever comes then counts for nothing.
    """
    obs, actions, nu = (episode[name] for name in ("obs", "actions", "nu"))  # (T, O), (T, A), (T,)
    obs, starts, expert_until = torch.cat([obs, obs[-1:]]), [], 0  # (T + 1, O)
    for t, acts in enumerate([*nu, False]):
        starts.append(bool(acts) and t >= expert_until)
        expert_until = t + args.takeover_steps if starts[-1] else expert_until
    steps = len(nu) if episode["success"] == 1 and args.termination == "mask" else len(nu) - 1
    for t in range(steps):
        row = {"obs": obs[t], "next_obs": obs[t + 1], "actions": actions[t]}
        row |= {"rewards": rlif_rlpd.INTERVENTION_REWARD * starts[t + 1], "ends": t == steps - 1}
        rb.add(row | {"terminations": t == len(nu) - 1})


def main(args: Args):
    args.check()
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    rng, begun = np.random.default_rng(args.seed), time.perf_counter()
    env, *eval_envs = (iwr.make_env(args.env_id) for _ in range(1 + args.eval_episodes))
    if isinstance(env.action_space, gym.spaces.MultiBinary):
        raise InputError(f"--env-id {args.env_id}: RLPD needs continuous actions")
    names = args.initial_policy, args.expert, args.human_model
    initial, *policies = (load_expert(args.env_id, name, env) for name in names)
    human = iwr.ProbitHuman(args, *policies)
    demos = load_demonstrations(args.env_id, env, args.demo_episodes, args.seed, args.dataset_id)
    demos["rewards"][:] = 0
    sizes = tuple(initial.facts["hidden_sizes"])
    own = {"batch_size": args.batch_size, "learning_rate": args.learning_rate}
    options = rlif_rlpd.Args(hidden_sizes=sizes, n_step=args.n_step, precision="float32", **own)
    obs_dim, act_dim = env.observation_space.shape + env.action_space.shape
    agent = rlif_rlpd.Agent(obs_dim, act_dim, options, "cpu")
    agent.actor.load_state_dict(initial.state)
    agent.actor.min_log_std = initial.facts.get("min_log_std", agent.actor.min_log_std)
    for network in (agent.qf, agent.qf_target):
        network.obs_mean.copy_(initial.state["obs_mean"])
        network.obs_std.copy_(initial.state["obs_std"])
    for name in ("critic_gradients", "actor_gradients"):
        setattr(agent, name, compiled(getattr(agent, name)))
    steps = args.rounds * args.round_episodes * env.spec.max_episode_steps
    rb = rlif_rlpd.ReplayBuffer(len(demos["rewards"]) + steps, obs_dim, act_dim)
    for i, terminated in enumerate(demos["terminations"]):
        transition = {name: values[i] for name, values in demos.items()}
        rb.add(rlif_rlpd.end_of_episode(args, None, transition, terminated))

    name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path("runs", name.replace("/", "-"))
    folder.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps(vars(args), indent=2))
    counts, rows = {"round": 0, "global_step": 0, "expert_steps": 0, "takeovers": 0}, []
    for e in range(args.rounds * args.round_episodes):
        episode = iwr.rollout(env, agent.actor, human, seed_for(args.seed, 0, e))
        add_episode(args, rb, episode)
        counts["global_step"] += len(episode["nu"])
        counts["expert_steps"] += int(episode["nu"].sum())
        counts["takeovers"] += episode["takeovers"]
        if (e + 1) % args.round_episodes:
            continue
        counts["round"] += 1
        for _ in range(args.round_updates if args.critics_first and counts["round"] == 1 else 0):
            batch = rb.sample(rng, options, "cpu")
            agent.update_critics({name: values[0] for name, values in batch.items()})
        for _ in trange(args.round_updates, desc=f"round {counts['round']}"):
            losses = agent.update(rb.sample(rng, options, "cpu"), 0)  # on (1, B, ...)
            if not math.isfinite(losses["qf_loss"] + losses["actor_loss"]):
                raise FloatingPointError(f"round {counts['round']}: the losses are {losses}")
        if counts["round"] % args.eval_frequency == 0 or counts["round"] == args.rounds:
            key = args.seed, 1, counts["global_step"]
            row = counts | iwr.evaluate(args.env_id, agent.actor, eval_envs, *key)
            rows.append(row | {"wall_seconds": time.perf_counter() - begun})
            write_rows(folder / "eval.csv", rows)
    facts = {"env_id": args.env_id, "reward": "intervention"}  # what its critics value
    save_expert(folder / "model.safetensors", agent.actor, agent.qf, **facts)


if __name__ == "__main__":
    command_line(main, __doc__)
