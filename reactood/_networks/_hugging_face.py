"""Build classifiers of Hugging Face's transformers from a name or a folder."""

import contextlib
import os

PREFIX = "hf/"
KINDS = (  # of tasks: the class that builds a model, and the table of its models
    ("AutoModelForImageClassification", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING"),
    ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING"),
    ("AutoModelForAudioClassification", "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING"),
)


def from_hugging_face(name, weights):
    """Return a classifier, and the image processor that belongs to it or None."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"model='hf/{name}' needs transformers: pip install "
            "'reactood[huggingface]'."
        ) from error
    if weights not in (None, "DEFAULT"):
        raise ValueError(
            f"weights={weights!r} for a Hugging Face model; expected 'DEFAULT' or "
            "None, and other weights by another name: 'hf/OWNER/NAME', or "
            "'hf/FOLDER' for a folder that save_pretrained has written."
        )
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model='hf/{name}' cannot be loaded ({_first_line(error)}); expected "
            "'hf/OWNER/NAME' as on the Hugging Face Hub, or 'hf/FOLDER' for a folder "
            "that save_pretrained has written."
        ) from error
    for builder, table in KINDS:
        if type(config) in getattr(transformers, table):
            cls = getattr(transformers, builder)
            break
    else:
        raise ValueError(
            f"model='hf/{name}' is a {config.model_type!r} model, for which "
            "transformers has no classifier of images, sequences or audio; pass the "
            "module itself."
        )
    if weights is None:
        network = cls.from_config(config)
    else:
        network, info = cls.from_pretrained(name, output_loading_info=True)
        if info["missing_keys"]:
            raise ValueError(
                f"model='hf/{name}' has no trained weights for "
                f"{', '.join(sorted(info['missing_keys']))}: it was not trained as a "
                "classifier. Choose a model that was fine-tuned for classification."
            )
    if builder != KINDS[0][0]:
        return network, None
    with contextlib.suppress(OSError):  # there is none beside the weights
        return network, transformers.AutoImageProcessor.from_pretrained(name)
    return network, None


def version_of(model):
    """Return what changes when a folder that a name stands for is written again."""
    if not isinstance(model, str) or not model.startswith(PREFIX):
        return None
    folder = model.removeprefix(PREFIX)
    if not os.path.isdir(folder):
        return None
    with os.scandir(folder) as entries:
        found = [(e.name, e.stat().st_mtime_ns, e.stat().st_size) for e in entries]
    return os.path.abspath(folder), tuple(sorted(found))


def _first_line(error):
    return str(error).strip().partition("\n")[0].rstrip(".")
