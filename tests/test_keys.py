"""Keys by experts/keys.toml, and real ones on a screen nobody sees (Debian's xvfb, xdotool)."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pygame
import pytest

import bc
import rlif_rlpd
from experts import InputError, human
from tests import tiny
from tests.test_human import column
from tests.tiny import ROOT, draws

real = pytest.mark.skipif(
    not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="needs xvfb and xdotool"
)


def keys_of(env_id, file=None):
    return human.Keys(bc.make_env(env_id), SimpleNamespace(env_id=env_id, keys=file))


def test_a_stick_does_nothing_where_actions_are_discrete(tmp_path):
    file = tmp_path / "keys.toml"
    file.write_text("""["LunarLander-v3"]\nrate = 20\nkeys = { up = 2 }\naxes = { 0 = 3 }""")
    assert keys_of("LunarLander-v3", file).motion([], {(0, 0): 0.9}) is None


def test_every_shipped_table_fits_its_task():
    for env_id in ("LunarLander-v3", "LunarLanderContinuous-v3", "FetchReach-v4", "FetchPush-v4",
                   "PointMaze_UMaze-v3", "Meta-World/reach-v3"):  # fmt: skip
        keys = keys_of(env_id)
        assert keys.rate > 0 and keys.help
        for key in keys.moves:
            assert not np.array_equal(keys.motion([key], {}), keys.still), key
        assert np.array_equal(keys.motion(["c", *keys.moves], {}), keys.still)


def moved(env_id, keys, steps):
    """What is observed after each of these keys (or sticks, {(gamepad, axis): position})."""
    env, of, seen = bc.make_env(env_id), keys_of(env_id), []
    for key in keys:
        env.reset(seed=3)
        pressed, axes = ([], key) if isinstance(key, dict) else ([key], {})
        for _ in range(steps):
            obs, *_ = env.step(of.motion(pressed, axes))
        seen.append(obs)
    return seen


def test_the_lander_goes_where_the_arrow_points():
    sticks = {(1, 0): -1.0}, {(1, 0): 1.0}, {(1, 1): -1.0}  # left, right, up
    seen = moved("LunarLanderContinuous-v3", ["c", "left", "right", "up", *sticks], 15)
    still, left, right, up = (obs[2:4] for obs in seen[:4])  # speeds
    assert left[0] < still[0] < right[0] and up[1] > still[1]
    np.testing.assert_allclose(seen[4:], seen[1:4], atol=1e-2)
    # what no key moves is still: the main engine is off beside the left one
    assert keys_of("LunarLanderContinuous-v3").motion(["left"], {})[0] == np.float32(-0.999)


def test_meta_worlds_hand_goes_where_the_key_points():
    seen = moved("Meta-World/reach-v3", ["c", "up", "down", "left", "right", "w", "s"], 10)
    still, *hands = (obs[-39:-36] for obs in seen)
    # away is -x, to the right is y, up is z: see the camera in keys.toml
    for hand, (axis, sign) in zip(hands, ((0, -1), (0, 1), (1, -1), (1, 1), (2, 1), (2, -1))):
        assert sign * (hand - still)[axis] > 0.03


@draws
def test_the_hand_goes_where_the_key_points_in_the_picture_that_the_robot_sees():
    env_id = "Pixels/Meta-World/button-press-v3"
    env, of = bc.make_env(env_id), keys_of(env_id)
    task, hands = env.unwrapped, []
    for key in ("c", "up", "down", "left", "right", "w", "s"):
        env.reset(seed=3)
        for _ in range(10):
            env.step(of.motion([key], {}))
        hands.append(task.data.body("hand").xpos.copy())
    right, up, near = task.data.cam("corner").xmat.reshape(3, 3).T
    assert up[2] > 0.5  # the picture is not upside down
    still, *hands = hands
    for hand, way in zip(hands, (-near, near, -right, right, up, -up)):
        assert (hand - still) @ way > 0.03


def test_a_fall_costs_as_if_help_were_needed_once_a_second(monkeypatch):
    monkeypatch.setattr(human, "Window", lambda *_: None)
    env = rlif_rlpd.make_env("LunarLanderContinuous-v3", render_mode="rgb_array")
    args = SimpleNamespace(env_id=env.spec.id, keys=None, gamma=0.9)
    assert human.Person(env, args).discount == 0.9**20


@pytest.mark.parametrize("env_id, table, wrong", [
    ("Shown-v0", "[Other]", "no keys of Shown-v0"),
    ("Shown-v0", "not toml", "Expected '='"),
    ("Shown-v0", "['Shown*']\nrate = 5", "'keys'"),
    ("Shown-v0", "['Shown*']\nrate = 5\nkeys = ['left']", "has no attribute"),
    ("Shown-v0", "['Shown*']\nrate = 5\nkeys = { left = [1, 2] }", "cannot reshape"),
    ("Shown-v0", "['Shown*']\nrate = 0\nkeys = { left = [1] }", "rate must be above 0"),
    ("Shown-v0", "['Shown*']\nrate = 5\nkeys = { P = [1] }", "are taken: c, space,"),
    ("ShownSwitched-v0", "['Shown*']\nrate = 5\nkeys = { left = 3 }", "3 is not in range"),
    ("ShownSwitched-v0", "['Shown*']\nrate = 5\nkeys = { left = -1 }", "-1 is not in range"),
])  # fmt: skip
def test_a_table_that_does_not_fit_is_refused(env_id, table, wrong, tmp_path):
    (tmp_path / "keys.toml").write_text(table)
    with pytest.raises(InputError) as caught:
        keys_of(env_id, tmp_path / "keys.toml")
    assert wrong in str(caught.value) and "\n" not in str(caught.value)
    assert "give --keys FILE, like experts/keys.toml" in str(caught.value)


NO_WINDOW = "--intervention human --env-id LunarLanderContinuous-v3 --demo-episodes 0"


def test_where_no_window_can_be_one_line_says_so(ending, monkeypatch, tmp_path):
    (tmp_path / "keys.toml").write_text("['Lunar*']\nrate = 5\nkeys = { lift = [1, 0] }")
    code, line = ending(rlif_rlpd, NO_WINDOW, "--keys keys.toml")
    assert code == 2 and "KSCAN_LIFT" in line
    monkeypatch.setattr(human.Window, "hear", None)  # nobody waits for P
    for names in (["SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"], []):  # "dummy" at first
        code, line = ending(rlif_rlpd, NO_WINDOW)
        assert code == 2 and "there is no screen (is DISPLAY set?); --replay needs none" in line
        assert not Path("runs").exists()
        pygame.display.quit()
        for name in names:
            monkeypatch.delenv(name, raising=False)
    code = "import sys, experts.record; assert not {'pygame', 'mujoco'} & {*sys.modules}"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- real keys ------------------------------------------------------------------------------------

OPTIONS = f"{NO_WINDOW} --batch-size 16 --hidden-sizes 16 --eval-episodes 1 --total-timesteps 300"
OPTIONS += " --eval-frequency 100000 --no-compile"


@pytest.fixture
def screen():
    """The number of a screen of its own, as DISPLAY has it."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "900x800x24"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as file:
        yield f":{file.readline().strip()}"
    server.terminate()
    server.wait()


class Session:
    """A script with a window on this screen, and somebody who presses keys."""

    def __init__(self, screen, *options):
        self.env = os.environ | {"DISPLAY": screen}
        self.env.pop("SDL_VIDEODRIVER", None)
        self.env.pop("WAYLAND_DISPLAY", None)
        self.said = open("said.txt", "w+")  # noqa: SIM115
        self.process = tiny.start(*options, env=self.env, stderr=self.said, stdout=self.said)
        self.window = self.wait_for(lambda: self.tool("search", "--class", "").split()[1:])[-1]
        self.wait_for(lambda: "0%" in Path("said.txt").read_text())  # the bar of a run that goes on
        time.sleep(1)
        self.tool("windowfocus", self.window)
        time.sleep(0.3)

    def wait_for(self, what, seconds=60):
        """What what() returns once that is something."""
        deadline = time.time() + seconds
        while time.time() < deadline and self.process.poll() is None:
            if found := what():
                return found
            time.sleep(0.1)
        raise AssertionError(f"nothing came: {Path('said.txt').read_text()[-500:]}")

    def tool(self, *words):
        command = ["xdotool", *words]
        return subprocess.run(command, env=self.env, capture_output=True, text=True).stdout

    def press(self, key, seconds):
        """Hold a key; the times between which it was down, to its end."""
        begin = time.time()
        self.tool("keydown", key)
        down = time.time()
        time.sleep(seconds)
        end = time.time()
        self.tool("keyup", key)
        return begin, down, end, time.time()


@real
def test_keys_take_over_and_a_session_outlives_kill_9(screen):
    session = Session(screen, OPTIONS)
    session.tool("key", "p")
    time.sleep(0.5)
    begin, down, end, released = session.press("Up", 1.0)
    time.sleep(1.0)
    space = time.time()
    session.tool("key", "space")
    time.sleep(0.5)
    session.tool("key", "p")
    time.sleep(0.2)
    paused = time.time()
    time.sleep(1.0)
    again = time.time()
    session.tool("key", "p")
    time.sleep(0.5)
    session.tool("keydown", "Left")
    time.sleep(0.5)
    session.process.send_signal(signal.SIGKILL)  # with a key down
    session.process.wait()
    session.tool("keyup", "Left")

    (folder,) = Path("runs").iterdir()
    times, control = column(folder, "time"), column(folder, "control")
    action, slack = column(folder, "action"), 0.1  # two steps
    pressed = (times > down + slack) & (times < end)
    assert control[pressed].all() and (action[pressed, 0] > 0.9).all()
    assert not control[(times < begin) | ((times > released + 0.3 + slack) & (times < again))].any()
    assert (action[(times > released + slack) & (control == 1), 0] < 0.9).all()
    started = times[column(folder, "started") == 1]
    assert len(started) == 3  # up, space, left
    assert begin <= started[0] <= down + slack and space <= started[1] <= space + 0.2
    assert not ((times > paused) & (times < again)).any()
    assert np.median(np.diff(times[times < paused])) == pytest.approx(0.05, abs=0.01)
    assert ((action[:, 1] < -0.9) & (control == 1) & (times > again)).sum() >= 5

    session = Session(screen, "--resume", folder)
    session.tool("key", *["plus"] * 8)
    session.tool("key", "p")
    assert session.process.wait(60) == 0
    assert column(folder, "time").tolist()[: len(times)] == times.tolist()
    assert len(column(folder, "time")) == 300


@real
def test_q_stops_and_says_how_to_go_on(screen):
    session = Session(screen, OPTIONS)
    session.tool("keydown", "Control_L")  # keys are known by their place
    session.tool("key", "p")
    time.sleep(0.5)
    session.tool("key", "q")
    assert session.process.wait(20) == 130
    (folder,) = Path("runs").iterdir()
    assert f"--resume {folder}" in Path("said.txt").read_text() and len(column(folder, "t"))
