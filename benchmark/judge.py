"""Is the simulated person's judgement right? The gap of a reference's Q against the true gap.

    python benchmark/judge.py    # all that docs/judge.md shows; skips what is already done

rlif_rlpd.py's person flags a proposal a in s if Q(s, a) is less than Q(s, a_ref) by a margin. The
truth can be had from the simulator: put it back into s, do a, let the reference's policy go on, and
add up the task's rewards, discounted; the same with a_ref first. States are those that a novice
visits without a person. To see what a person would who looks further ahead, the novice also goes on
for SPANS of steps. Rows go to benchmark/results/judge/<env_id>-<reference>-<novice>.csv.
"""

import mujoco
import numpy as np
import torch
from files import RESULTS, command_line, read_columns, seed_for, write_rows  # and the scripts
from scipy import stats
from tqdm import tqdm

from experts import TRAINING_TASKS, load_expert
from rlif_rlpd import MAX_ACTION, make_env

# of RLIF's tasks, those with critics
REFERENCES = [("Hopper-v5", "top"), ("Walker2d-v5", "high"), ("Walker2d-v5", "poor")]
REFERENCES += [("Walker2d-v5", "top"), ("AdroitHandPen-v1", "top")]
NOVICES = "early", "middle", "late"  # after 2,000, 8,000 and 20,000 steps of rlif_rlpd.py
# states and rollouts: one of Walker2d can end in a fall, one of the pen takes long
SIZES = {"Hopper-v5": (100, 4), "Walker2d-v5": (80, 6), "AdroitHandPen-v1": (80, 2)}
ALPHAS = {"Hopper-v5": 0.995, "Walker2d-v5": 0.97, "AdroitHandPen-v1": 0.97}  # as in Table 1
SPANS = 4, 16, 50  # steps of the novice, beside one, before the reference goes on
EPISODES = 20  # of the novice; more, if they are too short for so many states
HORIZON, GAMMA = 500, 0.99  # steps of a rollout that does not end before; the critics' discount
PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION  # all that a step depends on, but for the model


# --- the two gaps ---------------------------------------------------------------------------------
def save_state(env):
    """All that the next steps depend on; the pen's target is a part of the model."""
    env = env.unwrapped
    physics = np.empty(mujoco.mj_stateSize(env.model, PHYSICS))
    mujoco.mj_getState(env.model, env.data, physics, PHYSICS)
    if not hasattr(env, "target_obj_body_id"):
        return physics, None, None
    target = env.model.body_quat[env.target_obj_body_id].copy()
    return physics, target, (env.pen_length, env.tar_length)


def restore_state(env, state):
    """Go on from there; what comes next is equal to the bit (with set_state it is not)."""
    env, (physics, target, lengths) = env.unwrapped, state
    mujoco.mj_setState(env.model, env.data, physics, PHYSICS)
    if target is not None:
        env.model.body_quat[env.target_obj_body_id] = target
        env.pen_length, env.tar_length = lengths


def visited(env, novice, states):
    """Some states that a novice visits: (episode, step, observation, proposal, state) of each."""
    torch.manual_seed(1)
    seen, episode = [], 0
    while episode < EPISODES or len(seen) < states:
        (obs, _), t, ended = env.reset(seed=seed_for(1, 8, episode)), 0, False
        while not ended:
            action = novice.act(obs[None])[0].numpy()  # (A,)
            seen.append((episode, t, obs, action, save_state(env)))
            obs, _, terminated, truncated, _ = env.step(action)
            t, ended = t + 1, terminated or truncated
        episode += 1
    chosen = np.random.default_rng(1).choice(len(seen), states, replace=False)
    return [seen[i] for i in sorted(chosen)]


def act(policy, obs, noise):
    """Expert.act, by this standard normal noise: (O,), (A,) -> (A,)."""
    mean, log_std = policy(obs[None])
    action = (mean + log_std.exp() * torch.as_tensor(noise)).tanh()[0]
    return action.clamp(-MAX_ACTION, MAX_ACTION).numpy()


def true_return(env, policies, state, action, noise):
    """G: the discounted rewards after an action (A,) in a state, by the noise (horizon, A).

    policies: who acts in each step after the first. No time limit, but an end of the task is one.
    """
    restore_state(env, state)
    value = 0.0
    for t in range(len(noise)):
        obs, reward, terminated, _, _ = env.unwrapped.step(env.func(action))
        value += GAMMA**t * reward
        if terminated or t + 1 == len(noise):
            return value
        action = act(policies[t], obs, noise[t + 1])


def judge(path, env_id, novice, level):
    """Judge a novice's states by a reference, and write what came out."""
    env, training_env = make_env(env_id), make_env(TRAINING_TASKS.get(env_id, env_id))
    env.reset(seed=0)
    novice, reference = (load_expert(env_id, policy, env) for policy in (novice, level))
    states, rollouts = SIZES[env_id]
    sample, rows = visited(training_env, novice, states), []
    obs, proposals = (np.stack(values) for values in list(zip(*sample))[2:4])  # (S, O), (S, A)
    answers = reference.act(obs).numpy()  # (S, A), a_ref
    q = [reference.q(obs, actions).numpy() for actions in (proposals, answers)]
    spans = {"novice": 1, "reference": 0} | {f"novice{k}": k for k in SPANS if level == "top"}
    for s, (episode, t, _, _, state) in enumerate(tqdm(sample, desc=path.stem)):
        rows.append({"episode": episode, "t": t, "q_novice": q[0][s], "q_reference": q[1][s]})
        shape = HORIZON, len(answers[s])
        for name, k in spans.items():
            action = proposals[s] if k else answers[s]
            policies = [novice] * (k - 1) + [reference] * HORIZON
            for r in range(rollouts):  # with the same noise for all
                noise = np.random.default_rng((1, s, r)).standard_normal(shape, np.float32)
                rows[-1][f"{name}_{r}"] = true_return(env, policies, state, action, noise)
    write_rows(path, [{name: round(float(x), 4) for name, x in row.items()} for row in rows])


# --- what the files of results say ----------------------------------------------------------------
def read(paths, arms=("novice", "reference")):
    """States of several files: episode (S,), Q (2, S), and G (2, S, R) of these arms."""
    parts = []
    for i, path in enumerate(paths):
        data = read_columns(path)  # (S,) each
        names = [[x for x in data.dtype.names if x.startswith(f"{arm}_")] for arm in arms]
        g = np.array([[data[name] for name in of_arm] for of_arm in names]).transpose(0, 2, 1)
        q = np.array([data["q_novice"], data["q_reference"]])
        parts.append((data["episode"] + 1e6 * i, q, g))
    return [np.concatenate(values, axis) for axis, values in zip((0, 1, 1), zip(*parts))]


def worse(novice, reference, alpha):
    """ValueHuman's rule, with Q or with the true values."""
    return novice < reference - (1 - alpha) * np.abs(reference)


def resampled(episode, statistic, digits=1):
    """A statistic of rows, and its 95 % bootstrap interval over the novices' episodes, as text."""
    rng, values = np.random.default_rng(0), []
    rows = [np.flatnonzero(episode == one) for one in np.unique(episode)]
    for _ in range(2_000):
        chosen = rng.integers(len(rows), size=len(rows))
        values.append(statistic(np.concatenate([rows[i] for i in chosen])))
    numbers = statistic(np.arange(len(episode))), *np.nanpercentile(values, (2.5, 97.5))
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*numbers, d=digits)


HEADER = ["gaps: task, judge", "states", "rank correlation", "attainable"]
HEADER += ["true gap if flagged", "if not", "flagged (%)", "bad (%)", "flagged if bad (%)"]
HEADER += ["bad if flagged (%)", "and more than if not", "correlation of Q and G"]


def summary(paths, alpha):
    """Of some novices and a judge, the texts that stand under HEADER from the second on."""
    episode, q, g = read(paths)
    gaps, values = g[1] - g[0], g.mean(2)  # (S, R), (2, S)
    gap, flagged, bad = gaps.mean(1), worse(*q, alpha), worse(*values, alpha)  # (S,) each
    # who knows the truth correlates with a noisy gap by the root of its reliability, which is that
    # of two halves of the rollouts, by Spearman and Brown's formula
    half = max(0.0, stats.spearmanr(gaps[:, ::2].mean(1), gaps[:, 1::2].mean(1)).statistic)

    def more(rows):
        one, other = bad[rows][flagged[rows]], bad[rows][~flagged[rows]]
        return 100 * (one.mean() - other.mean()) if len(one) and len(other) else np.nan

    yield f"{len(gap)}"
    by_q = q[1] - q[0]  # (S,)
    yield resampled(episode, lambda rows: stats.spearmanr(by_q[rows], gap[rows]).statistic, 2)
    yield f"{np.sqrt(2 * half / (1 + half)):.2f}"
    for those in (flagged, ~flagged):
        yield resampled(episode[those], lambda rows: gap[those][rows].mean())
    for those, among in ((flagged, gap == gap), (bad, gap == gap), (flagged, bad), (bad, flagged)):
        yield f"{100 * those[among].mean():.0f}"
    yield resampled(episode, more, 0)
    yield f"{np.corrcoef(q[1], values[1])[0, 1]:.2f}"


def cost(paths, arm):
    """How much less G is than the reference's where the novice acts first, and its interval."""
    episode, _, g = read(paths, (arm, "reference"))
    gap = (g[1] - g[0]).mean(1)  # (S,)
    return resampled(episode, lambda rows: gap[rows].mean())


def judged():
    """The judges whose files are there: (title, files of novices, alpha) of each."""
    for env_id, level in REFERENCES:
        paths = [RESULTS / "judge" / f"{env_id}-{level}-{name}.csv" for name in NOVICES]
        if all(path.exists() for path in paths):
            yield f"{env_id}, {level}", paths, ALPHAS[env_id]
            if env_id == "Hopper-v5":
                for name, path in zip(NOVICES, paths):
                    yield f"{env_id}, {level}, {name}", [path], ALPHAS[env_id]


def tables():
    """(header, rows) of two: of single actions, and of what several steps of a novice cost."""
    yield HEADER, [[title, *summary(paths, alpha)] for title, paths, alpha in judged()]
    rows = []
    for title, paths, _ in [one for one in judged() if one[0].endswith("top")]:
        g = read(paths)[2].mean(2)  # (2, S)
        costs = [cost(paths, arm) for arm in ("novice", *(f"novice{k}" for k in SPANS))]
        ranges = [np.percentile(g[1] - g[0], ends) for ends in ((25, 75), (5, 95))]
        texts = ["{:.0f} to {:.0f}".format(*ends) for ends in ranges]
        rows.append([title, f"{g[1].mean():.0f}", *texts, *costs])
    header = ["what a novice's steps cost: task, reference", "G of the reference"]
    header += ["1 step, 25th to 75th percentile", "5th to 95th", "1 step, the mean"]
    yield [*header, *(f"{k} steps" for k in SPANS)], rows


def main():
    torch.set_num_threads(1)
    for (env_id, level), name in [(one, name) for one in REFERENCES for name in NOVICES]:
        path = RESULTS / "judge" / f"{env_id}-{level}-{name}.csv"
        novice = RESULTS / "judge" / "novices" / env_id / f"{name}.safetensors"
        if not path.exists():
            judge(path, env_id, str(novice), level)


if __name__ == "__main__":
    command_line(main, __doc__)
