"""Tokens over an image -> a picture. No files are read or written here."""
