"""Where published networks normalize: the shapes of their layers at usual batch sizes, none above 210 MB in float32."""

from typing import NamedTuple


class Layer(NamedTuple):
    """A layer that normalizes feature maps."""

    network: str
    name: str
    batch: int
    features: tuple[int, ...]  # channels, then the plane or volume
    groups: int | None = None


class Sequence(NamedTuple):
    """A layer that normalizes the last axis."""

    network: str
    name: str
    shape: tuple[int, ...]


BATCH_NORM = (
    Layer("ResNet-50", "bn1", 1, (64, 112, 112)),
    Layer("ResNet-50", "bn1", 64, (64, 112, 112)),
    Layer("ResNet-50", "layer1 bn1", 32, (64, 56, 56)),
    Layer("ResNet-50", "layer1 bn3", 32, (256, 56, 56)),
    Layer("ResNet-50", "layer2 bn2", 64, (128, 28, 28)),
    Layer("ResNet-50", "layer2 bn3", 32, (512, 28, 28)),
    Layer("ResNet-50", "layer3 bn2", 32, (256, 14, 14)),
    Layer("ResNet-50", "layer3 bn3", 64, (1024, 14, 14)),
    Layer("ResNet-50", "layer4 bn2", 32, (512, 7, 7)),
    Layer("ResNet-50", "layer4 bn3", 64, (2048, 7, 7)),
    Layer("Inception-v3", "Conv2d_1a_3x3", 16, (32, 149, 149)),
    Layer("Inception-v3", "Mixed_5b branch5x5", 32, (64, 35, 35)),
    Layer("Inception-v3", "Mixed_6b branch7x7", 32, (192, 17, 17)),
    Layer("Inception-v3", "Mixed_7c branch1x1", 32, (320, 8, 8)),
    Layer("DenseNet-121", "denseblock1 layer3 norm1", 32, (128, 56, 56)),
    Layer("DenseNet-121", "denseblock2 layer8 norm1", 32, (352, 28, 28)),
    Layer("DenseNet-121", "denseblock3 layer10 norm2", 32, (128, 14, 14)),
    Layer("DenseNet-121", "norm5", 32, (1024, 7, 7)),
    Layer("MobileNetV2", "features 2 expand", 32, (96, 112, 112)),
    Layer("MobileNetV2", "features 3 expand", 32, (144, 56, 56)),
    Layer("MobileNetV2", "features 7 project", 1, (64, 14, 14)),
    Layer("MobileNetV2", "features 15 expand", 32, (960, 7, 7)),
    Layer("DeepLabv3", "image pooling", 16, (256, 1, 1)),
    Layer("BYOL", "projector", 64, (4096,)),
    Layer("3-D U-Net", "encoder 1", 1, (32, 96, 96, 96)),
    Layer("3-D U-Net", "encoder 3", 2, (128, 24, 24, 24)),
)

LAYER_NORM_OF_IMAGES = (
    Layer("ConvNeXt-T", "stem", 32, (96, 56, 56)),
    Layer("ConvNeXt-T", "stage 2", 32, (192, 28, 28)),
    Layer("ConvNeXt-T", "stage 3", 64, (384, 14, 14)),
    Layer("ConvNeXt-T", "stage 4", 64, (768, 7, 7)),
    Layer("ConvNeXt-B", "stem", 1, (128, 56, 56)),
)

GROUP_NORM = (
    Layer("ResNet-50 with GN", "layer1 gn3", 32, (256, 56, 56), 32),
    Layer("ResNet-50 with GN", "layer4 gn3", 32, (2048, 7, 7), 32),
    Layer("Stable Diffusion U-Net", "down 0", 2, (320, 64, 64), 32),
    Layer("Stable Diffusion U-Net", "down 1", 8, (640, 32, 32), 32),
    Layer("Stable Diffusion U-Net", "down 2", 2, (1280, 16, 16), 32),
    Layer("Stable Diffusion U-Net", "middle", 2, (1280, 8, 8), 32),
    Layer("Stable Diffusion U-Net", "up 3", 2, (960, 64, 64), 32),
    Layer("Stable Diffusion VAE", "decoder, last", 1, (128, 512, 512), 32),
)

INSTANCE_NORM = (
    Layer("CycleGAN", "first", 1, (64, 256, 256)),
    Layer("CycleGAN", "residual blocks", 1, (256, 64, 64)),
    Layer("CycleGAN", "residual blocks", 16, (256, 64, 64)),
    Layer("nnU-Net", "stage 0", 1, (32, 96, 96, 96)),
    Layer("nnU-Net", "stage 2", 2, (128, 24, 24, 24)),
    Layer("nnU-Net", "stage 4", 2, (320, 6, 6, 6)),
)

LAYER_NORM = (
    Sequence("BERT-base", "one token", (1, 768)),
    Sequence("BERT-base", "one sentence", (1, 128, 768)),
    Sequence("BERT-base", "batch 32", (32, 512, 768)),
    Sequence("BERT-large", "batch 8", (8, 512, 1024)),
    Sequence("GPT-2 XL", "context", (1024, 1600)),
    Sequence("GPT-3 175B", "context", (2048, 12288)),
)

RMS_NORM = (
    Sequence("Llama 2 7B", "one token", (1, 4096)),
    Sequence("Llama 2 7B", "prompt", (512, 4096)),
    Sequence("Llama 2 13B", "context", (4096, 5120)),
    Sequence("Llama 3 70B", "context", (4096, 8192)),
    Sequence("Llama 3 8B", "query heads", (4096, 32, 128)),
)

# As programs call them, at batches of 1, 8 and 16

TRAINED = (
    Layer("ResNet-50", "layer2 bn3", 8, (512, 28, 28)),
    Layer("ResNet-50", "layer3 bn3", 16, (1024, 14, 14)),
    Layer("ResNet-50", "layer1 bn1", 16, (64, 56, 56)),
    Layer("ResNet-50, images of 128", "layer2 bn1", 8, (128, 16, 16)),
    Layer("ResNet-50", "layer4 bn1", 8, (512, 7, 7)),
)

SERVED = (
    Layer("ResNet-50", "layer1 bn1", 1, (64, 56, 56)),
    Layer("MobileNetV2", "features 0", 1, (32, 112, 112)),
    Layer("ResNet-50", "layer2 bn2", 8, (128, 28, 28)),
    Layer("ResNet-50", "layer3 bn3", 16, (1024, 14, 14)),
)

GROUPS_IN_PROGRAMS = (
    Layer("Stable Diffusion U-Net", "down 0", 1, (320, 64, 64), 32),
    Layer("Stable Diffusion U-Net", "down 2", 8, (1280, 16, 16), 32),
)

INSTANCES_IN_PROGRAMS = (
    Layer("CycleGAN", "residual blocks", 1, (256, 64, 64)),
    Layer("CycleGAN", "residual blocks", 8, (256, 64, 64)),
)

LAYERS_IN_PROGRAMS = (
    Sequence("BERT-base", "one token", (1, 768)),
    Sequence("ViT-B/16", "one image", (1, 197, 768)),
    Sequence("ViT-B/16", "batch 16", (16, 197, 768)),
    Sequence("Swin-T", "stage 1", (8, 56, 56, 96)),
)

RMS_IN_PROGRAMS = (
    Sequence("Llama 2 7B", "prompt", (1, 128, 4096)),
    Sequence("Llama 3 8B", "query heads", (8, 128, 32, 128)),
)
