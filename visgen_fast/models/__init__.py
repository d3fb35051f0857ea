"""Networks, one file each."""

from .dit import DiT
from .layers.transformer import Transformer
from .pixel_cnn import PixelCNN
from .pixel_rnn import PixelRNN
from .sequence_model import SequenceModel
from .space_depth_model import SpaceDepthModel

__all__ = ["DiT", "PixelCNN", "PixelRNN", "SequenceModel", "SpaceDepthModel", "Transformer"]
