"""A person at the keys whose events are posted to SDL; tests/test_keys.py presses real keys."""

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pygame
import pytest
import tyro

import hg_dagger
import hil_serl
import iwr
import mile
import pvp
import rlif_rlpd
import sirius
from experts import InputError, human
from tests import tiny
from tests.tiny import Shown, assert_same_run, checkpoint, evaluations

KEYS = """
["Shown-v0"]
rate = 16
keys = { left = [-1], right = [1], w = [0.5] }
axes = { 0 = [1] }
dead_zone = 0.2

["ShownSwitched-v0"]
rate = 16
keys = { left = 0, right = 2 }
still = 1
"""
HOLD = 4  # steps of control after the last key: 0.3 s at this rate
SESSION = "--intervention human --env-id Shown-v0 --keys ../keys.toml --eval-episodes 2"
RL = "--demo-episodes 0 --total-timesteps 80 --batch-size 8 --eval-frequency 40 --hidden-sizes 8"
ROUNDS = "--round-updates 5 --batch-size 32"
MILE = f"{ROUNDS} --rounds 3 --initial-policy ../initial.safetensors"
OWN = {
    rlif_rlpd: f"--termination penalty {RL} --no-compile --num-qs 2 --precision float32",
    hil_serl: f"{RL} --no-compile --num-qs 2 --precision float32",
    pvp: f"{RL} --end-value -1 --random-steps 5",
    hg_dagger: f"{ROUNDS} --demo-episodes 0 --round-episodes 1 --hidden-sizes 8"
    " --total-timesteps 150 --eval-frequency 50",
    mile: f"{MILE} --warm-up-episodes 1 --warm-up-updates 5 --hidden-sizes 8",
    iwr: MILE,
    sirius: MILE,
}
AXIS = "CONTROLLERAXISMOTION instance_id={} axis={} value={}".format
# a session: what is pressed before which of its steps
PRESSED = {7: "right down", 12: "right up", 30: "space tap", 60: "left down", 66: "left up"}


def post(text):
    """Let SDL hear "right down, space tap", or an event of its own, "QUIT", with facts."""
    for kind, *words in map(str.split, filter(None, text.split(", "))):
        events = {kind: {x.split("=")[0]: int(x.split("=")[1]) for x in words if "=" in x}}
        if code := getattr(pygame, f"KSCAN_{kind.upper()}", None):
            facts = {"scancode": code, "unicode": {"equals": "+", "minus": "-"}.get(kind, "")}
            kinds = {"down": ["KEYDOWN"], "up": ["KEYUP"], "tap": ["KEYDOWN", "KEYUP"]}
            events = dict.fromkeys(kinds[words[0]], facts)
        for name, facts in events.items():
            pygame.event.post(pygame.event.Event(getattr(pygame, name), facts))


class Clock:
    """A clock that goes on when somebody sleeps, and a little when it is asked."""

    now, time = 100.0, staticmethod(time.time)

    def perf_counter(self):
        self.now += 1e-6
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(human, "time", clock)
    return clock


@pytest.fixture
def at_keys(monkeypatch, people, clock, tmp_path):
    """A function that sets what is pressed before which step: {step: "right down, space tap"}.

    In a pause plan["pause"] is pressed, or P; "Keep it?" is answered by a list, plan["keep"]. It
    returns what was drawn, a list that grows: (message, rate, colour of the bar, brightest pixel).
    """
    (tmp_path / "keys.toml").write_text(KEYS)
    monkeypatch.setattr(pygame.display, "get_driver", lambda: "x11")
    plan, drawn, steps = {}, [], []
    decide, draw = human.Person._decide, human.Window.draw

    def press_and_decide(person, obs):
        post(plan.get(len(steps), ""))
        steps.append(person.t)
        return decide(person, obs)

    def draw_and_press(window, person, message=""):
        draw(window, person, message)
        screen = pygame.surfarray.pixels3d(window.screen)[::4, ::30]  # (width, height, 3)
        drawn.append((message, window.rate, screen[-1, 0].tolist(), screen[:, 4:].max()))
        if message == "P goes on":
            post(plan.pop("pause", "p tap"))
        elif "Keep it?" in message:
            post(plan["keep"].pop(0))

    monkeypatch.setattr(human.Person, "_decide", press_and_decide)
    monkeypatch.setattr(human.Window, "draw", draw_and_press)

    def press(events):
        plan.clear()
        plan.update(events)
        steps.clear()
        drawn.clear()
        return drawn

    return press


def options(script, *more):
    return tiny.words(SESSION, OWN[script], *more)


def run(script, *more):
    """A short session in this process; its folder."""
    before = set(Path().glob("runs/*"))
    name = f"{script.__name__}-{len(before)}"
    script.main(tiny.parsed(script, *options(script, "--exp-name", name, *more)))
    (folder,) = set(Path().glob("runs/*")) - before
    return folder


def column(folder, name):
    """A column of a session's record, an array (steps, ...)."""
    return np.array([line[name] for line in human.read_record(folder).values()])


def steps_where(values):
    return np.flatnonzero(np.ravel(values)).tolist()


def controlled(folder):
    return steps_where(column(folder, "control"))


def pauses(drawn):
    return sum(message == "P goes on" for message, *_ in drawn)


def labelled(folder):
    return steps_where(checkpoint(folder)["rb"]["rewards"] == -1)


# --- control --------------------------------------------------------------------------------------


def test_control_is_held_as_long_as_a_key_and_a_little_longer(at_keys):
    at_keys({10: "right down", 20: "right up", 40: "left down", 41: "left up"})
    folder = run(rlif_rlpd)
    held = [*range(10, 20 + HOLD), *range(40, 41 + HOLD)]
    assert controlled(folder) == held
    assert steps_where(column(folder, "started")) == [10, 40]
    actions = column(folder, "action")[:, 0]
    assert (actions[10:20] == np.float32(0.999)).all()  # the key's
    assert (actions[20 : 20 + HOLD] == 0).all()  # none: no motion, whatever the robot did
    assert len(set(actions[:10].tolist())) == 10  # the robot's
    assert labelled(folder) == [9, 39]  # the step before a takeover
    row = evaluations(folder)[-1]
    assert (row["labels"], row["takeovers"], row["expert_steps"]) == ("2", "2", str(len(held)))


def test_a_chain_of_taps_is_one_takeover(at_keys):
    at_keys(dict.fromkeys((10, 12, 14), "right tap") | {30: "left tap"})
    folder = run(rlif_rlpd)
    assert steps_where(column(folder, "started")) == [10, 30]
    pushed = column(folder, "action") == np.float32(0.999)
    assert steps_where(pushed) == [10, 12, 14]  # a tap between two steps counts


def test_control_ends_by_the_clock_where_steps_are_slow(at_keys, clock, monkeypatch):
    step = Shown.step
    monkeypatch.setattr(Shown, "step", lambda *args: (clock.sleep(0.5), step(*args))[1])
    drawn = at_keys({10: "right down", 20: "right up"})
    assert controlled(run(rlif_rlpd)) == list(range(10, 20))
    assert pauses(drawn) == 2  # before the episodes: a slow robot makes nobody wait


def test_space_is_a_label_without_a_takeover(at_keys):
    drawn = at_keys({15: "space tap", 30: "right down", 33: "space tap", 36: "right up"})
    folder = run(rlif_rlpd)
    assert steps_where(column(folder, "started")) == [15, 30]  # in control it says nothing
    assert [message for message, *_ in drawn].count("noted: that was bad") == 8  # for half a second
    assert labelled(folder) == [14, 29]
    row = evaluations(folder)[-1]
    assert (row["labels"], row["takeovers"], row["expert_steps"]) == ("2", "1", str(6 + HOLD))
    at_keys({15: "space tap"})
    folder = run(hg_dagger)
    row = evaluations(folder)[-1]
    assert (row["takeovers"], row["expert_steps"], row["flags"]) == ("0", "0", "1")
    assert not checkpoint(folder)["doubts"]  # of a takeover
    at_keys({15: "space tap", 30: "right tap"})
    rb = checkpoint(run(pvp))["rb"]
    acted = list(range(30, 31 + HOLD))
    assert steps_where(rb["by_person"] > 0) == acted
    assert steps_where(rb["refused"] > 0) == [15, *acted]


def test_c_is_control_without_motion(at_keys):
    at_keys({10: "c down", 12: "right tap", 15: "c up"})
    folder = run(rlif_rlpd)
    assert controlled(folder) == list(range(10, 15 + HOLD))
    assert (column(folder, "action")[10:15] == 0).all()


@pytest.mark.parametrize("script", [rlif_rlpd, mile])
def test_between_two_episodes_what_is_tapped_is_dropped_and_what_is_held_stays(script, at_keys):
    at_keys({45: "right down", 50: "left tap, space tap, r tap", 55: "right up"})
    folder = run(script)  # an episode has 50 steps
    assert controlled(folder) == list(range(45, 55 + HOLD))
    assert steps_where(column(folder, "started")) == [45, 50]  # one in each episode
    assert (column(folder, "action")[45:55] > 0.9).all() and not column(folder, "given_up").any()
    assert evaluations(folder)[-1]["takeovers"] == "2"
    at_keys({48: "right tap"})  # what is left of its control does not go on in the next episode
    assert controlled(run(script)) == [48, 49]


def test_keys_add_up_and_the_last_one_counts_where_actions_are_discrete(at_keys):
    at_keys({5: "right down, w down", 6: "right up", 7: "left down, w up", 8: "left up",
             9: "w tap, w tap"})  # fmt: skip
    actions = column(run(rlif_rlpd), "action")[:, 0]
    np.testing.assert_allclose(actions[5:10], [0.999, 0.5, -0.999, 0, 0.5])
    tiny.write_people(Path(".."), discrete=True)
    # a key beside one that is held, and a tap beside it
    at_keys({5: "left down", 6: "right down", 7: "right up", 8: "right tap", 9: "left up"})
    folder = run(iwr, "--env-id ShownSwitched-v0")
    assert column(folder, "action")[5:10].argmax(1).tolist() == [0, 2, 0, 2, 1]


@pytest.mark.parametrize("script", [mile, iwr, sirius])
def test_a_takeover_of_many_steps_counts_once(script, at_keys):
    at_keys({10: "right down", 20: "right up", 40: "left tap"})
    row = evaluations(run(script))[-1]
    assert (row["takeovers"], row["expert_steps"]) == ("2", str(10 + HOLD + 1 + HOLD))


def test_a_gamepad_moves_in_proportion_beyond_its_dead_zone(at_keys):
    at_keys({5: AXIS(1, 0, 6_000), 10: AXIS(1, 0, -16_384), 12: AXIS(2, 0, 0),
             14: AXIS(1, 3, 30_000), 20: "CONTROLLERDEVICEREMOVED instance_id=1"})  # fmt: skip
    folder = run(rlif_rlpd)  # hardly; half; another gamepad at rest; another axis; unplugged
    actions = column(folder, "action")[:, 0]
    assert controlled(folder) == list(range(10, 20 + HOLD))
    np.testing.assert_allclose(actions[10:22], [-0.5] * 10 + [0] * 2, atol=1e-3)


def test_enter_ends_an_episode_with_a_success(at_keys):
    at_keys({10: "return tap"})
    folder = run(hil_serl, "--reward success --total-timesteps 30")
    rb = checkpoint(folder)["rb"]
    assert rb["rewards"].nonzero().tolist() == rb["terminations"].nonzero().tolist() == [[10]]
    assert column(folder, "t").tolist() == [*range(11), *range(19)]


def test_an_episode_that_is_given_up_ends_without_a_charge(at_keys, monkeypatch):
    drawn = at_keys({10: "r tap"})
    folder = run(rlif_rlpd)
    assert column(folder, "t").tolist() == [*range(11), *range(50), *range(19)]
    assert checkpoint(folder)["rb"]["rewards"][10] == 0  # as a time limit
    assert not checkpoint(folder)["rb"]["terminations"].any()
    whys = [message.partition(":")[0] for message, *_ in drawn if "one moment, please" in message]
    at_keys({"pause": "r tap"})  # in a pause it goes on by itself
    assert column(run(rlif_rlpd), "t").tolist() == [0, *range(50), *range(29)]
    step = Shown.step  # the bar says why an episode ended
    monkeypatch.setattr(Shown, "step", lambda *args: (*step(*args)[:2], True, False, {}))
    charge = checkpoint(run(rlif_rlpd, "--total-timesteps 1"))["rb"]["rewards"].item()
    assert charge == pytest.approx(-1 / (1 - 0.99**16))  # as if help were needed every second
    assert [*whys, drawn[-1][0].partition(":")[0]] == ["given up", "time is up", "it ended"]


def test_losing_the_focus_gives_control_back_and_pauses(at_keys):
    drawn = at_keys({10: f"right down, {AXIS(1, 0, 32_767)}", 20: "WINDOWFOCUSLOST"})
    held = controlled(run(rlif_rlpd))
    assert held[:10] == list(range(10, 20)) and held[-1] <= 20 + HOLD
    assert pauses(drawn) == 2  # and at the start


def test_a_pause_waits_and_what_is_tapped_in_it_is_dropped(at_keys, clock):
    began = clock.now
    drawn = at_keys({20: "p tap", "pause": "space tap, left tap"})
    folder = run(rlif_rlpd)  # the first pause is at the start
    assert not column(folder, "started").any() and pauses(drawn) == 3
    at_keys({20: "p tap, left down", 25: "left up"})
    assert controlled(run(rlif_rlpd)) == list(range(20, 25 + HOLD))  # a key that is held acts
    assert clock.now > began + 2 * 77 / 16


def test_it_waits_for_p_when_nobody_saw_a_picture_for_long(at_keys, clock, monkeypatch):
    evaluate = rlif_rlpd.evaluate
    monkeypatch.setattr(rlif_rlpd, "evaluate", lambda *a: (clock.sleep(3), evaluate(*a))[1])
    drawn = at_keys({})
    run(rlif_rlpd)  # evaluated at the start, and after the first episode of 50
    assert pauses(drawn) == 2


def test_the_window_shows_the_picture_the_rate_and_who_is_in_control(at_keys, monkeypatch):
    render = Shown.render
    monkeypatch.setattr(Shown, "render", lambda self: render(self) / 255)  # in [0, 1]
    monkeypatch.setattr(pygame.display, "get_desktop_sizes", lambda: [(1366, 768)])
    drawn = at_keys({10: "equals tap", 20: "minus tap, minus tap", 60: "right down"})
    run(rlif_rlpd)
    _, rates, bars, brightest = zip(*drawn)
    assert list(dict.fromkeys(rates)) == [16, 20, 16 * 0.8]
    assert min(brightest) > 150  # the white point
    assert bars[30] == [40, 80, 170] and bars[-1] == [190, 40, 40]
    assert 600 < pygame.display.get_surface().get_height() < 700  # with what is around a window


def test_the_window_says_what_the_last_two_minutes_took():
    def said(work):
        """At a step a second."""
        return human.Person.minutes(SimpleNamespace(keys=SimpleNamespace(rate=1.0), work=work))

    robot, start, on = (False, False), (True, True), (True, False)
    assert said([]) == "last minute: 0 interventions"
    assert said([robot, start, on, robot]) == "last minute: 1 interventions, you act in 50%"
    work = [start, *[on] * 29, *[robot] * 30, start, robot, start, *[robot] * 57]
    assert said(work) == "last minute: 2 interventions, you act in 3%; before: 50%"


# --- nothing is lost ------------------------------------------------------------------------------


@pytest.mark.parametrize("script", OWN)
def test_a_replay_is_the_session_to_the_bit(script, at_keys, ending, monkeypatch):
    at_keys(PRESSED)
    session = run(script)
    monkeypatch.setattr(human, "Window", None)  # it needs none
    code, line = ending(script, "--intervention human --exp-name again --replay", session)
    assert code == 0, line
    assert_same_run(session, tiny.folder_of("again"))


class Killed(BaseException):
    """What nothing catches: on the disk there is afterwards what there is after a SIGKILL."""


@pytest.mark.parametrize("script", [rlif_rlpd, hg_dagger, mile])
@pytest.mark.parametrize("cut", [0, 5])
def test_a_killed_session_goes_on_where_it_was(script, cut, at_keys, monkeypatch):
    """Killed in step 64, which is on disk; with a cut, while its line was being written."""
    at_keys(PRESSED)
    step = Shown.step

    def killed(env, action):
        if any(path.read_text().count("\n") == 1 + 65 for path in Path("runs").glob("*/*.csv")):
            places.append(env.x)
            raise Killed
        return step(env, action)

    places = []
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Shown, "step", killed)
        run(script)
    (path,) = Path("runs").glob("*/person.csv")
    (place, _) = column(path.parent, "obs")[-1]
    assert places == [pytest.approx(place)]  # the robot had not moved yet
    kept = path.read_bytes()[: -cut or None]
    path.write_bytes(kept)
    at_keys({})  # a new sitting, in which no key is pressed
    script.main(tiny.parsed(script, "--resume", path.parent))
    assert path.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert len(column(path.parent, "t")) >= 80 and controlled(path.parent)[-1] >= 63
    assert_same_run(path.parent, run(script, "--replay", path.parent))


def test_q_stops_at_once_and_what_was_done_is_kept(at_keys, ending):
    at_keys({30: "q tap"})
    code, line = ending(rlif_rlpd, *options(rlif_rlpd, "--exp-name rlif_rlpd-0"))
    (folder,) = Path("runs").iterdir()
    assert code == 130 and line.endswith(f"--resume {folder}")
    assert len(column(folder, "t")) == 30
    code, line = ending(rlif_rlpd, *options(rlif_rlpd, "--replay", folder))
    assert code == 2 and "only 30 steps are recorded; first finish" in line
    at_keys({20: "QUIT"})  # the window is closed
    code, line = ending(rlif_rlpd, "--resume", folder)
    assert code == 130 and len(column(folder, "t")) == 50
    at_keys({})
    rlif_rlpd.main(tiny.parsed(rlif_rlpd, "--resume", folder))
    assert len(column(folder, "t")) == 80 == len(checkpoint(folder)["rb"]["rewards"])


def test_a_record_that_does_not_fit_is_refused(at_keys):
    at_keys(PRESSED)
    session = run(rlif_rlpd)
    path = session / "person.csv"
    text = path.read_text().splitlines()
    *facts, obs, action = text[20].split(",")

    def refused(*more, script=rlif_rlpd):
        words = "--exp-name", len(list(Path("runs").iterdir())), "--replay", *more
        with pytest.raises(InputError) as caught:
            script.main(tyro.cli(script.Args, args=options(script, *words)))
        return str(caught.value)

    differs, broken = "is not the recorded one", "is not the record of a session"
    wrong = {(obs, "0.25"): differs, ("0.25 0.0", action): differs, ("what",): broken}
    for cells, why in wrong.items():
        path.write_text("\n".join([*text[:20], ",".join([*facts, *cells]), *text[21:], ""]))
        assert why in refused(session)
    path.write_text("\n".join([*text, ""]))
    assert "is recorded: drop --seed" in refused(session, "--seed 2")  # other episodes
    assert "of its own" in refused(session, "--resume", session)
    assert "0 steps" in refused("nowhere") and "nowhere" in refused("nowhere", script=mile)
