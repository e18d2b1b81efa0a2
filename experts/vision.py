"""Eyes: in Pixels/<id> the robot sees pictures, as numbers that a frozen network makes of them.

    python -m experts.vision --env-id Meta-World/button-press-v3    # learns it, by cloning

What the scripts learn from, store and save is a vector, so they need not know of pictures. The
person is another who looks at the robot: simulated ones see the state, which the robot never gets.
"""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file, save_file
from tqdm import trange

from experts import InputError, Task, load_expert
from experts.policies import FOLDER

SIZE, FEATURES = 84, 64  # pixels of a side; numbers that are made of a picture
# the camera, its angle of view, and what a robot feels of itself in a state: hand and gripper
VIEWS = {"Meta-World/": ("corner", 30.0, slice(-39, -35))}


def encoder():
    """Pictures (B, 3, 84, 84), 0 to 1, -> (B, 64) within +-1; not yet trained."""
    layers, channels = [], 3
    for stride in (2, 2, 1, 1):
        layers += [nn.Conv2d(channels, 32, 3, stride), nn.ReLU()]
        channels = 32
    layers += [nn.Flatten(), nn.Linear(32 * 16 * 16, FEATURES), nn.LayerNorm(FEATURES), nn.Tanh()]
    return nn.Sequential(*layers)


class Pixels(gym.ObservationWrapper):
    """Observes (F + P,): features of a picture, and what the robot feels. Raises InputError."""

    def __init__(self, env, env_id, net=None):
        """net: the encoder; default: that which is there for the task."""
        super().__init__(env)
        if net is None:
            path, net = FOLDER / "Pixels" / env_id / "encoder.safetensors", encoder()
            if not path.exists():
                how = f"python -m experts.vision --env-id {env_id}"
                raise InputError(f"nobody has learned to see in {env_id}: {how}")
            net.load_state_dict(load_file(path))
        task, self.encoder, self.states = env.unwrapped, net, None
        camera, angle, self.felt = None, None, slice(0, 0)
        for start in filter(env_id.startswith, VIEWS):
            camera, angle, self.felt = VIEWS[start]
        if renderer := getattr(task, "mujoco_renderer", None):  # of MuJoCo: small and quick
            renderer.model.vis.quality.offsamples = renderer.model.vis.quality.shadowsize = 0
            renderer.model.mat_reflectance[:] = 0
            renderer.width = renderer.height = SIZE
        if camera:
            renderer.camera_id = task.model.camera(camera).id
            task.model.cam_fovy[renderer.camera_id] = angle
        size = FEATURES + len(np.zeros(gym.spaces.flatdim(env.observation_space))[self.felt])
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    @torch.no_grad()
    def observation(self, observation):
        state = gym.spaces.flatten(self.env.observation_space, observation).astype(np.float32)
        picture = torch.from_numpy(np.array(self.env.render()))  # (height, width, 3), uint8
        picture = picture.permute(2, 0, 1)[None].float() / 255  # (1, 3, height, width)
        self.picture = F.interpolate(picture, (SIZE, SIZE), mode="area")
        obs = np.concatenate([self.encoder(self.picture)[0].numpy(), state[self.felt]])
        if self.states is not None:
            self.states[obs.tobytes()] = state
        return obs

    def eyes(self):
        """From now on states are remembered; returns what a person sees: (B, F + P) -> (B, S)."""
        self.states = self.states or {}
        return lambda obs: np.stack([self.states[x.tobytes()] for x in np.asarray(obs, "f")])


def demonstrate(env_id, env, episodes, seed):
    """Episodes of the top expert, as load_demonstrations returns them; their pictures, uint8."""
    expert, rows, pictures = load_expert(env_id, "top", env), [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for key in np.random.SeedSequence((seed, 5)).generate_state(episodes):
            (obs, _), ended = env.reset(seed=int(key)), False
            while not ended:
                pictures.append((255 * env.get_wrapper_attr("picture")).to(torch.uint8))
                action = expert.act(obs[None])[0].numpy()
                next_obs, reward, terminated, truncated, _ = env.step(action)
                ended = terminated or truncated
                rows.append((obs, next_obs, action, reward, terminated, ended))
                obs = next_obs
    names = "obs", "next_obs", "actions", "rewards", "terminations", "ends"
    data = dict(zip(names, (np.array(column, dtype=np.float32) for column in zip(*rows))))
    return data, torch.cat(pictures)


def main(
    env_id: str = "Meta-World/button-press-v3",  # a task with a top expert
    episodes: int = 60,  # of that expert, which are cloned
    updates: int = 4_000,  # gradient steps
    output: str | None = None,  # default: where Pixels/<env_id> looks for it
):
    torch.manual_seed(0)
    net, env = encoder(), gym.wrappers.FlattenObservation(Task(env_id, None, "rgb_array"))
    env = gym.wrappers.RescaleAction(Pixels(env, env_id, net), np.float32(-1), np.float32(1))
    data, pictures = demonstrate(f"Pixels/{env_id}", env, episodes, 0)
    felt, actions = torch.from_numpy(data["obs"][:, FEATURES:]), torch.from_numpy(data["actions"])
    felt = (felt - felt.mean(0)) / felt.std(0, correction=0).clamp_min(0.01)  # (n, P)
    sizes = [FEATURES + felt.shape[1], 256, 256]
    layers = [nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in zip(sizes[:-1], sizes[1:])]
    head = nn.Sequential(*layers, nn.Linear(256, actions.shape[1]), nn.Tanh())
    optimizer = torch.optim.AdamW([*net.parameters(), *head.parameters()], 1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.2, updates)
    for _ in trange(updates, desc="cloning"):
        i = torch.randint(len(pictures), (128,))  # (B,)
        padded = F.pad(pictures[i].float() / 255, (4, 4, 4, 4), mode="replicate")
        corners = torch.randint(9, (128, 2)).tolist()  # each picture moves by up to 4 pixels
        seen = [x[:, y : y + SIZE, z : z + SIZE] for x, (y, z) in zip(padded, corners)]
        mean = head(torch.cat([net(torch.stack(seen)), felt[i]], 1))  # (B, A)
        loss = (mean - actions[i]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    path = Path(output or FOLDER / "Pixels" / env_id / "encoder.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), path)
    print(f"{path}: a squared error of {loss.item():.4f} at the end")


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except (InputError, gym.error.Error, ModuleNotFoundError) as error:
        print(f"experts.vision: {error}", file=sys.stderr)
        sys.exit(2)
