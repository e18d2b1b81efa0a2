"""Does a policy of rlif_rlpd.py need its person? Fresh episodes alone, and with the person who takes over.

    python benchmark/watched.py runs/<run> runs/<another>    # finished runs

A policy that is good with the person and falls without has learned to be caught. Each run gets
benchmark/results/watched/<env_id>__<exp_name>__<seed>.csv, with a row for the policy's mean actions and one for sampled
ones: scores alone and with the person, takeovers of flagged proposals in 1,000 steps, and the expert's share of the
steps.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from run import ROOT, results_of  # which makes the scripts importable
from tables import write

import rlif_rlpd
from experts import TRAINING_TASKS, Expert, InputError, exit_codes, load_expert, normalized_score
from experts import seed_for


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[str, ...]]  # folders of finished runs of rlif_rlpd.py
    episodes: int = 20  # of each kind


def play(env, policy, deterministic, human, expert, seed):
    """An episode as rlif_rlpd.py's loop has it, alone without a human.

    Returns its return, its steps, those of the expert, and how often one began because of a flag.
    """
    torch.manual_seed(seed)
    obs, _ = env.reset(seed=seed)
    t, expert_until, next_check, ended = 0, 0, 0, False
    episodic_return, expert_steps, catches = 0.0, 0, 0
    while not ended:
        state = torch.as_tensor(obs, dtype=torch.float32)[None]  # (1, O)
        actions = policy.act(state, deterministic=deterministic)[0].numpy()  # (A,)
        if human and t >= next_check:
            flagged, started, steps = human.check(obs, actions)
            catches += flagged and started
            if steps:
                expert_until, next_check = t + steps, t + steps + human.grace_steps
        if t < expert_until:
            actions = expert.act(state)[0].numpy()
            expert_steps += 1
        obs, reward, terminated, truncated, _ = env.step(actions)
        episodic_return += reward
        t, ended = t + 1, terminated or truncated
    return episodic_return, t, expert_steps, catches


def judged(options, policy, episodes):
    """The rows of a run's csv: one for mean actions, one for samples."""
    training = TRAINING_TASKS.get(options.env_id, options.env_id)
    env = rlif_rlpd.make_env(training, options.max_episode_steps)
    expert = load_expert(options.env_id, options.expert, env)
    reference = load_expert(options.env_id, options.reference, env, with_q=True)
    human = rlif_rlpd.ValueHuman(options, reference, np.random.default_rng(0))
    rows = []
    for actions in ("mean", "sampled"):
        found = {}  # by whether the person watches: (episodes, 4)
        for person in (None, human):
            seeds = [seed_for(options.seed, 5, episode) for episode in range(episodes)]
            played = [play(env, policy, actions == "mean", person, expert, seed) for seed in seeds]
            found[person is not None] = np.array(played)
        steps = found[True][:, 1].sum()
        rows.append({
            "actions": actions,
            "alone": round(normalized_score(options.env_id, found[False][:, 0]).mean(), 1),
            "with_person": round(normalized_score(options.env_id, found[True][:, 0]).mean(), 1),
            "catches_per_1000": round(1_000 * found[True][:, 3].sum() / steps, 1),
            "expert_share": round(100 * found[True][:, 2].sum() / steps, 1),
            "episodes": episodes,
        })  # fmt: skip
    return rows


def main(args):
    if args.episodes < 1:
        raise InputError(f"--episodes must be positive, not {args.episodes}")
    for folder in map(Path, args.runs):
        try:
            options = rlif_rlpd.Args(**json.loads((folder / "args.json").read_text()))
            policy = Expert(folder / "model.safetensors")
        except (OSError, TypeError, ValueError) as error:
            raise InputError(f"{folder} is no finished run of rlif_rlpd.py: {error}") from None
        if options.intervention != "value":
            raise InputError(f"{folder}: its person does not judge by value")
        if np.isnan(normalized_score(options.env_id, 0.0)) or options.env_id in TRAINING_TASKS:
            raise InputError(f"{folder}: D4RL has no score for {options.env_id}, as it is played")
        results_of("watched").mkdir(exist_ok=True)
        name = f"{options.env_id}__{options.exp_name}__{options.seed}".replace("/", "-")
        path = results_of("watched") / f"{name}.csv"
        if path.exists():
            print(f"{path.relative_to(ROOT)} is there already; delete it to play again")
            continue
        write(path, judged(options, policy, args.episodes))
        print(f"written: {path.relative_to(ROOT)}; now: python benchmark/report.py")


if __name__ == "__main__":
    with exit_codes():
        main(tyro.cli(Args, description=__doc__))
