"""A progress bar, if one is requested."""

import contextlib


def progress_bar(total, verbose, desc="features", **settings):
    """Return a context manager whose value has ``update(n)``."""
    if not verbose:
        return contextlib.nullcontext(_Silent())
    from tqdm.auto import tqdm  # takes time, and is often not needed

    return tqdm(total=total, desc=desc, unit="img", **settings)


class _Silent:
    def update(self, n):
        """Show nothing."""
