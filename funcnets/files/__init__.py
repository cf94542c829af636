"""Files: a net as plain data, and trees of arrays in one file.

    fn.files.save_tree("model.npz", {"net": fn.files.to_config(net), "params": params})

    found = fn.files.load_tree("model.npz")
    net = fn.files.from_config(found["net"])
    y = net.apply(found["params"], x)

Reading imports nothing and runs no code that a file brings. Training writes its steps by `fn.Checkpoints`.
"""

from funcnets.files.nets import FORMAT as FORMAT
from funcnets.files.nets import from_config as from_config
from funcnets.files.nets import to_config as to_config
from funcnets.files.trees import load_tree as load_tree
from funcnets.files.trees import save_tree as save_tree
from funcnets.registry import register as register

__all__ = ["FORMAT", "from_config", "load_tree", "register", "save_tree", "to_config"]
