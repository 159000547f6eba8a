"""What tests of methods from outside share."""

import pytest

from tests.support.outside_folder import outside_folder

folder = pytest.fixture(outside_folder)
