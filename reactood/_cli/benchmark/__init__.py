"""The command ``benchmark``: the paper's comparisons, on public image sets."""
