import cv2
import pytest

from tests.conftest import ROOT, error_here, run_here

TOOL = 'analysis_tools/visualize_merging.py'
VIT = ROOT / 'configs/mmseg/vit/vit_t_upernet_pitome_shapes.py'


def test_a_sheet_has_a_panel_for_each_block(image, tmp_path):
    printed = run_here(TOOL, image, '--config', VIT, '--out', tmp_path / 'out').stdout
    assert 'weights are random' in printed
    sheet = cv2.imread(str(tmp_path / 'out/image.png'))
    assert sheet.shape[1] == 1200
    assert sheet.std() > 20
    options = ['--cfg-options', 'model.backbone.merging.type=ToMe', 'model.backbone.merging._delete_=True']
    run_here(TOOL, image, '--config', VIT, '--block', 1, 6, '--out', tmp_path / 'other', *options)
    assert cv2.imread(str(tmp_path / 'other/image.png')).shape[0] < sheet.shape[0]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent.jpg', '--config', VIT], "'absent.jpg' not found"),
        (['IMAGE', '--config', VIT, '--block', 7], '--block 7: the backbone has 6 blocks'),
        (['IMAGE', '--config', ROOT / 'configs/mmseg/secvit_t_upernet_shapes.py'], 'SecViT, which merges no tokens'),
        (['IMAGE', '--config', VIT, '--cfg-options', 'model.backbone.merging.ratio=0.1'], 'ratio of PiToMe must be in'),
        (['IMAGE', '--config', VIT, '--cfg-options', 'model.backbone.merging=None'], 'merges nothing: --cfg-options'),
    ],
    ids=range(5),
)
def test_bad_input_is_one_line(image, tmp_path, arguments, message):
    arguments = [image if each == 'IMAGE' else each for each in arguments]
    assert message in error_here(TOOL, *arguments, '--out', tmp_path / 'out')
