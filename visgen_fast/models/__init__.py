"""Networks, one file each."""

from .dcgan import DCGANDiscriminator, DCGANGenerator
from .dit import DiT
from .experts import Experts
from .feature_heads import FeatureHeads
from .layers.code_transformer import Transformer
from .pixel_cnn import PixelCNN
from .pixel_rnn import PixelRNN
from .sequence_model import SequenceModel
from .space_depth_model import SpaceDepthModel
from .stylegan import StyleDiscriminator, StyleGenerator
from .unet import UNet
from .uvit import UViT
from .vae import VAE

__all__ = [
    "VAE",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "DiT",
    "Experts",
    "FeatureHeads",
    "PixelCNN",
    "PixelRNN",
    "SequenceModel",
    "SpaceDepthModel",
    "StyleDiscriminator",
    "StyleGenerator",
    "Transformer",
    "UNet",
    "UViT",
]
