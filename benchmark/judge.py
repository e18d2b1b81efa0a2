"""Is the simulated person's judgement right? The gap of a reference's Q against the true gap.

    python benchmark/judge.py    # all that docs/results.md shows; what is there is not done again
    python benchmark/judge.py --novice model.safetensors --env-id Hopper-v5 --reference top

rlif_rlpd.py's person flags a proposal a in s if Q(s, a) is less than Q(s, a_ref) by a margin. Q is
a network, and can err. The truth can be had from the simulator: put it back into s, do a, let the
reference's policy go on, and add up the task's rewards, discounted; the same with a_ref first. This
is done from states that a novice visits in training's task, without a person. What comes out goes
to benchmark/results/judge/: a .csv with a line for each state, a .json with the settings.

With --blur every rollout begins a little beside the state. If the gap is another one there, then
only a Q function that tells such close states apart can know it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import tables
import torch
import tyro
from run import differences, results_of  # which makes the scripts importable
from tqdm import tqdm

from experts import MAX_ACTION, TRAINING_TASKS, InputError, exit_codes, list_experts, load_expert
from experts import seed_for, write_file
from rlif_rlpd import make_env

TASKS = {  # states and rollouts: a rollout on Walker2d can end in a fall, one of the pen takes long
    "Hopper-v5": {"states": 100, "rollouts": 4},
    "Walker2d-v5": {"states": 80, "rollouts": 6},
    "AdroitHandPen-v1": {"states": 80, "rollouts": 2},
}
# the top references are also judged beside the states; the first of these is a check of the rest
BLURS = 0.0001, 0.02, 0.1
BLURRED = dict.fromkeys(("Hopper-v5", "Walker2d-v5"), {"rollouts": 6, "horizon": 100})
NOVICES = "early", "middle", "late"  # after 2,000, 8,000 and 20,000 steps of rlif_rlpd.py
PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION  # all that a step depends on, but for the model
SLOTS = 128  # rollouts that are played at the same time


@dataclass
class Args:
    novice: str | None = (
        None  # a .safetensors file; default: all of benchmark/results/judge/novices
    )
    env_id: str = "Hopper-v5"  # with --novice
    reference: str = "top"  # with --novice: a level with critics or a .safetensors file
    states: int = 100  # with --novice: at random from those that the novice visits
    episodes: int = 20  # of the novice; more, if they are too short for so many states
    rollouts: int = 4  # with --novice: from each state with each of the two actions
    horizon: int = 500  # steps of a rollout that does not end before
    blur: float = 0.0  # noise on positions and velocities, in their deviations over the states
    gamma: float = 0.99  # experts/train.py's critics have this discount
    seed: int = 1


# --- the simulator's state ------------------------------------------------------------------------


def save_state(env):
    """All that the next steps depend on. The pen's target is a part of the model, not of its state."""
    env = env.unwrapped
    physics = np.empty(mujoco.mj_stateSize(env.model, PHYSICS))
    mujoco.mj_getState(env.model, env.data, physics, PHYSICS)
    if not hasattr(env, "target_obj_body_id"):
        return {"physics": physics}
    target = env.model.body_quat[env.target_obj_body_id].copy()
    return {"physics": physics, "target": target, "lengths": (env.pen_length, env.tar_length)}


def restore_state(env, state):
    """Go on from there; the next observation and reward are equal to the bit (set_state's are not)."""
    mujoco.mj_setState(env.unwrapped.model, env.unwrapped.data, state["physics"], PHYSICS)
    restore_model(env, state)


def restore_model(env, state):
    """The part of a state that lies in the model."""
    env = env.unwrapped
    if "target" in state:
        env.model.body_quat[env.target_obj_body_id] = state["target"]
        env.pen_length, env.tar_length = state["lengths"]


def displaced(env, states, blur, seeds):
    """S states with noise on their positions and velocities: S lists, one of a state for each seed.

    The noise is `blur` times the standard deviation that each number has over the states.
    """
    env = env.unwrapped
    motions = []
    for state in states:
        restore_state(env, state)
        motions.append(np.concatenate([env.data.qpos, env.data.qvel]))
    spread = np.std(motions, axis=0)  # (positions + velocities,)
    moved = []
    for s, (state, motion) in enumerate(zip(states, motions)):
        moved.append([])
        for seed in seeds:
            noise = blur * spread * np.random.default_rng((*seed, s)).normal(size=len(spread))
            restore_state(env, state)
            env.set_state(*np.split(motion + noise, [env.model.nq]))
            moved[s].append(state | {"physics": save_state(env)["physics"]})
    return moved


# --- the two gaps ---------------------------------------------------------------------------------


def visited(env, novice, episodes, states, seed):
    """Some of the states that a novice visits, each with what it proposes there."""
    seen, episode = [], 0
    while episode < episodes or len(seen) < states:
        obs, _ = env.reset(seed=seed_for(seed, 8, episode))
        t, ended = 0, False
        while not ended:
            action = novice.act(obs[None])[0].numpy()  # (A,)
            where = {"episode": episode, "t": t, "obs": obs, "action": action}
            seen.append(where | {"state": save_state(env)})
            obs, _, terminated, truncated, _ = env.step(action)
            t, ended = t + 1, terminated or truncated
        episode += 1
    chosen = np.random.default_rng(seed).choice(len(seen), states, replace=False)
    return [seen[i] for i in sorted(chosen)]


def act(reference, obs, noise):
    """Expert.act, by this standard normal noise: (B, O), (B, A) -> (B, A)."""
    mean, log_std = reference(obs)
    action = (mean + log_std.exp() * torch.as_tensor(noise)).tanh()
    return action.clamp(-MAX_ACTION, MAX_ACTION).numpy()


def monte_carlo(env, reference, starts, horizon, gamma, progress=None, bootstrap=False):
    """Discounted returns of rollouts, (n,): a first action, then the reference's policy.

    starts: (state, first action (A,), seed of the policy's noise) of each. There is no time limit
    but the horizon; an end of the task is one. What comes after the horizon counts as nothing, or
    if bootstrap, as the reference's Q. Many rollouts share one model, each has its MjData.
    """
    core = env.unwrapped
    own_data, returns = core.data, np.zeros(len(starts))
    free = [mujoco.MjData(core.model) for _ in range(min(SLOTS, len(starts)))]
    waiting, playing = list(range(len(starts)))[::-1], []
    while waiting or playing:
        while waiting and free:
            i = waiting.pop()
            state, action, seed = starts[i]
            core.data = free.pop()
            restore_state(env, state)
            noise = np.random.default_rng(seed).standard_normal((horizon, len(action)), np.float32)
            slot = {"i": i, "t": 0, "data": core.data, "state": state, "noise": noise}
            playing.append(slot | {"action": action})
        going_on = []
        own = env.action(np.stack([slot["action"] for slot in playing]))  # (playing, A)
        for slot, action in zip(playing, own):
            core.data, t = slot["data"], slot["t"]
            restore_model(env, slot["state"])
            slot["obs"], reward, terminated, _, _ = core.step(action)
            returns[slot["i"]] += gamma**t * reward
            slot["t"] = t + 1
            if bootstrap and t + 1 == horizon and not terminated:
                last = slot["obs"][None]
                value = reference.q(last, reference.act(last, deterministic=True)).item()
                returns[slot["i"]] += gamma**horizon * value
            if terminated or t + 1 == horizon:
                free.append(slot["data"])
                if progress:
                    progress.update()
            else:
                going_on.append(slot)
        playing = going_on
        if playing:
            obs = np.stack([slot["obs"] for slot in playing])  # (playing, O)
            noise = np.stack([slot["noise"][slot["t"]] for slot in playing])  # (playing, A)
            for slot, action in zip(playing, act(reference, obs, noise)):
                slot["action"] = action
    core.data = own_data
    return returns


def judge(args, novice, reference, env, training_env):
    """A row for each state: both actions' Q, and the true returns of every rollout."""
    torch.manual_seed(args.seed)
    sample = visited(training_env, novice, args.episodes, args.states, args.seed)
    obs = np.stack([one["obs"] for one in sample])  # (S, O)
    proposals = np.stack([one["action"] for one in sample])  # (S, A)
    answers = reference.act(obs).numpy()  # (S, A), a_ref
    q = [reference.q(obs, actions).numpy() for actions in (proposals, answers)]
    states = [[one["state"]] * args.rollouts for one in sample]
    if args.blur:
        seeds = [(args.seed, 9, r) for r in range(args.rollouts)]
        states = displaced(env, [one["state"] for one in sample], args.blur, seeds)
    # rollout r of a state has the same beginning and noise for both of its first actions
    starts = [
        (states[s][r], actions[s], (args.seed, s, r))
        for actions in (proposals, answers)
        for s in range(args.states)
        for r in range(args.rollouts)
    ]
    with tqdm(total=len(starts), unit="rollout", dynamic_ncols=True) as bar:
        returns = monte_carlo(env, reference, starts, args.horizon, args.gamma, bar)
    returns = returns.reshape(2, args.states, args.rollouts)
    rows = []
    for s, one in enumerate(sample):
        row = {"episode": one["episode"], "t": one["t"]}
        row |= {"q_novice": round(float(q[0][s]), 4), "q_reference": round(float(q[1][s]), 4)}
        for arm, name in enumerate(("novice", "reference")):
            row |= {f"{name}_{r}": round(g, 4) for r, g in enumerate(returns[arm, s].tolist())}
        rows.append(row)
    return rows


# --- what a file of results says ------------------------------------------------------------------


@dataclass
class Judged:
    """States, their Q and their true values G; (S,) each, returns (S, rollouts)."""

    episode: np.ndarray
    q_novice: np.ndarray
    q_reference: np.ndarray
    novice: np.ndarray  # returns (S, R)
    reference: np.ndarray  # (S, R), with the same noise

    @property
    def q_gap(self):
        return self.q_reference - self.q_novice

    @property
    def gaps(self):
        """The true gap by each rollout, (S, R)."""
        return self.reference - self.novice

    def part(self, chosen):
        """Some of the states; a mask (S,) or their indices."""
        return Judged(*(values[chosen] for values in vars(self).values()))

    def flagged(self, alpha):
        return worse(self.q_novice, self.q_reference, alpha)

    def bad(self, alpha):
        return worse(self.novice.mean(1), self.reference.mean(1), alpha)

    def better(self, alpha):
        """By as much as bad is worse: a check, for noise alone makes some bad, and as many better."""
        novice, reference = self.novice.mean(1), self.reference.mean(1)
        return novice > reference + (1 - alpha) * np.abs(reference)


def worse(novice, reference, alpha):
    """ValueHuman's rule, with Q or with the true values."""
    return novice < reference - (1 - alpha) * np.abs(reference)


def rates(flagged, bad):
    """In %: flagged, bad, bad if flagged, flagged if bad (nan where there is none)."""
    both = (flagged & bad).sum()
    shares = [flagged.mean(), bad.mean()]
    shares += [both / n if n else np.nan for n in (flagged.sum(), bad.sum())]
    return 100 * np.array(shares)


def read(path):
    """A file of results."""
    rows = tables.read(path)

    def column(name):
        return np.array([float(row[name]) for row in rows])

    rollouts = sum(name.startswith("novice_") for name in rows[0])
    returns = [
        np.stack([column(f"{name}_{r}") for r in range(rollouts)], axis=1)
        for name in ("novice", "reference")
    ]
    return Judged(column("episode"), column("q_novice"), column("q_reference"), *returns)


def together(parts):
    """Several files as one; episodes of different files stay different."""
    columns = [
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("q_novice", "q_reference", "novice", "reference")
    ]
    return Judged(
        np.concatenate([part.episode + 1e6 * i for i, part in enumerate(parts)]), *columns
    )


# --- main -----------------------------------------------------------------------------------------


def references(env_id):
    """The shipped levels with critics."""
    return [level for level in list_experts()[env_id] if load_expert(env_id, level).has_q]


def run_one(args, folder):
    """Judge one novice by one reference, unless that was done before."""
    env = make_env(args.env_id)
    novice = load_expert(args.env_id, args.novice, env)
    reference = load_expert(args.env_id, args.reference, env, with_q=True)
    name = f"{args.env_id}-{Path(args.reference).stem}-{Path(args.novice).stem}"
    if args.blur:
        name += f"-blur-{args.blur}"
    path = folder / f"{name}.csv"
    settings = vars(args) | {"novice": Path(args.novice).name}
    settings |= {"novice_sha256": novice.sha256, "reference_sha256": reference.sha256}
    if path.exists():
        if differences(json.loads(path.with_suffix(".json").read_text()), settings):
            raise InputError(f"{path} is of other settings; delete it to judge with these")
        print(f"{path} is there already; delete it to judge again")
        return
    env.reset(seed=0)
    training_env = make_env(TRAINING_TASKS.get(args.env_id, args.env_id))
    print(name)
    rows = judge(args, novice, reference, env, training_env)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(path.with_suffix(".json"), (json.dumps(settings, indent=2) + "\n").encode())
    tables.write(path, rows)


def main(args):
    for name in ("states", "episodes", "rollouts", "horizon"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} must be positive, not {getattr(args, name)}")
    if args.seed < 0:
        raise InputError(f"--seed must be zero or more, not {args.seed}")
    if not 0 <= args.blur < np.inf:
        raise InputError(f"--blur must be zero or more, not {args.blur}")
    torch.set_num_threads(1)
    folder = results_of("judge")
    if args.novice:
        return run_one(args, folder)
    for name in ("env_id", "reference", "states", "rollouts"):
        if getattr(args, name) != getattr(Args, name):
            raise InputError(f"--{name.replace('_', '-')} needs a --novice")
    for env_id, size in TASKS.items():
        for stage in NOVICES:
            novice = str(folder / "novices" / env_id / f"{stage}.safetensors")
            for reference in references(env_id):
                one = {"novice": novice, "env_id": env_id, "reference": reference}
                run_one(Args(**vars(args) | size | one), folder)
    for env_id, size in BLURRED.items():
        for blur in BLURS:
            for stage in NOVICES:
                novice = str(folder / "novices" / env_id / f"{stage}.safetensors")
                one = {"novice": novice, "env_id": env_id, "reference": "top", "blur": blur}
                run_one(Args(**vars(args) | TASKS[env_id] | size | one), folder)


if __name__ == "__main__":
    with exit_codes():
        main(tyro.cli(Args, description=__doc__))
