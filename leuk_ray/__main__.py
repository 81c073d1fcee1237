"""The entry point: `leuk-ray`, or `python -m leuk_ray`."""

import signal


def main() -> None:
    """Run the command line; Ctrl-C while it is imported ends the process without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from leuk_ray.cli.main import main as run

    run()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the result is there; what remains is to leave


if __name__ == "__main__":
    main()
