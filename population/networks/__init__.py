"""Architectures by name."""

from inarch.population.networks.catalog import (
    NetworkFactory,
    architectures,
    build,
    check_factory,
    import_object,
    resolve,
)
from inarch.population.networks.cifar_resnet import CifarResNet
from inarch.population.networks.densenet import CifarDenseNet
from inarch.population.networks.googlenet import CifarGoogLeNet
from inarch.population.networks.mobilenetv2 import CifarMobileNetV2
from inarch.population.networks.outputs import give_logits, logits_of
from inarch.population.networks.plan import Form, Plan
from inarch.population.networks.resnet50 import ResNet50
from inarch.population.networks.resnext import CifarResNeXt
from inarch.population.networks.vgg import CifarVgg16
from inarch.population.networks.wide_resnet import WideResNet

__all__ = [
    "CifarDenseNet",
    "CifarGoogLeNet",
    "CifarMobileNetV2",
    "CifarResNeXt",
    "CifarResNet",
    "CifarVgg16",
    "Form",
    "NetworkFactory",
    "Plan",
    "ResNet50",
    "WideResNet",
    "architectures",
    "build",
    "check_factory",
    "give_logits",
    "import_object",
    "logits_of",
    "resolve",
]
