"""Every backbone, for tests that hold of each."""

import pytest

from tests.models.backbones.small import SMALL, Small


@pytest.fixture(params=SMALL)
def small(request) -> Small:
    return SMALL[request.param]
