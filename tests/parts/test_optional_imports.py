"""Optional libraries."""

import pytest

from torchstone.errors import BadInput
from torchstone.parts.optional_imports import import_optional, import_torchvision


def test_import_optional_names_the_missing_library():
    with pytest.raises(BadInput, match=r"needs no_such_library: pip install .*torchstone\[test\]"):
        import_optional("no_such_library")


def test_import_torchvision_has_models():
    assert hasattr(import_torchvision().models, "resnet18")
