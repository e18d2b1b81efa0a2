"""A person at the keys: what is pressed is what happens, nothing is lost, and a session repeats to the bit.

Here SDL has no screen, and its events are posted; tests/test_keys.py presses real keys.
"""

import signal

import numpy as np
import pytest

import bc
import hg_dagger
import iwr
import mile
import rlif_rlpd
import sirius
from experts import InputError, human, load_checkpoint, load_demonstrations, record, window
from experts.record import export, read_record
from tests import tiny
from tests.tiny import assert_same, evaluations

KEYS = """
["Shown-v0"]
rate = 1000
keys = { left = [-1], right = [1], w = [0.5] }
axes = { 0 = [1] }

["ShownSwitched-v0"]
rate = 1000
keys = { left = 0, right = 2 }
still = 1
"""
HOLD = 3  # steps of control after the last key, at this rate


def down(key, unicode=""):
    return "KEYDOWN", {"scancode": key, "unicode": unicode}


def up(key):
    return "KEYUP", {"scancode": key}


def typed(letter):
    return "KEYDOWN", {"scancode": "F13", "unicode": letter}


START = [typed("p")]  # a session begins paused


@pytest.fixture
def at_keys(monkeypatch, people, tmp_path):
    """A function that sets what is pressed before which step of the session: {step: [event, ...]}."""
    monkeypatch.setattr(human, "HYSTERESIS", HOLD / 1_000)
    monkeypatch.setattr(human, "ABSENCE", 1e9)
    (tmp_path / "keys.toml").write_text(KEYS)
    plan, wait = {}, human.Person._wait

    def press_and_wait(person):
        import pygame

        events = plan.pop(person.steps, [])
        if not person.intervals and not person.decided_at:
            events = [*START, *events]
        for kind, facts in events:
            facts = dict(facts)
            if "scancode" in facts:
                facts["scancode"] = getattr(pygame, f"KSCAN_{facts['scancode'].upper()}")
                facts.setdefault("unicode", "")
            pygame.event.post(pygame.event.Event(getattr(pygame, kind), facts))
        wait(person)

    monkeypatch.setattr(human.Person, "_wait", press_and_wait)

    def press(events):
        plan.clear()
        plan.update(events)

    return press


def options(script, *more, env_id="Shown-v0"):
    """Options of a short run with a person."""
    words, kept = tiny.SHORT[script.__name__].split(), []
    for name, value in zip(words, words[1:]):
        skipped = ("--expert", "--human-model", "--reference", "--threshold")
        if script in (iwr, sirius):
            skipped += ("--intervention-cost",)
        if name.startswith("--") and name not in skipped:
            kept += [name] if value.startswith("--") else [name, value]
    words = [*kept, "--env-id", env_id, "--keys", "../keys.toml"]
    if script is not bc:
        words += ["--intervention", "human"]
    return [str(word) for word in (*words, *more)]


def run(script, *more, **kwargs):
    """A short run in this process; its folder."""
    before = set(tiny.Path().glob("runs/*"))
    script.main(tiny.parsed(script, *options(script, *more, **kwargs)))
    (folder,) = set(tiny.Path().glob("runs/*")) - before
    return folder


def lines_of(folder):
    """The record of a run, in the order of its steps."""
    return [line for lines in read_record(folder).values() for line in lines]


def column(folder, name):
    return [line[name] for line in lines_of(folder)]


def steps_where(values):
    return [t for t, value in enumerate(values) if value]


def rewards_of(folder):
    return load_checkpoint(folder / "checkpoint.pt")["kept"]["rb"]["rewards"]


# --- control -------------------------------------------------------------------------------------


def test_control_is_held_as_long_as_a_key_and_a_little_longer(at_keys):
    at_keys({10: [down("right")], 20: [up("right")]})
    folder = run(rlif_rlpd)
    assert steps_where(column(folder, "control")) == list(range(10, 20 + HOLD))
    assert steps_where(column(folder, "started")) == [10]
    actions = np.array(column(folder, "action"))[:, 0]
    assert (actions[10:20] == np.float32(0.999)).all()  # the key's
    assert (actions[20 : 20 + HOLD] == 0).all()  # none: from no motion, whatever the robot did
    assert len(set(actions[:10].tolist())) == 10  # the robot's


def test_only_the_step_before_a_takeover_is_labelled(at_keys):
    at_keys({10: [down("right")], 20: [up("right")], 40: [down("left")], 41: [up("left")]})
    folder = run(rlif_rlpd)
    assert steps_where(rewards_of(folder) == -1) == [9, 39]
    row = evaluations(folder)[-1]
    assert (row["labels"], row["takeovers"]) == ("2", "2")
    assert row["expert_steps"] == str(10 + HOLD + 1 + HOLD)


def test_a_chain_of_taps_is_one_takeover(at_keys):
    taps = {t: [down("right"), up("right")] for t in (10, 12, 14)}
    at_keys(taps | {30: [down("left"), up("left")]})
    folder = run(rlif_rlpd)
    assert steps_where(column(folder, "started")) == [10, 30]
    actions = np.array(column(folder, "action"))[:, 0]
    assert steps_where(actions == np.float32(0.999)) == [
        10,
        12,
        14,
    ]  # a tap between two steps counts
    assert steps_where(column(folder, "control"))[: 6 + HOLD] == [*range(10, 15 + HOLD), 30]


def test_space_is_a_label_without_a_takeover(at_keys):
    at_keys({15: [typed(" ")]})
    folder = run(rlif_rlpd)
    assert not any(column(folder, "control")) and steps_where(column(folder, "started")) == [15]
    assert steps_where(rewards_of(folder) == -1) == [14]
    row = evaluations(folder)[-1]
    assert (row["labels"], row["takeovers"], row["expert_steps"]) == ("1", "0", "0")
    at_keys({15: [typed(" ")]})
    folder = run(hg_dagger)
    assert steps_where(column(folder, "started")) == [15]
    row = evaluations(folder)[-1]
    assert (row["takeovers"], row["expert_steps"]) == ("0", "0")
    assert load_checkpoint(folder / "checkpoint.pt")["progress"][4] == []  # no doubt is logged


def test_c_is_control_without_motion(at_keys):
    at_keys({10: [down("c")], 15: [up("c")]})
    folder = run(rlif_rlpd)
    assert steps_where(column(folder, "control")) == list(range(10, 15 + HOLD))
    assert (np.array(column(folder, "action"))[10:15] == 0).all()


def test_a_key_that_was_down_before_an_episode_does_nothing_in_it(at_keys):
    at_keys({45: [down("right")]})  # and never up; the episode ends after step 49
    folder = run(rlif_rlpd)
    assert steps_where(column(folder, "control")) == list(range(45, 50))


def test_keys_add_up_and_the_last_one_counts_where_actions_are_discrete(at_keys):
    at_keys({5: [down("right"), down("w")], 6: [up("right")], 7: [up("w")]})
    actions = np.array(column(run(rlif_rlpd), "action"))[:, 0]
    np.testing.assert_allclose(actions[5:8], [0.999, 0.5, 0])
    at_keys({5: [down("left"), down("right")], 6: [up("left"), up("right")]})
    tiny.write_people(tiny.Path(".."), discrete=True)
    folder = run(iwr, "--initial-policy", "../initial.safetensors", env_id="ShownSwitched-v0")
    assert column(folder, "action")[5].tolist() == [0, 0, 1]
    assert column(folder, "action")[6].tolist() == [0, 1, 0]
    # a key beside one that is held since an earlier step, and a tap beside it
    at_keys(
        {5: [down("left")], 6: [down("right")], 7: [up("right")], 8: [down("right"), up("right")]}
    )
    folder = run(iwr, "--initial-policy", "../initial.safetensors", env_id="ShownSwitched-v0")
    assert np.argmax(column(folder, "action")[5:10], axis=1).tolist() == [0, 2, 0, 2, 0]


@pytest.mark.parametrize("script", [mile, iwr, sirius])
def test_a_takeover_of_many_steps_counts_once(script, at_keys):
    at_keys({10: [down("right")], 20: [up("right")], 40: [down("left")], 41: [up("left")]})
    folder = run(script, "--initial-policy", "../initial.safetensors")
    row = evaluations(folder)[-1]
    assert (row["takeovers"], row["expert_steps"]) == ("2", str(10 + HOLD + 1 + HOLD))


def test_a_gamepad_moves_in_proportion_beyond_its_dead_zone(at_keys):
    pushes = {10: 0.1, 20: -0.5, 25: 0.0}
    at_keys({t: [("JOYAXISMOTION", {"axis": 0, "value": v})] for t, v in pushes.items()})
    folder = run(rlif_rlpd)
    assert steps_where(column(folder, "control")) == list(range(20, 25 + HOLD))
    np.testing.assert_allclose(np.array(column(folder, "action"))[20:25, 0], -0.5, atol=1e-3)


def test_losing_the_focus_gives_control_back_and_pauses(at_keys, monkeypatch):
    drawn, draw = [], window.Window.draw

    def note(self, env, texts, control, message=""):
        drawn.append(message)
        if self.paused and len(drawn) > 60:
            self.paused = False
        draw(self, env, texts, control, message)

    monkeypatch.setattr(window.Window, "draw", note)
    at_keys({10: [down("right")], 20: [("WINDOWFOCUSLOST", {})]})
    folder = run(rlif_rlpd)
    assert steps_where(column(folder, "control")) == list(range(10, 20 + HOLD))
    assert drawn.count("P goes on") > 5


def test_an_episode_that_is_given_up_ends_without_a_charge(at_keys):
    at_keys({10: [typed("r")]})
    folder = run(rlif_rlpd)
    lengths = [len(lines) for lines in read_record(folder).values()]
    assert lengths == [11, 50, 19] and column(folder, "given_up")[10]
    kept = load_checkpoint(folder / "checkpoint.pt")["kept"]["rb"]
    assert kept["rewards"][10] == 0 and kept["terminations"][10] == 0  # as a time limit


def test_plus_and_minus_change_the_rate(at_keys, monkeypatch):
    rates, status = [], human.Person._status
    note = lambda self: rates.append(self.rate) or status(self)  # noqa: E731
    monkeypatch.setattr(human.Person, "_status", note)
    at_keys({10: [typed("+")], 20: [typed("-"), typed("-")]})
    run(rlif_rlpd)
    assert [round(rate) for rate in dict.fromkeys(rates)] == [1000, 1250, 800]


# --- nothing is lost -------------------------------------------------------------------------------

PRESSED = {
    7: [down("right")], 12: [up("right")], 30: [typed(" ")], 60: [down("left")], 66: [up("left")]
}  # fmt: skip


def assert_same_session(a, b):
    """The same steps, evaluations and networks."""
    assert (a / "person.csv").read_bytes() == (b / "person.csv").read_bytes()
    assert evaluations(a) == evaluations(b) and evaluations(a)
    kept = [load_checkpoint(folder / "checkpoint.pt") for folder in (a, b)]
    assert_same(kept[0]["kept"], kept[1]["kept"])
    assert_same(kept[0]["generators"], kept[1]["generators"])


@pytest.mark.parametrize("script", [rlif_rlpd, hg_dagger, mile, iwr, sirius])
def test_a_replay_is_the_session_to_the_bit(at_keys, script):
    at_keys(PRESSED)
    session = run(script)
    assert any(column(session, "control"))
    before = set(tiny.Path().glob("runs/*"))
    words = "--replay", session, "--num-threads", 1
    script.main(tiny.parsed(script, *words))
    (replay,) = set(tiny.Path().glob("runs/*")) - before
    assert_same_session(session, replay)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("script", [rlif_rlpd, hg_dagger, mile])
@pytest.mark.parametrize("cut", [0, 5])
def test_a_killed_session_goes_on_where_it_was(at_keys, script, cut, monkeypatch):
    """Killed in the middle of step 64, which is recorded; with a cut, while the line was being written."""
    at_keys(PRESSED)
    step = human.Person.step

    def kill(person, action):
        if person.steps == 64:
            person.record.append(
                {"seed": person.seed, "t": person.t, "action": action, **person.line}
            )
            raise Killed
        return step(person, action)

    with monkeypatch.context() as patch:
        patch.setattr(human.Person, "step", kill)
        with pytest.raises(Killed):
            run(script)
    (folder,) = tiny.Path().glob("runs/*")
    record = (folder / "person.csv").read_bytes()
    if cut:
        (folder / "person.csv").write_bytes(record[:-cut])
    at_keys({})  # a new sitting, in which no key is pressed
    script.main(tiny.parsed(script, "--resume", folder))
    whole = (folder / "person.csv").read_bytes()
    assert whole.startswith(record[: record[:-cut].rfind(b"\n") + 1] if cut else record)
    assert len(lines_of(folder)) > 65 and sum(column(folder, "control")) >= 5 + HOLD + 4
    script.main(tiny.parsed(script, "--replay", folder, "--exp-name", "again"))
    (replay,) = tiny.Path().glob("runs/*again*")
    assert_same_session(folder, replay)


def test_q_stops_at_once_and_says_how_to_go_on(at_keys, ending):
    at_keys({30: [typed("q")]})
    code, line = ending(rlif_rlpd, *options(rlif_rlpd))
    (folder,) = tiny.Path().glob("runs/*")
    assert code == 130 and line.endswith(f"go on with: python rlif_rlpd.py --resume {folder}")
    assert len(lines_of(folder)) == 30
    code, line = ending(rlif_rlpd, "--replay", folder)
    assert code == 2 and line.endswith(f"before its end; finish it first: --resume {folder}")
    at_keys({})
    rlif_rlpd.main(tiny.parsed(rlif_rlpd, "--resume", folder))
    assert len(lines_of(folder)) == 80 and len(rewards_of(folder)) == 80


def test_a_signal_ends_a_pause_at_once(at_keys, ending, monkeypatch):
    draw = window.Window.draw

    def draw_and_signal(self, env, texts, control, message=""):
        draw(self, env, texts, control, message)
        if message == "P goes on":
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(window.Window, "draw", draw_and_signal)
    at_keys({30: [typed("p")]})
    code, line = ending(rlif_rlpd, *options(rlif_rlpd))
    (folder,) = tiny.Path().glob("runs/*")
    assert code == 128 + signal.SIGTERM and line.endswith(f"--resume {folder}")
    assert len(lines_of(folder)) == 30


def test_a_record_that_does_not_fit_is_refused(at_keys, ending):
    at_keys(PRESSED)
    session = run(rlif_rlpd)
    text = (session / "person.csv").read_text().splitlines()
    cells = text[20].split(",")

    def with_line(*new):
        (session / "person.csv").write_text("\n".join([*text[:20], ",".join(new), *text[21:], ""]))
        return ending(rlif_rlpd, "--replay", session)

    code, line = with_line(*cells[:7], "0.25", *cells[8:])
    assert code == 1 and "step 19 of the episode" in line and "action is not the one" in line
    code, line = with_line(*cells[:8], "0.25", *cells[9:])
    assert code == 1 and "the state is not the one" in line
    code, line = with_line("what", *cells[1:])
    assert code == 2 and line.endswith("person.csv is not the record of a session")
    (session / "person.csv").write_text("\n".join([*text[:40], ""]))
    code, line = ending(rlif_rlpd, "--replay", session)
    assert code == 2 and "39 steps were recorded; give --total-timesteps 39" in line
    code, line = ending(rlif_rlpd, "--replay", "nowhere")
    assert code == 2 and "--replay nowhere: no run of this script" in line


# --- learning beside the picture -------------------------------------------------------------------


class Clock:
    """A clock that the test turns."""

    now = 100.0

    def perf_counter(self):
        return self.now


def test_as_many_updates_as_fit_and_the_rest_later(at_keys, monkeypatch):
    env = rlif_rlpd.make_env("Shown-v0", render_mode="rgb_array")
    person = human.Person(env, tiny.parsed(rlif_rlpd, *options(rlif_rlpd)))
    clock = Clock()
    monkeypatch.setattr(human.time, "perf_counter", clock.perf_counter)
    person.cost, person.drawing = 0.010, 0.005
    person.due = 100.040
    assert person.updates(False) == 1 and person.owed == 0
    person.due = 100.010  # 5 ms are left
    assert [person.updates(False) for _ in range(3)] == [0, 0, 0] and person.owed == 3
    person.due = 100.030  # 25 ms
    assert person.updates(False) == 2 and person.owed == 2
    person.due = 99.0  # too late already
    assert person.updates(False) == 0 and person.owed == 3
    assert person.updates(True) == 4 and person.owed == 0  # the episode is over


def test_the_session_does_as_many_updates_as_steps(at_keys):
    at_keys({})
    folder = run(rlif_rlpd)
    made = column(folder, "updates")
    last = evaluations(folder)
    assert last and 0 < sum(made) <= 80 - 8
    state = load_checkpoint(folder / "checkpoint.pt")["kept"]["qf_optimizer"]["state"]
    assert int(state[0]["step"]) == 80 - 8


# --- demonstrations and datasets -------------------------------------------------------------------


def test_a_session_is_a_dataset_with_interventions(at_keys):
    import minari

    at_keys(PRESSED | {79: [typed("r")]})
    folder = run(rlif_rlpd)
    dataset = minari.load_dataset(export(folder, "Shown-v0"))
    (episode,) = dataset.iterate_episodes()  # the second one was given up
    lines = lines_of(folder)[:50]
    assert episode.infos["intervention"].tolist() == [False, *(line["control"] for line in lines)]
    np.testing.assert_array_equal(episode.observations[:-1], [line["obs"] for line in lines])
    np.testing.assert_allclose(episode.actions[:, 0], [2 * line["action"][0] for line in lines])
    assert episode.truncations[-1] and not episode.terminations.any()
    env = rlif_rlpd.make_env("Shown-v0")
    demos = load_demonstrations(env, "Shown-v0", None, dataset.spec.dataset_id)
    np.testing.assert_allclose(demos["actions"], [line["action"] for line in lines], atol=1e-6)


def test_another_session_of_the_same_name_is_another_dataset(at_keys):
    import minari

    actions = {}
    for key in ("left", "right"):
        at_keys({5: [down(key)], 20: [up(key)]})
        folder = run(rlif_rlpd).rename("session")
        dataset_id = export(folder, "Shown-v0")
        assert export(folder, "Shown-v0") == dataset_id  # which is there
        actions[dataset_id] = minari.load_dataset(dataset_id)[0].actions[10, 0]
        folder.rename(key)
    np.testing.assert_allclose(list(actions.values()), [-2 * 0.999, 2 * 0.999], rtol=1e-6)


@pytest.mark.parametrize("text", [None, "{", "{}", "[]"])
def test_a_session_without_its_options_is_no_dataset(text, at_keys, monkeypatch):
    at_keys({})
    folder = run(rlif_rlpd)
    (folder / "args.json").unlink()
    if text is not None:
        (folder / "args.json").write_text(text)
    monkeypatch.setattr("sys.argv", ["record", str(folder)])
    with pytest.raises(InputError, match="its args.json is not there, or not that of a run"):
        record.main()


def test_bc_clones_what_you_drive(at_keys, capsys):
    at_keys({5: [down("right")], 20: [up("right")], 70: [typed("r")]})
    folder = run(bc, "--record-demos", 2)
    assert all(column(folder, "control"))
    assert [len(lines) for lines in read_record(folder).values()] == [50, 21, 50]
    actions = np.array(column(folder, "action"))[:, 0]
    assert steps_where(actions == np.float32(0.999)) == list(range(5, 20))
    summary = tiny.Path(folder, "summary.json").read_text()
    assert '"demo_episodes": 2' in summary and '"demo_transitions": 100' in summary
    assert "2 of 2 demonstrations are recorded" in capsys.readouterr().out


def test_recording_goes_on_after_a_stop(at_keys, ending):
    at_keys({30: [typed("q")]})
    code, line = ending(bc, *options(bc, "--record-demos", 1))
    (folder,) = tiny.Path().glob("runs/*")
    assert code == 130 and "--resume" in line
    at_keys({40: [down("right")]})
    bc.main(tiny.parsed(bc, "--resume", folder))
    actions = np.array(column(folder, "action"))[:, 0]
    assert len(actions) == 50 and steps_where(actions) == list(range(40, 50))
    assert (folder / "model.safetensors").exists()


# --- what is refused -------------------------------------------------------------------------------


def test_bad_keys_in_one_line(at_keys, ending):
    def refused(text, *more):
        tiny.Path("../keys.toml").write_text(text)
        code, line = ending(rlif_rlpd, *options(rlif_rlpd, *more))
        assert code == 2
        return line

    assert "no keys are known for Shown-v0, which has actions of 1 components" in refused("")
    wrong = '["Shown-v0"]\nrate = 5\nkeys = { left = [1, 2] }'
    assert "[1, 2] is not a list of 1 numbers" in refused(wrong)
    assert "there is no key 'lift'" in refused('["Shown-v0"]\nrate = 5\nkeys = { lift = [1] }')
    assert "rate must be positive" in refused('["Shown-v0"]\nrate = 0\nkeys = { left = [1] }')
    assert "KeyError: 'rate'" in refused('["Shown-v0"]\nkeys = { left = [1] }')
    for taken in ("p", "Q", "space", "minus", "c"):
        table = f'["Shown-v0"]\nrate = 5\nkeys = {{ left = [1], {taken} = [1] }}'
        assert f"{taken.lower()} is taken" in refused(table)
    no_table = refused('["Shown-v0"]\nrate = 5\nkeys = ["left"]')
    assert no_table.endswith("experts/keys.toml shows how they are written")
    assert "keys.toml: " in refused("not toml")
    code, line = ending(bc, *options(bc, "--record-demos", 1))
    assert code == 2 and "keys.toml: " in line
    assert not tiny.Path("runs").exists()


@pytest.mark.parametrize("action", ["true", "-1", "3", "[1, 2]"])
def test_a_discrete_action_is_its_number(action, at_keys, ending):
    table = f'["ShownSwitched-v0"]\nrate = 5\nkeys = {{ left = {action} }}'
    tiny.Path("../keys.toml").write_text(table)
    tiny.write_people(tiny.Path(".."), discrete=True)
    session = options(iwr, "--initial-policy", "../initial.safetensors", env_id="ShownSwitched-v0")
    code, line = ending(iwr, *session)
    assert code == 2 and "is not one of the actions 0 to 2" in line
    tiny.Path("../keys.toml").write_text(table.replace(action, "1") + "\naxes = { 0 = 1 }")
    code, line = ending(iwr, *session)
    assert code == 2 and "axes are for continuous actions" in line


def test_a_file_of_keys_comes_before_the_shipped_one(tmp_path):
    env = rlif_rlpd.make_env("LunarLanderContinuous-v3")
    (tmp_path / "mine.toml").write_text(
        "[Lunar]\nrate = 1\n['Lunar*']\nrate = 7\nkeys = { w = [1, 0] }"
    )
    args = type("Args", (), {"env_id": env.spec.id, "keys": str(tmp_path / "mine.toml")})
    keys = window.Keys(env, args)
    assert keys.rate == 7 and set(keys.of_keys) == {"w", "c"}
    (tmp_path / "mine.toml").write_text(
        "['LunarLanderContinuous-v3']\nrate = 8\nkeys = { w = [1, 0] }"
    )
    assert window.Keys(env, args).rate == 8
    (tmp_path / "mine.toml").write_text("['Another-v0']\nrate = 9\nkeys = { w = [1, 0] }")
    assert window.Keys(env, args).rate == 20


def test_a_task_without_keys_says_what_its_actions_are(ending):
    code, line = ending(
        rlif_rlpd, "--env-id", "Hopper-v5", "--intervention", "human", "--demo-episodes", 0
    )
    names = "actions of 3 components (thigh_joint, leg_joint, foot_joint)"
    assert (
        code == 2
        and f"no keys are known for Hopper-v5, which has {names}: give --keys FILE" in line
    )


def test_no_screen_is_said_in_one_line(at_keys, ending, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    for script, own in ((rlif_rlpd, ()), (bc, ("--record-demos", 1))):
        code, line = ending(script, *options(script, *own))
        assert code == 2 and "you need a screen" in line and "--replay" in line


def test_a_replay_keeps_its_options_but_for_those_that_are_typed(at_keys, ending):
    session = run(rlif_rlpd, "--gamma", 0.9)
    args = tiny.parsed(rlif_rlpd, "--replay", session, "--num-qs", 3)
    assert (args.gamma, args.num_qs, args.intervention, args.env_id) == (
        0.9,
        3,
        "human",
        "Shown-v0",
    )
    code, line = ending(rlif_rlpd, "--replay", session, "--intervention", "none")
    assert code == 2 and "--replay: a person at the keys was there" in line


def test_every_shipped_table_fits_its_task():
    for env_id in ("LunarLander-v3", "LunarLanderContinuous-v3", "FetchReach-v4", "FetchPush-v4",
                   "PointMaze_UMaze-v3", "Meta-World/reach-v3"):  # fmt: skip
        env = rlif_rlpd.make_env(env_id)
        keys = window.Keys(env, type("Args", (), {"env_id": env_id, "keys": None}))
        assert len(keys.still) == env.action_space.shape[0] and keys.rate > 0
        for key in keys.of_keys:
            action = keys.motion([key], {})
            assert (key == "c") == np.array_equal(action, keys.still)
            assert abs(action).max() <= 1


def test_the_lander_goes_where_the_arrow_points():
    env = rlif_rlpd.make_env("LunarLanderContinuous-v3")
    keys = window.Keys(env, type("Args", (), {"env_id": env.spec.id, "keys": None}))
    speeds = {}
    for key in ("left", "c", "right", "up"):
        env.reset(seed=3)
        for _ in range(15):
            obs, *_ = env.step(keys.motion([key], {}))
        speeds[key] = obs[2:4]
    assert speeds["left"][0] < speeds["c"][0] < speeds["right"][0]
    assert speeds["up"][1] > speeds["c"][1]
