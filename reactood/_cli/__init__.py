"""The commands of ``python -m reactood``: one file or folder for each."""
