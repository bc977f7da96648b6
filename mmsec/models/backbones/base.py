"""What all backbones share: options and their checks, freezing, output norms, pretrained weights."""

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

from mmengine.logging import print_log
from mmengine.model import BaseModule, initialize
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsec.errors import InputError
from mmsec.models.checkpoints.loading import load_pretrained
from mmsec.models.checkpoints.reading import forget_checkpoints, is_pretrained, named_by


class FeatureInfo(list):
    """What a backbone returns: for each map a dict of ``num_chs``, ``reduction`` and ``module``, as in timm.

    ``reduction`` is in pixels of the image a token, and ``module`` the name of the module whose output the map is,
    before its output norm.
    """

    def channels(self) -> list[int]:
        """Channels of each map."""
        return [each['num_chs'] for each in self]

    def reduction(self) -> list[int]:
        """Stride of each map."""
        return [each['reduction'] for each in self]

    def module_name(self) -> list[str]:
        """Module of each map."""
        return [each['module'] for each in self]


class Backbone(BaseModule):
    """A backbone of stages, each with a map. What a stage is, a subclass says: blocks at one stride, or one block.

    A subclass builds its layers, then calls :meth:`finish`. It says which modules belong to which stage
    (:meth:`parts`) and computes its maps (:meth:`maps`). All else has a default.

    Args:
        in_channels (int): Channels of the image.
        strides (Sequence[int]): Pixels of the image that a token of each stage covers, along each side.
        out_indices (Sequence[int]): Stages whose maps are returned, in this order.
        frozen_stages (int): -1 freezes nothing, 0 the stem, i the stem and the first i stages. Default: -1.
        norm_eval (bool): Whether BatchNorm keeps its running statistics in training. Default: False.
        init_cfg (dict | list[dict], optional): As MMEngine's; ``dict(type='Pretrained', checkpoint=PATH)`` loads
            strictly, when a host calls :meth:`init_weights`. Default: None, random weights.
        pretrained (str | Path, optional): What such a ``checkpoint`` may be, loaded at once, because in Python no host
            calls. Exclusive with ``init_cfg``. Default: None or False, random weights.

    Attributes:
        stage_strides (tuple[int, ...]): Pixels of the image that a token of each stage covers, along each side.
        feature_info (FeatureInfo): Channels, stride and module of each map that is returned.

    Raises:
        ValueError: If an option has a value that cannot be used; the message names the option.
    """

    arch_zoo: ClassVar[dict[str, dict]]
    published: ClassVar[str | None] = None  # where published weights are linked
    classifier: ClassVar[dict[str, str]] = {
        'head.': 'head.fc.'
    }  # published names -> those in a classifier of mmpretrain

    def __init__(
        self,
        in_channels: int,
        strides: Sequence[int],
        out_indices: Sequence[int],
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
        pretrained: str | Path | bool | None = None,
    ) -> None:
        super().__init__(self._init_cfg_of(pretrained, init_cfg))
        self._load_at_once = pretrained is not None and pretrained is not False
        last = len(strides) - 1
        if in_channels < 1:
            raise ValueError(f'in_channels must be at least 1, got {in_channels}')
        if not isinstance(out_indices, Sequence):
            raise ValueError(f'out_indices must be a list of stages, got {out_indices!r}')
        if not out_indices or len(set(out_indices)) < len(out_indices):
            raise ValueError(f'out_indices must name at least one stage, each once, got {tuple(out_indices)}')
        if not set(out_indices) <= set(range(last + 1)):
            raise ValueError(f'out_indices must be in [0, {last}], got {tuple(out_indices)}')
        if not -1 <= frozen_stages <= last + 1:
            raise ValueError(f'frozen_stages must be in [-1, {last + 1}], got {frozen_stages}')
        self.in_channels = in_channels
        self.stage_strides = tuple(strides)
        self.feature_info = FeatureInfo()
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.out_norms = nn.ModuleDict()

    @classmethod
    def settings(cls, arch: str | dict, per_stage: Sequence[str], optional: Mapping[str, Any] | None = None) -> dict:
        """Look up the sizes of ``arch``.

        Args:
            arch (str | dict): A name in ``arch_zoo``, or a dict with the keys of its entries.
            per_stage (Sequence[str]): Keys whose values are lists with an entry for each stage.
            optional (Mapping, optional): What keys are that may be left out, if they are. Default: None, no such keys.

        Returns:
            dict: The sizes.

        Raises:
            ValueError: If there is no such name, or keys or lengths are wrong.
        """
        if not isinstance(arch, dict):
            if arch not in [*cls.arch_zoo]:
                near = get_close_matches(str(arch).lower(), cls.arch_zoo, n=2, cutoff=0.5)
                meant = f' (did you mean {" or ".join(map(repr, near))}?)' if near else ''
                raise ValueError(f'arch must be one of {sorted(cls.arch_zoo)} or a dict{meant}, got {arch!r}')
            return {**(optional or {}), **cls.arch_zoo[arch]}
        expected, more = set(next(iter(cls.arch_zoo.values()))), set(optional or {})
        if not expected <= set(arch) <= expected | more:
            may = f' and may have {sorted(more)}' if more else ''
            raise ValueError(f'an arch dict must have the keys {sorted(expected)}{may}, got {sorted(arch)}')
        lengths = {key: len(arch[key]) for key in per_stage}
        if len(set(lengths.values())) > 1:
            raise ValueError(f'the lists of an arch dict must have one length, got {lengths}')
        return {**(optional or {}), **arch}

    @staticmethod
    def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
        """Drop path of each block: it rises linearly from 0 over the blocks of all stages.

        Args:
            last (float): Rate of the last block.
            depths (Sequence[int]): Blocks of each stage.

        Returns:
            list[list[float]]: For each stage the rates of its blocks.

        Raises:
            ValueError: If the rate is not in [0, 1).
        """
        if not 0 <= last < 1:
            raise ValueError(f'drop_path_rate must be in [0, 1), got {last}')
        steps = max(sum(depths) - 1, 1)
        return [[last * (sum(depths[:i]) + block) / steps for block in range(depth)] for i, depth in enumerate(depths)]

    @abstractmethod
    def parts(self) -> list[list[nn.Module]]:
        """The modules of the stem, then those of each stage that is built, in the order images pass them."""

    @abstractmethod
    def maps(self, x: Tensor) -> dict[int, Tensor]:
        """The map of each stage in ``out_indices``, (B, C, H', W'), of checked images."""

    def attention_layers(self) -> list[list[nn.Module]]:
        """For each stage that is built the layers that can say which tokens are together, by a method ``clusters``."""
        return [[layer for module in part for layer in _with_clusters(module)] for part in self.parts()[1:]]

    def convert(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Published weights -> a state dict of this backbone, and the keys that belong to a classifier."""
        return dict(state), []

    def finish(self, embed_dims: Sequence[int], out_norm: bool, norm_eps: float = 1e-6) -> None:
        """Add the output norms, freeze what is frozen, and load what ``pretrained`` names.

        Args:
            embed_dims (Sequence[int]): Channels of each stage's map.
            out_norm (bool): Whether each returned map passes a LayerNorm of its own.
            norm_eps (float): What that adds to the variance. Default: 1e-6.
        """
        if out_norm:
            norms = {str(i): nn.LayerNorm(embed_dims[i], eps=norm_eps) for i in sorted(self.out_indices)}
            self.out_norms.update(norms)
        for module in self._frozen_modules():
            module.requires_grad_(False)
        names = {module: name for name, module in self.named_modules()}
        parts = self.parts()
        for i in self.out_indices:
            last = parts[i + 1][-1]
            while isinstance(last, nn.ModuleList):  # which is never called itself
                last = last[-1]
            info = dict(num_chs=embed_dims[i], reduction=self.stage_strides[i], module=names[last])
            self.feature_info.append(info)
        if self._load_at_once:
            self.init_weights()
            forget_checkpoints()

    @property
    def out_channels(self) -> list[int]:
        """Channels of each map that is returned."""
        return self.feature_info.channels()

    @property
    def strides(self) -> list[int]:
        """Pixels of the image that a token of each map that is returned covers, along each side."""
        return self.feature_info.reduction()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of ``out_indices``.

        Args:
            x (Tensor): (B, in_channels, H, W) images, H and W from 1 up.

        Returns:
            tuple[Tensor, ...]: Per stage i of ``out_indices`` a contiguous (B, C_i, ceil(H / strides[i]),
            ceil(W / strides[i])) map.

        Raises:
            ValueError: If the input is not (B, in_channels, H, W) with H and W at least 1.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f'expected images of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}')
        if x.shape[0] < 1 or x.shape[2] < 1 or x.shape[3] < 1:
            raise ValueError(f'batch, height and width must be at least 1, got images of shape {tuple(x.shape)}')
        maps = self.maps(x)
        return tuple(self._returned(maps[i], i) for i in self.out_indices)

    def init_weights(self) -> None:
        """Apply MMEngine's initialisers that ``init_cfg`` names, then load its checkpoint, if it names one, strictly.

        Raises:
            InputError: If the checkpoint is missing, cannot be read, or lacks a weight of this backbone.
            ValueError: If ``init_cfg`` names several checkpoints, or keys that a checkpoint has no use for.
        """
        name = type(self).__name__
        init_cfgs = self.init_cfg if isinstance(self.init_cfg, list | tuple) else [self.init_cfg or {}]
        pretrained = [each for each in init_cfgs if is_pretrained(each)]
        if len(pretrained) > 1:
            raise ValueError(f'{name} loads one checkpoint, got {len(pretrained)} in init_cfg')
        if pretrained:
            known = ('type', 'checkpoint', 'sha256', 'prefix', 'map_location')
            if not {'type', 'checkpoint'} <= set(pretrained[0]) <= {*known}:
                raise ValueError(f'{name} takes init_cfg keys {", ".join(known)}, got {list(pretrained[0])}')
            initialize(self, [each for each in init_cfgs if not is_pretrained(each)])
            load_pretrained(self, named_by(pretrained[0]), pretrained[0].get('prefix'))
            self._is_init = True
            return
        super().init_weights()
        fixed, learning = [], []
        if self.norm_eval:
            fixed.append(f'norm_eval={self.norm_eval}')
            learning.append('norm_eval=False')
        if self.frozen_stages >= 0:
            fixed.append(f'frozen_stages={self.frozen_stages}')
            learning.append('frozen_stages=-1')
        if fixed:
            print_log(
                f'{name} starts from random weights, and {" and ".join(fixed)} keeps what was never trained as it is'
                f'{" (BatchNorm: mean 0, variance 1)" * self.norm_eval}. Unless a checkpoint is loaded after this, set '
                f'{" and ".join(learning)}',
                logger='current',
                level=logging.WARNING,
            )

    def train(self, mode: bool = True) -> 'Backbone':
        """Set training mode; frozen stages, and every BatchNorm under ``norm_eval``, stay in evaluation mode."""
        super().train(mode)
        if mode:
            for module in self._frozen_modules():
                module.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def _init_cfg_of(
        self, pretrained: str | Path | bool | None, init_cfg: dict | list[dict] | None
    ) -> dict | list[dict] | None:
        """The initialiser that a checkpoint stands for, or the one that was given."""
        if pretrained is None or pretrained is False:
            return init_cfg
        if init_cfg:
            raise InputError('pretrained and init_cfg exclude each other: pretrained loads now, init_cfg in a host')
        if pretrained is True or not str(pretrained):
            where = f'. Published weights: follow the links in the README of {self.published}' if self.published else ''
            raise InputError(f'pretrained must be a file or an address of one, got {pretrained!r}{where}')
        return dict(type='Pretrained', checkpoint=str(pretrained))

    def _frozen_modules(self) -> list[nn.Module]:
        """The stem and the first ``frozen_stages`` stages with the output norms they use."""
        frozen: list[nn.Module] = []
        for i, modules in enumerate(self.parts()[: self.frozen_stages + 1]):
            frozen += modules
            if str(i - 1) in self.out_norms:
                frozen.append(self.out_norms[str(i - 1)])
        return frozen

    def _returned(self, x: Tensor, index: int) -> Tensor:
        """Stage ``index``'s map as the host gets it: normalised if asked, contiguous NCHW."""
        if str(index) in self.out_norms:
            x = self.out_norms[str(index)](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x.contiguous()


def _with_clusters(module: nn.Module) -> list[nn.Module]:
    """The outermost layers of a module that have a method ``clusters``."""
    if hasattr(module, 'clusters'):
        return [module]
    return [layer for child in module.children() for layer in _with_clusters(child)]
