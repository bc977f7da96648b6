"""What backbones are made of; it reads like the papers."""
