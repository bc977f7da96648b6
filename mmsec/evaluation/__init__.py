"""How far clusters agree with annotations."""
