"""A config becomes an ONNX file, and what cannot is one line."""

import onnxruntime
import torch
from mmengine.config import Config

from tests.conftest import (
    DETECTOR,
    ROOT,
    SEGMENTER,
    one_line_error,
    run_tool,
    shrink_model,
    small_checkpoint,
    small_run,
)

IMAGE = ROOT / 'docs/images/contact_sheet.jpg'
TOOL = 'deployment/export_onnx.py'


def test_a_segmentor_is_exported_whole_and_compared(shapes, tmp_path):
    config = small_run(SEGMENTER, shapes, tmp_path)
    out = tmp_path / 'files/segmentor.onnx'
    said = run_tool(TOOL, config, small_checkpoint(config), out, '--shape', 64, 96, '--verify', IMAGE).stdout
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
    config, out = tmp_path / 'detector.py', tmp_path / 'out.onnx'
    cfg.dump(config)
    tool = f'tools/{TOOL}'
    error = one_line_error(tool, config, out, '--shape', 64, 64)
    assert 'of its models the backbone alone can be exported, by --backbone' in error
    assert not out.exists()
    assert 'weights are random' in run_tool(TOOL, config, out, '--shape', 64, 64, '--backbone').stdout
    outputs = onnxruntime.InferenceSession(out).run(None, {'images': torch.zeros(1, 3, 64, 64).numpy()})
    assert [each.shape[-1] for each in outputs] == [16, 8, 4, 2]


def test_a_head_that_needs_more_than_maps_is_refused(tmp_path):
    config = 'configs/mmseg/secvit/secvit_t_mask2former_semantic.py'
    error = one_line_error(f'tools/{TOOL}', config, tmp_path / 'out.onnx', '--shape', 64, 64)
    assert "_mask2former_semantic.py': Mask2FormerHead needs batch_data_samples beside the maps" in error
    assert 'by --backbone' in error


def test_what_cannot_be_used_is_one_line(tmp_path):
    tool, config = f'tools/{TOOL}', f'configs/{SEGMENTER}'
    absent = one_line_error(tool, config, tmp_path / 'a.onnx', '--shape', 64, 64, '--verify', 'absent.jpg')
    assert "--verify 'absent.jpg' is not an image that can be read" in absent
    clustr = one_line_error(
        tool, 'configs/mmseg/clustr/clustr_b1_upernet_shapes.py', tmp_path / 'a.onnx', '--shape', 64, 64, '--backbone'
    )
    assert 'uses mmsec::density_peaks' in clustr
    small = run_tool(TOOL, config, tmp_path / 'a.onnx', '--shape', 48, 64, '--dynamic', check=False)
    assert '--shape must be at least 64 64, got 48 64' in small.stdout
    assert (
        "OUT must end in .onnx, got 'a.pth'" in run_tool(TOOL, config, 'a.pth', '--shape', 64, 64, check=False).stdout
    )
