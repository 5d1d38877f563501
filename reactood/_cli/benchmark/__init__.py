"""The command ``benchmark``: the paper's comparisons, on public images or your own."""
