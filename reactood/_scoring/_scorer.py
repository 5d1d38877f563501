"""Scorer: from features to scores by clip, head and score function."""

import numpy as np
import torch

from reactood._scoring._blocks import (
    Workspace,
    check_finite,
    nan_rows,
    rows_per_block,
    tensor_blocks,
)
from reactood._scoring._clip import Clip
from reactood._scoring._scores import (
    check_scores,
    check_spread,
    common_part,
    score_of,
    several_scores,
    threshold_of,
)
from reactood._utils._ambient import without_autocast
from reactood._utils._tensors import choose_device


class Scorer:
    """Scores features by a head, clipped in one way or in several.

    Everything is done with a block of rows before the next is read, so that memory
    depends on the block and not on the number of rows.

    Parameters
    ----------
    head : IdentityHead, LinearHead or ModuleHead
        What maps features to logits.
    score_function : str or callable
        A name in ``SCORES``, or a function from logits to one score per row.
    temperature : float
        The temperature of the named scores.
    batch_size : int or None
        Rows per block; None chooses.
    device : str, torch.device or None
        Where to compute; None stays where the features are.
    allow_nan : bool
        Whether rows that hold NaN get a score of NaN. Otherwise they are an error, as
        inf is in any case.
    """

    def __init__(
        self,
        head,
        score_function="energy",
        temperature=1.0,
        *,
        batch_size=None,
        device=None,
        allow_nan=False,
    ):
        self.head = head
        self.score_function = score_function
        self.temperature = temperature
        self.batch_size = batch_size
        self.device = device
        self.allow_nan = allow_nan

    def scores(self, X, clips, rows=None):
        """Return an array of float64 scores for each clip."""
        function = score_of(self.score_function, self.temperature)
        results, unknown = self._map_logits(X, clips, function, rows)
        results = [scores.double().numpy() for scores in results]
        for scores in results:
            if unknown is not None:
                scores[unknown] = 0
            check_scores(scores)
            if unknown is not None:
                scores[unknown] = np.nan
        return results

    def scores_of_reduced(self, X, clips, scores, kept, rows=None):
        """Return several scores of heads that have lost some of the classes.

        Parameters
        ----------
        X : array or tensor of shape (n_samples, n_features)
            Features, all finite.
        clips : list of Clip
            The clips; the head is applied once for each.
        scores : list of (score_function, temperature)
            Each a name in ``SCORES`` or a function of logits, and a temperature.
        kept : bool array of shape (n_heads, n_classes)
            The classes that each reduced head has.
        rows : bool array of shape (n_samples,), default=None
            The rows that count.

        Returns
        -------
        scores : ndarray of shape (n_clips, n_heads, n_scores, n_rows)
            Of float64.
        """
        columns = [torch.from_numpy(np.flatnonzero(some)) for some in kept]

        def of_all(logits):
            mean, results = logits.mean(dim=1), []
            for some in columns:
                reduced = logits.index_select(1, some.to(logits.device))
                results += several_scores(reduced, scores, mean)
            return torch.stack([score.double() for score in results], dim=1)

        results, _ = self._map_logits(X, clips, of_all, rows)
        shape = len(results[0]), len(columns), len(scores)
        stacked = [result.numpy().reshape(shape) for result in results]
        return np.moveaxis(np.stack(stacked), 1, -1)

    def threshold(self, X, scores, share, counts=None):
        """Return the score of ``X`` that a share of the rows is below.

        ``counts`` says how many rows each row of ``X`` stands for.

        Raises ValueError if all scores are the same, as far as their precision tells.
        """
        n_classes = len(self.head.classes)
        common = common_part(self.score_function, n_classes, self.temperature)
        check_spread(scores, X, common)
        return threshold_of(scores, share, X, common, counts)

    def decisions(self, X, rows=None):
        """Return the index of each row's largest unclipped logit; of NaN, as if 0."""
        (best,), _ = self._map_logits(X, [Clip()], lambda z: z.argmax(1), rows)
        return best.numpy()

    def classes(self, X):
        """Return the class of each row by its unclipped logits; of NaN, as if 0."""
        return self.head.classes[self.decisions(X)]

    def clipped(self, X, clip):
        """Return clipped features as an array."""
        check_finite(X, allow_nan=self.allow_nan)
        return torch.cat([clip.apply(block).cpu() for block in self._blocks(X)]).numpy()

    def _blocks(self, X, rows=None):
        if self.device is not None:
            device = choose_device(self.device)
        else:
            device = X.device if isinstance(X, torch.Tensor) else torch.device("cpu")
        n_rows = self.batch_size or rows_per_block(X.shape[1], device)
        return tensor_blocks(X, rows, n_rows=n_rows, device=device)

    @without_autocast()
    def _map_logits(self, X, clips, function, rows=None):
        """Apply ``function`` to the logits of each block, clipped in each way.

        Returns the results for each clip, and which rows hold NaN, where they may;
        None where no row does.
        """
        n_rows = len(X) if rows is None else int(np.count_nonzero(rows))
        results: list[torch.Tensor] = []
        finite, logits, start = True, None, 0
        workspace = Workspace()
        with torch.inference_mode():
            for block in self._blocks(X, rows):
                logits = logits or self.head.on(block)
                # A sum shows NaN and inf. It is read at the end: no block waits for it.
                block_is_finite = block.sum().isfinite()
                finite &= block_is_finite
                on_cpu = block.device.type == "cpu"
                if self.allow_nan and not (on_cpu and block_is_finite):
                    # The head and the user's function see no NaN.
                    block = block.nan_to_num(nan=0.0, posinf=np.inf, neginf=-np.inf)
                for i, clip in enumerate(clips):
                    features = clip.apply(block, workspace.of(block, block.shape[1]))
                    result = function(logits(features))
                    result = torch.as_tensor(result, device=block.device)
                    if len(results) == i:  # in the first block
                        results.append(result.new_empty(n_rows, *result.shape[1:]))
                    # A tensor of its own for each block would keep the allocator from
                    # using the memory between them again, which is large.
                    results[i][start : start + len(block)] = result
                start += len(block)
            whole = [result.cpu() for result in results]
        if finite:
            return whole, None
        check_finite(X, rows, allow_nan=self.allow_nan)
        unknown = nan_rows(
            X, rows
        )  # no row, if only the sum of finite numbers overflowed
        return whole, unknown if unknown.any() else None
