"""Atari: the frame stack, lost lives, FIRE, and what an id decides."""

import numpy as np
import pytest

from rlrun.envs import is_deterministic, make, make_vec


def play(envs, steps, actions=None, seed=0):
    """Steps with the observation before each."""
    rng = np.random.default_rng(seed)
    obs = envs.reset().copy()
    for _ in range(steps):
        action = rng.integers(0, envs.action_space.n, envs.n_envs) if actions is None else actions
        step = envs.step(np.array(action))
        yield obs, step
        obs = step.obs.copy()


@pytest.mark.parametrize("env_id", ["PongNoFrameskip-v4", "BreakoutNoFrameskip-v4"])
def test_frames_before_a_reset_are_zeros_and_all_others_are_carried_over(env_id):
    """What the replay memory relies on when it stores every frame once."""
    envs = make_vec(env_id, 4, seed=0)
    resets = lost_lives = 0
    for before, step in play(envs, 1100):
        assert not step.obs[step.reset, :-1].any()
        carried = ~step.reset
        assert np.array_equal(step.obs[carried, :-1], before[carried, 1:])
        resets += step.reset.sum()
        lost_lives += (step.terminated & ~step.reset).sum()
    envs.close()
    assert resets >= 4
    assert (lost_lives > 10) == env_id.startswith("Breakout")


def test_returns_are_those_of_whole_games_with_raw_rewards():
    envs = make_vec("PongNoFrameskip-v4", 2, seed=3)
    rewards, episodes = np.zeros(2), []
    for _, step in play(envs, 1200):
        rewards += step.reward
        for episode in step.episodes:
            assert episode.ret == rewards[episode.env]
            rewards[episode.env] = 0
            episodes.append(episode)
    envs.close()
    assert episodes
    assert all(-21 <= episode.ret <= 21 and episode.length > 500 for episode in episodes)


def test_a_lost_life_terminates_for_learning_while_the_game_goes_on():
    envs = make_vec("BreakoutNoFrameskip-v4", 1, seed=0)
    lives_lost, length = 0, 0
    for _, step in play(envs, 600, actions=[0]):
        length += 1
        if step.terminated[0]:
            lives_lost += 1
        if step.episodes:
            break
    envs.close()
    assert lives_lost == 5
    assert step.episodes[0].length == length
    # Without FIRE after each lost life, a player who does nothing would wait for half an hour.
    assert length < 300


@pytest.mark.parametrize(
    "env_id",
    [
        "AssaultNoFrameskip-v4",
        "BeamRiderNoFrameskip-v4",  # waits for the joystick after a lost life
        "ChopperCommandNoFrameskip-v4",  # waits, and takes no notice before an animation is over
        "GopherNoFrameskip-v4",
        "MsPacmanNoFrameskip-v4",
        "QbertNoFrameskip-v4",
        "RiverraidNoFrameskip-v4",
        "SpaceInvadersNoFrameskip-v4",
    ],
)
def test_a_player_who_does_nothing_gets_through_the_game(env_id):
    envs = make_vec(env_id, 1, seed=0)
    ended = any(step.episodes for _, step in play(envs, 2000, actions=[0]))
    envs.close()
    assert ended


def test_sticky_actions_swallow_no_start():
    """The native press of FIRE lasts one frame, which stickiness drops in a quarter of games."""
    envs = make_vec("ALE/Breakout-v5", 16, seed=0)
    ended = set()
    for _, step in play(envs, 600, actions=[0] * 16):
        ended |= {episode.env for episode in step.episodes}
        if len(ended) == 16:
            break
    envs.close()
    assert len(ended) == 16


@pytest.mark.parametrize(
    ("env_id", "presses"), [("BreakoutNoFrameskip-v4", [1, 2]), ("ALE/Breakout-v5", [1, 1, 2])]
)
def test_the_first_actions_of_a_life_are_pressed_and_no_others(env_id, presses, monkeypatch):
    envs = make_vec(env_id, 1, seed=0)
    sent, native = [], envs._envs.step
    monkeypatch.setattr(envs._envs, "step", lambda a: (sent.append(int(a[0])), native(a))[1])
    starts = [0]
    for t, (_, step) in enumerate(play(envs, 150, actions=[0]), start=1):
        if step.terminated[0] or step.reset[0]:
            starts.append(t)
    envs.close()
    expected = np.zeros(160, int)
    for start in starts:
        expected[start : start + len(presses)] = presses
    assert len(starts) >= 5
    assert sent == expected[:150].tolist()


@pytest.mark.parametrize(
    "env_id", ["ALE/Breakout-v5", "ALE/IceHockey-v5", "PongNoFrameskip-v4", "PitfallNoFrameskip-v4"]
)
def test_a_seed_decides_the_game_so_that_no_run_has_to_try(env_id, monkeypatch):
    assert make.plays_alike(env_id)
    monkeypatch.setattr(make, "make_vec", None)
    assert is_deterministic(env_id)


def test_an_action_outside_the_space_raises_and_does_not_hang():
    envs = make_vec("PongNoFrameskip-v4", 2, seed=0)
    envs.reset()
    with pytest.raises(ValueError, match="0 to 5"):
        envs.step(np.array([0, 6]))
    envs.close()


def test_the_last_life_is_not_the_end_of_the_game():
    """Games that count the lives in reserve go on at zero."""
    envs = make_vec("ALE/DonkeyKong-v5", 1, seed=0)
    lengths = []
    for t, (_, step) in enumerate(play(envs, 1500, actions=[0])):
        if step.terminated[0]:
            lengths.append((t, bool(step.reset[0])))
        if step.reset[0]:
            break
    envs.close()
    assert [over for _, over in lengths] == [False, False, True]


@pytest.mark.parametrize(
    ("env_id", "actions"), [("ALE/Breakout-v5", 4), ("PongNoFrameskip-v4", 6), ("Qbert-v4", 6)]
)
def test_action_sets_are_minimal(env_id, actions):
    envs = make_vec(env_id, 1, seed=0)
    assert envs.action_space.n == actions
    envs.close()
    envs = make_vec(env_id, 1, seed=0, kwargs={"full_action_space": True})
    assert envs.action_space.n == 18
    envs.close()


def test_sticky_actions_of_the_v5_ids():
    """The same actions from the same start: with sticky actions the game comes out otherwise."""

    def last(env_id, **kwargs):
        envs = make_vec(env_id, 1, seed=0, kwargs=kwargs)
        *_, (_, step) = play(envs, 60)
        envs.close()
        return step.obs

    v4, v5 = last("PongNoFrameskip-v4"), last("ALE/Pong-v5")
    assert not np.array_equal(v4, v5)
    assert np.array_equal(v4, last("ALE/Pong-v5", repeat_action_probability=0.0))
