"""Trees of all that can be saved, how to tell whether one came back, and trees that are not quite another."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

Moments = collections.namedtuple("Moments", "mean var")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    params: object
    opt_state: object
    key: jax.Array
    step: jax.Array


def spec(leaf):
    if not isinstance(leaf, jax.Array):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=getattr(leaf, "weak_type", False))


def bits(leaf):
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf).tobytes()


def assert_same(found, expected):
    """The same structure, and leaf by leaf the same type, dtype, shape and bits."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert type(one) is type(other)
        if isinstance(other, bool | int | float | complex | str) and not isinstance(other, np.generic):
            assert repr(one) == repr(other)
            continue
        assert (one.shape, one.dtype, bits(one)) == (other.shape, other.dtype, bits(other))
        assert getattr(one, "weak_type", None) == getattr(other, "weak_type", None)


def train_state():
    params = {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}}
    optimizer = optax.chain(optax.clip(1.0), optax.adam(optax.linear_schedule(1e-3, 0.0, 10)))
    return State(params, optimizer.init(params), jax.random.key(3), jnp.asarray(4, jnp.int32))


TREES = {
    "low_precision": lambda: {
        name: jnp.asarray([0.5, -0.0, 3.0], name)
        for name in ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz")
    },
    "integers": lambda: {
        name: jnp.asarray([1, 0, 5], name) for name in ("int4", "int8", "uint8", "int32", "uint32", "bool")
    },
    "complex": lambda: jnp.asarray([1 + 2j], "complex64"),
    "not_numbers": lambda: jnp.asarray([jnp.nan, -jnp.nan, jnp.inf, -0.0, 1e-45]),
    "scalar_arrays": lambda: (jnp.float32(2), jnp.asarray(3, "int8"), jnp.asarray(True), jnp.bfloat16(1.5)),
    "weak_types": lambda: {"step": jnp.asarray(3), "decay": jnp.full((2, 3), 0.1), "strong": jnp.float32(0.1)},
    "python_numbers": lambda: [True, False, 3, -(10**40), 0.1, float("inf"), float("nan"), -0.0, 1 + 2j],
    "strings": lambda: {"text": "a\n'é'", "none": "", "list": ["x", 1]},
    "numpy": lambda: {"a": np.arange(3.0), "b": np.float64(0.1), "c": np.array(7), "d": np.bool_(True)},
    "numpy_low_precision": lambda: (np.ones(2, jnp.bfloat16), jnp.bfloat16.dtype.type(2), np.ones(3, "float8_e5m2")),
    "keys": lambda: {"one": jax.random.key(0), "many": jax.random.split(jax.random.key(1), (2, 3))},
    "other_keys": lambda: jax.random.key(0, impl="rbg"),
    "zero_size": lambda: {"a": jnp.ones((0, 3)), "b": np.ones(0, "int8"), "k": jax.random.split(jax.random.key(0), 0)},
    "nothing": dict,
    "empty_subtrees": lambda: {"a": {}, "b": None, "c": (), "d": [], "e": [{}, None, (jnp.ones(1), [])]},
    "lists_and_tuples": lambda: [(jnp.zeros(1), [jnp.ones(2)]), *(jnp.full(1, i) for i in range(11))],
    "awkward_names": lambda: {
        "a.b": jnp.zeros(1), "a": {"b": jnp.ones(1), "b/c": jnp.ones(2)}, "a/b": {"c": jnp.ones(3)}, "": jnp.ones(4),
        "ключ": jnp.ones(5), "0": jnp.ones(6),
    },
    "integer_names": lambda: {3: jnp.zeros(1), 11: {0: jnp.ones(1)}},
    "one_array": lambda: jnp.arange(3),
    "one_number": lambda: 3,
    "one_key": lambda: jax.random.key(5),
    "named_tuples": lambda: Moments(jnp.zeros(2), Moments(None, (jnp.ones(1),))),
    "train_state": train_state,
}  # fmt: skip


def plain(tree):
    """As it comes back without a target: NumPy's arrays, and no class of the caller's."""
    if isinstance(tree, dict):
        return {name: plain(child) for name, child in tree.items()}
    if dataclasses.is_dataclass(tree):
        return {field.name: plain(getattr(tree, field.name)) for field in dataclasses.fields(tree)}
    if hasattr(tree, "_fields"):
        return {name: plain(child) for name, child in zip(tree._fields, tree, strict=True)}
    if isinstance(tree, list | tuple):
        return type(tree)(map(plain, tree))
    is_array = isinstance(tree, jax.Array | np.generic) and not jnp.issubdtype(tree.dtype, jax.dtypes.prng_key)
    return np.asarray(tree) if is_array else tree


def model(width=3, depth=2, dtype=jnp.float32, name="kernel", container=tuple):
    layers = container({name: jnp.zeros((2, width), dtype), "bias": jnp.zeros(width)} for _ in range(depth))
    return {"layers": layers, "key": jax.random.key(0), "epoch": 3, "stats": {}, "rest": None}


WRONG = {
    "wider": (
        model(width=4),
        ["layers/0/bias: checkpoint float32[3], model float32[4]", "layers/0/kernel: checkpoint float32[2,3], model "
         "float32[2,4]", "layers/1/bias: checkpoint float32[3], model float32[4]", "layers/1/kernel: checkpoint "
         "float32[2,3], model float32[2,4]"],
    ),
    "deeper": (
        model(depth=3),
        ["layers/2/bias: checkpoint nothing, model float32[3]",
         "layers/2/kernel: checkpoint nothing, model float32[2,3]"],
    ),
    "shallower": (
        model(depth=1),
        ["layers/1/bias: checkpoint float32[3], model nothing",
         "layers/1/kernel: checkpoint float32[2,3], model nothing"],
    ),
    "other_dtype": (
        model(dtype=jnp.bfloat16),
        ["layers/0/kernel: checkpoint float32[2,3], model bfloat16[2,3]",
         "layers/1/kernel: checkpoint float32[2,3], model bfloat16[2,3]"],
    ),
    "renamed": (
        model(name="weight", depth=2),
        ["layers/0/kernel: checkpoint float32[2,3], model nothing",
         "layers/1/kernel: checkpoint float32[2,3], model nothing",
         "layers/0/weight: checkpoint nothing, model float32[2,3]",
         "layers/1/weight: checkpoint nothing, model float32[2,3]"],
    ),
    "list_for_tuple": (model(container=list), ["layers: checkpoint tuple, model list"]),
    "raw_key": (model() | {"key": jnp.zeros(2, "uint32")}, ["key: checkpoint key<fry>[], model uint32[2]"]),
    "other_key": (model() | {"key": jax.random.key(0, impl="rbg")}, ["key: checkpoint key<fry>[], model key<rbg>[]"]),
    "array_for_number": (model() | {"epoch": jnp.asarray(3)}, ["epoch: checkpoint int, model int32[]"]),
    "float_for_int": (model() | {"epoch": 3.0}, ["epoch: checkpoint int, model float"]),
    "none_for_dict": (model() | {"stats": None}, ["stats: checkpoint empty dict, model empty NoneType"]),
    "missing_empty": (
        {name: child for name, child in model().items() if name != "rest"},
        ["rest: checkpoint empty NoneType, model nothing"],
    ),
    "dict_for_array": (
        model() | {"key": {"a": jnp.zeros(1)}},
        ["key: checkpoint key<fry>[], model dict", "key/a: checkpoint nothing, model float32[1]"],
    ),
}  # fmt: skip


def spread_out():
    """A tree on eight devices, the same on the host, and places for its matrix, a single device last."""
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows, columns = (jax.NamedSharding(mesh, jax.P(*names)) for names in (("a", None), (None, "b")))
    x, keys = np.arange(32.0, dtype="float32").reshape(8, 4), jax.random.split(jax.random.key(0), 8)
    tree = {"x": jax.device_put(x, rows), "k": jax.device_put(keys, jax.NamedSharding(mesh, jax.P("a")))}
    return tree, {"x": x, "k": keys}, (rows, columns, jax.sharding.SingleDeviceSharding(jax.devices()[5]))


def assert_goes_where_like_is(load, tree, host, places):
    """What `load(like)` gives of a saved tree is where the arrays of `like` are, or its specs say."""
    x = host["x"]
    for place in places:
        for like in (jax.device_put(x, place), jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)):
            found = load({"x": like, "k": tree["k"]})
            assert found["x"].sharding == place
            assert found["k"].sharding == tree["k"].sharding
            assert_same(found, tree)
