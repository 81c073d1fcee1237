"""What one worker does, and how Ray Train places it."""
