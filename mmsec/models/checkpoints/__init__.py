"""Checkpoint files: read safely, found the backbone in, converted, loaded strictly. One file a family."""
