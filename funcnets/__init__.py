"""funcnets: neural networks for JAX in which a model is a value and its parameters are data.

import funcnets as fn

net = fn.Sequential(fn.Dense(256), jax.nn.relu, fn.Dense(10))
params = net.init(jax.random.key(0), x)     # nested dicts; sizes come from x
y = net.apply(params, x)                    # a pure function: jit, grad and vmap it
"""

from funcnets import initializers as initializers
from funcnets import params as params
from funcnets import rewrite as rewrite
from funcnets import train as train
from funcnets.checkpoint import Checkpoints as Checkpoints
from funcnets.combinators import Each as Each
from funcnets.combinators import Ensemble as Ensemble
from funcnets.combinators import Parallel as Parallel
from funcnets.combinators import Repeat as Repeat
from funcnets.combinators import Sequential as Sequential
from funcnets.compose import Composite as Composite
from funcnets.compose import Wrapper as Wrapper
from funcnets.compose import compose as compose
from funcnets.layer import Layer as Layer
from funcnets.layers.activation import GLU as GLU
from funcnets.layers.activation import GatedMLP as GatedMLP
from funcnets.layers.activation import Maxout as Maxout
from funcnets.layers.activation import PReLU as PReLU
from funcnets.layers.adaptive_pooling import AdaptiveAvgPool as AdaptiveAvgPool
from funcnets.layers.adaptive_pooling import AdaptiveMaxPool as AdaptiveMaxPool
from funcnets.layers.batch_normalization import BatchNorm as BatchNorm
from funcnets.layers.blocks import MLP as MLP
from funcnets.layers.blocks import SqueezeExcite as SqueezeExcite
from funcnets.layers.conditioning import FiLM as FiLM
from funcnets.layers.convolution import Conv as Conv
from funcnets.layers.convolution import DepthwiseConv as DepthwiseConv
from funcnets.layers.convolution import SeparableConv as SeparableConv
from funcnets.layers.dropout import AlphaDropout as AlphaDropout
from funcnets.layers.dropout import Dropout as Dropout
from funcnets.layers.dropout import DropPath as DropPath
from funcnets.layers.dropout import GaussianDropout as GaussianDropout
from funcnets.layers.dropout import GaussianNoise as GaussianNoise
from funcnets.layers.einsum import Einsum as Einsum
from funcnets.layers.embedding import Embedding as Embedding
from funcnets.layers.embedding import Unembed as Unembed
from funcnets.layers.linear import Bias as Bias
from funcnets.layers.linear import Bilinear as Bilinear
from funcnets.layers.linear import Dense as Dense
from funcnets.layers.linear import Scale as Scale
from funcnets.layers.local_convolution import LocallyConnected as LocallyConnected
from funcnets.layers.normalization import GroupNorm as GroupNorm
from funcnets.layers.normalization import InstanceNorm as InstanceNorm
from funcnets.layers.normalization import LayerNorm as LayerNorm
from funcnets.layers.normalization import LocalResponseNorm as LocalResponseNorm
from funcnets.layers.normalization import RMSNorm as RMSNorm
from funcnets.layers.patches import Patchify as Patchify
from funcnets.layers.patches import PixelShuffle as PixelShuffle
from funcnets.layers.patches import PixelUnshuffle as PixelUnshuffle
from funcnets.layers.pooling import AvgPool as AvgPool
from funcnets.layers.pooling import GlobalAvgPool as GlobalAvgPool
from funcnets.layers.pooling import GlobalMaxPool as GlobalMaxPool
from funcnets.layers.pooling import LpPool as LpPool
from funcnets.layers.pooling import MaxPool as MaxPool
from funcnets.layers.pooling import MinPool as MinPool
from funcnets.layers.pooling import SumPool as SumPool
from funcnets.layers.recurrent import ConvLSTMCell as ConvLSTMCell
from funcnets.layers.recurrent import GRUCell as GRUCell
from funcnets.layers.recurrent import LSTMCell as LSTMCell
from funcnets.layers.recurrent import MGUCell as MGUCell
from funcnets.layers.recurrent import RNNCell as RNNCell
from funcnets.layers.resizing import Crop as Crop
from funcnets.layers.resizing import Pad as Pad
from funcnets.layers.resizing import Upsample as Upsample
from funcnets.layers.sequences import Bidirectional as Bidirectional
from funcnets.layers.sequences import Streaming as Streaming
from funcnets.layers.shaping import Flatten as Flatten
from funcnets.layers.shaping import Identity as Identity
from funcnets.layers.shaping import Rearrange as Rearrange
from funcnets.layers.shaping import Reshape as Reshape
from funcnets.layers.shaping import Transpose as Transpose
from funcnets.layers.transposed_convolution import ConvTranspose as ConvTranspose
from funcnets.layers.unpooling import MaxUnpool as MaxUnpool
from funcnets.leaves import Constant as Constant
from funcnets.leaves import Param as Param
from funcnets.leaves import pair as pair
from funcnets.loops import bounded_while as bounded_while
from funcnets.parametrize import Parametrization as Parametrization
from funcnets.parametrize import Parametrized as Parametrized
from funcnets.parametrize import SpectralNorm as SpectralNorm
from funcnets.parametrize import WeightNorm as WeightNorm
from funcnets.parametrize import bake as bake
from funcnets.parametrize import parametrize as parametrize
from funcnets.scan import Scan as Scan
from funcnets.wrappers import Cast as Cast
from funcnets.wrappers import Freeze as Freeze
from funcnets.wrappers import Remat as Remat
from funcnets.wrappers import Residual as Residual
from funcnets.wrappers import tie as tie
