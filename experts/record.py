"""The record of a session at the keys: every step in a csv file, and such a file as a Minari dataset.

python -m experts.record runs/<run>    # prints the dataset's id: --dataset-id takes it
"""

import csv
import hashlib
import io
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import gymnasium as gym
import numpy as np

from experts.demonstrations import write_dataset
from experts.files import InputError
from experts.runs import exit_codes
from experts.tasks import TRAINING_TASKS, Checked, UnitActions, open_task


class Record:
    """The steps of a session, flushed one by one to person.csv in a run's folder.

    Columns: time (seconds since 1970), seed (of the episode), t (step of the episode), control (1: the person acted),
    started (1: an intervention started), given_up (1: the person ended the episode), updates (made since the step
    before), action_0 ... (what was done, as the scripts have it), obs_0 ... (what was seen before it).
    """

    facts = "time", "seed", "t", "control", "started", "given_up", "updates"

    def __init__(self, folder, replay, obs_dim, act_dim):
        """Goes on with the one in folder, if there is one; replay: another run, whose record is gone through."""
        path = Path(folder) / "person.csv"
        text = path.read_bytes() if path.exists() else b""
        complete = text.rfind(b"\n") + 1  # without the line that was being written at a kill
        self.own = read_record(folder) if complete else {}
        self.replayed = read_record(replay) if replay else {}
        self.file = open(path, "ab")  # noqa: SIM115, as long as the session
        self.file.truncate(complete)
        if not complete:
            names = [f"action_{i}" for i in range(act_dim)] + [f"obs_{i}" for i in range(obs_dim)]
            self._write([*self.facts, *names])

    def of_episode(self, seed):
        """The lines of an episode that were recorded before, a new list."""
        return list(max(self.own.get(seed, []), self.replayed.get(seed, []), key=len))

    def append(self, line):
        """Write a line, unless it is there."""
        if line["t"] >= len(self.own.get(line["seed"], [])):
            facts = [line["time"], *(int(line[name]) for name in self.facts[1:])]
            self._write([*facts, *line["action"].tolist(), *line["obs"].tolist()])

    def _write(self, values):
        self.file.write((",".join(str(value) for value in values) + "\n").encode())
        self.file.flush()


def read_record(folder):
    """The lines of a run's person.csv by the seeds of their episodes: {seed: [line, ...]}.

    A line has the columns' names, but action, float32 (A,), and obs, float64 (O,). Raises InputError.
    """
    path, episodes = Path(folder) / "person.csv", defaultdict(list)
    try:
        text = path.read_text()
        complete = text[: text.rfind("\n") + 1]
        for row in csv.DictReader(io.StringIO(complete)):
            line = {name: int(row[name]) for name in Record.facts[1:]} | {
                "time": float(row["time"])
            }
            for name in ("control", "started", "given_up"):
                line[name] = bool(line[name])
            for name, kind in (("action", np.float32), ("obs", np.float64)):
                numbers = [float(row[column]) for column in row if column.startswith(f"{name}_")]
                line[name] = np.array(numbers, dtype=kind)
            episodes[line["seed"]].append(line)
    except OSError as error:
        raise InputError(f"no session was recorded in {folder}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} is not the record of a session") from None
    return dict(episodes)


def export(folder, env_id, max_episode_steps=None):
    """Write the episodes that were not given up as a Minari dataset; its id.

    The environment goes through the recorded actions once more, for rewards and ends are not in the record. In the
    dataset infos["intervention"][t + 1] says whether the person acted at step t. Raises InputError and OSError.
    """
    task = TRAINING_TASKS.get(env_id, env_id), max_episode_steps
    env = UnitActions(Checked(gym.wrappers.FlattenObservation(open_task(*task))))
    played = []
    for seed, lines in read_record(folder).items():
        if not lines[-1]["given_up"]:
            played.append(_play_again(env, seed, lines, folder))
    if not played:
        raise InputError(f"{folder}: no episode was recorded that was not given up")
    # another session, or the same one once it has gone on, is another dataset
    name = re.sub(r"[^a-z0-9]+", "-", Path(folder).resolve().name.lower())
    fingerprint = hashlib.sha256((Path(folder) / "person.csv").read_bytes()).hexdigest()[:8]
    dataset_id = f"interventions/{name}-{fingerprint}-{len(played)}-v0"
    write_dataset(dataset_id, env, played, "a person at the keys")
    return dataset_id


def _play_again(env, seed, lines, folder):
    """A recorded episode, as write_dataset has it."""
    obs, _ = env.reset(seed=seed)
    observations, actions, rewards, terminated, truncated = [obs], [], [], False, False
    for line in lines:
        if not np.array_equal(obs, line["obs"]):
            raise InputError(
                f"{folder}: step {line['t']} of the episode with the seed {seed} comes out differently here; the "
                "record is of another version of the environment"
            )
        obs, reward, terminated, truncated, _ = env.step(line["action"])
        observations.append(obs)
        actions.append(env.action(line["action"]))
        rewards.append(reward)
    last = np.arange(len(lines)) == len(lines) - 1  # (n,)
    return {
        "observations": np.array(observations), "actions": np.array(actions), "rewards": np.array(rewards),
        "terminations": last & terminated, "truncations": last & (not terminated), "seed": seed,
        "infos": {"intervention": np.array([False, *(line["control"] for line in lines)])},
    }  # fmt: skip


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise InputError("give a run's folder: python -m experts.record runs/<run>")
    folder = Path(sys.argv[1])
    read_record(folder)
    try:
        options = json.loads((folder / "args.json").read_text())
        task = options["env_id"], options["max_episode_steps"]
    except (OSError, KeyError, TypeError, ValueError):
        raise InputError(f"{folder}: its args.json is not there, or not that of a run") from None
    print(export(folder, *task))


if __name__ == "__main__":
    with exit_codes():
        main()
