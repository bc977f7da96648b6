"""A top-level name of a config that nothing reads is named with what is read."""

import pytest
from mmengine.config import Config

from mmsec.cli.names import check_names, check_option
from mmsec.errors import InputError

BASE = """
data_root = 'data/'
image_size = (64, 64)
length = 5
steps = length // 2
_own = 1
train_pipeline = [dict(type='Load'), dict(type='Resize', scale=image_size)]
data = dict(data_root=data_root, file=data_root + 'a.json', pipeline=train_pipeline)
train_dataloader = dict(batch_size=2, dataset=data)
val_dataloader = dict(dataset=dict(data_root=data_root))
model = dict(head=dict(num_classes=5))
train_cfg = dict(max_epochs=length, val_interval=steps)
"""
ROOTS = 'train_dataloader.dataset.data_root, val_dataloader.dataset.data_root, train_dataloader.dataset.file'


@pytest.fixture
def config(tmp_path):
    """Write a file that is based on BASE, by as many files between as there are other texts, and read it."""

    def write(*texts):
        for i, text in enumerate((BASE, *texts)):
            (tmp_path / f'{i}.py').write_text(f"_base_ = './{i - 1}.py'\n" * bool(i) + text)
        return Config.fromfile(tmp_path / f'{len(texts)}.py')

    return write


@pytest.mark.parametrize(
    ('texts', 'message'),
    [
        (["data_root = 'else/'"], f'line 2: nothing reads data_root by this name; set what is read: {ROOTS}'),
        (["data_root = 'else/'", ''], f'1.py., line 2: nothing reads data_root by this name; .*: {ROOTS}'),
        (["train_pipeline = [dict(type='Load')]"], 'set what is read: train_dataloader.dataset.pipeline$'),
        (['image_size = (32, 32)'], 'set what is read: train_dataloader.dataset.pipeline.1.scale$'),
        (['num_classes = 2'], 'set what is read: model.head.num_classes$'),
        (['a = b = 2'], 'nothing reads a, neither the tools nor the rest of the config$'),
        (['trian_dataloader = dict()'], "nothing reads trian_dataloader. Did you mean 'train_dataloader'?"),
        (["optimizer = dict(type='SGD')"], 'had a meaning before MMEngine; set optim_wrapper.optimizer$'),
        ([BASE.replace('\nmodel', '\nmodle')], 'nothing reads modle'),
    ],
)
def test_a_name_that_a_file_sets_without_effect_is_named_with_what_is_read(config, texts, message):
    with pytest.raises(InputError, match=message) as error:
        check_names(config(*texts))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'texts',
    [
        [],
        ["data_root = 'data/'"],
        ["data_root = 'else/'\nval_dataloader = dict(dataset=dict(data_root=data_root))"],
        ['half = 3', 'train_cfg = dict(max_epochs=_base_.half)'],
        ['half = 3', 'train_cfg = dict(max_epochs={{_base_.half}})'],
        ['_own = 2\nload_from = None\nruntime = 1\ncompile = bool(runtime)'],
    ],
)
def test_names_that_are_read_used_or_unchanged_pass(config, log, texts):
    check_names(config(*texts))
    assert log == []


def test_the_file_of_a_run_may_keep_names_whose_values_went_elsewhere(config, log, tmp_path):
    written = config(
        "train_dataloader = dict(dataset=dict(data_root='b/'))\nval_dataloader=dict(dataset=dict(data_root='c/'))"
    )
    written.dump(tmp_path / 'run.py')
    check_names(Config.fromfile(tmp_path / 'run.py'))
    assert log == [f"config '{tmp_path}/run.py': nothing reads data, data_root"]


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('data_root', f'--cfg-options data_root: nothing reads data_root by this name; set what is read: {ROOTS}'),
        ('train_pipeline.1.scale', 'set what is read: train_dataloader.dataset.pipeline$'),
        ('batch_size', 'set what is read: train_dataloader.batch_size$'),
        ('lr_config.policy', 'had a meaning before MMEngine; set param_scheduler$'),
        ('lr_confg.policy', 'no .lr_confg. in the config'),
    ],
)
def test_an_option_for_such_a_name_is_refused(config, option, message):
    with pytest.raises(InputError, match=message):
        check_option(config(), option)
    check_option(config(), 'train_dataloader.dataset.data_root')
