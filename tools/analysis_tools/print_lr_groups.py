"""Learning rates of a config's model, layer by layer, as its optimizer gets them; no data set or weights are needed."""

import argparse
from collections.abc import Iterator, Mapping

from mmengine.config import DictAction
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

from mmsec.cli.config import load_config, revert_sync_bn
from mmsec.engine.optimizers.layer_decay import LayerDecayOptimizerConstructor, layer_depths
from mmsec.engine.processes import run
from mmsec.registry import OPTIM_WRAPPER_CONSTRUCTORS


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='key=value pairs that override the config')
    return parser.parse_args()


def places(module: nn.Module, kinds: Mapping[str, object], prefix: str = '') -> Iterator[tuple[str, object]]:
    """Names and kinds of the largest modules whose parameters are all of one kind, in the order of the model."""
    inside = {kinds[prefix + name] for name, _ in module.named_parameters() if prefix + name in kinds}
    if len(inside) == 1:
        yield prefix.removesuffix('.') or 'all', inside.pop()
        return
    for name, _ in module.named_parameters(recurse=False):
        if prefix + name in kinds:
            yield prefix + name, kinds[prefix + name]
    for name, child in module.named_children():
        yield from places(child, kinds, f'{prefix}{name}.')


def main() -> None:
    """Build model and optimizer, and print."""
    args = parse_args()
    MMLogger.get_instance('print_lr_groups', log_level='ERROR')  # or MMEngine prints the settings of each parameter
    cfg = load_config(args.config, args.cfg_options)
    revert_sync_bn(cfg, 'none')
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.get(cfg.optim_wrapper.get('constructor', 'DefaultOptimWrapperConstructor'))
    decays = isinstance(constructor, type) and issubclass(constructor, LayerDecayOptimizerConstructor)
    kind = cfg.optim_wrapper.get('paramwise_cfg', {}).get('decay_type', 'layer_wise')
    layers = layer_depths(model, kind) if decays else {}
    rates = {parameter: group['lr'] for group in groups for parameter in group['params']}
    kinds = {
        name: (layers[name][0] if decays else '', rates[parameter])
        for name, parameter in model.named_parameters()
        if parameter in rates
    }
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    found = list(places(model, kinds))
    print(f'{kind.removesuffix("_wise") if decays else "":<5}  {"rate":<10}  {"parameters":>11}  modules')
    for each in sorted(set(kinds.values())):
        layer, rate = each
        count = sum(size for name, size in sizes.items() if kinds.get(name) == each)
        print(f'{layer:<5}  {rate:<10.4g}  {count:>11,}  {", ".join(name for name, of in found if of == each)}')
    weight_decays = sorted({group['weight_decay'] for group in groups})
    print(f'{len(groups)} groups; weight decay {" or ".join(f"{each:g}" for each in weight_decays)}')
    lowest = min(rates.values())
    schedules = cfg.get('param_scheduler') or []
    for i, schedule in enumerate(schedules if isinstance(schedules, list) else [schedules]):
        if (schedule.get('eta_min') or 0) > lowest:
            print(
                f'param_scheduler.{i}: eta_min={schedule["eta_min"]:g} is above the lowest rate, {lowest:.4g}, which '
                'it raises. Set eta_min_ratio instead, where the schedule has it'
            )


if __name__ == '__main__':
    run(main)
