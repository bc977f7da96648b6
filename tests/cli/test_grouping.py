import pytest
from mmengine.config import Config

from mmsec.cli.grouping import backbone_options, grouping_of, set_grouping
from mmsec.errors import InputError


def test_options_are_read_as_numbers_truth_values_and_words():
    assert grouping_of(['KMeansGrouping', 'num_iters=5']) == dict(type='KMeansGrouping', num_iters=5)
    assert grouping_of(['WindowGrouping', 'shift=True']) == dict(type='WindowGrouping', shift=True)
    wanted = dict(type='SemanticGrouping', feature='value', cut='interleaved')
    assert grouping_of(['SemanticGrouping', 'feature=value', "cut='interleaved'"]) == wanted


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['WindowsGrouping'], "--grouping: type of grouping must be one of .* got 'WindowsGrouping'.* custom_imports"),
        (['WindowGrouping', 'shift'], "--grouping WindowGrouping: options are given as key=value, got 'shift'"),
        (['WindowGrouping', 'shfit=True'], "--grouping: grouping WindowGrouping has no option 'shfit'; it takes shift"),
        (['SemanticGrouping', 'feature=kay'], "--grouping: feature must be one of .* got 'kay'"),
    ],
)
def test_what_is_not_there_is_one_line(words, message):
    with pytest.raises(InputError, match=message) as error:
        grouping_of(words)
    assert '\n' not in str(error.value)


def test_the_grouping_of_a_config_is_replaced():
    cfg = Config(dict(model=dict(backbone=dict(type='mmsec.SecViT', grouping=dict(type='SemanticGrouping', cut='x')))))
    set_grouping(cfg, None)
    assert cfg.model.backbone.grouping.cut == 'x'
    set_grouping(cfg, ['WindowGrouping'])
    assert cfg.model.backbone == dict(type='mmsec.SecViT', grouping=dict(type='WindowGrouping'))


def test_a_backbone_groups_otherwise_by_words_of_a_grouping_and_numbers_of_clusters():
    found = backbone_options('WindowGrouping shift=True num_clusters=16,4,1,1')
    assert found == dict(grouping=dict(type='WindowGrouping', shift=True), num_clusters=(16, 4, 1, 1))
    assert backbone_options('RandomGrouping carriers=2') == dict(grouping=dict(type='RandomGrouping'), carriers=2)
    with pytest.raises(InputError, match="num_clusters must be numbers such as 32,8,2,1, got 'a'"):
        backbone_options('WindowGrouping num_clusters=a')
    with pytest.raises(InputError, match='a grouping must have a name, got nothing'):
        backbone_options('')
