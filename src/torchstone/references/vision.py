"""Libraries of computer vision that networks and metrics are compared with."""

from types import ModuleType

from torchstone.parts.optional_imports import import_optional, import_torchvision


def import_timm() -> ModuleType:
    """Import timm, which imports torchvision."""
    import_torchvision()
    return import_optional("timm")


def import_torchmetrics() -> ModuleType:
    """Import torchmetrics, whose image metrics look for torchvision."""
    import_torchvision()
    return import_optional("torchmetrics")
