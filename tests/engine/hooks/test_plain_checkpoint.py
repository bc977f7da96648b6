import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmsec.registry import HOOKS


def test_history_goes_into_a_checkpoint_as_plain_values_and_comes_back(tmp_path):
    buffer = HistoryBuffer([1.0, 2.5], [1, 3])
    checkpoint = {'message_hub': {'log_scalars': {'train/loss': buffer}, 'runtime_info': {'eta': np.float64(1.5)}}}
    hook = HOOKS.build(dict(type='mmsec.PlainCheckpointHook'))
    hook.before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / 'c.pth')
    loaded = torch.load(tmp_path / 'c.pth', weights_only=True)
    hook.after_load_checkpoint(None, loaded)
    assert loaded['message_hub']['runtime_info'] == {'eta': 1.5}
    restored = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(restored, HistoryBuffer)
    assert [a.tolist() for a in restored.data] == [[1.0, 2.5], [1, 3]]
    hook.after_load_checkpoint(None, {'state_dict': {}})  # without history
