"""The loader that MLflow artifacts of earlier versions name; it is in `tasks.registry.registered_models` now."""

from tasks.registry.registered_models import _load_pyfunc

__all__ = ["_load_pyfunc"]
