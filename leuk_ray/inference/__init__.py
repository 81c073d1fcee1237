"""The one path from pixels to an answer."""
