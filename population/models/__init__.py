"""Architectures, and building a model from a configuration."""

from inarch.population.models.build import ModelFactory, architectures, build, check_factory, import_factory, resolve
from inarch.population.models.cifar_resnet import CifarResNet
from inarch.population.models.conv_factory import ConvFactory, Form
from inarch.population.models.densenet import CifarDenseNet
from inarch.population.models.googlenet import CifarGoogLeNet
from inarch.population.models.mobilenetv2 import CifarMobileNetV2
from inarch.population.models.outputs import give_logits, logits_of
from inarch.population.models.resnet50 import ResNet50
from inarch.population.models.resnext import CifarResNeXt
from inarch.population.models.vgg import CifarVgg16
from inarch.population.models.wide_resnet import WideResNet

__all__ = [
    "CifarDenseNet",
    "CifarGoogLeNet",
    "CifarMobileNetV2",
    "CifarResNeXt",
    "CifarResNet",
    "CifarVgg16",
    "ConvFactory",
    "Form",
    "ModelFactory",
    "ResNet50",
    "WideResNet",
    "architectures",
    "build",
    "check_factory",
    "give_logits",
    "import_factory",
    "logits_of",
    "resolve",
]
