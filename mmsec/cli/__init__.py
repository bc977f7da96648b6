"""What the tools share. Everything a user can get wrong is looked at before a model is built, and is one line."""
