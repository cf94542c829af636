"""funcnets: neural networks for JAX in which a model is a value and its parameters are data.

import funcnets as fn

net = fn.Sequential(fn.Dense(256), jax.nn.relu, fn.Dense(10))
params = net.init(jax.random.key(0), x)     # nested dicts; sizes come from x
y = net.apply(params, x)                    # a pure function: jit, grad and vmap it
"""

from funcnets import initializers as initializers
from funcnets import train as train
from funcnets.checkpoint import Checkpoints as Checkpoints
from funcnets.combinators import Each as Each
from funcnets.combinators import Ensemble as Ensemble
from funcnets.combinators import Parallel as Parallel
from funcnets.combinators import Repeat as Repeat
from funcnets.combinators import Scan as Scan
from funcnets.combinators import Sequential as Sequential
from funcnets.compose import Composite as Composite
from funcnets.compose import Wrapper as Wrapper
from funcnets.compose import compose as compose
from funcnets.generate import generate as generate
from funcnets.layer import Layer as Layer
from funcnets.layers.attention import Attention as Attention
from funcnets.layers.convolution import Conv as Conv
from funcnets.layers.dropout import Dropout as Dropout
from funcnets.layers.embedding import Embedding as Embedding
from funcnets.layers.embedding import EmbeddingBag as EmbeddingBag
from funcnets.layers.embedding import Unembed as Unembed
from funcnets.layers.linear import Dense as Dense
from funcnets.layers.normalization import BatchNorm as BatchNorm
from funcnets.layers.normalization import GroupNorm as GroupNorm
from funcnets.layers.normalization import LayerNorm as LayerNorm
from funcnets.layers.normalization import RMSNorm as RMSNorm
from funcnets.layers.pooling import AvgPool as AvgPool
from funcnets.layers.pooling import GlobalAvgPool as GlobalAvgPool
from funcnets.layers.pooling import GlobalMaxPool as GlobalMaxPool
from funcnets.layers.pooling import MaxPool as MaxPool
from funcnets.layers.position_bias import ALiBi as ALiBi
from funcnets.layers.position_bias import RelativeBias as RelativeBias
from funcnets.layers.positions import PositionEmbedding as PositionEmbedding
from funcnets.layers.positions import SinusoidalPositions as SinusoidalPositions
from funcnets.layers.positions import rotary as rotary
from funcnets.layers.shaping import Flatten as Flatten
from funcnets.layers.shaping import Identity as Identity
from funcnets.layers.transformer import TransformerBlock as TransformerBlock
from funcnets.leaves import Constant as Constant
from funcnets.leaves import Param as Param
from funcnets.leaves import pair as pair
from funcnets.loops import bounded_while as bounded_while
from funcnets.wrappers import Cast as Cast
from funcnets.wrappers import Freeze as Freeze
from funcnets.wrappers import Remat as Remat
from funcnets.wrappers import Residual as Residual
from funcnets.wrappers import tie as tie
