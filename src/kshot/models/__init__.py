"""Backbones, each an encoder (no outputs) or a model with a head (outputs=N), and policies."""

from torch import nn

from kshot.models.conv4 import Conv4
from kshot.models.conv_relation import ConvRelation
from kshot.models.gaussian_policy import GaussianPolicy
from kshot.models.hashed_text import HashedText
from kshot.models.mlp import MLP
from kshot.models.resnet12 import ResNet12
from kshot.models.views import Views

MODELS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "conv4": Conv4,
    "resnet12": ResNet12,
    "conv-relation": ConvRelation,
    "hashed-text": HashedText,
    "gaussian-policy": GaussianPolicy,
    "views": Views,
}

__all__ = ["MLP", "MODELS", "Conv4", "ConvRelation", "GaussianPolicy", "HashedText", "ResNet12", "Views"]
