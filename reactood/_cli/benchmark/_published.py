"""The numbers of the ReAct paper's Table 1.

FPR95 and AUROC in per cent for iNaturalist, SUN, Places and Textures, from the figure
of that table in the authors' repository.
"""

SOURCE = "Sun, Guo, Li, NeurIPS 2021, main table (ImageNet)"
SETS = "iNaturalist", "SUN", "Places", "Textures"
ROWS = {
    "ResNet-50": {
        "msp": ((54.99, 87.74), (70.83, 80.86), (73.99, 79.76), (68.00, 79.61)),
        "odin": ((47.66, 89.66), (60.15, 84.59), (67.89, 81.78), (50.23, 85.62)),
        "mahalanobis": ((97.00, 52.65), (98.50, 42.41), (98.40, 41.79), (55.80, 85.01)),
        "energy": ((55.72, 89.95), (59.26, 85.89), (64.92, 82.86), (53.72, 85.99)),
        "energy+react": (
            (20.38, 96.22),
            (24.20, 94.20),
            (33.85, 91.58),
            (47.30, 89.80),
        ),
    },
    "MobileNet-v2": {
        "msp": ((64.29, 85.32), (77.02, 77.10), (79.23, 76.27), (73.51, 77.30)),
        "odin": ((55.39, 87.62), (54.07, 85.88), (57.36, 84.71), (49.96, 85.03)),
        "mahalanobis": ((62.11, 81.00), (47.82, 86.33), (52.09, 83.63), (92.38, 33.06)),
        "energy": ((59.50, 88.91), (62.65, 84.50), (69.37, 81.19), (58.05, 85.03)),
        "energy+react": (
            (42.40, 91.53),
            (47.69, 88.16),
            (51.56, 86.64),
            (38.42, 91.53),
        ),
    },
}


def published(model, method, ood):
    """Return (FPR95, AUROC) in per cent, or None if the paper has no such numbers."""
    if model not in ROWS or method not in ROWS[model] or ood not in SETS:
        return None
    return ROWS[model][method][SETS.index(ood)]
