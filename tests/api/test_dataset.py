"""Datasets of experts: what is read, how it is split, and what is refused."""

import itertools
import os

import numpy as np
import pytest
from PIL import Image

from rlrun.api.imitation.dataset import ExpertDataset
from rlrun.api.imitation.trajectories import channel_axis

LENGTHS = (5, 1, 12, 7, 3)
ENDS = np.cumsum(LENGTHS)
N = int(ENDS[-1])


def trajectories(lengths=LENGTHS, **changes):
    """Observations that tell the episode, the step in it and the row, in SB2's float64."""
    index = [(e, t) for e, length in enumerate(lengths) for t in range(length)]
    episode, step = np.array(index).T
    data = {
        "obs": np.stack([episode, step, np.arange(len(index))], 1).astype(np.float64),
        "actions": np.arange(len(index)).reshape(-1, 1) % 4,
        "rewards": np.ones(len(index)),
        "episode_starts": step == 0,
        "episode_returns": np.array(lengths, np.float64),
    }
    return {key: value for key, value in (data | changes).items() if value is not None}


def dataset(data=None, **settings):
    data = trajectories() if data is None else data
    return ExpertDataset(traj_data=data, **{"verbose": 0, **settings})


def a_pass(data, split):
    loader = {"train": data.train_loader, "val": data.val_loader}[split]
    return [data.get_next_batch(split) for _ in range(len(loader))]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 9])
def test_a_limit_keeps_exactly_the_first_episodes(k):
    data = dataset(traj_limitation=k)
    kept = min(k, len(LENGTHS))
    assert data.num_traj == kept
    assert data.num_transition == sum(LENGTHS[:k]) == len(data.observations) == len(data.actions)
    assert np.array_equal(data.observations, trajectories()["obs"][: sum(LENGTHS[:k])])
    assert data.returns.tolist() == list(LENGTHS[:k])
    assert data.avg_ret == pytest.approx(np.mean(LENGTHS[:k]))
    assert data.std_ret == pytest.approx(np.std(LENGTHS[:k]))


def test_without_a_limit_the_episodes_are_counted():
    assert dataset().num_traj == len(LENGTHS)
    assert dataset().num_transition == N


@pytest.mark.parametrize("randomize", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_a_pass_shows_every_step_of_a_split_once(batch_size, randomize):
    data = dataset(batch_size=batch_size, randomize=randomize, train_fraction=0.6)
    n = {"train": int(0.6 * N), "val": N - int(0.6 * N)}
    seen = {}
    for split in n:
        for _ in range(2):  # the second pass as well
            batches = a_pass(data, split)
            assert [len(obs) for obs, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
            rows = np.concatenate([obs[:, 2] for obs, _ in batches]).astype(int)
            actions = np.concatenate([actions for _, actions in batches])
            assert len(rows) == n[split]
            assert np.array_equal(actions[:, 0], rows % 4)
            seen.setdefault(split, []).append(rows)
    assert sorted([*seen["train"][0], *seen["val"][0]]) == list(range(N))
    assert sorted(seen["train"][1]) == sorted(seen["train"][0])
    in_order = [list(rows) == sorted(rows) for rows in seen["train"]]
    assert in_order == [not randomize] * 2
    assert np.array_equal(*seen["train"]) is not randomize


def test_the_order_is_that_of_the_seed_alone():
    def rows(seed):
        data = dataset(seed=seed)
        found = [obs[:, 2] for _ in range(3) for obs, _ in a_pass(data, "train")]
        return np.concatenate(found).tolist()

    before = np.random.get_state()[1].copy()
    assert rows(0) == rows(0) != rows(1)
    assert np.array_equal(np.random.get_state()[1], before)


def test_shapes_are_kept():
    pixels = np.arange(N * 24).reshape(N, 2, 3, 4).astype(np.uint8)
    data = dataset(trajectories(obs=pixels, actions=np.zeros((N, 2, 2))), randomize=False)
    obs, actions = data.get_next_batch("train")
    assert np.array_equal(obs, pixels[: int(0.7 * N)])
    assert actions.shape[1:] == (2, 2)


def test_everything_may_be_learnt_from():
    data = dataset(train_fraction=1.0)
    assert len(data.val_loader) == 0
    with pytest.raises(ValueError, match="this split of the dataset is empty"):
        data.get_next_batch("val")
    assert list(data.sequences("val", 2, 4)) == []


# Sequences.


def walked(data, split, lanes, steps):
    """The rows of each lane over a pass, and the flags that came with them."""
    found = list(data.sequences(split, lanes, steps))
    assert all(len(each.rows) == steps for each in found[:-1])
    rows, reset, valid = (np.concatenate(parts) for parts in zip(*found, strict=True))
    assert rows.shape == reset.shape == valid.shape
    assert rows.shape[1] <= lanes
    for each in found:
        assert each.valid.any()
    return [
        (rows[valid[:, b], b], reset[valid[:, b], b], valid[:, b]) for b in range(rows.shape[1])
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("lanes", "steps"), [(1, 1), (2, 4), (3, 16), (9, 5)])
def test_sequences_are_whole_episodes_in_order(seed, lanes, steps):
    data = dataset(seed=seed, train_fraction=0.8)
    episodes = {}
    for split, count in (("train", 4), ("val", 1)):
        for _ in range(2):
            seen = []
            for rows, reset, valid in walked(data, split, lanes, steps):
                assert not np.any(valid[1:] & ~valid[:-1])  # nothing follows the end of a lane
                assert reset[0]
                cuts = np.flatnonzero(reset)
                for start, stop in itertools.pairwise([*cuts, len(rows)]):
                    episode, step, _ = data.observations[rows[start:stop]].T.astype(int)
                    assert len(set(episode)) == 1
                    assert step.tolist() == list(range(LENGTHS[episode[0]]))
                    seen.append(int(episode[0]))
            assert len(seen) == len(set(seen)) == count
            episodes.setdefault(split, set(seen))
            assert episodes[split] == set(seen)
    assert episodes["train"] | episodes["val"] == set(range(len(LENGTHS)))


def test_lanes_are_balanced():
    data = dataset(trajectories([4] * 20), train_fraction=1.0)
    assert [len(rows) for rows, *_ in walked(data, "train", 4, 8)] == [20] * 4


def test_a_single_episode_is_learnt_from():
    data = dataset(traj_limitation=1)
    assert [len(rows) for rows, *_ in walked(data, "train", 4, 8)] == [LENGTHS[0]]
    assert list(data.sequences("val", 4, 8)) == []


# Files.


def test_a_file_of_stable_baselines(tmp_path, capsys):
    np.savez(tmp_path / "expert.npz", **trajectories())
    for name in ("expert", "expert.npz"):
        data = ExpertDataset(tmp_path / name, sequential_preprocessing=True)
        assert np.array_equal(data.observations, trajectories()["obs"])
        assert capsys.readouterr().out.splitlines() == [
            "Total trajectories: 5",
            "Total transitions: 28",
            "Average returns: 5.6",
            f"Std for returns: {np.std(LENGTHS)}",
        ]
    ExpertDataset(str(tmp_path / "expert"), verbose=0)
    assert capsys.readouterr().out == ""


def test_columns_where_rows_were_meant(tmp_path):
    """Vectors of environments made columns of what is one number per step."""
    data = trajectories(rewards=np.ones((N, 1)), episode_returns=np.array([LENGTHS]).T)
    assert dataset(data).returns.tolist() == list(LENGTHS)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_pickled_arrays_are_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("old.npz", **trajectories(obs=np.array([Trap()] * N, object)))
    with pytest.raises(ValueError, match=r"old\.npz: not an archive.*Pickled arrays are not read"):
        ExpertDataset("old")
    np.save("single.npy", np.array([Trap()], object))
    os.rename("single.npy", "single.npz")
    with pytest.raises(ValueError, match="Pickled arrays are not read"):
        ExpertDataset("single")
    assert not os.path.exists("sprung")


def test_files_that_are_no_archives(tmp_path):
    for name, content in (("text", b"hello"), ("empty", b""), ("torn", b"PK\x03\x04 not more")):
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.npz: not an archive of plain arrays"):
            ExpertDataset(tmp_path / name)
    np.save(tmp_path / "array.npy", np.ones(3))
    os.rename(tmp_path / "array.npy", tmp_path / "array.npz")
    with pytest.raises(ValueError, match="a single array"):
        ExpertDataset(tmp_path / "array")
    with pytest.raises(FileNotFoundError, match=r"missing\.npz"):
        ExpertDataset(tmp_path / "missing")


NAN = np.where(np.arange(3 * N).reshape(N, 3) == 10, np.nan, 1.0)
LATE = trajectories()["episode_starts"] & (np.arange(N) > 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs": None}, "dataset: obs missing"),
        ({"actions": None, "episode_starts": None}, "dataset: actions, episode_starts missing"),
        ({"episode_returns": None}, "episode_returns missing"),
        ({"actions": np.zeros((N - 1, 1))}, rf"{N} obs, {N - 1} actions"),
        ({"episode_starts": np.ones(3, bool)}, "3 episode_starts"),
        ({"rewards": np.ones(2)}, "2 rewards"),
        ({"episode_returns": np.ones(4)}, "4 episode_returns, but 5 episodes begin"),
        ({"episode_starts": LATE}, r"episode_starts\[0\] is not True"),
        ({"obs": NAN}, r"obs\[3\] is not finite"),
        ({"actions": NAN}, r"actions\[3\] is not finite"),
        ({"rewards": np.full(N, np.inf)}, r"rewards\[0\] is not finite"),
        ({"obs": np.array([{}] * N)}, "obs has to be an array of numbers or paths, not of object"),
        ({"actions": np.array(["up"] * N)}, "actions has to be an array of numbers, not of <U2"),
        ({"obs": np.zeros((0, 3)), "actions": np.zeros((0, 1)), "rewards": None}, "0 obs"),
        ({"obs": 1.0}, "obs has to be an array"),
    ],
)
def test_what_does_not_fit_together(changes, message):
    with pytest.raises(ValueError, match=message):
        dataset(trajectories(**changes))


def test_rewards_are_not_needed():
    assert dataset(trajectories(rewards=None)).num_traj == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_fraction": 0.0}, r"not in \(0, 1\]"),
        ({"train_fraction": 1.1}, r"not in \(0, 1\]"),
        ({"train_fraction": 0.01}, "of 28 steps leaves none to learn from"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"traj_limitation": 0}, "traj_limitation: 0; allowed: 1 or more, -1 for all"),
        ({"expert_path": "a"}, "give one of expert_path and traj_data"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        dataset(**settings)
    with pytest.raises(ValueError, match="give one of"):
        ExpertDataset()
    with pytest.raises(ValueError, match="allowed: 'train', 'val'"):
        dataset().get_next_batch("test")


def test_the_histogram_counts_all_episodes():
    (axes,) = dataset().plot().axes
    assert sum(bar.get_height() for bar in axes.patches) == len(LENGTHS)


# Pictures.


def pictures(folder):
    rng = np.random.default_rng(0)
    folder.mkdir()
    pixels = rng.integers(256, size=(N, 4, 5, 3), dtype=np.uint8)
    for i, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{i}.png")
    return pixels, [f"{folder.name}/{i}.png" for i in range(N)]


def test_pictures_are_found_beside_the_archive_and_in_the_working_folder(tmp_path, monkeypatch):
    pixels, names = pictures(tmp_path / "shots")
    np.savez(tmp_path / "expert.npz", **trajectories(obs=np.array(names)))
    data = ExpertDataset(tmp_path / "expert", randomize=False, verbose=0, batch_size=100)
    assert np.array_equal(data.get_next_batch("train")[0], pixels[: int(0.7 * N)])
    assert np.array_equal(data.read(np.array([9, 2]))[0], pixels[[9, 2]])
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(dataset(trajectories(obs=names)).read(np.array([3]))[0], pixels[[3]])


def test_grey_pictures_have_a_channel(tmp_path):
    pixels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    data = dataset(trajectories(obs=[str(tmp_path / "grey.png")] * N))
    assert np.array_equal(data.read(np.array([0]))[0], pixels[None, ..., None])


def test_pictures_that_cannot_be_read(tmp_path):
    def read(path):
        dataset(trajectories(obs=[str(path)] * N)).read(np.array([0]))

    with pytest.raises(ValueError, match=r"nowhere\.png cannot be read"):
        read("nowhere.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.png cannot be read"):
        read(tmp_path / "text.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "other.bmp")
    with pytest.raises(ValueError, match=r"other\.bmp cannot be read"):
        read(tmp_path / "other.bmp")
    Image.new("1", (4, 4)).save(tmp_path / "bits.png")
    with pytest.raises(ValueError, match="its mode is 1; allowed: L, RGB, RGBA"):
        read(tmp_path / "bits.png")


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((84, 84, 4), -1),
        ((4, 84, 84), 0),
        ((3, 20, 3), -1),  # both might be; stable-baselines took the last
        ((84, 84, 2), None),
        ((84, 84), None),
        ((4, 84, 84, 3), None),
    ],
)
def test_which_axis_are_the_channels(shape, axis):
    assert channel_axis(shape) == axis
