"""A progress bar, if one is requested and tqdm is installed."""

import contextlib

from reactood._utils._warnings import warn


def progress_bar(total, verbose, desc="features"):
    """Return a context manager whose value has ``update(n)``."""
    if not verbose:
        return contextlib.nullcontext(_Silent())
    try:
        from tqdm.auto import tqdm
    except ImportError:
        warn(
            "verbose=True shows progress with tqdm, which is not installed: "
            "pip install 'reactood[progress]'. Continuing without a progress bar.",
        )
        return contextlib.nullcontext(_Silent())
    return tqdm(total=total, desc=desc, unit="img")


class _Silent:
    def update(self, n):
        """Show nothing."""
