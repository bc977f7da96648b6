"""How far clusters agree with annotations, and predictions as a file."""
