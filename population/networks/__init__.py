"""Architectures by name."""

from population.networks.catalog import NetworkFactory, architectures, build, import_object, resolve
from population.networks.cifar_resnet import CifarResNet
from population.networks.mobilenetv2 import CifarMobileNetV2
from population.networks.vgg import CifarVgg16

__all__ = [
    "CifarMobileNetV2",
    "CifarResNet",
    "CifarVgg16",
    "NetworkFactory",
    "architectures",
    "build",
    "import_object",
    "resolve",
]
