"""What `import leuk_ray` offers: one function a command, and what they return.

The command line calls the same functions and prints their results.
"""
