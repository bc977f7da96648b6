"""A group of processes that is this one alone."""

import pytest
import torch.distributed


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
