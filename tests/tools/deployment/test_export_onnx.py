"""A config becomes an ONNX file, and what cannot is one line."""

import onnxruntime
import pytest
import torch
from mmengine.config import Config

from tests.conftest import DETECTOR, ROOT, SEGMENTER, error_here, run_here, shrink_model, small_checkpoint, small_run

IMAGE = ROOT / 'docs/images/contact_sheet.jpg'
TOOL = 'deployment/export_onnx.py'
ONE_BLOCK = {'model.backbone.arch.depths': (1, 1, 1, 1)}  # in each stage


def test_a_segmentor_is_exported_whole_and_compared(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path, **ONE_BLOCK)
    out = tmp_path / 'files/segmentor.onnx'
    said = run_here(TOOL, config, small_checkpoint(config), out, '--shape', 64, 96, '--verify', IMAGE).stdout
    assert 'images of 1x3x64x96 -> logits' in said
    assert 'of tokens fell into another cluster; in the same order of tokens the two differ by' in said
    assert 'weights are random' not in said
    session = onnxruntime.InferenceSession(out)
    assert session.get_modelmeta().custom_metadata_map['mean'] == '123.675 116.28 103.53'
    (logits,) = session.run(None, {'images': torch.randn(1, 3, 64, 96).numpy()})
    assert logits.shape[:2] == (1, Config.fromfile(config).model.decode_head.num_classes)


def test_of_a_detector_the_backbone_alone_is_exported(tmp_path):
    cfg = Config.fromfile(ROOT / 'configs' / DETECTOR)
    shrink_model(cfg)
    cfg.merge_from_dict(ONE_BLOCK)
    config, out = tmp_path / 'detector.py', tmp_path / 'out.onnx'
    cfg.dump(config)
    error = error_here(TOOL, config, out, '--shape', 64, 64)
    assert 'of its models the backbone alone can be exported, by --backbone' in error
    assert not out.exists()
    assert 'weights are random' in run_here(TOOL, config, out, '--shape', 64, 64, '--backbone').stdout
    outputs = onnxruntime.InferenceSession(out).run(None, {'images': torch.zeros(1, 3, 64, 64).numpy()})
    assert [each.shape[-1] for each in outputs] == [16, 8, 4, 2]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['configs/mmseg/secvit/secvit_t_mask2former_semantic.py', 'a.onnx'], 'Head needs batch_data_samples beside'),
        ([f'configs/{SEGMENTER}', 'a.onnx', '--verify', 'absent.jpg'], "'absent.jpg' is not an image that can be read"),
        ([f'configs/{SEGMENTER}', 'a.onnx', '--shape', 48, 64, '--dynamic'], '--shape must be at least 64 64, got 48'),
        ([f'configs/{SEGMENTER}', 'a.pth'], "OUT must end in .onnx, got 'a.pth'"),
    ],
    ids=range(4),
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, *rest = arguments
    assert message in error_here(TOOL, '--shape', 64, 64, ROOT / config, *rest)
    assert not [*tmp_path.iterdir()]
