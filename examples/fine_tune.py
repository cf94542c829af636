"""Fine-tuning: a net that has learned to read digits is asked another question, of which there are few answers.

    python examples/fine_tune.py     # 15 seconds on two CPU cores

The new question is whether a digit is odd, and twenty images have the answer. `fn.rewrite.replace` gives the net a new
head and freezes all else, `fn.rewrite.migrate` takes over what was learned and reports what became of each array, and
the optimiser keeps the head alone. For comparison, the same net learns the same twenty images from scratch.
"""

import argparse

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import funcnets as fn

encoder = fn.Sequential(
    *(fn.Conv(32, 3), jax.nn.relu, fn.MaxPool(2), fn.Conv(64, 3), jax.nn.relu, fn.MaxPool(2)),
    *(fn.Flatten(), fn.Dropout(0.3), fn.Dense(64), jax.nn.relu, fn.LayerNorm()),
)
net = fn.Sequential(("encoder", encoder), ("head", fn.Dense(10)))


def loss(model, batch):
    return optax.softmax_cross_entropy_with_integer_labels(model(batch["image"]), batch["label"]).mean()


def correct(model, batch):
    return {"accuracy": model(batch["image"]).argmax(-1) == batch["label"]}


def trained(net, data, steps, params=None):
    optimizer = optax.adamw(1e-3)
    state = fn.train.create(net, optimizer, jax.random.key(0), data[0]["image"], params=params)
    step = fn.train.make_step(net, loss, optimizer)
    for i in range(steps):
        state, _ = step(state, data[i])
    return state


def main():
    parser = argparse.ArgumentParser(description="Fine-tune a net that reads digits to tell odd from even.")
    parser.add_argument("--steps", type=int, default=300, help="steps of each training (default 300)")
    arguments = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    images, labels = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32), labels.astype(np.int32)
    many, rest, many_labels, rest_labels = train_test_split(images, labels, train_size=0.5, random_state=0)
    few, test, few_labels, test_labels = train_test_split(
        rest, rest_labels, train_size=20, random_state=0, stratify=rest_labels
    )
    digits = fn.train.batches({"image": many, "label": many_labels}, 64, jax.random.key(1))
    odd = fn.train.batches({"image": few, "label": few_labels % 2}, len(few), jax.random.key(2))
    held_out = [{"image": test, "label": test_labels % 2}]

    before = trained(net, digits, arguments.steps)
    tuned = fn.rewrite.replace(net, {"encoder": fn.Freeze, "head": {"features": 2}})
    params, report = fn.rewrite.migrate(net, tuned, before.params, jax.random.key(3), few)
    print(report)
    after = trained(tuned, odd, arguments.steps, params)
    moved = [path for path, a in fn.params.paths(params) if not np.array_equal(a, fn.params.get(after.params, path))]
    print(f"moved      {', '.join(moved)}\n")

    fresh = fn.rewrite.replace(net, {"head": {"features": 2}})
    scratch = trained(fresh, odd, arguments.steps)
    print(f"odd or even, told right of {len(test)} images, after {len(few)} to learn from")
    print(f"  fine-tuned    {fn.train.evaluate(tuned, correct, after, held_out)['accuracy']:.1%}")
    print(f"  from scratch  {fn.train.evaluate(fresh, correct, scratch, held_out)['accuracy']:.1%}")
    print(f"  by chance     {1 / 2:.1%}")


if __name__ == "__main__":
    main()
