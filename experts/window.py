"""What a person at the keys sees and presses: the window, keyboard and gamepad."""

import os
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import mujoco
import numpy as np

from experts.files import InputError
from experts.policies import MAX_ACTION
from experts.tasks import reason

DEAD_ZONE = 0.15  # of a gamepad's axes
# keys that do something else
TAKEN = {"c", "space", "p", "r", "q", "equals", "minus", "kp_plus", "kp_minus"}


def require_screen():
    """Raises InputError where no window can be."""
    screens = "DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"
    if sys.platform == "linux" and not any(os.environ.get(name) for name in screens):
        raise InputError(
            "you need a screen, and this machine has none (DISPLAY is not set): run this where you "
            "can see a window, or train from a session that was recorded there, --replay runs/<run>"
        )


class Keys:
    """What keys and axes do in a task, by experts/keys.toml or a file like it."""

    def __init__(self, env, args):
        """Raises InputError if the files have nothing for this task, or something that does not fit it."""
        files = [Path(__file__).parent / "keys.toml"]
        if args.keys:
            files.insert(0, Path(args.keys))  # it comes first
        found = []  # tables for this task
        for file in files:
            try:
                tables = tomllib.loads(file.read_text())
            except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise InputError(f"--keys {args.keys}: {reason(error)}") from None
            found += [table for name, table in tables.items() if fnmatch(args.env_id, name)]
        if not found:
            raise InputError(
                f"no keys are known for {args.env_id}, which has {_dimensions(env)}: give --keys FILE, "
                "a file like experts/keys.toml"
            )
        self.discrete, self.size = env.discrete, env.action_space.shape[0]
        try:
            table = found[0]
            if taken := TAKEN & {key.lower() for key in table["keys"]}:
                raise ValueError(f"{min(taken)} is taken")
            self.rate, self.camera = float(table["rate"]), table.get("camera")
            self.still = self._action(table.get("still", 0 if self.discrete else [0] * self.size))
            self.of_keys = {key: self._action(action) for key, action in table["keys"].items()}
            axes = table.get("axes", {})
            self.of_axes = {int(axis): self._action(action) for axis, action in axes.items()}
            if not self.rate > 0:
                raise ValueError("rate must be positive")
            if self.discrete and axes:
                raise ValueError("axes are for continuous actions")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            what = f"keys of {args.env_id}, which has {_dimensions(env)}"
            how = "experts/keys.toml shows how they are written"
            raise InputError(f"{what}: {reason(error)}; {how}") from None
        self.of_keys["c"] = None  # control without motion

    def _action(self, written):
        """An action as the scripts have it, (A,)."""
        if self.discrete:
            if type(written) is not int or not 0 <= written < self.size:
                raise ValueError(f"{written} is not one of the actions 0 to {self.size - 1}")
            return np.eye(self.size, dtype=np.float32)[written]
        action = np.asarray(written, dtype=np.float32)
        if action.shape != (self.size,):
            raise ValueError(f"{written} is not a list of {self.size} numbers")
        return action.clip(-MAX_ACTION, MAX_ACTION)

    def motion(self, pressed, pushed):
        """The action of these keys, in the order they were pressed, and axes {number: position}; None without any."""
        if not pressed and not pushed:
            return None
        moves = [self.of_keys[key] for key in pressed if key != "c"]
        moves += [position * self.of_axes[axis] for axis, position in pushed.items()]
        if not moves:
            return self.still
        if self.discrete:
            return moves[-1]
        total = np.sum(moves, axis=0)  # (A,)
        moved = np.any(moves, axis=0)  # (A,)
        return np.where(moved, total, self.still).clip(-MAX_ACTION, MAX_ACTION).astype(np.float32)


def _dimensions(env):
    """What an environment's actions are, in words."""
    size, model = env.action_space.shape[0], getattr(env.unwrapped, "model", None)
    if env.discrete:
        return f"the actions 0 to {size - 1}"
    names = ""
    if model is not None and model.nu == size:
        joints = [model.joint(joint).name for joint, _ in model.actuator_trnid]
        names = f" ({', '.join(model.actuator(i).name or joints[i] for i in range(size))})"
    return f"actions of {size} components{names}"


# --- window ----------------------------------------------------------------------------------------------------------


class Window:
    """The picture, a bar that says who is in control, and what the person does."""

    height, bar = 640, 96  # pixels: of the picture, of the bar above it
    colours = {False: (40, 80, 170), True: (190, 40, 40)}  # the robot: blue; you: red

    def __init__(self, env, keys):
        """Raises InputError if there is no screen, or no picture."""
        # SDL would draw by OpenGL, beside MuJoCo's: the window stays black
        os.environ["SDL_FRAMEBUFFER_ACCELERATION"] = "0"
        os.environ["PYGAME_HIDE_SUPPORT_PROMPT"] = "1"
        import pygame

        self.pygame, self.keys = pygame, keys
        # a key is known by its place, which is the same on a keyboard with other letters
        self.codes = {}
        for key in keys.of_keys:
            code = getattr(pygame, f"KSCAN_{key.upper()}", None)
            if code is None:
                raise InputError(f"there is no key {key!r} (left, a, 1, kp8 ... are some)")
            self.codes[code] = key
        arrows = [key for key in keys.of_keys if key in ("up", "down", "left", "right")]
        movement = ["arrows"] if arrows else []
        movement += [key.upper() for key in keys.of_keys if key not in (*arrows, "c")]
        self.help = f"{' '.join(movement)}: move  C: still  SPACE: bad  P: pause  "
        self.help += "+-: speed  R: give up  Q: stop"
        try:
            pygame.display.init()
            pygame.font.init()
            pygame.joystick.init()
            self.renderer = _fast_pictures(env, keys.camera)
            env.reset(seed=0)
            height, width, _ = env.render().shape
        except Exception as error:  # whatever SDL and the graphics libraries raise
            raise InputError(f"no window, or no picture for it: {reason(error)}") from None
        self.size = round(self.height * width / height), self.height
        self.screen = pygame.display.set_mode((self.size[0], self.height + self.bar))
        pygame.display.set_caption("learning from interventions")
        self.large, self.small = pygame.font.Font(None, 40), pygame.font.Font(None, 20)
        self.gamepads, self.axes, self.held = [], {}, {}
        self.paused = True
        if not pygame.joystick.get_count():
            print("no gamepad is connected: the keyboard it is")
        self.forget()

    def forget(self):
        """What was heard is done; keys that are down stay down."""
        self.tapped, self.bad, self.given_up = {}, False, False

    def let_go(self):
        """No key counts as down any more."""
        self.held = {}
        self.forget()

    @property
    def pressed(self):
        """The keys that are down, or were since the last step, the one that was pressed last at the end."""
        before = [key for key in self.held if key not in self.tapped]  # since an earlier step
        return [*before, *self.tapped]

    @property
    def pushed(self):
        """The axes that are pushed, {number: position}."""
        return {axis: position for axis, position in self.axes.items() if abs(position) > DEAD_ZONE}

    def hear(self, rate):
        """Take in what was pressed; the rate, which + and - change. Raises KeyboardInterrupt after Q."""
        pygame = self.pygame
        for event in pygame.event.get():
            command = event.unicode.lower() if event.type == pygame.KEYDOWN else ""
            if event.type == pygame.KEYDOWN and event.scancode in self.codes:
                key = self.codes[event.scancode]
                self.held[key] = self.tapped[key] = True
            elif event.type == pygame.KEYUP and event.scancode in self.codes:
                self.held.pop(self.codes[event.scancode], None)
            elif event.type == pygame.QUIT or command == "q":
                raise KeyboardInterrupt
            elif command == " ":
                self.bad = True
            elif command == "p":
                self.paused = not self.paused
            elif command == "r":
                self.given_up, self.paused = True, False
            elif command in ("+", "="):
                rate *= 1.25
            elif command == "-":
                rate /= 1.25
            elif event.type == pygame.WINDOWFOCUSLOST:
                self.held, self.paused = {}, True
            elif event.type == pygame.JOYDEVICEADDED:
                self.gamepads.append(pygame.joystick.Joystick(event.device_index))
            elif event.type == pygame.JOYDEVICEREMOVED:
                self.axes = {}
            elif event.type == pygame.JOYAXISMOTION and event.axis in self.keys.of_axes:
                self.axes[event.axis] = event.value
        return rate

    def draw(self, env, texts, control, message=""):
        """The environment's picture below the bar."""
        pygame, width = self.pygame, self.size[0]
        frame = env.render()  # (height, width, 3)
        if self.renderer:
            _no_shadows(self.renderer)
        picture = pygame.surfarray.make_surface(np.asarray(frame).swapaxes(0, 1))
        self.screen.fill(self.colours[control])
        self.screen.blit(pygame.transform.smoothscale(picture, self.size), (0, self.bar))
        speed, counts = texts
        self._write(self.large, "YOU" if control else "the robot", (12, 8))
        self._write(self.small, speed, (200, 16))
        self._write(self.small, counts, (12, 46))
        self._write(self.small, self.help, (12, 70))
        if message:
            self._write(self.large, message, (width // 2 - 90, self.bar + 20), self.colours[True])
        pygame.display.flip()

    def _write(self, font, text, place, background=None):
        self.screen.blit(font.render(text, True, (255, 255, 255), background), place)


def _fast_pictures(env, camera):
    """Make a MuJoCo task draw small pictures quickly, by this free camera if there is one; its renderer, or None."""
    task = env.unwrapped
    task = getattr(task, "point_env", task)  # PointMaze has its own environment inside
    renderer = getattr(task, "mujoco_renderer", None)
    if renderer is not None:
        renderer.model.vis.quality.offsamples = 0  # before the first picture
        renderer.width = renderer.height = 320
        if camera:
            renderer.default_cam_config, renderer.camera_id = camera, -1
    return renderer


def _no_shadows(renderer):
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        renderer.viewer.scn.flags[flag] = 0
