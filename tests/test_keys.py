"""Real keys in a real window, on a screen that nobody sees: needs Debian's xvfb and xdotool."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from experts.record import read_record
from tests import tiny
from tests.test_human import assert_same_session

pytestmark = pytest.mark.skipif(
    not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="needs xvfb and xdotool"
)
OPTIONS = (
    "--intervention", "human", "--env-id", "LunarLanderContinuous-v3", "--demo-episodes", 0, "--batch-size", 16,
    "--hidden-sizes", 16, "--eval-episodes", 1, "--total-timesteps", 300, "--eval-frequency", 100_000,
    "--num-threads", 1,
)  # fmt: skip


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
        self.env = os.environ | {"DISPLAY": screen, "SDL_AUDIODRIVER": "dummy"}
        self.env.pop("SDL_VIDEODRIVER", None)
        self.env.pop("WAYLAND_DISPLAY", None)
        self.error = open("stderr.txt", "w+")  # noqa: SIM115
        self.process = tiny.start(
            *options, env=self.env, stderr=self.error, stdout=subprocess.DEVNULL
        )
        self.window = self.wait_for(lambda: self.tool("search", "--class", "").split()[1:])[-1]
        self.wait_for(lambda: list(Path("runs").glob("*/args.json")))
        time.sleep(1)
        self.tool("windowfocus", self.window)
        time.sleep(0.3)

    def wait_for(self, what, seconds=60):
        """What what() returns once that is something."""
        deadline = time.time() + seconds
        while time.time() < deadline and self.process.poll() is None:
            found = what()
            if found:
                return found
            time.sleep(0.1)
        self.error.seek(0)
        raise AssertionError(f"nothing came: {self.error.read()[-500:]}")

    def tool(self, *words):
        return subprocess.run(
            ["xdotool", *words], env=self.env, capture_output=True, text=True
        ).stdout

    def press(self, key, seconds):
        """Hold a key; the times between which it was down, to its end."""
        begin = time.time()
        self.tool("keydown", key)
        down = time.time()
        time.sleep(seconds)
        end = time.time()
        self.tool("keyup", key)
        return begin, down, end, time.time()


def recorded():
    """All lines of the only run."""
    (folder,) = Path("runs").iterdir()
    return folder, [line for lines in read_record(folder).values() for line in lines]


def test_keys_take_over_and_a_session_outlives_kill_9(screen):
    session = Session(screen, *OPTIONS)
    assert not (Path("runs") / "x").exists()
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

    folder, lines = recorded()
    times = np.array([line["time"] for line in lines])
    control = np.array([line["control"] for line in lines])
    up = np.array([line["control"] and line["action"][0] > 0.9 for line in lines])
    slack = 0.1  # two steps
    assert control[(times > down + slack) & (times < end)].all()
    assert not control[(times < begin) | ((times > released + 0.3 + slack) & (times < again))].any()
    assert (
        up[(times > down + slack) & (times < end)].all() and not up[times > released + slack].any()
    )
    started = times[[line["started"] for line in lines]]
    assert len(started) == 3  # up, space, left
    assert begin <= started[0] <= down + slack and space <= started[1] <= space + 0.2
    assert not ((times > paused) & (times < again)).any()
    steps = np.diff(times[times < paused])
    assert np.median(steps) == pytest.approx(0.05, abs=0.01)  # 20 a second
    left = np.array([line["control"] and line["action"][1] < -0.9 for line in lines])
    assert left[times > again].sum() >= 5

    session = Session(screen, "--resume", folder)
    for _ in range(8):
        session.tool("key", "plus")
    session.tool("key", "p")
    assert session.process.wait(60) == 0
    folder, whole = recorded()
    assert len(whole) == 300
    assert [line["time"] for line in whole[: len(lines)]] == times.tolist()
    tiny.start("--replay", folder, "--exp-name", "again").wait(120)
    (replay,) = Path("runs").glob("*again*")
    assert_same_session(folder, replay)


def test_q_stops_and_says_how_to_go_on(screen):
    session = Session(screen, *OPTIONS)
    session.tool("key", "p")
    time.sleep(0.5)
    session.tool("key", "q")
    assert session.process.wait(20) == 130
    folder, lines = recorded()
    session.error.seek(0)
    assert f"--resume {folder}" in session.error.read() and lines
