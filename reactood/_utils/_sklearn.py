"""The only module that imports private names of scikit-learn.

Any release of scikit-learn may move them. Then only this file must change.
"""

from sklearn.base import BaseEstimator, _fit_context
from sklearn.model_selection._split import GroupsConsumerMixin
from sklearn.utils import _safe_indexing
from sklearn.utils._metadata_requests import _routing_enabled
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils._set_output import _wrap_data_with_container
from sklearn.utils.validation import (
    _check_method_params,
    _num_samples,
)

__all__ = [
    "GroupsConsumerMixin",
    "HTMLWithMore",
    "HasMethods",
    "Interval",
    "InvalidParameterError",
    "StrOptions",
    "_check_method_params",
    "_fit_context",
    "_num_samples",
    "_routing_enabled",
    "_safe_indexing",
    "_wrap_data_with_container",
    "validate_parameter_constraints",
]


class HTMLWithMore(BaseEstimator):
    """Adds `_more_html()` to scikit-learn's display of an estimator in a notebook."""

    def _more_html(self):
        return ""

    def _repr_html_inner(self):
        return super()._repr_html_inner() + self._more_html()

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        if "text/html" in bundle:
            bundle["text/html"] += self._more_html()
        return bundle
