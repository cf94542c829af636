"""funcnets: neural networks for JAX in which a model is a value and its parameters are data.

    import funcnets as fn

    net = fn.Sequential(fn.Dense(256), jax.nn.relu, fn.Dense(10))
    params = net.init(jax.random.key(0), x)     # nested dicts; sizes come from x
    y = net.apply(params, x)                    # a pure function: jit, grad and vmap it

Layers and combinators are here. The rooms are `fn.params`, parameters as data; `fn.rewrite`, from one net to another;
`fn.inspect`, the inside of a net; `fn.files`; `fn.train`; `fn.initializers`.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from funcnets import initializers as initializers
from funcnets.checkpoint import Checkpoints as Checkpoints
from funcnets.combinators import Each as Each
from funcnets.combinators import Ensemble as Ensemble
from funcnets.combinators import Parallel as Parallel
from funcnets.combinators import Repeat as Repeat
from funcnets.combinators import Sequential as Sequential
from funcnets.compose import Composite as Composite
from funcnets.compose import Wrapper as Wrapper
from funcnets.compose import compose as compose
from funcnets.generate import generate as generate
from funcnets.layer import Layer as Layer
from funcnets.layers.activation import GLU as GLU
from funcnets.layers.activation import GatedMLP as GatedMLP
from funcnets.layers.activation import Maxout as Maxout
from funcnets.layers.activation import PReLU as PReLU
from funcnets.layers.adaptive_pooling import AdaptiveAvgPool as AdaptiveAvgPool
from funcnets.layers.adaptive_pooling import AdaptiveMaxPool as AdaptiveMaxPool
from funcnets.layers.attention import Attention as Attention
from funcnets.layers.attention_projection import Projection as Projection
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
from funcnets.layers.embedding import EmbeddingBag as EmbeddingBag
from funcnets.layers.embedding import Unembed as Unembed
from funcnets.layers.experts import MixtureOfExperts as MixtureOfExperts
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
from funcnets.layers.position_bias import ALiBi as ALiBi
from funcnets.layers.position_bias import RelativeBias as RelativeBias
from funcnets.layers.positions import PositionEmbedding as PositionEmbedding
from funcnets.layers.positions import SinusoidalPositions as SinusoidalPositions
from funcnets.layers.positions import rotary as rotary
from funcnets.layers.quantization import VectorQuantizer as VectorQuantizer
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
from funcnets.layers.state_space import LRU as LRU
from funcnets.layers.state_space import RGLRU as RGLRU
from funcnets.layers.transformer import TransformerBlock as TransformerBlock
from funcnets.layers.transposed_convolution import ConvTranspose as ConvTranspose
from funcnets.layers.unpooling import MaxUnpool as MaxUnpool
from funcnets.leaves import Constant as Constant
from funcnets.leaves import Param as Param
from funcnets.leaves import pair as pair
from funcnets.loops import bounded_while as bounded_while
from funcnets.parametrization import Parametrization as Parametrization
from funcnets.parametrization import Parametrized as Parametrized
from funcnets.parametrization import bake as bake
from funcnets.parametrization import parametrize as parametrize
from funcnets.parametrizations import LoRA as LoRA
from funcnets.parametrizations import LowRank as LowRank
from funcnets.parametrizations import Masked as Masked
from funcnets.parametrizations import Orthogonal as Orthogonal
from funcnets.parametrizations import SpectralNorm as SpectralNorm
from funcnets.parametrizations import WeightNorm as WeightNorm
from funcnets.scan import Scan as Scan
from funcnets.wrappers import Cast as Cast
from funcnets.wrappers import Freeze as Freeze
from funcnets.wrappers import Remat as Remat
from funcnets.wrappers import Residual as Residual
from funcnets.wrappers import tie as tie

if _TYPE_CHECKING:  # rooms that are entered when they are first asked for, so that the import takes little
    from funcnets import files as files
    from funcnets import inspect as inspect
    from funcnets import params as params
    from funcnets import rewrite as rewrite
    from funcnets import train as train
    from funcnets.inspect import capture as capture
    from funcnets.inspect import check as check
    from funcnets.inspect import diff as diff
    from funcnets.inspect import draw as draw
    from funcnets.inspect import edit as edit
    from funcnets.inspect import summary as summary


def __getattr__(name: str) -> _Any:
    from funcnets.later import asked_for

    return asked_for(name, globals())


def __dir__() -> list[str]:
    from funcnets.later import ROOMS, VIEWS

    return sorted({*globals(), *ROOMS, *VIEWS})
