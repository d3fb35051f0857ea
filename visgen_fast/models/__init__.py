"""Networks, one file each."""

from .dcgan import DCGANDiscriminator, DCGANGenerator
from .dit import DiT
from .experts import Experts
from .feature_heads import FeatureHeads
from .hdit import HDiT
from .layers.code_transformer import Transformer
from .mar import MAR
from .masked_model import MaskedModel
from .mmdit import MMDiT
from .pixel_cnn import PixelCNN
from .pixel_rnn import PixelRNN
from .rin import RIN
from .scale_model import ScaleModel
from .sequence_model import SequenceModel
from .space_depth_model import SpaceDepthModel
from .stylegan import StyleDiscriminator, StyleGenerator
from .unet import UNet
from .uvit import UViT
from .vae import VAE

__all__ = [
    "MAR",
    "RIN",
    "VAE",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "DiT",
    "Experts",
    "FeatureHeads",
    "HDiT",
    "MaskedModel",
    "MMDiT",
    "PixelCNN",
    "PixelRNN",
    "ScaleModel",
    "SequenceModel",
    "SpaceDepthModel",
    "StyleDiscriminator",
    "StyleGenerator",
    "Transformer",
    "UNet",
    "UViT",
]
