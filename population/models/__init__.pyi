from .building import build
from .cifar_resnet import CifarResNet
from .conv_factory import ConvFactory, Form
from .densenet import CifarDenseNet
from .googlenet import CifarGoogLeNet
from .mobilenetv2 import CifarMobileNetV2
from .model_names import ModelFactory, architectures, check_factory, import_factory, resolve
from .outputs import give_logits, logits_of
from .resnet50 import ResNet50
from .resnext import CifarResNeXt
from .vgg import CifarVgg16
from .wide_resnet import WideResNet

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
