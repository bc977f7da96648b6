"""The model index names every config and nothing else, and the tables are those of its entries."""

from pathlib import Path

import pytest
import yaml
from mmengine.registry import MODELS

from mmsec.cli.config import load_config, revert_sync_bn
from tests.conftest import ROOT

FOLDER = ROOT / 'configs'
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in FOLDER.rglob('*.py') if '_base_' not in path.parts)
FILES = sorted(str(path.relative_to(ROOT)) for path in FOLDER.rglob('metafile.yml'))
METAFILES = {name: yaml.safe_load((ROOT / name).read_text()) for name in FILES}
MODELS_OF = {each['Name']: each for content in METAFILES.values() for each in content['Models']}


def test_the_index_names_every_metafile():
    assert yaml.safe_load((ROOT / 'model-index.yml').read_text()) == {'Import': FILES}


def test_every_config_has_one_entry():
    found = [each['Config'] for content in METAFILES.values() for each in content['Models']]
    missing = sorted(set(CONFIGS) - set(found))
    assert not missing, f'no entry; run python tools/analysis_tools/model_index.py: {", ".join(missing)}'
    assert sorted(found) == CONFIGS, 'an entry of a config that is not there, or a second one'


@pytest.mark.parametrize('name', FILES)
def test_a_metafile_is_whole(name):
    content = METAFILES[name]
    collections = {each['Name']: each for each in content['Collections']}
    for each in collections.values():
        assert each['Paper'].keys() == {'URL', 'Title'}
        assert (ROOT / each['README']).is_file()
    for model in content['Models']:
        assert model.keys() <= {'Name', 'In Collection', 'Config', 'Metadata', 'Results', 'Weights'}
        assert model['Name'] == Path(model['Config']).stem
        assert Path(model['Config']).parent == Path(name).parent
        assert model['In Collection'] in collections
        metadata = model['Metadata']
        assert metadata['Training Data']
        assert ('FLOPs' in metadata) == ('Input Size' in metadata)
        assert metadata['Parameters'] > metadata['Backbone Parameters'] > 0


@pytest.mark.parametrize('name', ['secvit_t_maskrcnn_shapes', 'clustr_b1_upernet_shapes'])
def test_parameters_are_those_of_the_model(name):
    model = MODELS_OF[name]
    cfg = load_config(str(ROOT / model['Config']))
    revert_sync_bn(cfg, 'none')
    built = MODELS.build(cfg.model)
    assert model['Metadata']['Parameters'] == sum(each.numel() for each in built.parameters())
    assert model['Metadata']['Backbone Parameters'] == sum(each.numel() for each in built.backbone.parameters())
    assert model['In Collection'] == type(built.backbone).__name__


def test_the_tables_are_those_of_the_index(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    from tools.analysis_tools.model_index import PAGES, page

    for name in PAGES:
        assert (ROOT / name).read_text() == page(name), f'{name} is out of date: make tables'
