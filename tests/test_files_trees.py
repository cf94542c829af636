"""Trees in one file: what is saved comes back to the bit; what cannot be saved or read is said, and nothing is lost."""

import functools
import os
import pathlib
import stat
import subprocess
import sys
import textwrap
import zipfile

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_files import OF_ITS_OWN
from trees import TREES, WRONG, assert_goes_where_like_is, assert_same, model, plain, spec, spread_out

import funcnets as fn
from funcnets import registry

save_tree, load_tree = fn.files.save_tree, fn.files.load_tree


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tree.npz"


# What comes back


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_exactly(path, name):
    tree = TREES[name]()
    save_tree(path, tree)
    assert_same(load_tree(path, like=tree), tree)
    assert_same(load_tree(path, like=jax.tree.map(spec, tree)), tree)
    assert_same(load_tree(path), plain(tree))


def test_layouts_of_numpy_come_back(path):
    tree = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "steps": np.arange(24, dtype=jnp.bfloat16).reshape(4, 6)[::2, ::-1],
        "swapped": np.arange(3, dtype=">f4"),
        "long": np.arange(3, dtype=np.longdouble),
        "none": np.zeros((2, 0, 3), jnp.bfloat16),
    }
    save_tree(path, tree)
    assert_same(load_tree(path, tree), tree)
    assert_same(load_tree(path), tree)


def test_any_name_has_a_member_of_its_own(path):
    names = ["a/b", "a%2Fb", "a", "", ".", "..", "\\", "\0", "a\n", "é", "\udcff", "tree.json", "x" * 300, "%", "arr_0"]
    tree = {name: {"b": jnp.full(1, i), "/": jnp.full(2, i)} for i, name in enumerate(names)}
    save_tree(path, tree)
    assert_same(load_tree(path, tree), tree)
    assert_same(load_tree(path), plain(tree))
    with zipfile.ZipFile(path) as archive:
        assert len(set(archive.namelist())) == 1 + 2 * len(names)


def test_numpy_reads_the_file(path):
    low = jnp.asarray([0.5, 3.0], jnp.bfloat16)
    save_tree(path, {"params": {"w": jnp.arange(6.0).reshape(2, 3)}, "low": [low], "key": jax.random.key(3), "n": 1})
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays.files) == {"tree.json", "params/w", "low/0", "key"}
        np.testing.assert_array_equal(arrays["params/w"], np.arange(6.0, dtype="float32").reshape(2, 3))
        np.testing.assert_array_equal(arrays["low/0"].view(jnp.bfloat16), np.asarray(low))
        np.testing.assert_array_equal(arrays["key"], jax.random.key_data(jax.random.key(3)))
    save_tree(path, jnp.arange(3))
    np.testing.assert_array_equal(np.load(path)["arr_0"], np.arange(3))


def test_equal_trees_are_equal_files(tmp_path, monkeypatch):
    for name, now in (("a", 0.0), ("b", 1e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        save_tree(tmp_path / name, TREES["train_state"]())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_net_and_its_parameters_in_one_file(path, monkeypatch):
    net = fn.Sequential(("hidden", fn.Dense(8, use_bias=False)), jax.nn.relu, fn.Dropout(0.1), fn.Dense(2))
    x = jnp.asarray(catalogue.floats(3, 5))
    params = net.init(jax.random.key(0), x)
    save_tree(path, {"net": fn.files.to_config(net), "params": params})
    found = load_tree(path)
    again = fn.files.from_config(found["net"])
    assert again == net
    assert (again.apply(found["params"], x) == net.apply(params, x)).all()

    monkeypatch.setattr(registry, "_registered", {})
    for held in OF_ITS_OWN:
        fn.files.register(held)
    nets = [fn.files.to_config(row.layer) for row in catalogue.ROWS]
    save_tree(path, nets)
    found = load_tree(path)
    assert [repr(config) for config in map(by_name, found)] == [repr(config) for config in map(by_name, nets)]
    assert [fn.files.from_config(config) for config in found] == [row.layer for row in catalogue.ROWS]


def by_name(node):
    """Plain data with the entries of dicts in one order."""
    if isinstance(node, dict):
        return {name: by_name(node[name]) for name in sorted(node)}
    return [by_name(item) for item in node] if isinstance(node, list) else node


# Where arrays are


def test_arrays_go_where_those_of_like_are(path):
    tree, host, places = spread_out()
    save_tree(path, tree)
    assert_same(load_tree(path), host)
    assert_goes_where_like_is(functools.partial(load_tree, path), tree, host, places)
    assert not load_tree(path, host | {"x": jnp.asarray(host["x"])})["x"].committed


def test_arrays_on_other_hosts_are_refused(path, monkeypatch):
    x = jnp.ones((2, 3))
    for name in ("is_fully_addressable", "is_fully_replicated"):
        monkeypatch.setattr(type(x), name, False)
    with pytest.raises(ValueError, match=r"a/0 is float32\[2,3\] over several hosts: save them with fn\.Checkpoints"):
        save_tree(path, {"a": [x]})
    assert not path.exists()


# The path is what is given


@pytest.mark.parametrize("name", ["model", "model.npz", "a.b", "~", "run 1", "é.bin"])
def test_the_name_is_taken_as_it_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for given in (name, pathlib.Path(name), tmp_path / name):
        save_tree(given, [1])
        assert os.listdir(tmp_path) == [name]
        assert load_tree(given) == [1]


def test_the_file_has_the_rights_of_a_new_file_and_a_link_stays(tmp_path):
    save_tree(tmp_path / "new", 1)
    (tmp_path / "plain").write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "plain")]
    assert modes[0] == modes[1]
    (tmp_path / "link").symlink_to("new")
    save_tree(tmp_path / "link", 2)
    assert (tmp_path / "link").is_symlink()
    assert load_tree(tmp_path / "new") == 2


def test_paths_where_no_file_can_be(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/no is not: make it with os\.makedirs"):
        save_tree(tmp_path / "no" / "tree.npz", 1)
    with pytest.raises(IsADirectoryError, match=f"{tmp_path} is a directory: give the file a name"):
        save_tree(tmp_path, 1)
    with pytest.raises(IsADirectoryError):
        load_tree(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no\.npz"):
        load_tree(tmp_path / "no.npz")
    for wrong in ({"a": jnp.ones(2)}, None, b"name", "", 3):
        with pytest.raises(TypeError, match=r"save_tree\(path, tree\) takes the name of a file first, .* got "):
            save_tree(wrong, 1)
        with pytest.raises(TypeError, match=r"load_tree\(path, like=None\) takes the name of a file first, .* got "):
            load_tree(wrong)
    assert not os.listdir(tmp_path)


# What cannot be saved


@pytest.mark.parametrize(
    "leaf",
    [b"bytes", object(), np.array(["a"]), np.array([None]), np.ones(1, [("x", "f4")]), np.ma.array([1.0], mask=[True])],
)
def test_what_is_no_number_is_refused_by_its_path(path, leaf):
    with pytest.raises(TypeError, match=r"save_tree takes arrays of numbers.*; layers/0/b is .*: leave it out"):
        save_tree(path, {"layers": [{"a": 3, "b": leaf}]})
    assert not path.exists()


def test_a_net_is_refused_and_its_config_named(path):
    with pytest.raises(TypeError, match=r"save_tree takes arrays; net is Dense\(3\), .*fn\.files\.to_config\(net\)"):
        save_tree(path, {"net": fn.Dense(3)})


def test_arrays_that_hold_nothing_are_refused_by_their_path(path):
    x = jnp.zeros(3)
    jax.jit(lambda x: x + 1, donate_argnums=0)(x)
    for leaf in (x, jax.ShapeDtypeStruct((3,), jnp.float32)):
        with pytest.raises(ValueError, match=r"; layers/a is a .*save what the step returned"):
            save_tree(path, {"layers": {"a": leaf}})
    assert not path.exists()


def test_what_stops_while_writing_leaves_the_old_file(path, tmp_path):
    save_tree(path, {"a": jnp.arange(3)})
    with pytest.raises(jax.errors.ConcretizationTypeError):
        jax.jit(lambda x: save_tree(path, {"a": x}))(jnp.ones(3))
    with pytest.raises(ValueError, match="integer string conversion"):
        save_tree(path, {"a": 10**5000})
    assert os.listdir(tmp_path) == ["tree.npz"]
    assert_same(load_tree(path), {"a": np.arange(3, dtype="int32")})


def test_a_full_disk_is_said_and_the_old_file_stays(path, tmp_path):
    save_tree(path, {"a": 1})
    before = path.read_bytes()
    done = run(
        """
        import resource, sys
        import numpy as np
        import funcnets as fn

        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))
        for tree in ({"a": np.ones(200_000)}, [{"b": np.ones(10_000)}] * 3, list(range(3000))):
            try:
                fn.files.save_tree(sys.argv[1], tree)
            except OSError as error:
                print(error)
        """,
        path,
    )
    assert done.stdout.count("File too large") == 3, done.stderr
    assert not done.stderr
    assert os.listdir(tmp_path) == ["tree.npz"]
    assert path.read_bytes() == before


def test_a_killed_program_leaves_the_old_file(path, tmp_path):
    save_tree(path, {"a": 1})
    done = run(
        """
        import os, signal, sys
        import numpy as np
        import funcnets as fn

        class Last:  # an array that ends the program when it is written
            shape, dtype = (1,), np.dtype("float32")
            def __array__(self, *args, **kwargs):
                os.kill(os.getpid(), signal.SIGKILL)

        fn.files.save_tree(sys.argv[1], [np.ones(100_000), Last()])
        """,
        path,
    )
    assert done.returncode == -9, done.stderr
    assert load_tree(path) == {"a": 1}
    (left,) = set(os.listdir(tmp_path)) - {"tree.npz"}
    assert left.startswith(".")
    assert left.endswith(".tmp")


def run(program, *arguments):
    root = str(pathlib.Path(fn.__file__).parent.parent)
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


# What cannot be read


@pytest.mark.parametrize("case", WRONG)
def test_another_tree_is_refused_with_all_differences_before_reading(path, case):
    wrong, lines = WRONG[case]
    save_tree(path, model())
    with zipfile.ZipFile(path) as archive:
        tree = archive.read("tree.json")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tree.json", tree)  # the arrays cannot be read
    for like in (wrong, jax.tree.map(spec, wrong)):
        with pytest.raises(
            ValueError, match="(?s)load_tree takes a tree like the one saved; .*Load into the model"
        ) as error:
            load_tree(path, like=like)
        said = sorted(line[2:] for line in str(error.value).splitlines() if line.startswith("  "))
        assert said == sorted(line.replace(": checkpoint ", ": file ") for line in lines)
    with pytest.raises(ValueError, match=r"cut short or damaged.*There is no item named 'key.npy'"):
        load_tree(path, model())


def test_a_flipped_bit_is_found_or_does_no_harm(path):
    tree = {"w": jnp.arange(4.0).reshape(2, 2), "low": jnp.ones(3, jnp.bfloat16), "rate": 0.1}
    save_tree(path, tree)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    held = {at for part in contents for at in range(whole.index(part), whole.index(part) + len(part))}
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            again = load_tree(path)
        except ValueError as error:
            assert "load_tree reads what save_tree wrote" in str(error)
        else:
            assert at not in held  # but dates and the like
            assert_same(again, plain(tree))


def test_a_file_that_was_cut_is_refused(path):
    save_tree(path, {"w": jnp.arange(9.0), "n": 1})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        what = "cut short or damaged: take another copy" if length > 1 else "something else: check the path"
        with pytest.raises(ValueError, match=what):
            load_tree(path)


def test_files_of_others_are_refused(path):
    np.savez(path, a=np.ones(3))
    with pytest.raises(
        ValueError, match=r"an archive without a tree\.json: one of numpy\.savez is read with numpy\.load"
    ):
        load_tree(path)
    for text in (b"", b"text", b"\x93NUMPY"):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=rf"{path} is something else: check the path"):
            load_tree(path)
    for text, says in [
        ('{"format": 2, "rows": []}', r"has format 2, and this funcnets reads 1: read it with a later one"),
        ("[]", "damaged"),
        (
            '{"format": 1, "rows": [{"path": [], "dtype": "float32", "shape": [4]}]}',
            r"is float64\[3\]; tree\.json says",
        ),
        (
            '{"format": 1, "rows": [{"path": [], "dtype": "float64", "shape": [3]}]}',
            "arr_0.npy goes on after its array",
        ),
    ]:
        np.savez(path, np.ones(3))
        with zipfile.ZipFile(path) as archive:
            array = archive.read("arr_0.npy")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("tree.json", text)
            archive.writestr("arr_0.npy", array + b"x" * ("goes on" in says))
        with pytest.raises(ValueError, match=says):
            load_tree(path)


def test_a_pickle_in_the_file_is_not_opened(path):
    class Trap:
        def __reduce__(self):
            return print, ("opened",)

    np.savez(path, np.array([Trap()], object))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("tree.json", '{"format": 1, "rows": [{"path": [], "dtype": "float32", "shape": [1]}]}')
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_tree(path)
