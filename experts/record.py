"""Demonstrations that you drive: python -m experts.record --env-id LunarLanderContinuous-v3."""

import sys
from dataclasses import dataclass

import gymnasium as gym
import minari
import numpy as np
import tyro

from experts import TRAINING_TASKS, InputError, Task
from experts.demonstrations import write_dataset
from experts.human import Person

ARRAYS = ["observations", "actions", "rewards", "terminations", "truncations"]


@dataclass
class Args:
    env_id: str = "LunarLanderContinuous-v3"  # any Gymnasium environment that can be drawn
    max_episode_steps: int | None = None  # time limit of an episode; default: the environment's
    episodes: int = 5  # to keep, with those of the same name that were kept before
    name: str = "mine"  # of the dataset
    keys: str | None = None  # a file of key bindings, like experts/keys.toml


def make_env(env_id, max_episode_steps):
    """As in the scripts: flat observations, actions in [-1, 1] or one-hot."""
    env = gym.wrappers.FlattenObservation(Task(env_id, max_episode_steps, "rgb_array"))
    space = env.action_space
    if isinstance(space, gym.spaces.Discrete):
        one_hot = gym.spaces.MultiBinary(int(space.n))
        return gym.wrappers.TransformAction(env, lambda a: int(space.start + a.argmax()), one_hot)
    return gym.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))


def play(env, human, seed):
    """An episode as the person drives it, for write_dataset; None if it was given up."""
    (obs, _), lines, ended = human.reset(seed=seed), [], False
    while not ended:
        human.check(obs, None)
        lines.append(human.line)
        obs, reward, terminated, truncated, _ = human.step(lines[-1]["action"])
        lines[-1]["reward"], ended = reward, terminated or truncated
    actions = [env.action(line["action"]) for line in lines]
    seen, rewards = [line["obs"] for line in lines] + [obs], [line["reward"] for line in lines]
    last = np.arange(len(lines)) == len(lines) - 1  # (n,)
    ends = last & terminated  # a time limit is no end
    arrays = np.float32(seen), actions, np.float32(rewards), ends, last & ~ends
    return None if lines[-1]["given_up"] == 1 else dict(zip(ARRAYS, arrays))


def main(args):
    env = make_env(TRAINING_TASKS.get(args.env_id, args.env_id), args.max_episode_steps)
    human, path = Person(env, args), minari.storage.get_dataset_path
    name = f"person/{args.env_id}/{args.name}".replace(":", "-").replace(".", "-")
    kept = [x.name.removeprefix(f"{path(name).name}-v") for x in path(name).parent.glob("*")]
    there, episodes = max([int(x) for x in kept if x.isdigit()], default=0), []
    for one in minari.load_dataset(f"{name}-v{there}").iterate_episodes() if there else ():
        episodes.append({array: getattr(one, array) for array in ARRAYS})
    while len(episodes) < args.episodes:
        episode, window = play(env, human, len(episodes)), human.window
        window.tapped = []
        while episode and not {"y", "r"} & {*window.tapped}:
            window.draw(human, f"{human.ending}. Keep it?  Y: yes  R: no")
            window.pygame.time.wait(50)  # milliseconds
            window.hear()
        if "y" in window.tapped:  # kept as a whole: a version's number is that of its episodes
            episodes.append(episode)
            made = f"{name}-v{len(episodes)}"
            write_dataset(path(made), env, episodes, made, "a person at the keys")
            print(f"kept: --dataset-id {made} --demo-episodes {len(episodes)}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except (InputError, OSError, gym.error.Error, ImportError) as error:
        print(f"experts.record: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; what was kept is kept, and the same command goes on")
        sys.exit(130)
