"""The catalogue: one entry per system. Importing it imports no system.

A system is the module `torchstone.systems.CHAPTER.NAME`. It holds VARIANTS, RECIPES, FACTS,
`build` and `reference`; a test compares this page with it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from torchstone.errors import BadInput, did_you_mean


@dataclass(frozen=True)
class System:
    """A catalogue entry."""

    name: str
    chapter: str
    title: str
    paper: str
    year: int
    variants: tuple[str, ...]
    recipes: tuple[str, ...]

    def module(self) -> ModuleType:
        """The system's file, imported."""
        return importlib.import_module(f"{__name__}.{self.chapter}.{self.name}")


class Variant(NamedTuple):
    """A network by name: how to make it, and the shape of one input (without the batch)."""

    make: Callable[..., Any]
    shape: tuple[int, ...]


def names(text: str) -> tuple[str, ...]:
    """`"a b"` as `("a", "b")`: a catalogue is easier to read so."""
    return tuple(text.split())


CATALOGUE = (
    System(
        "perceptron",
        "fundamentals",
        "Perceptron",
        "Rosenblatt, Psychological Review 65:386",
        1958,
        names("perceptron"),
        names("iris digits breast_cancer xor smoke"),
    ),
    System(
        "backprop",
        "fundamentals",
        "Back-propagation by hand",
        "Rumelhart, Hinton and Williams, Nature 323:533",
        1986,
        names("backprop"),
        names("digits paper mnist5k smoke"),
    ),
    System(
        "mlp",
        "fundamentals",
        "Multi-layer perceptron",
        "Rumelhart, Hinton and Williams, Nature 323:533",
        1986,
        names("mlp mlp_table"),
        names("digits mnist5k deep table adult smoke"),
    ),
    System(
        "lenet5",
        "convolutional",
        "LeNet-5",
        "LeCun, Bottou, Bengio and Haffner, Proc. IEEE 86(11)",
        1998,
        names("lenet5 lenet5_paper"),
        names("mnist5k mnist paper digits smoke"),
    ),
    System(
        "alexnet",
        "convolutional",
        "AlexNet",
        "Krizhevsky, Sutskever and Hinton, NeurIPS",
        2012,
        names("alexnet alexnet_paper"),
        names("mnist5k imagenet smoke"),
    ),
    System(
        "vgg",
        "convolutional",
        "VGG",
        "Simonyan and Zisserman, arXiv:1409.1556",
        2014,
        names("vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vgg16_bn_cifar"),
        names("mnist5k cifar10 imagenet smoke"),
    ),
    System(
        "googlenet",
        "convolutional",
        "GoogLeNet",
        "Szegedy, Liu, Jia et al., arXiv:1409.4842",
        2014,
        names("googlenet googlenet_paper"),
        names("mnist5k imagenet smoke"),
    ),
    System(
        "resnet",
        "convolutional",
        "ResNet",
        "He, Zhang, Ren and Sun, arXiv:1512.03385",
        2015,
        names(
            "resnet18 resnet34 resnet50 resnet101 resnet152 resnet50_paper resnet20_cifar "
            "resnet32_cifar resnet44_cifar resnet56_cifar resnet110_cifar resnet20_cifar_b "
            "resnet32_cifar_b resnet44_cifar_b resnet56_cifar_b resnet110_cifar_b resnet18_cifar"
        ),
        names("mnist5k cifar20 cifar20_cpu smoke"),
    ),
    System(
        "mobilenet",
        "convolutional",
        "MobileNet",
        "Howard, Zhu, Chen et al., arXiv:1704.04861",
        2017,
        names("mobilenet_v1 mobilenet_v1_075 mobilenet_v1_050 mobilenet_v1_025 mobilenet_v2"),
        names("mnist5k cifar10 imagenet smoke"),
    ),
    System(
        "deeplab",
        "convolutional",
        "DeepLab v3",
        "Chen, Papandreou, Schroff and Adam, arXiv:1706.05587",
        2017,
        names("deeplab_small deeplab_resnet50 deeplab_resnet101 deeplab_mobilenet_v3_large fcn_resnet50"),
        names("openmoji voc smoke"),
    ),
    System(
        "senet",
        "convolutional",
        "SENet",
        "Hu, Shen, Albanie, Sun and Wu, arXiv:1709.01507",
        2017,
        names(
            "seresnet18 seresnet34 seresnet50 seresnet101 seresnet152 seresnet50_paper "
            "seresnet101_paper seresnet152_paper seresnet20_cifar"
        ),
        names("mnist5k cifar20 smoke"),
    ),
    System(
        "cbam",
        "convolutional",
        "CBAM",
        "Woo, Park, Lee and Kweon, arXiv:1807.06521",
        2018,
        names("cbam_resnet18 cbam_resnet34 cbam_resnet50 cbam_resnet101 cbam_resnet20_cifar"),
        names("mnist5k cifar20 smoke"),
    ),
    System(
        "efficientnet",
        "convolutional",
        "EfficientNet",
        "Tan and Le, ICML, arXiv:1905.11946",
        2019,
        names(
            "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 "
            "efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_lite0"
        ),
        names("mnist5k imagenet smoke"),
    ),
    System(
        "rnn",
        "recurrent",
        "RNN",
        "Elman, Cognitive Science 14(2):179",
        1990,
        names("rnn"),
        names("shakespeare adding smoke"),
    ),
    System(
        "lstm",
        "recurrent",
        "LSTM",
        "Hochreiter and Schmidhuber, Neural Computation 9(8):1735",
        1997,
        names("lstm bilstm lstm_ptb_small lstm_ptb_medium lstm_ptb_large"),
        names("shakespeare sentiment voices speakers chorales jsb adding copy smoke"),
    ),
    System(
        "ctc",
        "recurrent",
        "CTC",
        "Graves, Fernández, Gomez and Schmidhuber, ICML",
        2006,
        names("ctc ctc_paper"),
        names("characters fsdd smoke"),
    ),
    System(
        "gru",
        "recurrent",
        "GRU",
        "Cho, van Merriënboer, Gulcehre et al., arXiv:1406.1078",
        2014,
        names("gru gru_cho"),
        names("shakespeare forecast glucose etth1 adding smoke"),
    ),
    System(
        "seq2seq",
        "recurrent",
        "seq2seq",
        "Bahdanau, Cho and Bengio, arXiv:1409.0473",
        2014,
        names("seq2seq_plain seq2seq_cho seq2seq_bahdanau seq2seq_luong seq2seq_paper"),
        names("translate bible reverse multi30k_cpu multi30k multi30k_plain smoke"),
    ),
    System(
        "transformer",
        "transformer",
        "Transformer",
        "Vaswani, Shazeer, Parmar et al., arXiv:1706.03762",
        2017,
        names("transformer_base transformer_big transformer_small transformer_mini transformer_tiny"),
        names("translate multi30k_cpu multi30k paper copy smoke"),
    ),
    System(
        "gpt",
        "transformer",
        "GPT",
        "Radford, Wu, Child et al., Language Models are Unsupervised Multitask Learners",
        2019,
        names(
            "gpt_char_cpu gpt_char gpt1 gpt2 gpt2_medium gpt2_large gpt2_xl gpt3_small gpt3_medium "
            "gpt3_large gpt3_xl gpt3_2_7b gpt3_6_7b gpt3_13b gpt3_13b_paper gpt3_175b"
        ),
        names("shakespeare shakespeare_nanogpt shakespeare_gpu smoke"),
    ),
    System(
        "bert",
        "transformer",
        "BERT",
        "Devlin, Chang, Lee and Toutanova, arXiv:1810.04805",
        2018,
        names(
            "bert_base bert_base_cased bert_large bert_large_cased bert_medium bert_small bert_mini bert_tiny"
        ),
        names("sentiment masked paper smoke"),
    ),
    System(
        "t5",
        "transformer",
        "T5",
        "Raffel, Shazeer, Roberts et al., arXiv:1910.10683",
        2019,
        names(
            "t5_small t5_base t5_large t5_3b t5_11b t5_v1_1_small t5_v1_1_base t5_v1_1_large t5_mini t5_tiny"
        ),
        names("denoise texts grammar smoke"),
    ),
    System(
        "vit",
        "transformer",
        "ViT",
        "Dosovitskiy, Beyer, Kolesnikov et al., arXiv:2010.11929",
        2020,
        names("vit_b_16 vit_ti_16 vit_s_16 vit_b_32 vit_l_16 vit_l_32 vit_h_14 vit_cifar vit_mnist"),
        names("mnist5k cifar10 smoke"),
    ),
    System(
        "vae",
        "generative",
        "VAE",
        "Kingma and Welling, arXiv:1312.6114",
        2013,
        names("vae vae_paper vae_iwae vae_burgess vae_conv vae_deep vae_plane vae_digits"),
        names("mnist5k mnist iwae plane conv beta smoke"),
    ),
    System(
        "gan",
        "generative",
        "GAN",
        "Goodfellow, Pouget-Abadie, Mirza et al., arXiv:1406.2661",
        2014,
        names("gan gan_digits"),
        names("mnist5k mnist smoke"),
    ),
    System(
        "cgan",
        "generative",
        "Conditional GAN",
        "Mirza and Osindero, arXiv:1411.1784",
        2014,
        names("cgan cgan_digits cgan_paper"),
        names("mnist5k mnist paper smoke"),
    ),
    System(
        "dcgan",
        "generative",
        "DCGAN",
        "Radford, Metz and Chintala, arXiv:1511.06434",
        2015,
        names("dcgan dcgan_mnist dcgan_digits"),
        names("mnist5k mnist smoke"),
    ),
    System(
        "realnvp",
        "generative",
        "Real NVP",
        "Dinh, Sohl-Dickstein and Bengio, arXiv:1605.08803",
        2016,
        names("realnvp_points realnvp_digits realnvp_mnist realnvp_cifar10"),
        names("digits moons mnist5k cifar10 smoke"),
    ),
    System(
        "ddpm",
        "generative",
        "DDPM",
        "Ho, Jain and Abbeel, arXiv:2006.11239",
        2020,
        names("ddpm_cifar10 ddpm_lsun256 ddpm_mnist ddpm_digits ddpm_emoji"),
        names("mnist5k half_hour mnist emoji_text cifar10 smoke"),
    ),
    System(
        "reinforce",
        "reinforcement",
        "REINFORCE",
        "Williams, Machine Learning 8:229",
        1992,
        names("reinforce"),
        names("cartpole plain smoke"),
    ),
    System(
        "a2c",
        "reinforcement",
        "A2C",
        "Mnih, Badia, Mirza et al., arXiv:1602.01783",
        2016,
        names("a2c a2c_lstm a3c_atari a3c_atari_lstm"),
        names("cartpole a3c smoke"),
    ),
    System(
        "ppo",
        "reinforcement",
        "PPO",
        "Schulman, Wolski, Dhariwal et al., arXiv:1707.06347",
        2017,
        names("ppo ppo_continuous ppo_atari ppo_paper ppo_recurrent"),
        names("cartpole acrobot lunarlander pendulum hopper pong pong_half_hour cartpole_memory smoke"),
    ),
    System(
        "dqn",
        "reinforcement",
        "DQN",
        "Mnih, Kavukcuoglu, Silver et al., Nature 518:529",
        2015,
        names("dqn dqn_nature dqn_2013 dqn_dueling"),
        names("cartpole acrobot pong nature smoke"),
    ),
    System(
        "ddpg",
        "reinforcement",
        "DDPG",
        "Lillicrap, Hunt, Pritzel et al., arXiv:1509.02971",
        2015,
        names("ddpg ddpg_paper"),
        names("pendulum paper halfcheetah smoke"),
    ),
)


def find(name: str) -> tuple[System, str]:
    """The entry and the variant that `name` means; a system's name means its first variant. `-` is read as
    `_`.

    Raises:
        BadInput: there is none; the nearest names are given.
    """
    wanted = name.replace("-", "_")
    for entry in CATALOGUE:
        if wanted == entry.name:
            return entry, entry.variants[0] if wanted not in entry.variants else wanted
        if wanted in entry.variants:
            return entry, wanted
    names = {n for entry in CATALOGUE for n in (entry.name, *entry.variants)}
    hint = did_you_mean(name, sorted(names), [entry.name for entry in CATALOGUE])
    raise BadInput(f"unknown system {name!r}: {hint}")
