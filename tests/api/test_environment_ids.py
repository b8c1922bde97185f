"""From which id a saved model makes its environments anew, and when it makes none."""

import io
import logging

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TransformReward
from whole import KINDS, Count, every, fingerprint, make

from rlrun import ACER, make_vec_env
from rlrun.api.envs import require_same_spaces
from rlrun.envs import Interface

SMALL = {"policy": "CnnPolicy", "policy_kwargs": {"filters": [2, 2, 2], "features_dim": 4}}
ID = "Kept-v0"


class Thing(Count):
    """Takes whatever it is given."""

    def __init__(self, thing=None, size=1):
        super().__init__(limit=9)
        self.observation_space = spaces.Box(0, 1000, (size,), np.float32)

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return obs.repeat(self.observation_space.shape[0]), info

    def step(self, action):
        obs, *rest = super().step(action)
        return obs.repeat(self.observation_space.shape[0]), *rest


@pytest.fixture
def registered():
    """Registers an environment under `ID`, as often as asked for."""

    def register(**kwargs):
        gymnasium.registry.pop(ID, None)
        gymnasium.register(ID, entry_point=Thing, kwargs=kwargs)

    register()
    yield register
    gymnasium.registry.pop(ID, None)


def copied(model, env=None, **changes):
    """The model, saved and loaded."""
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    return type(model).load(file, env, **changes)


def doubled(env):
    return TransformReward(env, lambda reward: 2 * reward)


WITHOUT = {
    "no-limit": lambda: gymnasium.make("MountainCar-v0").unwrapped,
    "no-limit-asked-for": lambda: gymnasium.make("MountainCar-v0", max_episode_steps=-1),
    "wrapped": lambda: doubled(gymnasium.make("CartPole-v1")),
    "wrapped-in-a-batch": lambda: make_vec_env("CartPole-v1", 2, wrapper_class=doubled),
    "no-data": lambda: gymnasium.make(ID, thing={1, 2}),
    "no-data-in-a-batch": lambda: make_vec_env(ID, 2, env_kwargs={"thing": {1, 2}}),
    "class": lambda: Count(),
    "function": lambda: make_vec_env(lambda: gymnasium.make("CartPole-v1"), 2),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_environments_that_no_id_makes(registered, name):
    model = make("a2c", WITHOUT[name]()).learn(10)
    assert model.config["env"]["id"] is None
    loaded = copied(model)
    assert loaded.config["env"]["id"] is None
    assert loaded.get_env() is None
    with pytest.raises(ValueError, match="set_env"):
        loaded.learn(10)


@pytest.mark.parametrize("env_id", ["PongNoFrameskip-v4", "ALE/Pong-v5"])
def test_a_game_without_its_preprocessing_has_no_id(env_id):
    """The id alone would make the game with its preprocessing."""
    env = gymnasium.make(env_id)
    model = make("a2c", env, **SMALL)
    assert model.observation_space.shape == (210, 160, 3)
    assert copied(model).get_env() is None
    env.close()


def test_environments_that_an_id_makes(registered):
    for env, expected in [
        (gymnasium.make("CartPole-v1"), ("CartPole-v1", {})),
        (gymnasium.make("CartPole-v1", max_episode_steps=20),
         ("CartPole-v1", {"max_episode_steps": 20})),
        (gymnasium.make(ID, size=3), (ID, {"size": 3})),
        (make_vec_env("CartPole-v1", 2, env_kwargs={"max_episode_steps": 9}),
         ("CartPole-v1", {"max_episode_steps": 9})),
        ("MountainCar-v0", ("MountainCar-v0", {})),
    ]:  # fmt: skip
        model = make("a2c", env).learn(10)
        for each in (model, copied(model), copied(copied(model))):
            node = each.config["env"]
            assert (node["id"], node["kwargs"]) == expected
            assert each.get_env().num_envs == model.n_envs


def test_an_id_survives_one_file_after_another():
    """With environments made for it, without, and after learning in them."""

    def begun():
        env = make_vec_env("CartPole-v1", 2, env_kwargs={"max_episode_steps": 25})
        return make("acer", env, lr_schedule="constant")

    straight, model = begun().learn(90), begun()
    remade = copied(copied(model)).get_env()
    for other in (make("a2c", remade), copied(model, remade), copied(copied(model, remade))):
        assert other.config["env"]["id"] == "CartPole-v1"
        assert other.config["env"]["kwargs"] == {"max_episode_steps": 25}
    model = copied(model.learn(30))
    assert model.get_env() is not None
    model = copied(copied(model)).learn(30, reset_num_timesteps=False)
    model = copied(model)
    node = model.config["env"]
    assert (node["id"], node["kwargs"]) == ("CartPole-v1", {"max_episode_steps": 25})
    assert fingerprint(model.learn(30, reset_num_timesteps=False)) == fingerprint(straight)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_names_the_environment_of_now(registered, kind):
    gymnasium.register("Other-v0", entry_point=Thing)
    try:
        model = make(kind, make_vec_env(ID, 2)).learn(20)
        other = make_vec_env("Other-v0", 3, env_kwargs={"size": 1})
        expected = ("Other-v0", 3, {"size": 1})
        changed = copied(model, make_vec_env("Other-v0", 3, env_kwargs={"size": 1}))
        model.set_env(other)
        for each in (model, changed, copied(model), copied(changed)):
            node = copied(each).config["env"]
            assert (node["id"], node["n_envs"], node["kwargs"]) == expected
            assert copied(each).get_env().num_envs == 3
        equal = copied(make(kind, make_vec_env(ID, 2)), make_vec_env("Other-v0", 2))
        assert copied(equal).config["env"]["id"] == "Other-v0"
        model.set_env(Thing())
        assert copied(model).get_env() is None
    finally:
        del gymnasium.registry["Other-v0"]


def test_an_id_that_means_something_else_by_now(registered):
    model = make("a2c", make_vec_env(ID, 2)).learn(20)
    file = io.BytesIO()
    model.save(file)
    registered(size=3)
    loaded = type(model).load(file)
    for act in (loaded.get_env, lambda: loaded.learn(10)):
        with pytest.raises(ValueError, match="observation_space"):
            act()
    loaded.predict(np.zeros(1, np.float32))
    registered()
    assert loaded.learn(10).num_timesteps == 10


def test_observations_of_other_stacks_are_refused():
    space = spaces.Box(0, 255, (4, 8, 8), np.uint8)
    stacked, plain = (Interface(2, space, spaces.Discrete(3), k) for k in (4, 1))
    require_same_spaces(stacked, stacked._replace(n_envs=9))
    for one, other in ((stacked, plain), (plain, stacked)):
        with pytest.raises(ValueError, match="frame"):
            require_same_spaces(one, other)


class Wild(Count):
    """No seed controls it."""

    drawn = 0

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        Wild.drawn += 1
        self.offset = Wild.drawn % 500
        return obs + self.offset, info

    def step(self, action):
        obs, *rest = super().step(action)
        return obs + self.offset, *rest


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
def test_environments_that_cannot_be_brought_to_where_they_were(caplog, policy):
    model = make("acer", make_vec_env(lambda: Wild(7), 2), policy)
    model.learn(60, lambda told, _: told["self"].num_timesteps < 46)
    assert model.num_timesteps == 46
    env, lengths, begins = make_vec_env(lambda: Wild(7), 2), [], []

    def note(told, _):
        lengths.extend(told["ep_lengths"])
        begins.append([each.steps for each in env.engine._batch.envs])

    with caplog.at_level(logging.WARNING):
        loaded = copied(model, env)
    (record,) = caplog.records
    assert record.name.startswith("rlrun")
    assert "new episodes" in record.getMessage()
    assert loaded.num_timesteps == 46
    loaded.learn(42, note, reset_num_timesteps=False)
    assert begins[0] == [1, 1]
    assert set(lengths) == {7}


def test_environments_that_are_where_they_were_are_not_worth_a_warning(caplog):
    model = make("acer").learn(40)
    copied(model, every())
    copied(model).get_env()
    ACER.load(_file(model), n_steps=5, buffer_size=60)
    assert caplog.records == []


def _file(model):
    file = io.BytesIO()
    model.save(file)
    return file
