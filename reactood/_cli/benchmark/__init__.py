"""The command ``benchmark``: the paper's comparisons, on public or own images."""
