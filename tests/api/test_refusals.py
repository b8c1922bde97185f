"""What is refused in words that help, and what works though one might not expect it."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TransformReward
from gymnasium.wrappers.vector import NormalizeObservation, RecordEpisodeStatistics
from test_sb2 import small
from whole import KINDS, every, make, seen, stack, weights

from rlrun import A2C, ACER, ACKTR, UserError, make_vec_env


def test_nothing_is_saved_before_there_is_an_environment(tmp_path):
    model = ACER("MlpPolicy", None, _init_setup_model=False)
    with pytest.raises(ValueError, match="environment"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    model.set_env(every())
    model.setup_model()
    model.save(tmp_path / "model")


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_weights_goes_back_in(kind):
    model, other = make(kind), make(kind, seed=1)
    assert weights(model) != weights(other)
    other.load_parameters(model.get_parameter_list())
    assert weights(other.learn(60)) != weights(model)
    other.load_parameters(model.get_parameter_list())
    batch = stack(seen())
    np.testing.assert_array_equal(other.action_probability(batch), model.action_probability(batch))
    model.load_parameters(model.get_parameter_list())
    by_name = dict(zip(model.get_parameters(), model.get_parameter_list(), strict=True))
    other.load_parameters(by_name)
    other.load_parameters(dict(list(by_name.items())[:2]), exact_match=False)


@pytest.mark.parametrize("wrong", ["text", b"bytes", None, {"a": 1}, [[1, 2], [3]], 1j, object()])
def test_weights_that_are_no_numbers(wrong):
    model = make("a2c")
    before = weights(model)
    parameters = model.get_parameters()
    name = list(parameters)[2]
    shape = parameters[name].shape
    values = [wrong] if isinstance(wrong, list) else [wrong, np.full(shape, wrong)]
    for value in values:
        with pytest.raises(ValueError, match=name):
            model.load_parameters({**parameters, name: value})
        with pytest.raises(ValueError, match=name):
            model.load_parameters(list({**parameters, name: value}.values()))
        assert weights(model) == before


def test_weights_of_stable_baselines_come_by_load(tmp_path):
    path = small(tmp_path)
    model = ACKTR.load(path)
    for source in (path, str(path)):
        with pytest.raises(Exception, match=r"\.load") as told:
            model.load_parameters(source)
        assert isinstance(told.value, UserError | ValueError)


@pytest.mark.parametrize("changes", [
    {"callback": 3}, {"logger": 3}, {"custom_objects": {"env": 3}}, {"env_kwargs": {}},
    {"custom_objects": {"callback": 3}}, {"custom_objects": {"gama": 0.5}}, {"run": {}},
    {"_target_": "x"}, {"total_timesteps": 3}, {"checkpoint_": 3},
], ids=str)  # fmt: skip
def test_keys_that_a_file_cannot_take(tmp_path, changes):
    make("acer").save(tmp_path / "model")
    name = next(iter(changes.get("custom_objects", changes)))
    for env in (None, every()):
        with pytest.raises(UserError, match=name):
            ACER.load(tmp_path / "model", env, **changes)


def test_games_take_no_wrappers():
    for more in (
        {"wrapper_class": lambda env: TransformReward(env, lambda reward: -reward)},
        {"vec_env_cls": gymnasium.vector.AsyncVectorEnv},
        {"vec_env_kwargs": {"copy": False}},
    ):
        with pytest.raises(UserError, match="PongNoFrameskip-v4"):
            make_vec_env("PongNoFrameskip-v4", 1, **more)


def test_observations_are_not_normalised_twice_or_by_others():
    def batch():
        return SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)

    for env in (
        NormalizeObservation(batch()),
        RecordEpisodeStatistics(NormalizeObservation(batch())),
        NormalizeObservation(RecordEpisodeStatistics(batch())),
    ):
        with pytest.raises(UserError, match="normalize_observations"):
            make("a2c", env)
        env.close()
    assert make("a2c", RecordEpisodeStatistics(batch())).learn(20).num_timesteps == 20


def test_a_model_with_a_schedule_of_ones_own_is_played_with(command):
    env = make_vec_env("CartPole-v1", 2)
    make("a2c", env, lr_schedule=lambda progress: 0.5).learn(30).save("model")
    done = command("evaluate", "model.zip", "episodes=2")
    assert done.code == 0, done.err
    done = command("record", "model.zip", "to=model.gif")
    assert done.code == 0, done.err
    done = command("resume", "model.zip", "total_timesteps=60")
    assert done.code == 2
    assert "lr_schedule" in done.err


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("action", ["discrete", "bounded_box", "multibinary"])
def test_nothing_to_act_on(policy, deterministic, action):
    env = every("vector", action)
    model = make("a2c", env, policy)
    shape = model.action_space.shape
    nothing = np.zeros((0, 3), np.float32)
    actions, state = model.predict(nothing, deterministic=deterministic)
    assert actions.shape == (0, *shape)
    if policy == "MlpLstmPolicy":
        assert state.shape[0] == 0
        again, state = model.predict(nothing, state, np.zeros(0, bool), deterministic)
        assert again.shape == (0, *shape)
    else:
        assert state is None


def test_nothing_to_act_on_in_cartpole():
    for policy in ("MlpPolicy", "MlpLstmPolicy"):
        for kind in KINDS:
            model = make(kind, "CartPole-v1", policy)
            assert model.predict(np.zeros((0, 4), np.float32))[0].shape == (0,)
            assert model.action_probability(np.zeros((0, 4), np.float32)).shape == (0, 2)


def test_actions_that_are_none():
    model = make("a2c", "CartPole-v1")
    batch = np.zeros((2, 4), np.float32)
    for actions in ([0.5, 1.0], [0, 0.999], [np.nan, 1], [0, 2], [-1, 0], ["0", "1"], [0]):
        with pytest.raises(ValueError, match="action"):
            model.action_probability(batch, actions=actions)
    whole, exact = (model.action_probability(batch, actions=a) for a in ([0, 1], [0.0, 1.0]))
    np.testing.assert_array_equal(whole, exact)
    with pytest.raises(ValueError, match="action"):
        model.action_probability(batch[0], actions=0.5)


def test_a_model_that_is_not_set_up_says_so():
    model = A2C("MlpPolicy", every(), _init_setup_model=False)
    for act in (model.get_parameters, lambda: model.learn(3), lambda: model.predict(seen()[0])):
        with pytest.raises(UserError, match="setup_model"):
            act()
