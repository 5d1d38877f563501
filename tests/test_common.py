"""scikit-learn's contract, for every public estimator."""

import pytest
import sklearn.utils.estimator_checks as checks
from conftest import TabularNet
from sklearn.utils.estimator_checks import parametrize_with_checks

from reactood import ReActDetector, TorchFeatureExtractor

DETECTORS = [
    ReActDetector(),
    ReActDetector(percentile=None),
    ReActDetector(per_unit=True),
    ReActDetector(percentile=95, lower_percentile=5, score_function="max_logit"),
    ReActDetector(score_function="msp", temperature=2.0),
    ReActDetector(score_function="entropy", batch_size=3),
    ReActDetector(on_nan="reject"),
]
EXTRACTORS = [TorchFeatureExtractor(TabularNet)]

# scikit-learn runs these on itself; parametrize_with_checks leaves them out.
EXTRA = [
    "check_param_validation",
    "check_dataframe_column_names_consistency",
    "check_inplace_ensure_writeable",
]
EXTRA_TRANSFORMER = [
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_global_output_transform_pandas",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_get_feature_names_out_error",
]


@pytest.mark.filterwarnings("ignore:y holds the values")  # of the checks, any
@parametrize_with_checks([*DETECTORS, *EXTRACTORS])
def test_contract(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:y holds the values")  # of the checks, any
@pytest.mark.parametrize("name", EXTRA)
@pytest.mark.parametrize("estimator", [*DETECTORS[:1], *EXTRACTORS], ids=repr)
def test_extra_contract(estimator, name):
    getattr(checks, name)(type(estimator).__name__, estimator)


# The checks fit on a DataFrame and transform an array on purpose.
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")
@pytest.mark.parametrize("name", EXTRA_TRANSFORMER)
@pytest.mark.parametrize("estimator", EXTRACTORS, ids=repr)
def test_transformer_contract(estimator, name):
    getattr(checks, name)(type(estimator).__name__, estimator)
