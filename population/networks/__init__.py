"""Architectures by name."""

from population.networks.catalog import NetworkFactory, architectures, build, check_factory, import_object, resolve
from population.networks.cifar_resnet import CifarResNet
from population.networks.densenet import CifarDenseNet
from population.networks.googlenet import CifarGoogLeNet
from population.networks.mobilenetv2 import CifarMobileNetV2
from population.networks.outputs import give_logits, logits_of
from population.networks.plan import Form, Plan
from population.networks.resnet50 import ResNet50
from population.networks.resnext import CifarResNeXt
from population.networks.vgg import CifarVgg16
from population.networks.wide_resnet import WideResNet

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
