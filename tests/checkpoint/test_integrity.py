"""Damage on disk: any of it is found, the step before is taken, and nothing is deleted."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from funcnets.checkpoint import Checkpoints
from funcnets.checkpoint.integrity import MANIFEST, Damaged, check, read_manifest, write_manifest

# Where one array cannot be read, orbax ends its event loop; what tensorstore has to say of the others finds it closed.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")


def state(step):
    return {"w": np.random.default_rng(step).random(3000), "key": jax.random.key(step), "empty": {}, "step": step}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory, best="loss") as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, state(step), metrics={"loss": -step})
    return directory


def files(folder):
    return sorted(path.relative_to(folder) for path in pathlib.Path(folder).rglob("*") if path.is_file())


def flipped(place, bit):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[{"first": 0, "middle": len(data) // 2, "last": -1}[place]] ^= 1 << bit
        path.write_bytes(data)

    return damage


def shortened(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {f"{place}_{bit}": flipped(place, bit) for place in ("first", "middle", "last") for bit in (0, 7)} | {
    "shorter": shortened,
    "emptied": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "deleted": pathlib.Path.unlink,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_any_file_is_found(tmp_path, saved, kind):
    for i, file in enumerate(files(saved / "20")):
        if file.name == MANIFEST and kind == "deleted":
            continue  # that is a step that is not verified
        directory = tmp_path / str(i)
        shutil.copytree(saved, directory)
        DAMAGE[kind](directory / "20" / file)
        checkpoints = Checkpoints(directory, best="loss")
        with pytest.raises(Damaged, match=f"step 20 in {directory} is damaged: .*{file.name}"):
            checkpoints.restore(step=20)
        with pytest.warns(
            UserWarning, match=f"step 20 in {directory} is damaged and passed over: .*{file.name}"
        ) as said:
            assert checkpoints.latest_step == 10
        assert said[0].filename == __file__
        assert checkpoints.steps() == (10, 20)
        shutil.rmtree(directory)


def test_the_newest_good_step_is_taken_by_every_way_to_read(tmp_path, saved):
    directory = shutil.copytree(saved, tmp_path / "run")
    shortened(next(path for path in (directory / "20" / "arrays" / "d").iterdir()))
    checkpoints = Checkpoints(directory, best="loss")
    ways = [
        lambda: checkpoints.restore()["step"],
        lambda: checkpoints.restore(state(0))["step"],
        lambda: checkpoints.resume(state(0))["step"],
        lambda: checkpoints.restore(under="step"),
        lambda: checkpoints.restore(state(0), strict=False)[0]["step"],
        lambda: checkpoints.best_step,
    ]
    for way in ways:
        with pytest.warns(UserWarning, match="step 20 .* passed over: arrays/.* bytes, and .* were written"):
            assert way() == 10
    assert checkpoints.restore(step=10)["step"] == 10


def test_without_a_good_step_nothing_starts_afresh(tmp_path, saved):
    directory = shutil.copytree(saved, tmp_path / "run")
    for step in (10, 20):
        shortened(directory / str(step) / "tree.json")
    checkpoints = Checkpoints(directory)
    for read in (checkpoints.restore, lambda: checkpoints.resume(state(0)), lambda: checkpoints.latest_step):
        with (
            pytest.warns(UserWarning, match="step 20 .* passed over"),
            pytest.raises(Damaged, match=r"has no good step:\n  step 20: tree.json has .*\n  step 10: tree.json has "),
        ):
            read()


def test_good_steps_never_warn(saved, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader = Checkpoints(saved, best="loss")
        assert (reader.latest_step, reader.best_step, reader.restore()["step"]) == (20, 20, 20)
        with Checkpoints(tmp_path, keep=1) as writer:
            for step in range(10):
                writer.save(step, state(step))
                if step % 3 == 0:
                    assert writer.latest_step == step
                    assert Checkpoints(tmp_path).restore()["step"] == step
    assert sorted(os.listdir(tmp_path)) == [".lock", "9"]


def test_hidden_files_are_nothing_and_others_are_damage(tmp_path, saved):
    directory = shutil.copytree(saved, tmp_path / "run")
    (directory / "20" / ".DS_Store").write_text("")
    (directory / "20" / "arrays" / ".nfs01").write_text("")
    assert Checkpoints(directory).latest_step == 20
    (directory / "20" / "arrays" / "other").write_text("")
    with pytest.raises(Damaged, match="arrays/other is none of the files that were written"):
        Checkpoints(directory).restore(step=20)


def test_a_step_without_a_manifest_is_used_with_a_warning(tmp_path, saved):
    directory = shutil.copytree(saved, tmp_path / "run")
    (directory / "20" / MANIFEST).unlink()
    checkpoints = Checkpoints(directory)
    for read in (lambda: checkpoints.restore(state(0)), lambda: checkpoints.restore(step=20)):
        with pytest.warns(UserWarning, match=r"step 20 .* has no manifest\.json.*it is used unverified"):
            assert read()["step"] == 20
    for path in (directory / "20" / "arrays").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.warns(UserWarning) as said:
        assert checkpoints.restore(state(0))["step"] == 10
    assert ["used unverified" in str(said[0].message), "arrays cannot be read" in str(said[1].message)] == [True, True]


def test_without_verifying_damage_goes_unnoticed_or_is_passed_over_when_it_shows(tmp_path, saved):
    directory = shutil.copytree(saved, tmp_path / "run")
    (directory / "20" / "arrays" / "other").write_text("")
    checkpoints = Checkpoints(directory, verify=False)
    assert checkpoints.restore()["step"] == 20
    shutil.rmtree(directory / "20" / "arrays")
    with pytest.warns(UserWarning, match="passed over: its arrays cannot be read"):
        assert checkpoints.restore()["step"] == 10


@pytest.mark.parametrize("kept", [["d", "_METADATA"], ["_METADATA"], ["d"]])
def test_a_step_with_good_checksums_that_cannot_be_read_is_passed_over(tmp_path, saved, kept):
    directory = shutil.copytree(saved, tmp_path / "run")
    for path in (directory / "20" / "arrays").iterdir():
        if path.name not in kept:
            (shutil.rmtree if path.is_dir() else os.remove)(path)
    relisted(directory / "20")
    checkpoints = Checkpoints(directory)
    with pytest.warns(UserWarning, match="step 20 .* passed over: its arrays cannot be read"):
        assert checkpoints.resume(state(0))["step"] == 10
    with pytest.raises(Damaged, match="step 20 .* is damaged: its arrays cannot be read"):
        checkpoints.restore(step=20)


def relisted(folder):
    """Writes another manifest, of what is there now."""
    (folder / MANIFEST).unlink()
    write_manifest(epath.Path(folder))


def test_an_array_that_is_not_there_is_damage(tmp_path, saved):
    directory = shutil.copytree(saved, tmp_path / "run")
    tree = json.loads((directory / "20" / "tree.json").read_text())
    tree["rows"].append({"path": ["more"], "dtype": "float64", "shape": []})
    tree["rows"][0]["size"] += 1
    (directory / "20" / "tree.json").write_text(json.dumps(tree))
    relisted(directory / "20")
    with pytest.raises(Damaged, match="its array of more is not there as it was written"):
        Checkpoints(directory).restore(step=20)
    with pytest.warns(UserWarning, match="passed over: its array of more is not there"):
        assert Checkpoints(directory).restore()["step"] == 10


def test_a_place_that_does_not_suit_an_array_is_no_damage(tmp_path, saved):
    mesh = jax.make_mesh((7,), ("a",), devices=jax.devices()[:7], axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.NamedSharding(mesh, jax.P("a"))
    directory = shutil.copytree(saved, tmp_path / "run")
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(30, jnp.ones(3000))
        with pytest.raises(ValueError) as error:
            checkpoints.restore(jax.ShapeDtypeStruct((3000,), jnp.float32, sharding=place))
        assert not isinstance(error.value, Damaged) and "restore takes" not in str(error.value)


def test_a_run_goes_on_from_before_the_damage(tmp_path):
    def train(checkpoints, until):
        total = checkpoints.resume({"total": jnp.zeros(()), "step": 0})
        for step in range(total["step"] + 1, until + 1):
            total = {"total": total["total"] + step, "step": step}
            checkpoints.save(step, total)
        return total

    with Checkpoints(tmp_path, every=10) as checkpoints:
        train(checkpoints, 30)
    shortened(tmp_path / "30" / "tree.json")
    with Checkpoints(tmp_path, every=5) as checkpoints:
        with pytest.warns(UserWarning) as said:
            train(checkpoints, 24)
            assert checkpoints.steps() == (10, 20, 30)
            found = train(checkpoints, 40)
        assert found["total"] == 820
        texts = [str(one.message) for one in said]
        assert sum("damaged and passed over" in text for text in texts) == 2
        assert sum("not before step 25" in text and "it is 30.damaged from now on" in text for text in texts) == 1
        assert len(texts) == 3
        assert checkpoints.steps() == (30, 35, 40)
        assert checkpoints.restore(step=30)["total"] == 465
    assert sorted(os.listdir(tmp_path)) == [".lock", "30", "30.damaged", "35", "40"]


def test_what_is_in_the_way_is_looked_at_by_who_did_not_read_it(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, jnp.full(1, step))
    shortened(tmp_path / "3" / "tree.json")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"got 2; .*\[1, 2, 3\]"):
            checkpoints.save(2, jnp.zeros(1))
        assert (tmp_path / "3").is_dir()
        for name in ("3.damaged", "3.damaged1"):
            with pytest.warns(UserWarning, match=f"it is {name} from now on"):
                checkpoints.save(3, jnp.ones(1))
            assert checkpoints.restore(step=3) == 1
            shortened(tmp_path / "3" / "tree.json")


def test_what_a_killed_program_left_is_deleted_by_the_next_that_saves(tmp_path):
    for name in ("7.writing/arrays.orbax-checkpoint-tmp", "3.deleting", "mine.writing", "9.damaged"):
        (tmp_path / name).mkdir(parents=True)
    assert Checkpoints(tmp_path).steps() == ()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jnp.zeros(1))
    assert sorted(os.listdir(tmp_path)) == [".lock", "1", "9.damaged", "mine.writing"]


@pytest.mark.parametrize("best", [None, "loss"])
def test_a_damaged_step_takes_no_place_of_a_good_one(tmp_path, best):
    def save(step):
        checkpoints.save(step, jnp.full(1, step), metrics=best and {"loss": -step})

    with Checkpoints(tmp_path, keep=2, best=best) as checkpoints:
        save(10)
        save(20)
    shortened(next((tmp_path / "20" / "arrays" / "d").iterdir()))
    with Checkpoints(tmp_path, keep=2, best=best) as checkpoints:
        with pytest.warns(UserWarning, match="step 20 .* passed over"):
            assert checkpoints.resume(jnp.zeros(1, int)) == 10
        save(30)
        assert checkpoints.steps() == (10, 20, 30)
        assert checkpoints.restore(step=10) == 10
        save(40)
        assert checkpoints.steps() == (30, 40)


def test_damage_is_no_hindrance_to_saving_on(tmp_path):
    with Checkpoints(tmp_path, keep=2, best="loss") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, jnp.zeros(1), metrics={"loss": step})
    for file in files(tmp_path / "1"):
        (tmp_path / "1" / file).write_bytes(b"")
    with Checkpoints(tmp_path, keep=2, best="loss") as checkpoints:
        checkpoints.save(3, jnp.zeros(1), metrics={"loss": 3})
        assert checkpoints.steps() == (2, 3)


@pytest.mark.skipif(os.name != "posix", reason="directories that can be written through")
def test_a_step_is_on_the_disk_before_it_has_its_name_and_its_name_before_another_is_deleted(tmp_path, monkeypatch):
    synced = []  # the inode of each, and what is in the directory then
    fsync = os.fsync

    def spy(file):
        fsync(file)
        synced.append((os.fstat(file).st_ino, sorted(os.listdir(root)) if root.exists() else None))

    root = tmp_path / "runs" / "a"
    monkeypatch.setattr(os, "fsync", spy)
    with Checkpoints(root, keep=1) as checkpoints:
        checkpoints.save(1, state(1))
        assert [inode for inode, _ in synced[:2]] == [path.stat().st_ino for path in (root.parent, tmp_path)]
        checkpoints.wait()
        synced.clear()
        checkpoints.save(2, state(2))
    before = {inode for inode, there in synced if there == [".lock", "1", "2.writing"]}
    written = [root / "2", *(root / "2").rglob("*")]
    assert {path.stat().st_ino for path in written} <= before and len(written) > 8
    assert synced[-1] == (root.stat().st_ino, [".lock", "1", "2"])


@pytest.mark.parametrize(("number", "raises"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_what_does_not_reach_the_disk_is_no_step(tmp_path, monkeypatch, number, raises):
    def fail(_):
        raise OSError(number, "mine")

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(os, "fsync", fail)
        checkpoints.save(1, jnp.zeros(1))
        with pytest.raises(OSError, match="mine") if raises else contextlib.nullcontext():
            checkpoints.wait()
        assert checkpoints.steps() == (() if raises else (1,))


def test_large_files_have_one_checksum_of_all_their_blocks(tmp_path, monkeypatch):
    folder = epath.Path(tmp_path)
    data = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(b"")
    monkeypatch.setattr("funcnets.checkpoint.integrity._BLOCK", 1 << 12)
    monkeypatch.setattr("funcnets.checkpoint.integrity._PIECE", 1000)
    write_manifest(folder)
    listed = read_manifest(folder)
    assert {name: size for name, (size, _) in listed.items()} == {"a": 100_000, "b": 0}
    check(folder, listed)
    for swapped in (data[4096:8192] + data[:4096] + data[8192:], data[:-1] + bytes([data[-1] ^ 1])):
        (tmp_path / "a").write_bytes(swapped)
        with pytest.raises(Damaged, match="a has other bytes than were written"):
            check(folder, listed)
