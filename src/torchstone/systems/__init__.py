"""The catalogue: one entry per system. Importing it imports no system.

A system is the module `torchstone.systems.CHAPTER.NAME`. It holds VARIANTS, RECIPES, FACTS,
`build` and `reference`; a test compares this page with it.
"""

import importlib
import re
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


# name: title, year. paper; then its networks and its recipes, the first of each the default
CHAPTERS = {
    "fundamentals": """
perceptron: Perceptron, 1958. Rosenblatt, Psychological Review 65:386
    variants: perceptron
    recipes: iris digits breast_cancer xor smoke
backprop: Back-propagation by hand, 1986. Rumelhart, Hinton and Williams, Nature 323:533
    variants: backprop
    recipes: digits paper mnist5k smoke
mlp: Multi-layer perceptron, 1986. Rumelhart, Hinton and Williams, Nature 323:533
    variants: mlp mlp_table
    recipes: digits mnist5k deep table adult smoke
""",
    "convolutional": """
lenet5: LeNet-5, 1998. LeCun, Bottou, Bengio and Haffner, Proc. IEEE 86(11)
    variants: lenet5 lenet5_paper
    recipes: mnist5k mnist paper digits smoke
alexnet: AlexNet, 2012. Krizhevsky, Sutskever and Hinton, NeurIPS
    variants: alexnet alexnet_paper
    recipes: mnist5k imagenet smoke
vgg: VGG, 2014. Simonyan and Zisserman, arXiv:1409.1556
    variants: vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vgg16_bn_cifar
    recipes: mnist5k cifar10 imagenet smoke
googlenet: GoogLeNet, 2014. Szegedy, Liu, Jia et al., arXiv:1409.4842
    variants: googlenet googlenet_paper
    recipes: mnist5k imagenet smoke
resnet: ResNet, 2015. He, Zhang, Ren and Sun, arXiv:1512.03385
    variants: resnet18 resnet34 resnet50 resnet101 resnet152 resnet50_paper resnet20_cifar resnet32_cifar
        resnet44_cifar resnet56_cifar resnet110_cifar resnet20_cifar_b resnet32_cifar_b resnet44_cifar_b
        resnet56_cifar_b resnet110_cifar_b resnet18_cifar
    recipes: mnist5k cifar20 cifar20_cpu smoke
mobilenet: MobileNet, 2017. Howard, Zhu, Chen et al., arXiv:1704.04861
    variants: mobilenet_v1 mobilenet_v1_075 mobilenet_v1_050 mobilenet_v1_025 mobilenet_v2
    recipes: mnist5k cifar10 imagenet smoke
deeplab: DeepLab v3, 2017. Chen, Papandreou, Schroff and Adam, arXiv:1706.05587
    variants: deeplab_small deeplab_resnet50 deeplab_resnet101 deeplab_mobilenet_v3_large fcn_resnet50
    recipes: openmoji voc smoke
senet: SENet, 2017. Hu, Shen, Albanie, Sun and Wu, arXiv:1709.01507
    variants: seresnet18 seresnet34 seresnet50 seresnet101 seresnet152 seresnet50_paper seresnet101_paper
        seresnet152_paper seresnet20_cifar
    recipes: mnist5k cifar20 smoke
cbam: CBAM, 2018. Woo, Park, Lee and Kweon, arXiv:1807.06521
    variants: cbam_resnet18 cbam_resnet34 cbam_resnet50 cbam_resnet101 cbam_resnet20_cifar
    recipes: mnist5k cifar20 smoke
efficientnet: EfficientNet, 2019. Tan and Le, ICML, arXiv:1905.11946
    variants: efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
        efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_lite0
    recipes: mnist5k imagenet smoke
""",
    "recurrent": """
rnn: RNN, 1990. Elman, Cognitive Science 14(2):179
    variants: rnn
    recipes: shakespeare adding smoke
lstm: LSTM, 1997. Hochreiter and Schmidhuber, Neural Computation 9(8):1735
    variants: lstm bilstm lstm_ptb_small lstm_ptb_medium lstm_ptb_large
    recipes: shakespeare sentiment voices speakers chorales jsb adding copy smoke
ctc: CTC, 2006. Graves, Fernández, Gomez and Schmidhuber, ICML
    variants: ctc ctc_paper
    recipes: characters fsdd smoke
gru: GRU, 2014. Cho, van Merriënboer, Gulcehre et al., arXiv:1406.1078
    variants: gru gru_cho
    recipes: shakespeare forecast glucose etth1 adding smoke
seq2seq: seq2seq, 2014. Bahdanau, Cho and Bengio, arXiv:1409.0473
    variants: seq2seq_plain seq2seq_cho seq2seq_bahdanau seq2seq_luong seq2seq_paper
    recipes: translate bible reverse multi30k_cpu multi30k multi30k_plain smoke
""",
    "transformer": """
transformer: Transformer, 2017. Vaswani, Shazeer, Parmar et al., arXiv:1706.03762
    variants: transformer_base transformer_big transformer_small transformer_mini transformer_tiny
    recipes: translate multi30k_cpu multi30k paper copy smoke
gpt: GPT, 2019. Radford, Wu, Child et al., Language Models are Unsupervised Multitask Learners
    variants: gpt_char_cpu gpt_char gpt1 gpt2 gpt2_medium gpt2_large gpt2_xl gpt3_small gpt3_medium
        gpt3_large gpt3_xl gpt3_2_7b gpt3_6_7b gpt3_13b gpt3_13b_paper gpt3_175b
    recipes: shakespeare shakespeare_nanogpt shakespeare_gpu in_context smoke
performer: Performer, 2020. Choromanski, Likhosherstov, Dohan et al., arXiv:2009.14794
    variants: performer_char_cpu performer_char performer_tiny performer_mini
    recipes: shakespeare sentiment masked smoke
bert: BERT, 2018. Devlin, Chang, Lee and Toutanova, arXiv:1810.04805
    variants: bert_base bert_base_cased bert_large bert_large_cased bert_medium bert_small bert_mini
        bert_tiny
    recipes: sentiment masked paper smoke
albert: ALBERT, 2019. Lan, Chen, Goodman et al., arXiv:1909.11942
    variants: albert_base albert_large albert_xlarge albert_xxlarge albert_mini albert_tiny
    recipes: sentiment masked paper smoke
distilbert: DistilBERT, 2019. Sanh, Debut, Chaumond and Wolf, arXiv:1910.01108
    variants: distilbert distilbert_mini distilbert_tiny
    recipes: sentiment masked paper smoke
longformer: Longformer, 2020. Beltagy, Peters and Cohan, arXiv:2004.05150
    variants: longformer_base longformer_large longformer_mini longformer_tiny
    recipes: sentiment masked paper smoke
bigbird: BigBird, 2020. Zaheer, Guruganesh, Dubey et al., arXiv:2007.14062
    variants: bigbird_base bigbird_large bigbird_mini bigbird_tiny
    recipes: sentiment masked paper smoke
linformer: Linformer, 2020. Wang, Li, Khabsa, Fang and Ma, arXiv:2006.04768
    variants: linformer_base linformer_mini linformer_tiny
    recipes: sentiment masked paper smoke
t5: T5, 2019. Raffel, Shazeer, Roberts et al., arXiv:1910.10683
    variants: t5_small t5_base t5_large t5_3b t5_11b t5_v1_1_small t5_v1_1_base t5_v1_1_large t5_mini
        t5_tiny
    recipes: denoise texts grammar smoke
vit: ViT, 2020. Dosovitskiy, Beyer, Kolesnikov et al., arXiv:2010.11929
    variants: vit_b_16 vit_ti_16 vit_s_16 vit_b_32 vit_l_16 vit_l_32 vit_h_14 vit_cifar vit_mnist
    recipes: mnist5k cifar10 smoke
clip: CLIP, 2021. Radford, Kim, Hallacy et al., arXiv:2103.00020
    variants: clip_emoji clip_b_32 clip_b_16 clip_l_14 clip_emoji_vit clip_tiny
    recipes: openmoji emoji languages paper smoke
vlm: VLM, 2023. Liu, Li, Wu and Lee, arXiv:2304.08485
    variants: vlm_emoji vlm_tiny vlm_l_14_gpt2
    recipes: openmoji smoke
""",
    "generative": """
vae: VAE, 2013. Kingma and Welling, arXiv:1312.6114
    variants: vae vae_paper vae_iwae vae_burgess vae_conv vae_deep vae_plane vae_digits
    recipes: mnist5k mnist iwae plane conv beta smoke
gan: GAN, 2014. Goodfellow, Pouget-Abadie, Mirza et al., arXiv:1406.2661
    variants: gan gan_digits
    recipes: mnist5k mnist smoke
cgan: Conditional GAN, 2014. Mirza and Osindero, arXiv:1411.1784
    variants: cgan cgan_digits cgan_paper
    recipes: mnist5k mnist paper smoke
dcgan: DCGAN, 2015. Radford, Metz and Chintala, arXiv:1511.06434
    variants: dcgan dcgan_mnist dcgan_emoji dcgan_digits
    recipes: mnist5k mnist emoji32 smoke
pix2pix: pix2pix, 2016. Isola, Zhu, Zhou and Efros, arXiv:1611.07004
    variants: pix2pix_small pix2pix_unet256
    recipes: openmoji paper smoke
cyclegan: CycleGAN, 2017. Zhu, Park, Isola and Efros, arXiv:1703.10593
    variants: cyclegan_unet cyclegan_small cyclegan_resnet6 cyclegan_resnet9 resnet6_generator
        resnet9_generator
    recipes: openmoji artists artists_minute no_cycle paper smoke
vqvae: VQ-VAE, 2017. van den Oord, Vinyals and Kavukcuoglu, arXiv:1711.00937
    variants: vqvae vqvae_mnist vqvae_digits
    recipes: mnist5k cifar10 smoke
realnvp: Real NVP, 2016. Dinh, Sohl-Dickstein and Bengio, arXiv:1605.08803
    variants: realnvp_points realnvp_digits realnvp_mnist realnvp_cifar10
    recipes: digits moons mnist5k cifar10 smoke
biggan: BigGAN, 2018. Brock, Donahue and Simonyan, arXiv:1809.11096
    variants: biggan_mnist biggan_digits biggan_deep_digits biggan128 biggan256 biggan_cifar10 biggan_deep128
        biggan_deep256 biggan_deep512
    recipes: mnist5k smoke
glow: Glow, 2018. Kingma and Dhariwal, arXiv:1807.03039
    variants: glow_digits glow_tiny glow_mnist glow_cifar10 glow_cifar10_additive
    recipes: digits mnist5k cifar10 smoke
stylegan1: StyleGAN with progressive growing, 2018. Karras, Laine and Aila, arXiv:1812.04948
    variants: stylegan1_emoji stylegan1_digits stylegan1_ffhq
    recipes: emoji smoke
stylegan: StyleGAN2, 2019. Karras, Laine, Aittala et al., arXiv:1912.04958
    variants: stylegan2_emoji stylegan2_mnist stylegan2_digits stylegan2_cifar10 stylegan2_cifar10_cond
        stylegan2_ffhq stylegan2_paper256
    recipes: digits emoji mnist5k cifar10 smoke
flowpp: Flow++, 2019. Ho, Chen, Srinivas et al., arXiv:1902.00275
    variants: flowpp_digits flowpp_digits_large flowpp_tiny flowpp_mnist flowpp_cifar10
    recipes: digits large mnist5k cifar10 smoke
ddpm: DDPM, 2020. Ho, Jain and Abbeel, arXiv:2006.11239
    variants: ddpm_cifar10 ddpm_lsun256 ddpm_mnist ddpm_digits ddpm_emoji ddpm_emoji64
    recipes: mnist5k half_hour mnist emoji_text cifar10 smoke
ldm: Latent diffusion, 2021. Rombach, Blattmann, Lorenz et al., arXiv:2112.10752
    variants: sd1 sd2 sd_inpaint ldm_emoji ldm_shapes
    recipes: emoji_text smoke
dalle2: DALL-E 2, 2022. Ramesh, Dhariwal, Nichol, Chu and Chen, arXiv:2204.06125
    variants: dalle2_emoji dalle2_tiny dalle2_prior
    recipes: openmoji text_only smoke
audiolm: AudioLM, 2022. Borsos, Marinier, Vincent et al., arXiv:2209.03143
    variants: audiolm_8khz audiolm_tiny encodec_24khz encodec_48khz
    recipes: characters fsdd no_semantic smoke
dit: DiT, 2022. Peebles and Xie, arXiv:2212.09748
    variants: dit_xl_2 dit_xl_4 dit_xl_8 dit_l_2 dit_l_4 dit_l_8 dit_b_2 dit_b_4 dit_b_8 dit_s_2 dit_s_4
        dit_s_8 dit_mnist dit_digits
    recipes: mnist5k imagenet smoke
dalle3: DALL-E 3, 2023. Betker, Goh, Jing et al., OpenAI
    variants: dalle3_emoji dalle3_tiny
    recipes: openmoji half short_captions smoke
""",
    "reinforcement": """
reinforce: REINFORCE, 1992. Williams, Machine Learning 8:229
    variants: reinforce
    recipes: cartpole plain smoke
a2c: A2C, 2016. Mnih, Badia, Mirza et al., arXiv:1602.01783
    variants: a2c a2c_lstm a3c_atari a3c_atari_lstm
    recipes: cartpole a3c smoke
trpo: TRPO, 2015. Schulman, Levine, Moritz et al., arXiv:1502.05477
    variants: trpo trpo_continuous trpo_atari
    recipes: cartpole pendulum smoke
ppo: PPO, 2017. Schulman, Wolski, Dhariwal et al., arXiv:1707.06347
    variants: ppo ppo_continuous ppo_atari ppo_paper ppo_recurrent
    recipes: cartpole acrobot lunarlander pendulum hopper pong pong_half_hour cartpole_memory treatment
        smoke
dqn: DQN, 2015. Mnih, Kavukcuoglu, Silver et al., Nature 518:529
    variants: dqn dqn_nature dqn_2013 dqn_dueling
    recipes: cartpole acrobot traffic pong nature smoke
ddpg: DDPG, 2015. Lillicrap, Hunt, Pritzel et al., arXiv:1509.02971
    variants: ddpg ddpg_paper
    recipes: pendulum paper halfcheetah smoke
td3: TD3, 2018. Fujimoto, van Hoof and Meger, arXiv:1802.09477
    variants: td3 td3_paper
    recipes: pendulum halfcheetah smoke
sac: SAC, 2018. Haarnoja, Zhou, Abbeel and Levine, arXiv:1801.01290, arXiv:1812.05905
    variants: sac
    recipes: pendulum halfcheetah reacher reacher_her fetch_reach pusher cooling smoke
l2d: L2D, 2020. Zhang, Song, Cao et al., arXiv:2010.12621, arXiv:2010.16011
    variants: l2d
    recipes: lawrence smoke
""",
    "planning": """
alphazero: AlphaZero, 2017. Silver, Hubert, Schrittwieser et al., arXiv:1712.01815
    variants: alphazero_mlp alphazero_small alphazero_go
    recipes: tictactoe connect4 go5 smoke
world_models: World Models, 2018. Ha and Schmidhuber, arXiv:1803.10122
    variants: world_models world_models_car world_models_small
    recipes: take_cover car_racing smoke
muzero: MuZero, 2019. Schrittwieser, Antonoglou, Hubert et al., arXiv:1911.08265
    variants: muzero_mlp muzero_frames
    recipes: cartpole tictactoe minigrid smoke
mbpo: MBPO, 2019. Janner, Fu, Zhang and Levine, arXiv:1906.08253
    variants: mbpo
    recipes: pendulum hopper smoke
""",
    "multiagent": """
nfsp: NFSP, 2016. Heinrich and Silver, arXiv:1603.01121
    variants: nfsp
    recipes: kuhn leduc smoke
dial: DIAL, 2016. Foerster, Assael, de Freitas and Whiteson, arXiv:1605.06676
    variants: dial
    recipes: switch rial silence smoke
lola: LOLA, 2017. Foerster, Chen, Al-Shedivat et al., arXiv:1709.04326
    variants: lola
    recipes: ipd asymmetric smoke
maddpg: MADDPG, 2017. Lowe, Wu, Tamar et al., arXiv:1706.02275
    variants: maddpg ddpg
    recipes: spread speaker_listener independent smoke
qmix: QMIX, 2018. Rashid, Samvelyan, Schroeder de Witt et al., arXiv:1803.11485
    variants: qmix vdn iql
    recipes: spread speaker_listener independent two_step smoke
deep_cfr: Deep CFR, 2018. Brown, Lerer, Gross and Sandholm, arXiv:1811.00164
    variants: deep_cfr
    recipes: kuhn leduc smoke
mappo: MAPPO, 2021. Yu, Velu, Vinitsky et al., arXiv:2103.01955
    variants: mappo ippo
    recipes: spread speaker_listener independent smoke
""",
}
ENTRY = re.compile(r"(\w+): (.+), (\d{4})\. (.+)\n +variants: ([\w\s]+)\n +recipes: ([\w\s]+)")


def entry(chapter: str, text: str) -> System:
    """One entry of a chapter's table."""
    match = ENTRY.fullmatch(text)
    assert match, f"no entry of the catalogue: {text}"
    name, title, year, paper, variants, recipes = match.groups()
    return System(name, chapter, title, paper, int(year), tuple(variants.split()), tuple(recipes.split()))


CATALOGUE = tuple(
    entry(chapter, text)
    for chapter, table in CHAPTERS.items()
    for text in re.split(r"\n(?=\w)", table.strip())
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
