"""The model index names every config and nothing else, and the tables are those of its entries."""

import json
from pathlib import Path

import model_index as tool
import pytest
import yaml
from mmengine.registry import MODELS

from mmsec.cli.config import load_config, revert_sync_bn
from mmsec.errors import InputError
from tests.conftest import ROOT

FOLDER = ROOT / 'configs'
HOSTS = ('mmdet', 'mmpretrain', 'mmseg')
CONFIGS = sorted(str(path.relative_to(ROOT)) for host in HOSTS for path in FOLDER.glob(f'{host}/[!_]*/*.py'))
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
        assert model.keys() <= {'Name', 'Alias', 'In Collection', 'Config', 'Metadata', 'Results', 'Weights'}
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


@pytest.mark.parametrize('name', CONFIGS)
def test_a_name_keeps_to_the_grammar_and_stands_beside_that_of_openmmlab(name):
    path = Path(name)
    alias = tool.alias(path)
    assert MODELS_OF[path.stem]['Alias'] == [alias], 'out of date: python tools/analysis_tools/model_index.py'
    rows = (ROOT / path.parent / 'README.md').read_text().splitlines()
    assert any(f'({path.name})' in row and row.endswith(f'| `{alias}` |') for row in rows)


def test_the_grammar_of_names():
    wanted = ('vit', 'b', 'upernet', '_mae_pitome', '', 'shapes')
    assert tuple(tool.parts_of('vit_b_upernet_mae_pitome_shapes').values()) == wanted
    assert tool.alias(Path('configs/mmdet/secvit/secvit_b_maskrcnn.py')) == 'mask-rcnn_secvit-b_fpn_1x_coco'
    for name in ('secvit_t_in1k', 'vit_b_mae_upernet', 'secvit_t_maskrcnn_shapes_3x', 'secvit_x_maskrcnn'):
        with pytest.raises(InputError, match=f"'{name}' does not keep to the grammar"):
            tool.parts_of(name)
    aliases = [alias for each in MODELS_OF.values() for alias in each['Alias']]
    assert len(set(aliases)) == len(aliases)


def test_the_tables_are_those_of_the_index():
    for name in tool.PAGES:
        assert (ROOT / name).read_text() == tool.page(name), f'{name} is out of date: make tables'


def test_images_of_a_schedule():
    found = {name: tool.images_of(MODELS_OF[name]) for name in MODELS_OF}
    assert found['secvit_b_maskrcnn'] == 12 * 117_266
    assert found['secvit_t_cascade_maskrcnn_3x'] == 36 * 117_266
    assert found['secvit_t_upernet'] == 160_000 * 16
    assert found['secvit_s_mask2former'] == 50 * 117_266
    assert found['secvit_t_maskrcnn_nuclei'] is None  # of sets whose size is not noted
    assert tool.row('a', MODELS_OF['secvit_s_maskrcnn'])[3] == '17'


def test_results_are_those_of_the_evidence():
    rows = {name: found for name, found in tool.trained().items() if name in MODELS_OF}
    assert {name for name, each in MODELS_OF.items() if 'Results' in each} >= set(rows), 'out of date: make tables'
    for name, found in rows.items():
        model = MODELS_OF[name]
        assert model['Results'] == tool.results_of(model, found), f'{name} is out of date: make tables'


def test_a_result_that_was_written_by_hand_stays(monkeypatch):
    content = {'Models': [{'Name': 'secvit_b_maskrcnn', 'Config': 'a', 'Results': [{'Metrics': {'box AP': 50.0}}]}]}
    written = []
    monkeypatch.setattr(tool, 'metafiles', lambda: {Path('a/metafile.yml'): content})
    monkeypatch.setattr(tool, 'write', lambda folder, models: written.extend(models))
    tool.add_results()
    assert written[0]['Results'] == [{'Metrics': {'box AP': 50.0}}]


def test_a_result_is_the_mean_over_finished_seeds_in_percent(monkeypatch, tmp_path):
    monkeypatch.setattr(tool, 'EVIDENCE', tmp_path)
    names = ('coco/segm_mAP', 'coco/segm_mAP_50', 'coco/bbox_mAP')  # AP75 is missing
    seeds = {'0': {'metrics': dict.fromkeys(names, 0.25)}, '1': {'metrics': dict.fromkeys(names, 0.35)}}
    runs = {
        'secvit_t_maskrcnn_nuclei': seeds | {'2': {'failed': 'nan'}},
        'vit_s_maskrcnn_nuclei': {'0': {'failed': 'nan'}},
        'secvit_t_upernet_camvid': {'0': {'metrics': {'mIoU': 31.26, 'aAcc': 70.0}}},
    }
    (tmp_path / 'backbones.json').write_text(json.dumps({'runs': runs}))
    rows = tool.trained()
    assert [len(each) for each in rows.values()] == [2, 1]
    (nuclei,), (camvid,) = (tool.results_of(MODELS_OF[name], found) for name, found in rows.items())
    assert (nuclei['Task'], nuclei['Dataset']) == ('Instance Segmentation', 'Data Science Bowl 2018')
    assert nuclei['Metrics'] == {'mask AP': 30.0, 'mask AP50': 30.0, 'box AP': 30.0}
    assert camvid['Metrics'] == {'mIoU': 31.3, 'pixel accuracy': 70.0}
