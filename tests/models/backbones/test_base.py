"""What all backbones have in common."""

import pytest

from mmsec.models import ClusTR, SecViT


@pytest.mark.parametrize(
    ('make', 'named'),
    [
        (lambda: SecViT('tiny', norm_eval=True, frozen_stages=1), 'set norm_eval=False and frozen_stages=-1'),
        (lambda: ClusTR('b1', frozen_stages=1), 'frozen_stages=1 keeps what was never trained as it is. Unless'),
    ],
)
def test_a_warning_of_frozen_random_weights_names_options_that_the_backbone_has(make, named, log):
    make().init_weights()
    (warning,) = (line for line in log if 'random weights' in line)
    assert named in warning
    assert ('norm_eval' in warning) == ('norm_eval' in named)
