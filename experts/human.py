"""A person at the keys (docs/keys.md). The same decisions make the same run, to the bit."""

import os
import time
import tomllib
from collections import deque
from fnmatch import fnmatch
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from experts.policies import MAX_ACTION, InputError
from experts.tasks import draw_quickly

HYSTERESIS = 0.3  # seconds of control after the last key: a chain of taps is one takeover
TAKEN = "c", "space", "p", "r", "q", "y", "return"  # keys that mean something already
ABSENCE = 2.0  # seconds of learning, or of a test, after which the robot waits for P
# of person.csv; given_up: 1 by R, 2 by Enter, a success; obs (O,) was seen, action (A,) is done
COLUMNS = ["time", "seed", "t", "control", "started", "given_up", "obs", "action"]


class Person(gym.Wrapper):
    """One object in three roles: it judges (check), acts (act), and is the environment (step)."""

    takeover_steps, grace_steps = 1, 0  # the keys are read at every step

    def __init__(self, env, args, folder=None):
        """folder: the run's; without one, the person acts in every step. Raises InputError."""
        super().__init__(env)
        self.expert, self.replay = self, getattr(args, "replay", None)
        self.path = folder and Path(folder, "person.csv")
        self.recorded = read_record(self.replay or folder)  # {(seed, t): line}
        if self.replay and (n := len(self.recorded)) < getattr(args, "total_timesteps", 1):
            raise InputError(f"only {n} steps are recorded; first finish: --resume {self.replay}")
        if self.replay and folder == Path(self.replay):
            raise InputError("--replay makes a run of its own, so leave --resume out")
        self.keys, self.interventions = Keys(env, args), 0
        # of each step of two minutes: in control? did an intervention start?
        self.work = deque(maxlen=round(120 * self.keys.rate))
        # by the clock: when keys are due; when the robot moved; when the space bar was heard
        self.due, self.moved, self.heard = 0.0, 0.0, 0.0
        # rlif_rlpd.py's E[gamma^m]: a fall costs as much as a takeover every second, for ever
        self.discount = getattr(args, "gamma", 1.0) ** self.keys.rate
        self.window = None if self.replay else Window(env, self.keys)

    def reset(self, *, seed=None, options=None):
        self.seed, self.t, self.line, self.control, self.until = seed, 0, None, False, 0.0
        if self.path and self.path.exists():  # a line may have been cut off by a kill
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
        return self.env.reset(seed=seed, options=options)

    def check(self, obs, *_):
        """Flagged? Does an intervention start? Does the person act? (O,) -> bool, bool, 0/1."""
        line = self.recorded.get((self.seed, self.t))
        if line is None and self.replay:
            step = f"step {self.t} of the episode with seed {self.seed}"
            raise InputError(f"no {step} is recorded: drop --seed, or first --resume {self.replay}")
        self.line, self.obs = line or self._decide(obs), obs
        self.control, started = bool(self.line["control"]), bool(self.line["started"])
        self.began = self.control and started
        self.interventions += started
        self.work.append((self.control, started))
        return self.control or started, started, int(self.control)

    def takes_over(self, obs, _):
        """Does the person act at obs, (O,)? If so, began says whether since this step."""
        return self.check(obs, None)[2] > 0

    def act(self, _):
        """The person's action: (1, A)."""
        return torch.from_numpy(self.line["action"])[None]

    def step(self, action):
        line, action = self.line, np.asarray(action, dtype=np.float32)  # (A,)
        same = np.array_equal(line.setdefault("action", action), action)
        if not (same and np.array_equal(line["obs"], self.obs, equal_nan=True)):
            step = f"step {self.t} of the episode with seed {self.seed}"
            raise InputError(f"{step} is not the recorded one: use its options, code and machine")
        live = (self.seed, self.t) not in self.recorded
        if live and self.path:  # written down before the robot moves, whatever happens then
            cells = [" ".join(map(str, np.ravel(line[name]).tolist())) for name in COLUMNS]
            with open(self.path, "a") as file:
                if file.tell() == 0:
                    print(*COLUMNS, sep=",", file=file)
                print(*cells, sep=",", file=file)
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.t, truncated = self.t + 1, bool(truncated or line["given_up"] == 1)
        if line["given_up"] == 2:
            terminated, info = True, {"success": 1.0, "success_now": 1.0}
        whys = {"it ended": terminated, "given up": line["given_up"], "time is up": truncated}
        self.ending = next((why for why, holds in whys.items() if holds), "")
        if live:
            heard = "noted: that was bad" if time.perf_counter() < self.heard + 0.5 else ""
            self.window.draw(self, f"{self.ending}: one moment, please" if self.ending else heard)
        self.moved = time.perf_counter()
        return obs, reward, terminated, truncated, info

    def minutes(self):
        """What the person did in the last minute, and how much of the one before it."""
        minute, work = round(60 * self.keys.rate), np.array(self.work, dtype=bool).reshape(-1, 2)
        text = f"last minute: {work[-minute:, 1].sum()} interventions"
        for what, part in ((", you act in ", work[-minute:]), ("; before: ", work[:-minute])):
            text += f"{what}{part[:, 0].mean():.0%}" if len(part) else ""
        return text

    def _decide(self, obs):
        """This step's line of the record, by the keys that are down when it is due."""
        window = self.window
        window.hear()
        window.paused |= time.perf_counter() - self.moved > ABSENCE
        if self.t == 0:
            window.tapped = []  # between two episodes
            window.draw(self)
        while window.paused or time.perf_counter() < self.due:
            if window.paused:
                window.tapped, self.due = [], time.perf_counter()
                window.draw(self, "P goes on")
            time.sleep(0.05 if window.paused else 0.002)
            window.hear()
        now, tapped, window.tapped = time.perf_counter(), window.tapped, []
        self.due = max(self.due + 1 / window.rate, now)
        motion = self.keys.motion(window.held + tapped, window.axes)  # (A,), or None
        self.until = self.until if motion is None else now + HYSTERESIS  # in control until then
        control = self.path is None or now < self.until
        started = (control and not self.control) or ("space" in tapped and not control)
        self.heard = now if started and not control else self.heard
        given_up = 2 if "return" in tapped else int("r" in tapped)
        facts = time.time(), self.seed, self.t, int(control), int(started), given_up, obs
        line = dict(zip(COLUMNS, facts))
        if control:
            line["action"] = self.keys.still if motion is None else motion
        return line


def read_record(folder):
    """A run's recorded steps, in their order: {(seed, t): dict by COLUMNS}. Raises InputError."""
    path, lines = Path(folder or "", "person.csv"), {}
    try:
        text = path.read_text() if folder and path.exists() else ""
        for cells in text[: text.rfind("\n") + 1].splitlines()[1:]:
            row = dict(zip(COLUMNS, cells.split(","), strict=True))
            line = {name: int(row[name]) for name in COLUMNS[1:6]} | {"time": float(row["time"])}
            line["obs"] = np.array(row["obs"].split(), dtype=np.float64)
            line["action"] = np.array(row["action"].split(), dtype=np.float32)
            lines[line["seed"], line["t"]] = line
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{path} is not the record of a session") from None
    return lines


class Keys:
    """What keys and axes do in a task, by experts/keys.toml or a file like it; or InputError."""

    def __init__(self, env, args):
        space, file = env.action_space, args.keys or Path(__file__).with_name("keys.toml")
        self.size, self.discrete = space.shape[0], isinstance(space, gym.spaces.MultiBinary)
        try:
            tables = tomllib.loads(Path(file).read_text())
            ids = args.env_id, args.env_id.removeprefix("Pixels/")
            found = [tables[name] for name in tables if any(fnmatch(x, name) for x in ids)]
            table = found[0] if found else {}
            self.rate, self.camera = float(table["rate"]), table.get("camera")
            if not self.rate > 0 or {*TAKEN} & {*map(str.lower, table["keys"])}:
                raise ValueError(f"rate must be above 0, and these are taken: {', '.join(TAKEN)}")
            self.still = self.action(table.get("still", 0 if self.discrete else [0] * self.size))
            self.moves = {key: self.action(move) for key, move in table["keys"].items()}
            axes = {} if self.discrete else table.get("axes", {})
            self.axes = {i: self.action(move) for i, move in axes.items()}
            self.dead_zone, self.help = table.get("dead_zone", 0.15), table.get("help", "")
        except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
            how = f"give --keys FILE, like experts/keys.toml, with actions for {space}"
            raise InputError(f"no keys of {args.env_id} in {file} ({error}); {how}") from None

    def action(self, written):
        """An action as the scripts have it, (A,)."""
        if self.discrete:
            return np.eye(self.size, dtype=np.float32)[range(self.size).index(written)]
        return np.reshape(written, self.size).astype(np.float32).clip(-MAX_ACTION, MAX_ACTION)

    def motion(self, pressed, axes):
        """The action (A,) of keys and of axes {(gamepad, axis): position}; None without any."""
        if "c" in pressed:
            return self.still
        moves = [self.moves[key] for key in dict.fromkeys(pressed) if key in self.moves]
        for (_, i), position in axes.items():
            if str(i) in self.axes and abs(position) > self.dead_zone:
                moves.append(position * self.axes[str(i)])
        if not moves:
            return None
        if self.discrete:
            return moves[-1]  # others add up
        total = np.where(np.any(moves, axis=0), np.sum(moves, axis=0), self.still)
        return total.clip(-MAX_ACTION, MAX_ACTION).astype(np.float32)


class Window:
    """The picture, a bar that says who is in control, and what the person does; or InputError."""

    def __init__(self, env, keys):
        os.environ["SDL_FRAMEBUFFER_ACCELERATION"] = "0"  # by OpenGL, beside MuJoCo's, it is black
        import pygame._sdl2.controller

        self.pygame, self.help = pygame, keys.help
        self.rate, self.paused, self.gamepads, self.axes = keys.rate, True, [], {}
        self.held, self.tapped = [], []  # keys that are down; that were pressed since the last step
        try:
            # keys are known by their place, which is the same on a keyboard with other letters
            names = [*keys.moves, *TAKEN]
            self.names = {getattr(pygame, f"KSCAN_{name.upper()}"): name for name in names}
            pygame.display.init()
            if pygame.display.get_driver() in ("offscreen", "dummy"):
                raise OSError("there is no screen (is DISPLAY set?); --replay needs none")
            pygame.font.init()
            pygame._sdl2.controller.init()
            # where the robot sees pictures, by experts/vision.py, the person sees the same
            renderer = None if env.has_wrapper_attr("eyes") else draw_quickly(env, 320)
            if renderer and keys.camera:
                renderer.default_cam_config, renderer.camera_id = keys.camera, -1
            env.reset(seed=0)
            height, width, _ = env.render().shape
        except Exception as error:  # whatever SDL and the graphics libraries raise
            raise InputError(f"no window, or no picture for it: {error}") from None
        tall = min(640, pygame.display.get_desktop_sizes()[0][1] - 200)  # pixels
        self.size = tall * width // height, tall
        self.screen = pygame.display.set_mode((self.size[0], tall + 108))
        self.large, self.small = pygame.font.Font(None, 40), pygame.font.Font(None, 20)

    def hear(self):
        """Take in what was pressed. Raises KeyboardInterrupt after Q."""
        pygame = self.pygame
        for event in pygame.event.get():
            name = self.names.get(getattr(event, "scancode", None))
            if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and name == "q"):
                raise KeyboardInterrupt
            elif event.type == pygame.KEYDOWN:
                self.held, self.tapped = [*self.held, name], [*self.tapped, name]
                self.rate *= {"+": 1.25, "=": 1.25, "-": 0.8}.get(event.unicode, 1)
                self.paused = {"p": not self.paused, "r": False}.get(name, self.paused)
            elif event.type == pygame.KEYUP:
                self.held = [other for other in self.held if other != name]
            elif event.type == pygame.WINDOWFOCUSLOST:
                self.held, self.axes, self.paused = [], {}, True
            elif event.type == pygame.CONTROLLERDEVICEADDED:
                self.gamepads.append(pygame._sdl2.controller.Controller(event.device_index))
            elif event.type == pygame.CONTROLLERDEVICEREMOVED:
                self.axes = {k: x for k, x in self.axes.items() if k[0] != event.instance_id}
            elif event.type == pygame.CONTROLLERAXISMOTION:
                self.axes[event.instance_id, event.axis] = event.value / 32768

    def draw(self, person, message=""):
        """Show what the person sees; the bar is red while they are in control."""
        pygame, picture = self.pygame, person.env.render()  # (height, width, 3)
        picture = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        self.screen.fill((190, 40, 40) if person.control else (40, 80, 170))
        self.screen.blit(pygame.transform.smoothscale(picture, self.size), (0, 108))
        real, rate = person.env.metadata.get("render_fps"), f"{self.rate:.0f} steps a second"
        status = f"step {person.t}   {person.interventions} interventions   {rate} (real: {real})"
        commands = "C still  SPACE bad  ENTER success  P pause  + - speed  R give up  Q stop"
        who = "YOU" if person.control else "the robot"
        lines = [(self.large, f"{who}   {message}", 6), (self.small, person.minutes(), 56)]
        lines += [(self.small, status, 38), (self.small, self.help, 74), (self.small, commands, 90)]
        for font, text, y in lines:
            self.screen.blit(font.render(text, True, (255, 255, 255)), (12, y))
        pygame.display.flip()
