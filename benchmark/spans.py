"""How much do k steps of a novice cost? The true gap of benchmark/judge.py over longer spans.

    python benchmark/spans.py --env-id AdroitHandPen-v1

From states that novices visit the simulator lets the novice act for k steps and the reference go
on, or the reference from the first, with the same noise, twice each; G is the task's discounted
reward in training's task. Rows go to benchmark/results/judge/spans-<env_id>.csv.
"""

import judge
import numpy as np
import torch
from files import RESULTS, command_line, write_rows
from scipy import stats

from experts import TRAINING_TASKS, load_expert
from rlif_rlpd import make_env

SPANS, STATES = (0, 1, 4, 16, 50), 250  # steps of the novice; states of each novice


def returns(sim, policies, state, obs, noise, left, k):
    """G of the novice for k steps and the reference then, in these steps that are left."""
    judge.restore_state(sim, state)
    value = 0.0
    for t in range(left):
        action = judge.act(policies[t >= k], obs, noise[t])
        obs, reward, *_ = sim.unwrapped.step(sim.func(action))
        obs = obs.astype(np.float32)
        value += judge.GAMMA**t * reward
        if sim.unwrapped.spec.id.startswith("AdroitHandPen") and obs[26] < 0.075:
            break  # D4RL's pen has been dropped
    return value


def main(env_id: str = "AdroitHandPen-v1"):
    torch.set_num_threads(1)
    env, sim = (make_env(TRAINING_TASKS.get(env_id, env_id)) for _ in range(2))
    sim.reset(seed=0)
    reference, rows = load_expert(env_id, "top", env), []
    for name in judge.NOVICES:
        path = RESULTS / "judge" / "novices" / env_id / f"{name}.safetensors"
        novice, rng, episode, n = (
            load_expert(env_id, str(path), env),
            np.random.default_rng(11),
            0,
            0,
        )
        torch.manual_seed(11)
        while n < STATES:
            (obs, _), seen, ended = env.reset(seed=11_000 + episode), [], False
            while not ended:
                seen.append((obs, judge.save_state(env)))
                obs, _, *ends, _ = env.step(novice.act(obs[None])[0].numpy())
                ended = any(ends)
            for t in rng.choice(len(seen), min(4, len(seen)), replace=False):
                row = {"novice": name, "episode": episode, "t": t}
                for r in range(2):
                    noise = np.random.default_rng((11, episode, t, r))
                    noise = noise.standard_normal((101, *env.action_space.shape), np.float32)
                    for k in SPANS:
                        given = (novice, reference), seen[t][1], seen[t][0], noise, 100 - t, k
                        row[f"G{k}_{r}"] = round(returns(sim, *given), 2)
                rows.append(row)
                n += 1
            episode += 1
    write_rows(RESULTS / "judge" / f"spans-{env_id}.csv", rows)
    for k in SPANS[1:]:
        gaps = np.array([[row[f"G0_{r}"] - row[f"G{k}_{r}"] for r in range(2)] for row in rows])
        half = stats.sem(gaps.mean(1)) * 1.96
        print(f"{k} steps cost {gaps.mean():.0f} ± {half:.0f}")


if __name__ == "__main__":
    command_line(main, __doc__)
